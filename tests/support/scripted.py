"""A server that says what a test wants it to: the answers of a broker that mosquitto cannot be made to give."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.authority import Authority, Pair

# MQTT 5.0 §2.1.2
CONNECT, PUBLISH, SUBSCRIBE = 1, 3, 8


class Packet(NamedTuple):
    """A control packet: its type, what follows the remaining length, and its flags (MQTT 5.0 §2.1)."""

    type: int
    body: bytes
    flags: int


# Gives the bytes to send back, or None to close the connection.
Script = Callable[[Packet], bytes | None]


def client_id(connect: Packet) -> str:
    """The client identifier of a CONNECT (MQTT 5.0 §3.1.2, §3.1.3.1) whose properties are shorter than 128 bytes."""
    at = 11 + connect.body[10]
    length = int.from_bytes(connect.body[at : at + 2])
    return connect.body[at + 2 : at + 2 + length].decode()


def puback(publish: Packet) -> bytes:
    """The PUBACK to a PUBLISH of QoS 1 (MQTT 5.0 §3.3.2, §3.4)."""
    at = 2 + int.from_bytes(publish.body[:2])
    return bytes((0x40, 2, *publish.body[at : at + 2]))


def publish(topic: str, payload: bytes, number: int) -> bytes:
    """A PUBLISH of QoS 1 without properties, with its packet identifier (MQTT 5.0 §3.3)."""
    body = len(topic).to_bytes(2) + topic.encode() + number.to_bytes(2) + b"\0" + payload
    length, left = b"", len(body)
    while left >= 0x80:
        length += bytes((left & 0x7F | 0x80,))
        left >>= 7
    return bytes((0x32, *length, left)) + body


def connack(reason: int) -> bytes:
    """A CONNACK without properties (MQTT 5.0 §3.2)."""
    return bytes((0x20, 3, 0, reason, 0))


def connack_of_qos_0() -> bytes:
    """A CONNACK that accepts the connection, and nothing above QoS 0 on it (MQTT 5.0 §3.2.2.3.4)."""
    return bytes((0x20, 5, 0, 0, 2, 0x24, 0))


def disconnect(reason: int) -> bytes:
    """A DISCONNECT without properties (MQTT 5.0 §3.14)."""
    return bytes((0xE0, 2, reason, 0))


def suback(subscribe: Packet, reason: int) -> bytes:
    """The SUBACK to a SUBSCRIBE of one topic filter (MQTT 5.0 §3.9)."""
    return bytes((0x90, 4, *subscribe.body[:2], 0, reason))


def tls(server: Pair, ca_file: Path) -> ssl.SSLContext:
    """TLS as a broker has it: a client certificate is required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def tls_1_1(authority: Authority) -> ssl.SSLContext:
    """TLS as a broker had it before RFC 8996: no later than 1.1."""
    context = tls(authority.issue_pair("old", ["localhost"]), authority.certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@contextmanager
def serving(
    script: Script | None,
    context: ssl.SSLContext | None = None,
    *,
    farewell: bool = False,
    address: tuple[str, int] = ("127.0.0.1", 0),
    on_handshake: Callable[[ssl.SSLSocket], None] | None = None,
) -> Iterator[int]:
    """Serve on a loopback port, which is yielded; without a script a connection is accepted and nothing is said.

    With ``farewell`` a close_notify is sent before the connection is closed (RFC 5246 §7.2.1).
    """
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if script is None:
                over.wait()
                return
            # What a client does after a refusal, a reset among it, is not this side's business.
            with suppress(OSError), _wrapped(self.request, context) as connection:
                if on_handshake and isinstance(connection, ssl.SSLSocket):
                    on_handshake(connection)
                while (packet := _read(connection)) and (answer := script(packet)) is not None:
                    connection.sendall(answer)
                if farewell and isinstance(connection, ssl.SSLSocket):
                    connection.unwrap()

    with socketserver.ThreadingTCPServer(address, Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield server.server_address[1]
        finally:
            over.set()
            server.shutdown()


def _wrapped(connection: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    return connection if context is None else context.wrap_socket(connection, server_side=True)


def _read(connection: socket.socket) -> Packet | None:
    """Return the next packet, or None where the connection ends before one is whole (MQTT 5.0 §1.5.5, §2.1)."""
    with connection.makefile("rb", buffering=0) as stream:
        head = stream.read(1)
        length = shift = 0
        more = True
        while more:
            byte = stream.read(1)
            if not byte:
                return None
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            more = byte[0] >= 0x80
        body = b""
        while len(body) < length:
            part = stream.read(length - len(body))
            if not part:
                return None
            body += part
    return Packet(head[0] >> 4, body, head[0] & 15)
