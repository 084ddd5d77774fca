"""The enrollment API of a local cloud: the handler behind API Gateway's stand-in, over HTTPS; can be restarted."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from hsm_enroll.local.faults import Fault, Faults
from hsm_enroll.local.gateway import Gateway
from hsm_enroll.local.lambda_runtime import loaded_handler
from hsm_enroll.local.server import KeepAliveHandler, LoopbackServer


class Api:
    """Serves the enrollment API while it is entered.

    Args:
        function: the folder of the Lambda function. The environment has the function's variables.
        routes: from `gateway.routes_of`.
        served: where it listens, each with a server's context; the listeners stay open during a restart, so that the
            ports are not lost.
        log: see `Gateway` and `LoopbackServer`.
    """

    def __init__(
        self,
        function: Path,
        routes: Mapping[str, str],
        served: Sequence[tuple[socket.socket, ssl.SSLContext]],
        log: logging.Logger,
    ) -> None:
        self._function = function
        self._routes = routes
        self._served = served
        self._log = log
        self._changing = threading.Lock()

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            LocalCloudError: the handler cannot be imported.
        """
        self._start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._stop()

    def fail(self, fault: Fault, count: int) -> None:
        """Let a fault happen to the next requests."""
        self._faults.add(fault, count)

    def restart(self) -> None:
        """Close all connections, and start with the handler loaded anew, as in a new execution environment of Lambda.

        Faults that have not happened yet are dropped.

        Raises:
            LocalCloudError: the handler cannot be imported.
        """
        with self._changing:
            self._stop()
            self._start()

    def _start(self) -> None:
        self._faults = Faults()
        with ExitStack() as stack:
            handler = stack.enter_context(loaded_handler(self._function))
            gateway = Gateway(self._routes, handler, self._faults, self._log)
            for listener, tls in self._served:
                stack.enter_context(LoopbackServer(gateway, listener, self._log, tls, KeepAliveHandler))
            self._running = stack.pop_all()

    def _stop(self) -> None:
        self._faults.cancel()
        self._running.close()
