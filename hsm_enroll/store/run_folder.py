"""A folder among the temporary files for the life of one run, and the removal of those that killed runs have left.

Its lock (flock) says that the run lives, or the program that it runs, which goes on if run is killed.
systemd-tmpfiles leaves locked folders alone, too (tmpfiles.d(5), "Age").
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hsm_enroll.errors import StateError

_PREFIX = "hsm-enroll-run."  # with a hyphen after it, an earlier version's folder of a run that lives has no lock


@contextmanager
def held() -> Iterator[Path]:
    """Make a folder that is closed to other users (0700), hold its lock, and remove it at the end.

    A program that is started meanwhile with this process's descriptors holds the lock, too. Before that, folders of
    this user's whose lock nobody holds any more are removed.

    Raises:
        StateError: there is no place for temporary files, or it cannot be written to or locked.
    """
    try:
        base = Path(tempfile.gettempdir()).absolute()
        _sweep(base)
        folder, lock = _made(base)
        os.set_inheritable(lock, True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    except OSError as error:
        raise StateError(
            f"{error.filename or 'the folder for temporary files'} cannot be used: {error.strerror}",
            hint="TMPDIR names the folder for temporary files.",
        ) from error


def _sweep(base: Path) -> None:
    for left_over in base.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            lock = _locked(left_over)
            shutil.rmtree(left_over, ignore_errors=True)
            os.close(lock)


def _made(base: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        # Before it has its lock, another run may take it for a dead one's.
        with suppress(FileNotFoundError, BlockingIOError):
            return folder, _locked(folder)


def _locked(folder: Path) -> int:
    """Return a descriptor that holds the lock of a folder; closing it gives the lock up.

    Raises:
        BlockingIOError: a run that lives holds it.
        OSError: it is gone, or another user's, or there are no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.lstat()  # while this waited for the processor, it may have been removed
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
