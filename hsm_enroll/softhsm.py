"""SoftHSM's folder of tokens: one login at a time, room for it, and tokens that a login has destroyed.

SoftHSM 2.6 empties a token's file and writes it again at every C_Login. Until it is written, other processes do not
find the token; and if the process is killed then, or the disk is full, the file stays empty and the token is lost.

SoftHSM's own configuration says where the folder is; ``softhsm2.conf(5)``.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from hsm_enroll.errors import TokenRefusedError

MANUFACTURER = "SoftHSM project"
"""CK_TOKEN_INFO.manufacturerID of its tokens, also behind another module such as p11-kit's proxy."""

MAKER = "SoftHSM"
"""CK_INFO.manufacturerID of its module."""

VARIABLE = "SOFTHSM2_CONF"
"""What names SoftHSM's configuration file."""

_OWN_CONFIGURATION = Path(".config/softhsm2/softhsm2.conf")
# Built in: Debian's, and the one of other distributions and of a SoftHSM that was built here.
_SYSTEM_CONFIGURATIONS = (Path("/etc/softhsm/softhsm2.conf"), Path("/etc/softhsm2.conf"))
_DEFAULT_FOLDER = Path("/var/lib/softhsm/tokens")
_FOLDER_SETTING = re.compile(r"^[ \t]*directories\.tokendir[ \t]*=([^=#\n]*)", re.MULTILINE)
_CONFIGURATION_SIZE = 64 * 1024
_TOKEN_FILE = "token.object"  # noqa: S105 - a file's name
# A token's folder is named with a UUID, whose last 16 digits are the token's serial number.
_TOKEN_FOLDER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SERIAL_DIGITS = 16
# A token's file has some hundred bytes; the rest is for what else is written meanwhile.
_ROOM_BYTES = 64 * 1024
# A login takes milliseconds, an RSA key some seconds. Who holds the lock longer must not stop everybody else.
_WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.01
_SAMPLES, _SAMPLE_SECONDS = 3, 0.1
# Sizes in a token's file: of a number, and of a value by its kind; bytes (3) begin with their size.
_NUMBER = 8
_SIZES = {1: 1, 2: _NUMBER, 3: None}
# SoftHSM's own types of attributes: label, serial, flags, and the SO PIN with what it encrypts. The user's PIN follows.
_NEEDED = {0x80005349, 0x8000534A, 0x8000534B, 0x8000534C}

_thread = threading.local()


@contextmanager
def login(manufacturer: str) -> Iterator[None]:
    """Let one process at a time log in to SoftHSM, if the disk has room for it; for another token, do nothing.

    Args:
        manufacturer: CK_TOKEN_INFO.manufacturerID of the token.

    Raises:
        TokenRefusedError: the disk has no room, so the login would destroy the token.
    """
    if manufacturer == MANUFACTURER:
        refuse_without_room()
    with alone(manufacturer):
        yield


@contextmanager
def alone(manufacturer: str) -> Iterator[bool]:
    """Let one process at a time read or write SoftHSM's files; for another token, do nothing.

    That is needed for C_Initialize too: SoftHSM 2.6 writes back then what it has read, and another process that is
    generating a key at that moment does not find it. Inside the block, the same thread may use it again.

    The lock is the folder of tokens itself (flock), so everybody who can use the tokens shares it, nothing has to be
    written for it, and the kernel releases it however the process ends. It keeps hsm-enroll's own processes apart;
    other programs do not use it. Whoever waits for more than 10 s goes on without it.

    Args:
        manufacturer: CK_TOKEN_INFO.manufacturerID of the token.

    Yields:
        Whether the lock is held.
    """
    folder = tokens_folder() if manufacturer == MANUFACTURER else None
    if folder is None or _held():
        yield folder is not None
        return
    with _locked(folder) as held:
        _thread.holds = held
        try:
            yield held
        finally:
            _thread.holds = False


def maker_of(module: Path) -> str:
    """Return :data:`MANUFACTURER` if a module may use SoftHSM's tokens, by its name; "" otherwise."""
    return MANUFACTURER if "softhsm" in module.name or module.name.startswith("p11-kit-proxy") else ""


def refuse_without_room() -> None:
    """Check that the disk with the tokens has room for what a login writes; quotas are *not* considered.

    Raises:
        TokenRefusedError: it has not.
    """
    folder = tokens_folder()
    try:
        system = os.statvfs(folder) if folder is not None else None
    except OSError:
        system = None
    if system is None:
        return
    free = system.f_frsize * (system.f_bfree if os.geteuid() == 0 else system.f_bavail)
    if free < _ROOM_BYTES:
        raise TokenRefusedError(
            f"no login to SoftHSM was tried: the disk with {folder} is full ({free} bytes are free), and a login that "
            "cannot write there destroys the token",
            hint="Free at least 64 KiB on that disk, then run the same command again.",
        )


def missing(serials: Iterable[str]) -> list[Path]:
    """Return the folders of tokens that SoftHSM does not find, for the moment of another login or for ever.

    Does *not* return those that this user may not read and write.

    Args:
        serials: the serial numbers of the tokens that SoftHSM does find.
    """
    found = set(serials)
    return [folder for folder in token_folders() if _serial(folder) not in found and is_open(folder)]


def lost(serial: str | None = None) -> list[Path]:
    """Return the folders of tokens that are lost; only that of one token if its serial number is given."""
    return [
        folder
        for folder in token_folders()
        if serial in {None, _serial(folder)} and is_open(folder) and is_lost(folder)
    ]


def is_lost(folder: Path) -> bool:
    """Whether a token's file is empty or incomplete, and stays so for longer than a login takes.

    A login that was killed loses a token; so does the creation of one that was killed before it had a PIN.
    """
    for _ in range(_SAMPLES):
        with suppress(OSError):
            if _is_whole((folder / _TOKEN_FILE).read_bytes()):
                return False
        time.sleep(_SAMPLE_SECONDS)
    return True


def told(folder: Path) -> str:
    """Return, as a clause, what is wrong with a folder that is lost."""
    file = folder / _TOKEN_FILE
    try:
        state = "empty" if file.stat().st_size == 0 else "damaged"
    except FileNotFoundError:
        state = "missing"
    except OSError:
        state = "unreadable"
    return f"SoftHSM has lost the token in {folder}: its file {_TOKEN_FILE} is {state}"


def way_back(folder: Path) -> str:
    """Return what to do about a folder that is lost."""
    return (
        f"If there is a backup of {folder / _TOKEN_FILE}, restore it: the keys work again. Otherwise they are lost: "
        f"remove {folder}, and move the files pin and token.json out of the state folder if they are for this token. "
        "Then run hsm-enroll token create --label LABEL, and hsm-enroll init --new-key with a new invite."
    )


def tokens_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return SoftHSM's folder of tokens; None if no configuration that can be read names one that exists."""
    folder = named_folder(environment)
    # Unlike Path.is_dir, it never raises.
    return folder if folder is not None and os.path.isdir(folder) else None  # noqa: PTH112


def named_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder of tokens that SoftHSM uses, whether it exists or not; None if it has no configuration.

    It is the last one that the configuration names, or else the one that is built in.
    """
    file = configuration(environment)
    # SoftHSM reads nothing from a folder, and takes that for an empty configuration.
    if file is None or os.path.isdir(file):  # noqa: PTH112 - unlike Path.is_dir, it never raises
        return None if file is None else _DEFAULT_FOLDER
    if not os.path.isfile(file):  # noqa: PTH113
        return None
    try:
        with file.open("rb") as stream:
            found = _FOLDER_SETTING.findall(os.fsdecode(stream.read(_CONFIGURATION_SIZE)))
    except OSError:
        return None
    named = [folder.strip() for folder in found if folder.strip()]
    return Path(named[-1]) if named else _DEFAULT_FOLDER


def configuration(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file that SoftHSM reads (softhsm2.conf(5)), whether it exists or not; None if its name is empty.

    SoftHSM fails if ``SOFTHSM2_CONF`` is set, but empty.
    """
    named = environment.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    home = environment.get("HOME") or _home()
    own = Path(home) / _OWN_CONFIGURATION
    if home and os.access(own, os.R_OK):
        return own
    # Unlike Path.exists, it never raises.
    return next((file for file in _SYSTEM_CONFIGURATIONS if os.path.exists(file)), _SYSTEM_CONFIGURATIONS[0])  # noqa: PTH110


def is_read_only(folder: Path) -> bool:
    """Whether a folder is on a file system that is mounted read-only."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def token_folders() -> list[Path]:
    """Return the folders of all tokens, as far as this user may list them."""
    folder = tokens_folder()
    if folder is None:
        return []
    with suppress(OSError):
        return sorted(each for each in folder.iterdir() if _TOKEN_FOLDER.fullmatch(each.name))
    return []


def is_open(folder: Path) -> bool:
    """Whether this user has the rights to use the token in a folder; a read-only file system is *not* considered."""
    write = 0 if is_read_only(folder) else os.W_OK
    if not os.access(folder, os.R_OK | os.X_OK | write, effective_ids=True):
        return False
    file = folder / _TOKEN_FILE
    return not file.exists() or os.access(file, os.R_OK | write, effective_ids=True)


def _home() -> str:
    """Return the home folder of the real user, or ""."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def _held() -> bool:
    return bool(getattr(_thread, "holds", False))


def _serial(folder: Path) -> str:
    return folder.name.replace("-", "")[-_SERIAL_DIGITS:]


def _is_whole(content: bytes) -> bool:
    """Whether a token's file is complete: a number, then attributes, each with its type, its kind and its value."""
    place, types = _NUMBER, set()
    while place < len(content):
        types.add(int.from_bytes(content[place : place + _NUMBER]))
        kind = int.from_bytes(content[place + _NUMBER : place + 2 * _NUMBER])
        place += 2 * _NUMBER
        if kind not in _SIZES:
            return kind > max(_SIZES)  # of a kind that only SoftHSM knows
        place += _SIZES[kind] or _NUMBER + int.from_bytes(content[place : place + _NUMBER])
    return place == len(content) and types >= _NEEDED


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_SECONDS)
        except OSError:
            return False  # a file system without it, such as some network ones
        else:
            return True
