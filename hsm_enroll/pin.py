"""Where the PIN comes from, in the order of the contract; never from an argument."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from hsm_enroll import state
from hsm_enroll.errors import PinExposedError, PinMissingError, StateError
from hsm_enroll.secret import Secret

_CREDENTIAL = "hsm-enroll.pin"
_STATE_FILE = "pin"
# 20 characters of 32 are 100 bits; no letter that a person could misread.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_LENGTH = 21


def resolve(
    pin_file: Path | None,
    environment: Mapping[str, str],
    *,
    made_pin: Callable[[], Secret | None],
    ask: Callable[[], Secret] | None,
) -> Secret:
    """Return the PIN from the first source that exists.

    The order: ``pin_file`` (``HSM_ENROLL_PIN_FILE`` or the configuration), the systemd credential
    ``hsm-enroll.pin``, ``HSM_ENROLL_PIN``, the PIN that ``token create`` made for this very token, a prompt.
    Does *not* try it.

    Args:
        pin_file: a file whose first line is the PIN.
        environment: normally ``os.environ``.
        made_pin: the PIN kept in the state folder, or None where it belongs to another token.
        ask: asks a person without echo; None where there is nobody.

    Raises:
        PinMissingError: there is no source, or it is empty.
        PinExposedError: the file can be read by group or others.
        StateError: the file cannot be read.
    """
    if pin_file is not None:
        return read_file(pin_file)
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        credential = Path(directory) / _CREDENTIAL
        if credential.exists():
            # systemd guards the folder and sets the file's mode as it sees fit (systemd.exec, CREDENTIALS).
            return _first_line(credential)
    if value := environment.get("HSM_ENROLL_PIN"):
        return Secret(value)
    if (made := made_pin()) is not None:
        return made
    if ask is not None and (answer := ask()):
        return answer
    raise PinMissingError("the token wants a PIN and none was given")


def read_file(file: Path) -> Secret:
    """Return the first line of a PIN file.

    Raises:
        PinExposedError: group or others may read it.
        PinMissingError: it does not exist or is empty.
        StateError: it cannot be read.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError as error:
        raise PinMissingError(f"the PIN file {file} does not exist") from error
    except OSError as error:
        raise StateError(f"the PIN file {file} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PinExposedError(f"the PIN file {file} is open to others (mode {stat.S_IMODE(mode):04o})")
    return _first_line(file)


def make() -> Secret:
    """Return a new random PIN of more than 100 bits, letters and digits that are not mistaken for each other."""
    return Secret("".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH)))


def made_pin_file(folder: Path) -> Path:
    """Return where ``token create`` keeps the PIN it made."""
    return folder / _STATE_FILE


def keep(folder: Path, pin: Secret) -> Path:
    """Write a PIN that was made here into the state folder, mode 0600, and return the file.

    Raises:
        StateError: a PIN is kept there already, or it cannot be written.
    """
    file = made_pin_file(folder)
    if os.path.lexists(file):
        raise StateError(
            f"{file} holds the PIN of another token",
            hint="Move it away, or give the new token's PIN in HSM_ENROLL_PIN_FILE.",
        )
    state.write(file, pin.reveal() + "\n")
    return file


def _first_line(file: Path) -> Secret:
    text = state.read(file)
    line = text.splitlines()[0].strip() if text and text.strip() else ""
    if not line:
        raise PinMissingError(f"the PIN file {file} is empty")
    return Secret(line)
