"""A threaded HTTP(S) server on a loopback port."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.test import run_wsgi_app

from hsm_enroll.errors import LocalCloudError

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

ADDRESS = "127.0.0.1"

_IDLE_LIMIT = 30.0  # seconds without a byte, after which a connection is dropped
_STOP_INTERVAL = 0.05  # seconds between two checks whether to stop
_FINISH_LIMIT = 5.0  # seconds that requests in progress get when the server stops
_BACKLOG = 128


def listen(port: int, option: str) -> socket.socket:
    """Return a socket that listens on loopback.

    Args:
        port: TCP port; 0 chooses a free one.
        option: the option that sets it, for the error's hint.

    Raises:
        LocalCloudError: the port is in use, or this user may not use it.
    """
    try:
        return socket.create_server((ADDRESS, port), backlog=_BACKLOG)
    except OSError as error:
        raise LocalCloudError(
            f"Port {port} on {ADDRESS} cannot be used: {os.strerror(error.errno or 0)}.",
            hint=f"End the program that uses it, or choose another port with {option}.",
        ) from error


class LoopbackServer:
    """Serves a WSGI application while it is entered.

    When it stops, requests that have been received have a few seconds to finish. All other connections are closed at
    once, even in the middle of a request.

    Args:
        application: called in a thread of its own for each request.
        listener: from `listen`; the server leaves it open.
        log: gets a line about each request, and the traceback of each exception that the application raises.
        tls: the server's context for HTTPS; None is plain HTTP.
        request_handler: werkzeug's class, or one derived from it.
    """

    def __init__(
        self,
        application: WsgiApplication,
        listener: socket.socket,
        log: logging.Logger,
        tls: ssl.SSLContext | None = None,
        request_handler: Any = WSGIRequestHandler,
    ) -> None:
        handler = type("RequestHandler", (_Logged, request_handler), {"logger": log})
        # werkzeug duplicates the socket. If it had to bind one itself, it would end the process on failure.
        self._server = _Server(ADDRESS, 0, application, handler, fd=listener.fileno())
        # Set after the constructor, which would make the accepting thread do the handshakes: one idle client would
        # block all others.
        self._server.ssl_context = tls
        self._server.logger = log
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_INTERVAL,), name=log.name, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.stop_receiving()
        self._server.wait_for_requests()


class KeepAliveHandler(WSGIRequestHandler):
    """Keeps connections open between requests, for an application that reads each body to its end and sends no streams.

    werkzeug's own handler cannot: it discards whatever it finds on the connection after a response.
    """

    def run_wsgi(self) -> None:
        """Call the application and send its response whole."""
        if not self.headers.get("Content-Length", "0").isdecimal():
            self.close_connection = True  # where the next request begins is not known
        content, status, headers = run_wsgi_app(self.server.app, self.make_environ())
        body = b"".join(content)
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def log_file(stack: ExitStack, path: Path) -> logging.Logger:
    """Return a logger that appends to a file until the stack is closed, and is independent of other loggers."""
    log = logging.Logger(path.stem)  # noqa: LOG001 - several clouds may run in one process, one after the other
    # For lines that are logged after the stack is closed.
    log.addHandler(logging.NullHandler())
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    stack.callback(handler.close)
    stack.callback(log.removeHandler, handler)
    return log


class _Server(ThreadedWSGIServer):
    request_queue_size = _BACKLOG
    logger: logging.Logger

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._requests = 0
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()

    @contextmanager
    def request_in_progress(self) -> Iterator[None]:
        with self._changed:
            self._requests += 1
        try:
            yield
        finally:
            with self._changed:
                self._requests -= 1
                self._changed.notify_all()

    def wait_for_requests(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._requests == 0, _FINISH_LIMIT)

    def stop_receiving(self) -> None:
        """Make every connection look as if its client had closed it; responses can still be sent."""
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    # SSLSocket's own method would make the connection go on without TLS.
                    socket.socket.shutdown(connection, socket.SHUT_RD)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._changed:
            self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._changed:
            self._connections.discard(request)
        super().shutdown_request(request)

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002, ARG002 - werkzeug's own
        self.logger.error(message, *args)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - socketserver's own
        self.logger.error("%s: %s", client_address, traceback.format_exc())


class _Logged(WSGIRequestHandler):
    logger: logging.Logger
    server: _Server
    timeout = _IDLE_LIMIT
    # Otherwise the second of two small writes waits for the client's delayed acknowledgement, 40 ms.
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        with self.server.request_in_progress():
            super().run_wsgi()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002 - werkzeug's own
        self.logger.info("%s %r %s", self.address_string(), self.requestline, code)

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - werkzeug's own
        self.logger.log(logging.ERROR if type == "error" else logging.INFO, message, *args)
