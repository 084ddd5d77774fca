"""A server that keeps its connection open, and how it may end."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress

from tests.support.https_server import Answer, HttpsServer

End = Callable[[ssl.SSLSocket], None]


def kept_open(status: str, body: str) -> bytes:
    """Return a whole HTTP/1.1 response in JSON after which the connection stays open."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nSet-Cookie: a=b\r\n\r\n"
    )
    return (head + body).encode()


def on_one_connection(*answers: bytes | None, end: End = lambda _: None) -> Answer:
    """Answer several requests on one connection and then end it; None is a request that gets no answer."""

    def answer(stream: ssl.SSLSocket, server: HttpsServer) -> None:
        for number, content in enumerate(answers):
            if number:
                server.requests.append(_request(stream))
            if content is not None:
                stream.sendall(content)
        end(stream)

    return answer


def reset(stream: ssl.SSLSocket) -> None:
    """End a connection as a router does that has forgotten it: RST."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close_notify(stream: ssl.SSLSocket) -> None:
    """End a connection as TLS wants it (RFC 8446 §6.1)."""
    stream.setblocking(False)
    with suppress(OSError):  # it would wait for the other side's
        stream.unwrap()


def _request(stream: ssl.SSLSocket) -> bytes:
    head, body = b"", b""
    while b"\r\n\r\n" not in head:
        head += stream.recv(65536)
    head, _, body = head.partition(b"\r\n\r\n")
    length = int(next((line.split(b":")[1] for line in head.split(b"\r\n") if b"Content-Length:" in line), b"0"))
    while len(body) < length:
        body += stream.recv(65536)
    return head + b"\r\n\r\n" + body
