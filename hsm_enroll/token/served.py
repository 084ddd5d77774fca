"""A process's own side: gets ready, and carries out requests until the other side closes the socket.

``worker`` is the other side. What the requests are is each kind of process's own; see ``serving``.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, ClassVar

from hsm_enroll import machine
from hsm_enroll.errors import HsmEnrollError, TokenRefusedError
from hsm_enroll.secret import PIN_VARIABLE, keep_out_of_core_dumps
from hsm_enroll.token import frames

# Added to a request's time limit, which the other process enforces unless it was killed.
_ALARM_SECONDS = 2
_GOODBYE_SECONDS = 5


def serve(descriptor: int, server: Callable[[socket.socket], Server]) -> None:
    """Serve requests from a socket until it is closed.

    Args:
        descriptor: the socket's.
        server: makes the server, once this process is ready to load foreign code.
    """
    _reset_signals()
    keep_out_of_core_dumps()
    # Foreign code will run here: it does not need the PIN in the environment, and its output goes nowhere.
    os.environ.pop(PIN_VARIABLE, None)
    null_device = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null_device, stream)
    with socket.socket(fileno=descriptor) as connection:
        server(connection).run()


def serve_alone(serve_socket: Callable[[int], None]) -> None:
    """Do the same as the only thing that this interpreter does; the first argument is the socket's descriptor."""
    descriptor = int(sys.argv[1])
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    serve_socket(descriptor)
    os._exit(0)  # skips the destructors of foreign code, which may crash


def _reset_signals() -> None:
    """Remove the caller's signal handlers, and unblock the signals, all of which the caller has blocked."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C reaches both processes; the other one handles it, and ends this one.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Server:
    """Carries out requests, each by the method that ``operations`` names.

    Args:
        connection: our end of the socket pair.
    """

    operations: ClassVar[dict[str, str]] = {}

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._subject = ""

    def run(self) -> None:
        """Serve requests until the other side closes the socket."""
        while (request := frames.receive(self._connection)) is not None:
            self._subject = request["subject"]
            # If the other process has been killed, nothing else ends foreign code that hangs.
            signal.alarm(math.ceil(request["limit"]) + _ALARM_SECONDS)
            response = self._response(request)
            signal.alarm(0)
            try:
                frames.send(self._connection, response)
            except OSError:
                break
        signal.alarm(_GOODBYE_SECONDS)
        self.close()

    def close(self) -> None:
        """Leave everything as it was found; the last thing that is done."""

    def _response(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            operation = getattr(self, self.operations[request["operation"]])
            return {"result": operation(**request.pop("arguments"))}
        except HsmEnrollError as error:
            of_key_type = isinstance(error, TokenRefusedError) and error.of_key_type
            return {"error": error.document, "ofKeyType": of_key_type, "trace": traceback.format_exc()}
        except Exception as error:  # noqa: BLE001 - the top of this process: it survives unforeseen errors
            unexpected = machine.explained(error) or HsmEnrollError(
                f"unexpected error: {type(error).__name__}",
                hint="Run the command again with --verbose, and report the output.",
            )
            return {"error": unexpected.document, "ofKeyType": False, "trace": traceback.format_exc()}
