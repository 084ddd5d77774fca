"""How the process that drains learns of new messages: a datagram to a Unix socket in the state folder.

Nothing depends on it but time: a datagram that nobody receives is lost, and whoever drains looks now and then anyway.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from pathlib import Path

from hsm_enroll.errors import StateError

NAME = "outbox.wake"
_MUCH = 4096
_POLL_SECONDS = 1.0


class _Event:
    """An eventfd, which is closed once nobody uses it any more: a number that is free again may be another file's.

    A lock would not do: a signal handler may interrupt a wait, and a fork would keep the lock.
    """

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.descriptor)


class Wakeup:
    """The socket, and for the process that drains also its end."""

    def __init__(self, folder: Path) -> None:
        """Open what sends. A path to a socket has at most 107 bytes (unix(7)), so this goes through the open folder."""
        self._path = folder / NAME
        try:
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StateError(f"{folder} cannot be opened: {error.strerror}") from error
        self._address = f"/proc/self/fd/{self._folder}/{NAME}"
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        self._receiver: socket.socket | None = None
        self._interrupt: _Event | None = _Event()

    def send(self) -> None:
        """Say that there are new messages, if anybody listens. Does not block."""
        with suppress(OSError):
            self._sender.sendto(b"\0", self._address)

    def wait(self, timeout: float) -> None:
        """Wait for a datagram or an interrupt, for ``timeout`` seconds at most. The first call only begins to listen.

        If the socket cannot be created, nobody can tell of messages: then each wait takes a second at most, and tries
        again.
        """
        interrupt = self._interrupt
        if interrupt is None:
            raise ValueError("the outbox is closed")
        if self._receiver is None:
            with suppress(OSError):
                self._receiver = self._listen()
                return
            timeout = min(timeout, _POLL_SECONDS)
        waiting = select.poll()
        waiting.register(interrupt.descriptor, select.POLLIN)
        if self._receiver is not None:
            waiting.register(self._receiver.fileno(), select.POLLIN)
        ready = [descriptor for descriptor, _ in waiting.poll(max(0.0, timeout) * 1000)]
        if interrupt.descriptor in ready:
            with suppress(BlockingIOError):  # another thread may have read it
                os.eventfd_read(interrupt.descriptor)
        if self._receiver is not None and self._receiver.fileno() in ready:
            with suppress(BlockingIOError):
                while True:
                    self._receiver.recv(_MUCH)

    def interrupt(self) -> None:
        """End a wait, or the next one. Another thread may close this meanwhile."""
        interrupt = self._interrupt
        if interrupt is not None:
            with suppress(BlockingIOError):  # it has been interrupted very often already
                os.eventfd_write(interrupt.descriptor, 1)

    def close(self) -> None:
        """Close everything. The socket's name stays: it may be another process's by now."""
        self._sender.close()
        if self._receiver is not None:
            self._receiver.close()
        self._interrupt = None
        os.close(self._folder)

    def _listen(self) -> socket.socket:
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            receiver.setblocking(False)
            self._path.unlink(missing_ok=True)
            receiver.bind(self._address)
        except OSError:
            receiver.close()
            raise
        return receiver
