"""A proxy for HTTPS, as the variable https_proxy names one."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.relay import carry


@contextmanager
def tunnel_proxy(url: str) -> Iterator[tuple[int, list[bytes]]]:
    """An HTTP proxy (RFC 9110 §9.3.6) that leads every tunnel to one server, and notes what it was asked."""
    server_port, seen = int(url.rpartition(":")[2]), list[bytes]()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self.request.recv(1)
            seen.append(head)
            with socket.create_connection(("127.0.0.1", server_port)) as server:
                self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=carry, args=(server, self.request))
                back.start()
                carry(self.request, server)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        yield server.server_address[1], seen
        server.shutdown()
