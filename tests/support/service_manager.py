"""A service manager's socket (sd_notify(3)), and what a service says to it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Self

_TIME_LIMIT = 60.0


class ServiceManager:
    """Receives what services say.

    Args:
        path: where the socket is made; None makes one with an abstract name.

    Attributes:
        lines: all lines so far, in order.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_TIME_LIMIT)
        self._socket.bind(b"" if path is None else str(path))  # the kernel chooses an abstract name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a service is told of it."""
        address = self._socket.getsockname()
        return {"NOTIFY_SOCKET": address if isinstance(address, str) else "@" + address[1:].decode()}

    def receive(self) -> list[str]:
        """Wait for a message, and return its lines."""
        message = self._socket.recv(65536).decode().split("\n")
        self.lines += message
        return message

    def wait_for(self, start: str) -> str:
        """Wait for a line that begins with a text and comes from now on, and return it."""
        while True:
            for line in self.receive():
                if line.startswith(start):
                    return line

    def has_message(self) -> bool:
        """Whether a message waits."""
        self._socket.setblocking(False)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            self._socket.settimeout(_TIME_LIMIT)
