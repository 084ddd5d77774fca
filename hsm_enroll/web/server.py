"""Serves the page on loopback, and writes nothing about requests anywhere: an address has a key."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any, Self

from flask import Flask
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from hsm_enroll.errors import UsageError
from hsm_enroll.web.access import ADDRESS

_STOP_INTERVAL = 0.05  # seconds between two checks whether to stop


class _Silent(WSGIRequestHandler):
    server_version = "hsm-enroll"
    sys_version = ""

    def version_string(self) -> str:
        return self.server_version

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's signature
        """Say nothing."""


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback.

    Args:
        port: the TCP port; 0 is any free one.

    Raises:
        UsageError: the port is in use, or this user may not use it.
    """
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        raise UsageError(
            f"port {port} on {ADDRESS} cannot be used: {os.strerror(error.errno or 0)}",
            hint="End the program that uses it, or choose another port with --port.",
        ) from error


class Server:
    """Serves an application while it is entered; each request is handled in a thread of its own.

    Args:
        listener: from `listen`; it is left open.
        application: what is served.
    """

    def __init__(self, listener: socket.socket, application: Flask) -> None:
        # werkzeug duplicates the socket. If it had to bind one itself, it would end the process on failure.
        self._server = ThreadedWSGIServer(ADDRESS, 0, application, _Silent, fd=listener.fileno())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_STOP_INTERVAL,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
