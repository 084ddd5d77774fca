"""The state folder: atomic files, one writer at a time (POSIX rename, fsync, flock).

Power goes at any moment. A file is written to a temporary name, fsynced, renamed, and its folder fsynced, so that
a reader sees the old content or the new one and never a part.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hsm_enroll.errors import BusyError, StateCorruptError, StateError, StateTooNewError

_LOCK_FILE = "lock"
_TEMPORARY = ".tmp"
# What may lie in a state folder before this program first works in it: a configuration, a local cloud.
_LAID_BEFORE = {"config.toml", "local"}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder where it is missing (mode 0700) and hold its lock.

    Raises:
        BusyError: another process holds it; it is not waited for.
        StateError: the folder cannot be made or written to, or belongs to someone else.
    """
    descriptor = _open_lock(folder)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another hsm-enroll is at work on {folder}") from error
        _sweep(folder)
        yield
    finally:
        os.close(descriptor)


def _open_lock(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
        if owner != os.geteuid():
            raise StateError(
                f"{folder} belongs to user id {owner}, not to {os.geteuid()} who runs this",
                hint="Run the command as the folder's owner.",
            )
        # Secrets lie beside the lock; a folder somebody made by hand is often 0755.
        if folder.stat().st_mode & 0o077:
            _close_to_others(folder)
        return os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"the state folder {folder} cannot be used: {error.strerror}") from error


def _close_to_others(folder: Path) -> None:
    """Take the folder from group and others, but only one that is this program's: HSM_ENROLL_HOME may name /etc."""
    names = {entry.name for entry in folder.iterdir()}
    if _LOCK_FILE not in names and names - _LAID_BEFORE:
        raise StateError(
            f"{folder} is open to others and holds files that are not this program's",
            hint="Name a folder of its own in HSM_ENROLL_HOME; or, if this is it, close it: chmod 700 FOLDER.",
        )
    folder.chmod(0o700)


def _sweep(folder: Path) -> None:
    """Remove what a run that was killed in the middle of a write has left; under the lock nobody else writes."""
    for left_over in folder.glob(f".*{_TEMPORARY}"):
        with suppress(OSError):
            left_over.unlink()


def write(file: Path, content: str | Callable[[], str], *, mode: int = 0o600) -> None:
    """Replace a file atomically and durably.

    Args:
        file: its folder exists.
        content: written as UTF-8; what is secret comes as a function, so that no traceback's locals hold it.
        mode: permission bits of the new file.

    Raises:
        StateError: the disk is full, read-only or broken, or the content is no Unicode text; the old content is
            untouched.
    """
    import tempfile

    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=_TEMPORARY)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, mode)
            stream.write(content if isinstance(content, str) else content())
            stream.flush()
            os.fsync(descriptor)
        Path(temporary).replace(file)
        temporary = None
        _sync_folder(file.parent)
    except OSError as error:
        raise StateError(f"{file} cannot be written: {error.strerror}") from error
    except UnicodeEncodeError:
        # Without its cause, which repeats a part of what may be a secret.
        raise StateError(f"{file} cannot be written: its content has no form in UTF-8") from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()


def remove(file: Path) -> None:
    """Remove a file durably; a missing one is no error.

    Raises:
        StateError: it cannot be removed.
    """
    try:
        file.unlink(missing_ok=True)
        _sync_folder(file.parent)
    except OSError as error:
        raise StateError(f"{file} cannot be removed: {error.strerror}") from error


def read(file: Path) -> str | None:
    """Return a file's text, or None where it does not exist.

    Raises:
        StateError: it exists and cannot be read.
        StateCorruptError: it is not UTF-8.
    """
    try:
        # Decoded here and held by no name: a traceback that shows locals must not show what may be a secret.
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StateCorruptError(f"{file} is not text") from error


def write_document(file: Path, version: int, document: dict[str, Any]) -> None:
    """Write a JSON object with the version of its format; see :func:`write`."""
    write(file, json.dumps({"version": version, **document}, indent=2, ensure_ascii=False) + "\n")


def read_document(file: Path, version: int) -> dict[str, Any] | None:
    """Return a JSON object written by :func:`write_document`, or None where the file does not exist.

    Does *not* check the members; the caller knows them.

    Raises:
        StateCorruptError: it is not a JSON object with a version.
        StateTooNewError: its version is above ``version``.
        StateError: it cannot be read.
    """
    text = read(file)
    if text is None:
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StateCorruptError(f"{file} is not JSON") from error
    if not isinstance(document, dict) or type(document.get("version")) is not int:
        raise StateCorruptError(f"{file} is not a document of this program")
    if document["version"] > version:
        raise StateTooNewError(f"{file} has format {document['version']}; this version reads up to {version}")
    return document


def members(document: object, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return the named members of a JSON object, each of exactly the type it should have; others are left out.

    Raises:
        ValueError: it is not an object, or one of them is missing or of another type.
    """
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - foreign data, not a caller's mistake
    for name, kind in kinds.items():
        if type(document.get(name)) is not kind:
            raise ValueError(f"{name} is missing or not of type {kind.__name__}")
    return {name: document[name] for name in kinds}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
