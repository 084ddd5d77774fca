"""Files of the state folder: replaced atomically, one writer at a time (POSIX rename, fsync, flock).

Power can fail at any moment. A file is written under a temporary name, fsynced and renamed, and its folder is fsynced,
so that a reader sees either the old content or the new, never a part of it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hsm_enroll.errors import BusyError, StateCorruptError, StateError

# No file of the state folder comes near this size, in bytes; a larger one was not written by this program.
MAX_SIZE = 1024 * 1024
_LOCK_FILE = "lock"
_TEMPORARY = ".tmp"
# What a state folder may contain before this program first uses it: a configuration, a local cloud.
_MAY_COME_FIRST = {"config.toml", "local"}
_LOOKING_SECONDS, _LOOKING_PAUSE = 5.0, 0.005
_LOCK_HINT = (
    "Its file system does not support locks (flock), as NFS without a lock service: set HSM_ENROLL_HOME to a folder on "
    "a local disk."
)
_FOREIGN_FILE_HINT = "Move it away, and restore the file from a backup if there is one."


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder (mode 0700) if it is missing, and hold its lock.

    Raises:
        BusyError: another process holds the lock; this does not wait for it.
        StateError: the folder cannot be created, written to or locked, or belongs to another user.
    """
    with claimed(folder, _LOCK_FILE, f"another hsm-enroll process is using {folder}"):
        _sweep(folder)
        yield


@contextmanager
def claimed(folder: Path, name: str, busy: str) -> Iterator[None]:
    """Create the folder (mode 0700) if it is missing, and hold a lock in it.

    Args:
        folder: the state folder.
        name: the lock's file.
        busy: the message of the error if another process holds it.

    Raises:
        BusyError, StateError: as :func:`locked`.
    """
    descriptor = _open_lock(folder, name)
    try:
        try:
            _take(descriptor)
        except BlockingIOError as error:
            raise BusyError(busy) from error
        except OSError as error:
            # Without a lock, two runs at once could each generate a key.
            raise StateError(
                f"the state folder {folder} cannot be locked: {error.strerror}", hint=_LOCK_HINT
            ) from error
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    """Take a lock; wait only for those who look whether it is taken, see :func:`is_claimed`.

    Raises:
        BlockingIOError: another process holds it.
        OSError: there are no locks.
    """
    deadline = time.monotonic() + _LOOKING_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            # Whoever looks holds it, too, but shared and for a moment.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            time.sleep(_LOOKING_PAUSE)
        else:
            return


@contextmanager
def awaited(folder: Path, name: str) -> Iterator[None]:
    """As :func:`claimed`, but wait until no other process holds the lock.

    Raises:
        StateError: as :func:`locked`.
    """
    descriptor = _open_lock(folder, name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_claimed(folder: Path, name: str) -> bool:
    """Whether another process holds a lock in the folder; False if that cannot be known."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def own(folder: Path) -> None:
    """Create the state folder (mode 0700) if it is missing, and close it to other users if it is this program's own.

    Raises:
        StateError: it cannot be created or used, or belongs to another user.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
        if owner != os.geteuid():
            raise StateError(
                f"{folder} belongs to user id {owner}, not to {os.geteuid()}, which runs this command",
                hint="Run the command as the folder's owner.",
            )
        # The folder holds secrets; one that somebody created by hand is often 0755.
        if folder.stat().st_mode & 0o077:
            _close_to_others(folder)
    except FileExistsError as error:
        raise StateError(
            f"the state folder {folder} is a file, or a link to nothing", hint="Name a folder in HSM_ENROLL_HOME."
        ) from error
    except OSError as error:
        raise StateError(f"the state folder {folder} cannot be used: {error.strerror}") from error


def _open_lock(folder: Path, name: str) -> int:
    own(folder)
    try:
        return os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"the state folder {folder} cannot be used: {error.strerror}") from error


def _close_to_others(folder: Path) -> None:
    """Make the folder 0700, but only if it is this program's own: HSM_ENROLL_HOME may name /etc."""
    names = {entry.name for entry in folder.iterdir()}
    if _LOCK_FILE not in names and names - _MAY_COME_FIRST:
        raise StateError(
            f"{folder} is accessible to other users and contains files of other programs",
            hint="Set HSM_ENROLL_HOME to a separate folder; or, if this is the right one, run: chmod 700 FOLDER",
        )
    folder.chmod(0o700)


def _sweep(folder: Path) -> None:
    """Remove the temporary files of a run that was killed while writing; holding the lock, nobody else is writing."""
    for left_over in folder.glob(f".*{_TEMPORARY}"):
        with suppress(OSError):
            left_over.unlink()


def write(file: Path, content: str | Callable[[], str], *, mode: int = 0o600) -> None:
    """Replace a file atomically and durably.

    Args:
        file: where; its folder must exist.
        content: written as UTF-8; pass a secret as a function, so that no traceback shows it among the locals.
        mode: permission bits of the new file.

    Raises:
        StateError: the disk is full, read-only or broken, or the content cannot be encoded; the old content is
            unchanged.
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
        sync_folder(file.parent)
    except OSError as error:
        raise StateError(f"{file} cannot be written: {error.strerror}") from error
    except UnicodeEncodeError:
        # The cause is left out: it repeats a part of what may be a secret.
        raise StateError(f"{file} cannot be written: its content cannot be encoded as UTF-8") from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()


def remove(file: Path) -> None:
    """Remove a file durably; a missing file is not an error.

    Raises:
        StateError: it cannot be removed.
    """
    try:
        file.unlink(missing_ok=True)
        sync_folder(file.parent)
    except OSError as error:
        raise StateError(f"{file} cannot be removed: {error.strerror}") from error


def read(file: Path) -> str | None:
    """Return a file's text, or None if there is no such file.

    Only a regular file is read, or a link to one, and never more than ``MAX_SIZE`` bytes. Does not block.

    Raises:
        StateError: it is not a regular file, is too large, is a link to nothing, or cannot be read.
        StateCorruptError: it is not UTF-8.
    """
    try:
        with open(file, "rb", opener=_open_at_once) as stream:
            _check_regular(file, os.fstat(stream.fileno()))
            # Decoded here and bound to no name: a traceback with locals must not show what may be a secret.
            return stream.read(MAX_SIZE).decode("utf-8")
    except FileNotFoundError:
        if file.is_symlink():
            raise StateError(
                f"{file} cannot be read: it is a link to a file that does not exist",
                hint="Restore the file it points to, or remove the link.",
            ) from None
        return None
    except OSError as error:
        raise StateError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StateCorruptError(f"{file} is not UTF-8 text") from error


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a FIFO would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _check_regular(file: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StateError(f"{file} cannot be read: it is not a regular file", hint=_FOREIGN_FILE_HINT)
    if status.st_size > MAX_SIZE:
        raise StateError(
            f"{file} cannot be read: it has {status.st_size} bytes, and no state file has more than {MAX_SIZE}",
            hint=_FOREIGN_FILE_HINT,
        )


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk: which files it has, under which names.

    Raises:
        OSError: it cannot be flushed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
