"""An HTTPS server on loopback that answers as a test tells it to, byte by byte where that matters."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.authority import Authority

Answer = Callable[[ssl.SSLSocket, "HttpsServer"], None]


@dataclass
class HttpsServer:
    """The requests that arrived, raw, and the address they arrived at."""

    url: str
    requests: list[bytes] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)


def response(status: str, body: str | bytes, *headers: str, content_type: str = "application/json") -> bytes:
    """Return a whole HTTP/1.1 response that closes its connection."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + content


_HEALTHY = response("200 OK", '{"status": "ok", "version": "1.0.0"}')
_NO_SUCH_PATH = response("404 Not Found", '{"message": "Not Found"}')


@contextmanager
def https_server(
    authority: Authority, *answers: bytes | Answer, is_ready: bool = False, client_ca: Path | None = None
) -> Iterator[HttpsServer]:
    """Serve the answers one after the other, the last one again and again, until the block ends.

    With ``is_ready``, what ``init`` asks beforehand is answered as an API does that is well and does not know the
    invite's terms; those requests are not kept, and the answers are for the others. With ``client_ca``, it
    demands a client certificate of an authority in that file.
    """
    pair = authority.issue_pair("localhost", ["localhost", "127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = HttpsServer(f"https://localhost:{listener.getsockname()[1]}")
        thread = threading.Thread(target=_serve, args=(listener, context, answers, server, is_ready), daemon=True)
        thread.start()
        yield server
        server.stop.set()
        # A last connection wakes the thread from its accept.
        with suppress(OSError):
            socket.create_connection(listener.getsockname()).close()
        thread.join(timeout=10)
        assert not thread.is_alive()


def _serve(
    listener: socket.socket,
    context: ssl.SSLContext,
    answers: tuple[bytes | Answer, ...],
    server: HttpsServer,
    is_ready: bool,
) -> None:
    while not server.stop.is_set():
        connection, _ = listener.accept()
        with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as stream:
            request = _request(stream)
            if not request:
                continue
            if is_ready and request.startswith(b"GET "):
                stream.sendall(_HEALTHY if b" /v1/health " in request else _NO_SUCH_PATH)
                continue
            server.requests.append(request)
            answer = answers[min(len(server.requests), len(answers)) - 1]
            if isinstance(answer, bytes):
                stream.sendall(answer)
            else:
                answer(stream, server)


def _request(stream: ssl.SSLSocket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        received = stream.recv(65536)
        if not received:
            return b""
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        body += stream.recv(65536)
    return head + b"\r\n\r\n" + body
