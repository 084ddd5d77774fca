"""Where the PIN comes from, in the order of the contract; never from an argument."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from hsm_enroll.errors import PinExposedError, PinMissingError, StateCorruptError, StateError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.store import files

_CREDENTIAL = "hsm-enroll.pin"
_STATE_FILE = "pin"
_OWNER_FILE = "token.json"
_OWNER_VERSION = 1
_OWNER_MEMBERS = dict.fromkeys(TokenName._fields, str)
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
        StateError: the file, or the credential, cannot be read.
    """
    if pin_file is not None:
        return read_file(pin_file)
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        # systemd guards the folder and sets the file's mode as it sees fit (systemd.exec, CREDENTIALS).
        credential = _first_line(Path(directory) / _CREDENTIAL)
        if credential is not None:
            return credential
    if given := Secret(environment.get("HSM_ENROLL_PIN", "")):
        return _utf8(given)
    if (made := made_pin()) is not None:
        return made
    if ask is not None and (answer := ask()):
        return answer
    raise PinMissingError("the token wants a PIN and none was given")


def given(pin_file: Path | None, environment: Mapping[str, str]) -> Secret | None:
    """Return the PIN that the configuration or the environment gives, or None; nobody is asked.

    Raises:
        PinMissingError, PinExposedError, StateError: as :func:`resolve`, where a source is there.
    """
    try:
        return resolve(pin_file, environment, made_pin=lambda: None, ask=None)
    except PinMissingError:
        if pin_file is not None or environment.get("HSM_ENROLL_PIN"):
            raise
        return None


def _utf8(pin: Secret) -> Secret:
    """Refuse a PIN that is not UTF-8, as PKCS#11 v2.40 §5.6 wants it; the environment gives it with surrogates."""
    if any("\ud800" <= character <= "\udfff" for character in pin.reveal()):
        raise PinMissingError("the PIN in HSM_ENROLL_PIN is not text in UTF-8")
    return pin


def read_file(file: Path) -> Secret:
    """Return the first line of a PIN file.

    Raises:
        PinExposedError: group or others may read it.
        PinMissingError: it does not exist, is empty or is not text.
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
    if (pin := _first_line(file)) is None:
        raise PinMissingError(f"the PIN file {file} does not exist")
    return pin


def make() -> Secret:
    """Return a new random PIN of more than 100 bits, letters and digits that are not mistaken for each other."""
    import secrets

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
    files.write(file, lambda: pin.reveal() + "\n")
    return file


def remember(folder: Path, token: TokenName) -> None:
    """Note which token the kept PIN is for.

    Raises:
        StateError: it cannot be written.
    """
    files.write_document(folder / _OWNER_FILE, _OWNER_VERSION, {**token._asdict(), "module": str(token.module)})


def made_for(folder: Path) -> TokenName | None:
    """Return the token whose PIN the state folder keeps, or None.

    Raises:
        StateError, StateCorruptError, StateTooNewError: the note cannot be used.
    """
    document = files.read_document(folder / _OWNER_FILE, _OWNER_VERSION)
    if document is None:
        return None
    try:
        members = files.members(document, _OWNER_MEMBERS)
    except ValueError as error:
        raise StateCorruptError(f"{folder / _OWNER_FILE} is damaged") from error
    return TokenName(**{**members, "module": Path(members["module"])})


def made(folder: Path, token: TokenName) -> Secret | None:
    """Return the PIN that was made for this very token, or None: a wrong PIN may lock a chip, so no other is tried.

    Raises:
        StateError, StateCorruptError, PinExposedError, PinMissingError: it is there and cannot be used.
    """
    owner = made_for(folder)
    if owner is None or owner.label != token.label or owner.serial not in {"", token.serial}:
        return None
    if not owner.serial and owner.module != token.module:
        return None
    return read_file(made_pin_file(folder))


def _first_line(file: Path) -> Secret | None:
    """Return the first line without the blanks around it, or None where the file does not exist."""
    try:
        pin = _read_first_line(file)
    except StateCorruptError:
        # Without its cause, which repeats a byte of the PIN.
        raise PinMissingError(f"the PIN file {file} is not text in UTF-8") from None
    if pin is not None and not pin:
        raise PinMissingError(f"the PIN file {file} is empty")
    return pin


def _read_first_line(file: Path) -> Secret | None:
    """Hold the text in no frame that is alive when something is raised (a traceback may show its locals)."""
    text = files.read(file)
    # Editors of another system put a byte order mark first; as a part of the PIN it would cost a try.
    return None if text is None else Secret(text.removeprefix("\ufeff").partition("\n")[0].strip())
