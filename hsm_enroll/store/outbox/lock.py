"""Who may use the database, and who may have it alone (flock).

A transaction holds the lock shared. Who sets the database aside holds it alone, so that nobody writes to a file that is
being moved; so does who moves what is in the log, see :mod:`hsm_enroll.store.outbox.log`. flock prefers nobody, and
busy writers would keep that one out for ever: so there is a gate, the folder itself, which everybody passes and that
one keeps closed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hsm_enroll.errors import StateError

_LOCK_FILE = "outbox.lock"
# Between two tries, in seconds. It grows with the time that was waited.
_FIRST_PAUSE, _LAST_PAUSE = 0.0005, 0.02
_HINT = (
    "Its file system does not support locks (flock), as NFS without a lock service: set HSM_ENROLL_HOME to a folder on "
    "a local disk."
)


def pause(waited: float) -> None:
    """Wait a little for others.

    Args:
        waited: for how long they have been waited for already, in seconds.
    """
    time.sleep(min(_FIRST_PAUSE + waited / 4, _LAST_PAUSE))


class Lock:
    """The lock of one folder. Not for several threads at once; reopened by itself after :meth:`close`."""

    def __init__(self, folder: Path, patience: float) -> None:
        """Prepare it; nothing is opened yet.

        Args:
            folder: the state folder; it exists when the lock is taken.
            patience: how long to wait for others, in seconds.
        """
        self._folder = folder
        self._patience = patience
        self._descriptors: tuple[int, int] | None = None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Use the database, as others may do at the same time."""
        gate, lock = self._opened()
        try:
            deadline = time.monotonic() + self._patience
            self._take(gate, fcntl.LOCK_SH, deadline)
            self._take(lock, fcntl.LOCK_SH, deadline)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield
        finally:
            self._release()

    @contextmanager
    def alone(self, patience: float | None = None) -> Iterator[None]:
        """Have the database while nobody uses it.

        Args:
            patience: how long to wait for those who use it, in seconds, while all others wait, too. If somebody else is
                waiting for the same, this fails at once. None: wait for either, as long as usual.

        Raises:
            StateError: others do not let go of it.
        """
        gate, lock = self._opened()
        try:
            now = time.monotonic()
            self._take(gate, fcntl.LOCK_EX, now + self._patience if patience is None else now)
            self._take(lock, fcntl.LOCK_EX, now + (self._patience if patience is None else patience))
            yield
        finally:
            self._release()

    def close(self) -> None:
        """Close the files. What a fork inherits would be the same lock, not another one."""
        descriptors, self._descriptors = self._descriptors, None
        for descriptor in descriptors or ():
            os.close(descriptor)

    def _opened(self) -> tuple[int, int]:
        if self._descriptors is None:
            file = self._folder / _LOCK_FILE
            try:
                gate = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
                except OSError:
                    os.close(gate)
                    raise
            except OSError as error:
                raise StateError(f"{file} cannot be opened: {error.strerror}") from error
            self._descriptors = gate, lock
        return self._descriptors

    def _take(self, descriptor: int, kind: int, deadline: float) -> None:
        begin = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                now = time.monotonic()
                if now >= deadline:
                    raise StateError(
                        f"another process has kept the outbox in {self._folder} locked for {self._patience:.0f} s",
                        hint="See which process uses it (fuser FILE), and whether that process is stopped.",
                    ) from error
                pause(now - begin)
            except OSError as error:
                raise StateError(f"{self._folder} cannot be locked: {error.strerror}", hint=_HINT) from error
            else:
                return

    def _release(self) -> None:
        for descriptor in self._descriptors or ():
            with suppress(OSError):  # where there are no locks, it was not taken
                fcntl.flock(descriptor, fcntl.LOCK_UN)
