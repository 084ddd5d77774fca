"""Where a token's PIN comes from; never from a command-line argument."""

from __future__ import annotations

import os
import shlex
import stat
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from hsm_enroll.errors import HsmEnrollError, PinExposedError, PinMissingError, StateCorruptError, StateError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import PIN_VARIABLE, Secret
from hsm_enroll.store import files
from hsm_enroll.store.pin_owner import PinOwner
from hsm_enroll.token.login import Origin, Pin

_CREDENTIAL = "hsm-enroll.pin"
ENCRYPTED = Path("/etc/credstore.encrypted") / _CREDENTIAL
"""Where systemd finds the PIN for the services, if it was encrypted for them (systemd-creds(1))."""
_STATE_FILE = "pin"
# 21 of these 31 characters are more than 100 bits; none is easily mistaken for another.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_LENGTH = 21
_GONE_HINT = (
    "Restore the file from a backup, or set HSM_ENROLL_PIN_FILE to a file with the PIN. If nobody has it, the token's "
    "keys are lost: create another token (hsm-enroll token create), and enroll again with a new invite: "
    "hsm-enroll init --new-key INVITE"
)


def resolve(
    pin_file: Path | None,
    environment: Mapping[str, str],
    *,
    saved_pin: Callable[[], Pin | None],
    ask: Callable[[], Secret] | None,
) -> Pin:
    """Return the PIN from the first source that exists.

    The order: ``pin_file`` (``HSM_ENROLL_PIN_FILE`` or the configuration), the systemd credential ``hsm-enroll.pin``,
    ``HSM_ENROLL_PIN``, the PIN that ``token create`` saved for this very token, a prompt. From each of them the PIN is
    the first line, without blanks around it. Somebody who can be asked may type a PIN in the place of a saved one that
    is gone. Does *not* try the PIN.

    Args:
        pin_file: a file whose first line is the PIN.
        environment: normally ``os.environ``.
        saved_pin: returns the PIN in the state folder, or None if there is none or it belongs to another token.
        ask: asks a person without echo; None if nobody can be asked.

    Raises:
        PinMissingError: there is no source; or the first one is empty, is not UTF-8 (PKCS#11 v2.40 §5.6), or contains a
            control character.
        PinExposedError: group or others can read the file.
        StateError: the file, or the credential, cannot be read.
    """
    configured = configured_pin(pin_file, environment)
    if configured is not None:
        return configured
    try:
        if (saved := saved_pin()) is not None:
            return saved
    except PinMissingError:
        if ask is None:
            raise
    if ask is not None and (typed := ask()):
        return _cleaned(typed, Origin("the PIN you typed"))
    raise PinMissingError("the token requires a PIN, but none was given")


def configured_pin(pin_file: Path | None, environment: Mapping[str, str]) -> Pin | None:
    """Return the PIN from the configuration or the environment, or None if they have none; nobody is asked.

    Raises:
        PinMissingError, PinExposedError, StateError: as for :func:`resolve`, if there is a source.
    """
    if pin_file is not None:
        return read_file(pin_file)
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        # systemd protects the folder and chooses the file's mode (systemd.exec, CREDENTIALS).
        file = Path(directory) / _CREDENTIAL
        credential = _content(file, Origin(f"the PIN in the systemd credential {file}"))
        if credential is not None:
            return credential
    if pin := Secret(environment.get(PIN_VARIABLE, "")):
        return _cleaned(pin, Origin(f"the PIN in {PIN_VARIABLE}"))
    return None


def read_file(file: Path, origin: Origin | None = None) -> Pin:
    """Return the PIN in a file: its first line.

    Args:
        file: the file.
        origin: what to say about the PIN; None says that it is in the file.

    Raises:
        PinExposedError: group or others have access to it.
        PinMissingError: it does not exist, is empty, is not UTF-8 or contains a control character.
        StateError: it cannot be read.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError as error:
        raise PinMissingError(f"the PIN file {file} does not exist") from error
    except OSError as error:
        raise StateError(f"the PIN file {file} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PinExposedError(
            f"the PIN file {file} is accessible to other users (mode {stat.S_IMODE(mode):04o})",
            hint="If others may have read it, change the PIN. Make the file private: chmod 600 "
            + shlex.quote(str(file)),
        )
    if (pin := _content(file, origin or Origin(f"the PIN in the file {file}"))) is None:
        raise PinMissingError(f"the PIN file {file} does not exist")
    return pin


def generate_pin() -> Secret:
    """Return a new random PIN of more than 100 bits, in lower-case letters and digits."""
    import secrets

    return Secret("".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH)))


def saved_pin_file(folder: Path) -> Path:
    """Return the file where ``token create`` saves the PIN that it generates."""
    return folder / _STATE_FILE


def save_pin(folder: Path, pin: Secret) -> Path:
    """Write a generated PIN to the state folder, mode 0600, and return the file.

    It gets no line end: OpenSSL's engine for PKCS#11 would take that for a part of the PIN.

    Raises:
        StateError: there is a PIN already, or it cannot be written.
    """
    file = saved_pin_file(folder)
    if os.path.lexists(file):
        raise _other_pin(folder, file)
    files.write(file, pin.reveal)
    return file


def save_owner(folder: Path, token: TokenName) -> None:
    """Save which token the PIN in the state folder belongs to.

    Raises:
        StateError: it cannot be written.
        StateCorruptError, StateTooNewError: the state folder already names a token, but the file cannot be used.
    """
    owner = PinOwner.load(folder)
    # The serial is added once the token has been created.
    if owner is None or owner.token not in {token, TokenName(token.module, token.label, "", "", "")}:
        owner = PinOwner(token)
    replace(owner, token=token, is_refused=False).save(folder)


def load_owner(folder: Path) -> TokenName | None:
    """Return the token that the PIN in the state folder belongs to, or None if there is no PIN.

    Raises:
        StateError, StateCorruptError, StateTooNewError: the file that names it cannot be used.
    """
    owner = PinOwner.load(folder)
    return None if owner is None else owner.token


def saved_pin(folder: Path, token: TokenName) -> Pin | None:
    """Return the PIN that was saved for this very token, or None: another token's PIN could lock it.

    Raises:
        StateError, StateCorruptError, StateTooNewError, PinExposedError, PinMissingError: the state folder's files
            cannot be used.
    """
    owner = PinOwner.load(folder)
    if owner is None or owner.token.label != token.label or owner.token.serial not in {"", token.serial}:
        return None
    if not owner.token.serial and owner.token.module != token.module:
        return None
    file = saved_pin_file(folder)
    text = f"the PIN that token create saved in {file}"
    if not os.path.lexists(file):
        raise PinMissingError(f"{text} is gone: there is no such file", hint=_gone_hint())
    saved = read_file(file, Origin(text))
    # Without a serial the token was not finished, and may not have this PIN; nor may it if the file was damaged.
    if not owner.token.serial or owner.is_refused or not _is_generated(saved):
        return saved
    return Pin(saved.reveal(), Origin(text, partial(_distrust, folder, owner)))


def _gone_hint() -> str:
    if not os.path.lexists(ENCRYPTED):
        return _GONE_HINT
    return (
        f"The services have their PIN in {ENCRYPTED}. To see it, as root: systemd-creds decrypt --name={_CREDENTIAL} "
        f"{ENCRYPTED} -"
    )


def _is_generated(pin: Secret) -> bool:
    """Whether a PIN may be one of :func:`generate_pin`."""
    return len(pin.reveal()) == _LENGTH and set(pin.reveal()) <= set(_ALPHABET)


def _distrust(folder: Path, owner: PinOwner) -> None:
    """Note that the token has refused the saved PIN, if the note can be written."""
    with suppress(HsmEnrollError):
        replace(owner, is_refused=True).save(folder)


def _other_pin(folder: Path, file: Path) -> StateError:
    """Return the error for a saved PIN that would be overwritten, which names the token that it belongs to."""
    owner = load_owner(folder)
    whose = "an unknown token" if owner is None else f"token {owner.label!r} in {owner.module}"
    return StateError(
        f"{file} has the PIN of {whose}, and the state folder holds one PIN",
        hint="While that token is in use, give the new one a PIN of its own: put it into a file of mode 0600 and set "
        f"HSM_ENROLL_PIN_FILE to its path. If that token is no longer needed: mv {file} {file}.old",
    )


def _content(file: Path, origin: Origin) -> Pin | None:
    """Return the PIN in a file, or None if the file does not exist."""
    try:
        text = _text(file)
    except StateCorruptError:
        # Without the cause, which contains a byte of the PIN.
        raise PinMissingError(f"{origin.text} is not valid UTF-8") from None
    return None if text is None else _cleaned(text, origin)


def _text(file: Path) -> Secret | None:
    """A function of its own, so that no traceback can show what it read."""
    text = files.read(file)
    return None if text is None else Secret(text)


def _cleaned(text: Secret, origin: Origin) -> Pin:
    """Return the first line without blanks around it; whatever the source, so that any can replace any other.

    A PIN that nobody can have meant is refused here, since the token would count it as a wrong one.
    """
    pin = Pin(_first_line(text).reveal(), origin)
    if not pin:
        raise PinMissingError(f"{origin.text} is empty")
    if _has_any_of(pin, "Cs"):  # what Python makes of other bytes in the environment
        raise PinMissingError(f"{origin.text} is not valid UTF-8")
    if _has_any_of(pin, "Cc"):
        raise PinMissingError(f"{origin.text} contains a control character, so it was not tried")
    return pin


def _first_line(text: Secret) -> Secret:
    # Some editors write a byte order mark, which would make the PIN a wrong one.
    return Secret(text.reveal().removeprefix("\ufeff").partition("\n")[0].strip())


def _has_any_of(pin: Secret, category: str) -> bool:
    """Whether a PIN has a character of a general category (Unicode Standard, table 4-4)."""
    return any(unicodedata.category(character) == category for character in pin.reveal())
