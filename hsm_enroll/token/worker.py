"""Run a PKCS#11 module in a process of its own, since the module's code may hang, crash, or end its process.

A worker loads one module, once, and serves a whole command: list tokens, log in, generate a key, sign, destroy.
Requests and responses go over a socket pair, see ``frames``; the two processes share nothing else.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hsm_enroll import machine
from hsm_enroll.errors import HsmEnrollError, ModuleMissingError, ModuleUnusableError, TokenRefusedError
from hsm_enroll.token import child, frames
from hsm_enroll.token.child import Child, Job

# C_Initialize of a TPM's module communicates with the chip: seconds on real hardware, never half a minute.
TIME_LIMIT_SECONDS = 30.0

_UNRESPONSIVE = "does not respond"
_KILLED = "was loaded by a process that was killed"
_KILLED_HINT = "The system kills processes if memory runs out; if so, stop other programs, then run the command again."
_UNRESPONSIVE_HINT = "Check that its device is connected and not in use by another program."
# SoftHSM 2.6 loses its token if it is killed in the middle of C_Login, which takes milliseconds.
_GRACE_SECONDS = 0.1
# Time for C_Finalize.
GOODBYE_SECONDS = 5.0


def _serve_module(descriptor: int) -> None:
    from hsm_enroll.token import serving

    serving.serve(descriptor)


_MODULE = Job("the PKCS#11 module", _serve_module, "hsm_enroll.token.serving")
_ready: list[Child] = []


def prepare() -> None:
    """Start the first worker's process before its module is known, so that both processes import in parallel.

    Does nothing if no process can be forked.
    """
    if child.may_fork():
        # The error is raised again by the Worker that needs the process.
        with suppress(HsmEnrollError):
            _ready.append(child.start(_MODULE))


class Process:
    """A process that serves requests, one at a time; as a context manager it ends that process.

    Args:
        subject: what the requests are about, for an error's message.
        process: the process.
    """

    def __init__(self, subject: str, process: Child) -> None:
        self.subject = subject
        self._child: Child | None = process
        self._owner = os.getpid()
        self._waiting = False
        self._dismissed = False
        self._failure: HsmEnrollError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.end()

    @property
    def is_idle(self) -> bool:
        """Whether it can take a request: none is pending, and it has neither been dismissed nor ended."""
        usable = self._child is not None and not self._dismissed and self._owner == os.getpid()
        return usable and not self._waiting

    def request(self, operation: str, *, limit: float | None = None, **arguments: Any) -> Any:
        """Send a request and return its result; see :meth:`send` and :meth:`receive`."""
        self.send(operation, limit=limit, **arguments)
        return self.receive()

    def send(self, operation: str, *, limit: float | None = None, **arguments: Any) -> None:
        """Send a request; its result has to be received before the next request.

        Args:
            operation: one of the names that the process knows.
            limit: seconds until the process is killed; None is ``TIME_LIMIT_SECONDS``.
            arguments: the operation's arguments; JSON.

        Raises:
            RuntimeError: the worker was dismissed or ended, or belongs to the process that this one was forked from.
        """
        if self._failure is not None:
            return  # `receive` raises it
        if self._waiting and self._child is not None:
            # The caller went on after Ctrl-C: the pending operation may be half done.
            self._stop()
            self._failed("was interrupted in the middle of an operation")
            return
        if not self.is_idle or self._child is None:
            raise RuntimeError(f"the worker of {self.subject} has been dismissed")
        limit = TIME_LIMIT_SECONDS if limit is None else limit
        self._deadline = time.monotonic() + limit
        self._limit = limit
        self._waiting = True
        self._child.socket.settimeout(limit)
        message = {"subject": self.subject, "operation": operation, "limit": limit, "arguments": arguments}
        # If the process has ended, `receive` says how.
        with suppress(OSError):
            frames.send(self._child.socket, message)

    def receive(self) -> Any:
        """Wait for the result of the request that was sent.

        Raises:
            ModuleUnusableError: the module hangs, crashes, or ended its process; later requests raise it too.
            MachineLimitError: it ended, and this machine is at one of its limits; likewise.
            HsmEnrollError: what the operation raised, of the same class.
            RuntimeError: no request was sent.
        """
        if self._failure is not None:
            raise self._failure
        if self._child is None or not self._waiting:
            raise RuntimeError(f"the worker of {self.subject} has no request to respond to")
        try:
            document = frames.receive(self._child.socket, self._deadline)
            result, error = (None, None) if document is None else _read(document)
        except TimeoutError:
            self._stop()
            raise self._failed(f"{_UNRESPONSIVE}: it was stopped after {self._limit:.0f} s") from None
        except ValueError as garbage:
            self._stop()
            raise self._failed("corrupted the response of the process that loaded it") from garbage
        if document is None:
            how = _ending(self._stop())
            # It has the same limits, and a module, or an interpreter, that meets one may just end.
            self._failure = machine.exhausted(f"{self.subject} {how}")
            raise self._failure or self._failed(how)
        self._waiting = False
        if error is not None:
            raise error
        return result

    def dismiss(self) -> None:
        """Have the process close its session, which logs out, and shut the module down, without waiting for it.

        A worker with a pending request is left to :meth:`end`.
        """
        if self.is_idle and self._child is not None:
            self._dismissed = True
            _say_goodbye(self._child.socket)

    def end(self, until: float | None = None) -> None:
        """End the process, and return once it is gone; a pending request is abandoned. Calling it again does nothing.

        Args:
            until: when to kill a process that is still shutting down, by ``time.monotonic``; None is some seconds.
        """
        process, self._child = self._child, None
        if process is None:
            return
        if self._owner != os.getpid():
            process.socket.close()  # only a copy: this process was forked from the owner
            return
        now = time.monotonic()
        until = now + GOODBYE_SECONDS if until is None else until
        try:
            if not self._waiting or _has_responded(process.socket, min(until, now + _GRACE_SECONDS)):
                _say_goodbye(process.socket)
                _await_end(process.socket, until)
        finally:
            child.kill(process)

    def _stop(self) -> int:
        """Kill the process, and return its exit status as ``subprocess`` does."""
        process, self._child = self._child, None
        assert process is not None  # noqa: S101 - called only while there is one
        return child.kill(process)

    def _failed(self, how: str) -> ModuleUnusableError:
        """Return the error that this request, and every later one, ends with."""
        hint = _UNRESPONSIVE_HINT if how.startswith(_UNRESPONSIVE) else _KILLED_HINT if how == _KILLED else None
        self._failure = ModuleUnusableError(f"{self.subject} {how}", hint=hint)
        return self._failure


class Worker(Process):
    """One module in a process of its own.

    Args:
        module: the module's file.

    Raises:
        ModuleMissingError: there is no such file.
        MachineLimitError: no process can be started.
    """

    def __init__(self, module: Path) -> None:
        if not os.path.isfile(module):  # noqa: PTH113 - unlike is_file it never raises
            raise ModuleMissingError(f"there is no PKCS#11 module {module}")
        self.module = module
        super().__init__(str(module), _ready.pop() if _ready else child.start(_MODULE))


def _ending(status: int) -> str:
    if status == -signal.SIGALRM:
        return _UNRESPONSIVE
    if status == -signal.SIGKILL:
        return _KILLED
    return f"crashed ({_signal_name(-status)})" if status < 0 else "ended the process that loaded it"


def _say_goodbye(connection: socket.socket) -> None:
    # Closing would not be enough if a fork of this process has a copy.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


def _has_responded(connection: socket.socket, until: float) -> bool:
    connection.settimeout(max(0.001, until - time.monotonic()))
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    except OSError:
        pass  # it has ended
    return True


def _await_end(connection: socket.socket, until: float) -> None:
    """Wait until the other side closes its socket, which is the last thing it does."""
    # OSError: its time is up, or it ended before it had read everything.
    with suppress(OSError):
        connection.settimeout(max(0.001, until - time.monotonic()))
        while connection.recv(2**16):
            connection.settimeout(max(0.001, until - time.monotonic()))


def _read(document: dict[str, Any]) -> tuple[Any, HsmEnrollError | None]:
    """Return a response's result, or its error.

    Raises:
        ValueError: it has neither.
    """
    try:
        return (None, _error(document)) if "error" in document else (document["result"], None)
    except (LookupError, TypeError) as error:
        raise ValueError("neither a result nor an error") from error


def _error(document: dict[str, Any]) -> HsmEnrollError:
    error = HsmEnrollError.of_document(document["error"])
    if isinstance(error, TokenRefusedError):
        error.of_key_type = document["ofKeyType"]
    # For --verbose: the traceback from the other process.
    error.add_note(document["trace"])
    return error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # one of the real-time signals
