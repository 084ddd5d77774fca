"""Run a PKCS#11 module in a process of its own, since the module's code may hang, crash, or end its process.

A worker loads one module, once, and serves a whole command: list tokens, log in, generate a key, sign, destroy. It is a
fork where that is safe, since an interpreter takes longer to start than a token takes to respond. A fork copies one
thread, and the state of every lock and of every module; so a process with other threads, or with a library that loads
modules, starts ``python -m hsm_enroll.token.serving`` instead.

Requests and responses go over a socket pair, see ``frames``; the two processes share nothing else.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from hsm_enroll import machine
from hsm_enroll.errors import HsmEnrollError, ModuleMissingError, ModuleUnusableError, TokenRefusedError
from hsm_enroll.token import frames

_WHAT = "a process for the PKCS#11 module"
# C_Initialize of a TPM's module communicates with the chip: seconds on real hardware, never half a minute.
TIME_LIMIT_SECONDS = 30.0

_PIN_VARIABLE = "HSM_ENROLL_PIN"
_UNRESPONSIVE = "does not respond"
_KILLED = "was loaded by a process that was killed"
_KILLED_HINT = "The system kills processes if memory runs out; if so, stop other programs, then run the command again."
_UNRESPONSIVE_HINT = "Check that its device is connected and not in use by another program."
# Libraries that load modules: in a fork the module would already be initialised, and share this process's connection to
# its chip.
_MODULE_LOADERS = {"awscrt", "pkcs11"}
_DESCRIPTOR = 3  # the socket's, in a new interpreter
# SoftHSM 2.6 loses its token if it is killed in the middle of C_Login, which takes milliseconds.
_GRACE_SECONDS = 0.1
# Time for C_Finalize.
GOODBYE_SECONDS = 5.0


class Child(NamedTuple):
    """A process that waits for requests, and our end of its socket pair."""

    process: int
    socket: socket.socket


_ready: list[Child] = []


def prepare() -> None:
    """Start the first worker's process before its module is known, so that both processes import in parallel.

    Does nothing if no process can be forked.
    """
    if _may_fork():
        # The error is raised again by the Worker that needs the process.
        with suppress(HsmEnrollError):
            _ready.append(start())


class Worker:
    """One module in a process of its own; as a context manager it ends that process.

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
        self._child: Child | None = _ready.pop() if _ready else start()
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
            operation: one of the names in ``serving``.
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
            raise RuntimeError(f"the worker of {self.module} has been dismissed")
        limit = TIME_LIMIT_SECONDS if limit is None else limit
        self._deadline = time.monotonic() + limit
        self._limit = limit
        self._waiting = True
        self._child.socket.settimeout(limit)
        message = {"module": str(self.module), "operation": operation, "limit": limit, "arguments": arguments}
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
            raise RuntimeError(f"the worker of {self.module} has no request to respond to")
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
            self._failure = machine.exhausted(f"{self.module} {how}")
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
        child, self._child = self._child, None
        if child is None:
            return
        if self._owner != os.getpid():
            child.socket.close()  # only a copy: this process was forked from the owner
            return
        now = time.monotonic()
        until = now + GOODBYE_SECONDS if until is None else until
        try:
            if not self._waiting or _has_responded(child.socket, min(until, now + _GRACE_SECONDS)):
                _say_goodbye(child.socket)
                _await_end(child.socket, until)
        finally:
            _kill(child)

    def _stop(self) -> int:
        """Kill the process, and return its exit status as ``subprocess`` does."""
        child, self._child = self._child, None
        assert child is not None  # noqa: S101 - called only while there is one
        return _kill(child)

    def _failed(self, how: str) -> ModuleUnusableError:
        """Return the error that this request, and every later one, ends with."""
        hint = _UNRESPONSIVE_HINT if how.startswith(_UNRESPONSIVE) else _KILLED_HINT if how == _KILLED else None
        self._failure = ModuleUnusableError(f"{self.module} {how}", hint=hint)
        return self._failure


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


def _kill(child: Child) -> int:
    """Kill a process if it is still running, and return its exit status as ``subprocess`` does."""
    child.socket.close()
    try:
        ended, status = os.waitpid(child.process, os.WNOHANG)
        if not ended:
            os.kill(child.process, signal.SIGKILL)
            _, status = os.waitpid(child.process, 0)
    except (ChildProcessError, ProcessLookupError):
        return 0  # this process ignores SIGCHLD, or something in it reaps every child
    return os.waitstatus_to_exitcode(status)


def _may_fork() -> bool:
    if not _MODULE_LOADERS.isdisjoint(sys.modules):
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - names are enough
    except OSError:
        return False


def start() -> Child:
    """Start a process that waits for requests.

    Raises:
        MachineLimitError: the system cannot start one.
    """
    ours, theirs = _socket_pair()
    # A fork must not run this process's signal handlers.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        process = _fork(theirs) if _may_fork() else _spawn(theirs)
    except OSError as error:
        ours.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise machine.no_process(error, _WHAT) from error
    finally:
        theirs.close()
    child = Child(process, ours)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    except BaseException:  # Ctrl-C was pressed meanwhile
        _kill(child)
        raise
    return child


def _fork(theirs: socket.socket) -> int:
    process = os.fork()
    if process == 0:
        _be_child(theirs.fileno())
    return process


def _be_child(descriptor: int) -> NoReturn:
    """Serve requests, then exit without running anything that was inherited from the parent.

    If this process cannot become a worker, the first request's response says why.
    """
    try:
        # Collecting the parent's objects here could close descriptors.
        gc.freeze()
        # A child that hangs must not keep the parent's file locks.
        os.closerange(_DESCRIPTOR, descriptor)
        os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
        from hsm_enroll.token import serving

        serving.serve(descriptor)
    except Exception as error:  # noqa: BLE001 - the top of this process
        if (limit := machine.explained(error)) is not None:
            with socket.socket(fileno=descriptor) as connection, suppress(OSError):
                frames.send(connection, {"error": limit.document, "ofKeyType": False, "trace": repr(error)})
    finally:
        os._exit(0)


def _spawn(theirs: socket.socket) -> int:
    # -P: a file in the current directory must not replace one of our modules; PYTHONPATH is this process's sys.path.
    # What a distribution's package runs without (-I, -S), its worker runs without too.
    isolation = ["-P", "-S"] if sys.flags.no_site else ["-P"]
    command = [sys.executable, *isolation, "-m", "hsm_enroll.token.serving", str(_DESCRIPTOR)]
    environment = {name: value for name, value in os.environ.items() if name != _PIN_VARIABLE}
    if sys.flags.ignore_environment:
        environment = {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    streams = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(_DESCRIPTOR)]
    passed = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), _DESCRIPTOR)]
    return os.posix_spawn(sys.executable, command, environment, file_actions=[*passed, *streams])


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    try:
        ours, theirs = socket.socketpair()
        return _moved(ours), _moved(theirs)
    except OSError as error:
        raise machine.no_process(error, _WHAT) from error


def _moved(connection: socket.socket) -> socket.socket:
    """Move a socket off the number of a standard stream that the caller has closed (``>&-``)."""
    if connection.fileno() >= _DESCRIPTOR:
        return connection
    with connection:
        return socket.socket(fileno=fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, _DESCRIPTOR))


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
