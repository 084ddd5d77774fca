"""Room on the disk for removing messages when there is no other.

SQLite needs new blocks even for deleting: for its log, the log's index, and the pages that move from the log to the
database. So a file of a few blocks that nobody reads is kept, and given up when the disk is full. Nobody adds messages
before it is back, or the room would go to them.
"""

from __future__ import annotations

import os
from pathlib import Path

from hsm_enroll.errors import StateError

NAME = "outbox.reserve"
# Twice what may be in the log before it is moved, see Database.
_BYTES = 2 * 1024 * 1024


class FullError(Exception):
    """The disk is full. Never leaves this package."""


class Reserve:
    """The reserve of one outbox."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME

    def fill(self) -> None:
        """Make sure that it is there.

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
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _BYTES)
        finally:
            os.close(descriptor)
