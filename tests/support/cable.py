"""The cable between a device and its broker, which a test can pull out and put back."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.relay import carry

_TIME_LIMIT = 30.0


class Cable:
    """A cable that is plugged in.

    Attributes:
        port: where it begins, on loopback.
        broker_port: where it leads.
    """

    def __init__(self, port: int, broker_port: int) -> None:
        self.port = port
        self.broker_port = broker_port
        self._diverted = threading.Event()
        self._plugged = True
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()

    def pull(self) -> None:
        """End every connection, and each new one at once, until it is plugged in again."""
        with self._lock:
            self._plugged = False
            ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def plug(self) -> None:
        """Carry new connections."""
        with self._lock:
            self._plugged = True

    def cut(self) -> None:
        """End every connection; new ones work."""
        self.pull()
        self.plug()

    def divert(self, broker_port: int) -> None:
        """End every connection, and lead new ones to another port."""
        self.broker_port = broker_port
        self._diverted.clear()
        self.cut()

    def wait_for_a_connection(self) -> None:
        """Wait until there is a connection since the cable was diverted."""
        assert self._diverted.wait(_TIME_LIMIT)

    def take(self, *ends: socket.socket) -> bool:
        """Have the ends of a connection pulled with the cable; False if it is pulled out already."""
        with self._lock:
            self._ends += ends
            self._diverted.set()
            return self._plugged


@contextmanager
def cable(broker_port: int) -> Iterator[Cable]:
    """Lay a cable to a port of loopback, until the block ends."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", laid.broker_port)) as server:
                if not laid.take(self.request, server):
                    return
                other_way = threading.Thread(target=carry, args=(server, self.request))
                other_way.start()
                carry(self.request, server)
                other_way.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        laid = Cable(server.server_address[1], broker_port)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield laid
        finally:
            laid.pull()
            server.shutdown()
