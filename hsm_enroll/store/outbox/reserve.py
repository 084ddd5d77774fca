"""Room on the disk for removing messages when there is no other.

SQLite needs new blocks even for deleting: for its log, the log's index, and the pages that move from the log to the
database. So a file of a few blocks that nobody reads is kept, and given up when the disk is full. Nobody adds messages
before it is back, or the room would go to them; and it comes back only when there is clearly room, or those who add
would take it from under those who remove.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from hsm_enroll.errors import StateError
from hsm_enroll.store.outbox import log

NAME = "outbox.reserve"
_BYTES = 2 * log.LIMIT
# That much has to be free before it is filled: a reserve that was just given up is not clearly room.
_CLEARLY = 2 * _BYTES


class FullError(Exception):
    """There is no room on the disk, as far as SQLite tells. Never leaves this package.

    Attributes:
        hint: what else it may be.
        may_be_damage: whether some damage shows in the same way.
    """

    def __init__(self, message: str, hint: str | None = None, *, may_be_damage: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.may_be_damage = may_be_damage


class Reserve:
    """The reserve of one outbox."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME

    def fill(self) -> None:
        """Make sure that it is there. The caller holds the database's lock for writing: nobody removes messages then.

        Raises:
            StateError: the disk is full, or cannot be written to.
        """
        try:
            if self._file.stat().st_size == _BYTES:
                return
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StateError(f"{self._file} cannot be used: {error.strerror}") from error
        try:
            self._allocate()
        except OSError as error:
            self.release()
            raise StateError(f"{self._file} cannot be written: {error.strerror}") from error

    def release(self) -> bool:
        """Give the room to the file system; return whether there was any."""
        try:
            had_some = self._file.stat().st_size > 0
            os.truncate(self._file, 0)
        except OSError:
            return False
        return had_some

    def _allocate(self) -> None:
        """Allocate it, if there is clearly room: on the disk, and after it was given up also by a quota."""
        status = os.statvfs(self._file.parent)
        if status.f_bavail * status.f_frsize < _CLEARLY:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        was_given_up = self._file.exists()
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _CLEARLY if was_given_up else _BYTES)
            os.truncate(descriptor, _BYTES)
        finally:
            os.close(descriptor)
