"""A box between device and broker: it reads the two hellos, and may treat the device's as old or broken boxes do."""

from __future__ import annotations

import enum
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

# RFC 8446 §4.1.2, §4.2.1
_TLS_1_3 = b"\x03\x04"
_SUPPORTED_VERSIONS = 43
# A fatal alert: handshake_failure (RFC 8446 §6).
_HANDSHAKE_FAILURE = b"\x15\x03\x03\x00\x02\x02\x28"


class Intolerance(enum.Enum):
    """What becomes of a connection whose client offers TLS 1.3."""

    NONE = enum.auto()
    ALERT = enum.auto()
    HANG_UP = enum.auto()
    SILENCE = enum.auto()


@dataclass
class Relay:
    """A running relay.

    Attributes:
        port: where it listens on loopback.
        offered: for each connection, whether its client offered TLS 1.3.
        chosen: for each connection that was let through, whether the server chose it.
    """

    port: int
    offered: list[bool] = field(default_factory=list)
    chosen: list[bool] = field(default_factory=list)


@contextmanager
def relaying(broker_port: int, intolerance: Intolerance = Intolerance.NONE) -> Iterator[Relay]:
    """Relay to a port of loopback until the block ends."""
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            hello = _record(self.request)
            relay.offered.append(_names_tls13(hello))
            if relay.offered[-1] and intolerance is Intolerance.ALERT:
                self.request.sendall(_HANDSHAKE_FAILURE)
            elif relay.offered[-1] and intolerance is Intolerance.SILENCE:
                over.wait()
            elif not relay.offered[-1] or intolerance is Intolerance.NONE:
                self._relay(hello)

        def _relay(self, hello: bytes) -> None:
            with socket.create_connection(("127.0.0.1", broker_port)) as server:
                server.sendall(hello)
                answer = _record(server)
                relay.chosen.append(_names_tls13(answer))
                self.request.sendall(answer)
                other_way = threading.Thread(target=carry, args=(server, self.request))
                other_way.start()
                carry(self.request, server)
                other_way.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        relay = Relay(server.server_address[1])
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield relay
        finally:
            over.set()
            server.shutdown()


def carry(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what one side says until it ends, and that it has."""
    # What one side's end does to the other is not this side's business.
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _record(connection: socket.socket) -> bytes:
    """Read one record (RFC 8446 §5.1)."""
    head = _exactly(connection, 5)
    return head + _exactly(connection, struct.unpack("!H", head[3:])[0])


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("the hello is cut off")
        data += part
    return data


def _names_tls13(record: bytes) -> bool:
    """Whether a ClientHello offers, or a ServerHello chooses, TLS 1.3 (RFC 8446 §4.1.2, §4.1.3)."""
    is_client, at = record[5] == 1, 9 + 2 + 32
    at += 1 + record[at]
    if is_client:
        at += 2 + struct.unpack_from("!H", record, at)[0]
        at += 1 + record[at]
    else:
        at += 3
    end = at + 2 + struct.unpack_from("!H", record, at)[0]
    at += 2
    while at < end:
        kind, length = struct.unpack_from("!HH", record, at)
        body = record[at + 4 : at + 4 + length]
        if kind == _SUPPORTED_VERSIONS:
            versions = body[1:] if is_client else body
            return _TLS_1_3 in {versions[i : i + 2] for i in range(0, len(versions), 2)}
        at += 4 + length
    return False
