"""Tells the service manager that this process runs, what it is doing, and that it makes progress: sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Self

_VARIABLE = "NOTIFY_SOCKET"
# systemd ignores a message of more than 4096 bytes altogether, READY=1 in it included.
_LONGEST_STATUS = 1000  # bytes


class Manager:
    """The service manager that has started this process; without one, nothing is told.

    A message that it does not take is lost. That does not matter: all but the last one are repeated.

    Args:
        environment: normally ``os.environ``. ``NOTIFY_SOCKET`` is a socket's path, or "@" and its abstract name.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = os.fsencode(environment.get(_VARIABLE, ""))
        self._address = b"\0" + address[1:] if address.startswith(b"@") else address
        self._is_ready = False
        self._status: str | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def progress(self, status: str) -> None:
        """Tell it that this process runs and makes progress: without that it counts as hung after ``WatchdogSec``.

        Args:
            status: what it is doing, as ``systemctl status`` shows it.
        """
        lines = ["WATCHDOG=1"] if self._is_ready else ["READY=1", "WATCHDOG=1"]
        if status != self._status:
            lines.append(f"STATUS={_line(status)}")
        if self._send(*lines):
            self._is_ready, self._status = True, status

    def stopping(self) -> None:
        """Tell it that this process is about to end; may be called in a signal handler."""
        self._send("STOPPING=1")

    def _send(self, *lines: str) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError:
            return False
        return True


def _line(text: str) -> str:
    """Return a text as one line without control characters, which would be another message, and not too long."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split()).encode("utf-8", "replace")[:_LONGEST_STATUS].decode("utf-8", "ignore")
