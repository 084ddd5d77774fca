"""Gives lines to local programs over a Unix stream socket: each program that is connected gets each line, from then on.

Who may connect is up to the socket's group: its mode is 0660.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from hsm_enroll.errors import BusyError, StateError, UsageError

CAPACITY = 8 * 1024 * 1024
"""How many bytes may wait for a reader."""

MOST = 64
"""How many readers there may be: one that connects in a loop and never closes must not use up all descriptors."""

_MODE = 0o660
_LONGEST_PATH = 107  # bytes, unix(7)
_LONGEST_NAME = 80  # bytes; the path that it is created with, see _listen, is a little longer
_PATIENCE_SECONDS = 1.0
_PAUSE_SECONDS = 1.0  # after a connection could not be accepted


class Readers:
    """The socket and whoever is connected to it. One thread uses it; :meth:`interrupt` may be called by any.

    A socket that a process has left behind is replaced. What readers write is ignored.

    Args:
        path: the socket's path, in a folder that exists.
        on_drop: called with the reason when a reader is disconnected by this side.

    Raises:
        UsageError: there cannot be a socket at this path, or something else is there.
        BusyError: another process listens there.
        StateError: the socket cannot be created.
    """

    def __init__(self, path: Path, on_drop: Callable[[str], None] = lambda _: None) -> None:
        self._path = path
        self._on_drop = on_drop
        self._readers: dict[int, _Reader] = {}
        self._accept_at = 0.0
        self._patience = _PATIENCE_SECONDS
        _check(path)
        try:
            self._listener, self._identity = _listen(path)
        except OSError as error:
            raise StateError(
                f"the socket {path} cannot be created: {error.strerror}", hint="Check the rights of its folder."
            ) from error
        self._interrupt = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_closed = False
        self._closing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def deliver(self, line: bytes) -> int:
        """Give a line to every reader that has connected until now.

        A reader for which more than ``CAPACITY`` is waiting is disconnected. Before that, readers that are behind are
        waited for, since many messages may have come at once; but no longer than a second, until all have caught up.

        Returns:
            How many readers have it, or will have it.
        """
        self._accept()
        self._wait_for_the_slow()
        for reader in list(self._readers.values()):
            reader.add(line)
            if self._send(reader) and reader.size > CAPACITY:
                self._remove(reader)
                self._on_drop(f"a program does not read: {CAPACITY // 2**20} MiB are waiting for it")
        return len(self._readers)

    def wait(self, timeout: float) -> None:
        """Serve the readers until there is an interrupt, one of them moves, or the timeout, in seconds, is over."""
        waiting = select.poll()
        waiting.register(self._interrupt, select.POLLIN)
        pause = self._accept_at - time.monotonic()
        if pause <= 0:
            waiting.register(self._listener, select.POLLIN)
        else:
            timeout = min(timeout, pause)
        for descriptor, reader in self._readers.items():
            waiting.register(descriptor, select.POLLOUT if reader.size else 0)  # POLLHUP is always told
        moved = dict(waiting.poll(max(0.0, timeout) * 1000))
        with suppress(BlockingIOError):
            os.eventfd_read(self._interrupt)
        for descriptor in moved.keys() & self._readers.keys():
            if moved[descriptor] & (select.POLLHUP | select.POLLERR):
                self._remove(self._readers[descriptor])
            else:
                self._send(self._readers[descriptor])
        if self._listener.fileno() in moved:
            self._accept()

    def interrupt(self) -> None:
        """End a wait, or the next one; without an effect once it is closed."""
        with self._closing, suppress(BlockingIOError):  # it has been interrupted very often already
            if not self._is_closed:
                os.eventfd_write(self._interrupt, 1)

    def close(self) -> None:
        """Disconnect all readers, and remove the socket. What a reader has not read so far may be lost."""
        with suppress(OSError):
            if _identity(self._path) == self._identity:
                self._path.unlink()
        self._listener.close()
        for reader in self._readers.values():
            reader.connection.close()
        with self._closing:
            self._is_closed = True
            os.close(self._interrupt)

    def _accept(self) -> None:
        while time.monotonic() >= self._accept_at:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor is left: whoever has connected waits
                self._accept_at = time.monotonic() + _PAUSE_SECONDS
                return
            if len(self._readers) == MOST:
                connection.close()
                self._on_drop(f"{MOST} programs are connected already")
            else:
                connection.setblocking(False)
                self._readers[connection.fileno()] = _Reader(connection)

    def _wait_for_the_slow(self) -> None:
        if not any(reader.size for reader in self._readers.values()):
            self._patience = _PATIENCE_SECONDS
        while self._patience > 0 and (behind := [each for each in self._readers.values() if each.size > CAPACITY // 2]):
            waiting = select.poll()
            for reader in behind:
                waiting.register(reader.connection, select.POLLOUT)
            begin = time.monotonic()
            moved = {descriptor for descriptor, _ in waiting.poll(self._patience * 1000)}
            self._patience -= time.monotonic() - begin
            for descriptor in moved:
                self._send(self._readers[descriptor])

    def _send(self, reader: _Reader) -> bool:
        """Send what the reader's connection takes; False if it has closed that."""
        try:
            reader.send()
        except OSError:
            self._remove(reader)
            return False
        return True

    def _remove(self, reader: _Reader) -> None:
        del self._readers[reader.connection.fileno()]
        reader.connection.close()


class _Reader:
    """A connection, and what waits to be sent over it; readers share the bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.size = 0
        self._waiting: deque[memoryview] = deque()

    def add(self, content: bytes) -> None:
        self.size += len(content)
        self._waiting.append(memoryview(content))

    def send(self) -> None:
        """Send what the connection takes.

        Raises:
            OSError: it is closed.
        """
        while self._waiting:
            try:
                sent = self.connection.send(self._waiting[0])
            except BlockingIOError:
                return
            self.size -= sent
            rest = self._waiting.popleft()[sent:]
            if rest:
                self._waiting.appendleft(rest)


def _check(path: Path) -> None:
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise UsageError(
            f"the path of the socket is longer than {_LONGEST_PATH} bytes: {path}", hint="Give a shorter path."
        )
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise UsageError(
            f"the name of the socket is longer than {_LONGEST_NAME} bytes: {path}", hint="Give a shorter name."
        )
    try:
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}", hint="Name a socket in a folder that exists.")
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(
            f"{path} cannot be examined: {error.strerror}", hint="Check the rights of its folder."
        ) from error
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} exists and is not a socket", hint="Name another path, or remove the file.")
    if _is_used(path):
        raise BusyError(f"another process listens on {path}", hint="Stop it, or name another path.")


def _is_used(path: Path) -> bool:
    """Whether a process listens on a socket, of any type."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as attempt:
        try:
            attempt.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # its queue is full, it is of another type, or it is not ours to connect to
            return True
        return True


def _listen(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """Create the socket under another name, and replace what is at the path once it has its mode."""
    name = f".{path.name}.new"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        listener.bind(f"/proc/self/fd/{folder}/{name}")  # nobody can connect before it listens
        os.chmod(name, _MODE, dir_fd=folder)
        listener.listen()
        os.rename(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        return listener, _identity(path)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(folder)


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
