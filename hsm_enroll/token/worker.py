"""The process that a PKCS#11 module lives in: it is foreign code, which may hang, crash, or end its process.

A worker loads one module, once, and serves a whole command: look, log in, make a key, sign, destroy. It is a fork where
that is safe, since an interpreter takes longer to start than a token takes to answer. A fork copies one thread, and the
state of every lock, and of every module; so a process that has other threads, or what loads modules, starts
``python -m hsm_enroll.token.serving`` instead.

Requests and answers go over a socket pair, see ``frames``. That is all that the two processes share.
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

from hsm_enroll.errors import HsmEnrollError, ModuleMissingError, ModuleUnusableError, TokenRefusedError
from hsm_enroll.token import frames

# C_Initialize of a TPM's module talks to the chip: seconds on real hardware, never half a minute.
TIME_LIMIT_SECONDS = 30.0

_PIN_VARIABLE = "HSM_ENROLL_PIN"
_HINTS = {"does not answer": "Check that its device is connected and not held by another program."}
# What loads modules: in a fork one would be initialized already, and share this process's connection to its chip.
_LOADING = {"awscrt", "pkcs11"}
_DESCRIPTOR = 3  # the socket's, in an interpreter of its own
# Killed in the middle of C_Login, SoftHSM 2.6 loses its token; a login takes milliseconds.
_GRACE_SECONDS = 0.1
# C_Finalize, once there is nothing more to do.
_GOODBYE_SECONDS = 5.0


class _Child(NamedTuple):
    """A process that waits for requests, and this side of its socket pair."""

    process: int
    socket: socket.socket


_ready: list[_Child] = []


def prepare() -> None:
    """Start the process of the first worker before it is known which module it will have.

    It imports what it needs while this process does so too. Does nothing where no process can be started now.
    """
    if _may_fork():
        # Whoever needs one says why there is none.
        with suppress(HsmEnrollError):
            _ready.append(_started())


class Worker:
    """One module in a process of its own; a context manager that leaves no process behind.

    Args:
        module: its file.

    Raises:
        ModuleMissingError: there is no such file.
        HsmEnrollError: no process can be started.
    """

    def __init__(self, module: Path) -> None:
        if not os.path.isfile(module):  # noqa: PTH113 - unlike is_file it never raises
            raise ModuleMissingError(f"there is no PKCS#11 module {module}")
        self.module = module
        self._child: _Child | None = _ready.pop() if _ready else _started()
        self._owner = os.getpid()
        self._waiting = False
        self._dismissed = False
        self._failure: ModuleUnusableError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.end()

    @property
    def is_idle(self) -> bool:
        """Whether it can be asked: it has answered everything, and is neither dismissed nor ended."""
        usable = self._child is not None and not self._dismissed and self._owner == os.getpid()
        return usable and not self._waiting

    def ask(self, question: str, *, limit: float | None = None, **told: Any) -> Any:
        """Ask, and wait for the answer; see :meth:`send` and :meth:`answer`."""
        self.send(question, limit=limit, **told)
        return self.answer()

    def send(self, question: str, *, limit: float | None = None, **told: Any) -> None:
        """Ask; :meth:`answer` waits for the answer, which has to be taken before the next question.

        Args:
            question: one of the names in ``serving``.
            limit: seconds from now until the process is killed; None is ``TIME_LIMIT_SECONDS``.
            told: what the question is about; JSON.

        Raises:
            RuntimeError: the worker was dismissed or ended, or belongs to the process that this one is a fork of.
        """
        if self._failure is not None:
            return  # the answer says so
        if self._waiting and self._child is not None:
            # Somebody went on after Ctrl-C: what was asked then may be half-way through.
            self._stop()
            self._failed("was interrupted in the middle of its work")
            return
        if not self.is_idle or self._child is None:
            raise RuntimeError(f"the worker of {self.module} has been dismissed")
        limit = TIME_LIMIT_SECONDS if limit is None else limit
        self._deadline = time.monotonic() + limit
        self._limit = limit
        self._waiting = True
        self._child.socket.settimeout(limit)
        # Where it has ended, the answer is how.
        with suppress(OSError):
            frames.send(self._child.socket, {"module": str(self.module), "ask": question, "limit": limit, "told": told})

    def answer(self) -> Any:
        """Wait for the answer to what was sent.

        Raises:
            ModuleUnusableError: the module hangs, crashes, or has ended its process; also ever after.
            HsmEnrollError: what the question raised, with the same class.
            RuntimeError: nothing was asked.
        """
        if self._failure is not None:
            raise self._failure
        if self._child is None or not self._waiting:
            raise RuntimeError(f"the worker of {self.module} was not asked")
        try:
            document = frames.receive(self._child.socket, self._deadline)
            answer, error = (None, None) if document is None else _read(document)
        except TimeoutError:
            self._stop()
            raise self._failed(f"does not answer: it was stopped after {self._limit:.0f} s") from None
        except ValueError as garbage:
            self._stop()
            raise self._failed("disturbed the process that loaded it, whose answer cannot be read") from garbage
        if document is None:
            raise self._failed(_ending(self._stop()))
        self._waiting = False
        if error is not None:
            raise error
        return answer

    def dismiss(self) -> None:
        """Let the process close its session, which logs it out, and end the module's work, while this one goes on.

        One that still owes an answer is left to :meth:`end`.
        """
        if self.is_idle and self._child is not None:
            self._dismissed = True
            _say_goodbye(self._child.socket)

    def end(self, until: float | None = None) -> None:
        """Return once the process is gone. One that is at work on something is not waited for. Again does nothing.

        Args:
            until: when a process that has to say goodbye is killed, by ``time.monotonic``; None gives it seconds.
        """
        child, self._child = self._child, None
        if child is None:
            return
        if self._owner != os.getpid():
            child.socket.close()  # this process is a fork of the owner, and has a copy
            return
        now = time.monotonic()
        until = now + _GOODBYE_SECONDS if until is None else until
        try:
            if not self._waiting or _has_answered(child.socket, min(until, now + _GRACE_SECONDS)):
                _say_goodbye(child.socket)
                _await_end(child.socket, until)
        finally:
            _stopped(child)

    def _stop(self) -> int:
        """End the process now, and return its status as ``subprocess`` tells it."""
        child, self._child = self._child, None
        assert child is not None  # noqa: S101 - asked only while there is one
        return _stopped(child)

    def _failed(self, how: str) -> ModuleUnusableError:
        """Return the error that this answer is, and every later one."""
        self._failure = ModuleUnusableError(f"{self.module} {how}", hint=_HINTS.get(how.partition(":")[0]))
        return self._failure


def _ending(status: int) -> str:
    if status == -signal.SIGALRM:
        return "does not answer"
    return f"crashed ({_named(-status)})" if status < 0 else "ended the process that loaded it"


def _say_goodbye(connection: socket.socket) -> None:
    # Closing would leave it open where a fork of this process has a copy.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


def _has_answered(connection: socket.socket, until: float) -> bool:
    connection.settimeout(max(0.001, until - time.monotonic()))
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    except OSError:
        pass  # it has ended
    return True


def _await_end(connection: socket.socket, until: float) -> None:
    """Wait until the other side has closed its socket, the last that it does."""
    # OSError: its time is over, or it ended before it had read everything.
    with suppress(OSError):
        connection.settimeout(max(0.001, until - time.monotonic()))
        while connection.recv(2**16):
            connection.settimeout(max(0.001, until - time.monotonic()))


def _stopped(child: _Child) -> int:
    """See that a process is gone, and return its status as ``subprocess`` tells it."""
    child.socket.close()
    try:
        ended, status = os.waitpid(child.process, os.WNOHANG)
        if not ended:
            # One that is at its own end keeps its own status.
            os.kill(child.process, signal.SIGKILL)
            _, status = os.waitpid(child.process, 0)
    except (ChildProcessError, ProcessLookupError):
        return 0  # this process ignores SIGCHLD, or takes the status of every child
    return os.waitstatus_to_exitcode(status)


def _may_fork() -> bool:
    if not _LOADING.isdisjoint(sys.modules):
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - names are enough
    except OSError:
        return False


def _started() -> _Child:
    ours, theirs = _socket_pair()
    # No signal may arrive in a fork that still has this process's stack and handlers.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        process = _forked(theirs) if _may_fork() else _spawned(theirs)
    except OSError as error:
        ours.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise _no_process(error) from error
    finally:
        theirs.close()
    child = _Child(process, ours)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    except BaseException:  # Ctrl-C has come meanwhile
        _stopped(child)
        raise
    return child


def _forked(theirs: socket.socket) -> int:
    process = os.fork()
    if process == 0:
        _be_child(theirs.fileno())
    return process


def _be_child(descriptor: int) -> NoReturn:
    """Serve, and end without running anything that the fork has inherited."""
    try:
        # What the parent's objects do when they are collected, closing a descriptor of theirs, is not done here.
        gc.freeze()
        # A lock of the parent's would be held on by a child that hangs.
        os.closerange(_DESCRIPTOR, descriptor)
        os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
        from hsm_enroll.token import serving

        serving.serve(descriptor)
    finally:
        os._exit(0)


def _spawned(theirs: socket.socket) -> int:
    # -P: a module in the current directory must not stand in for one of ours; the child looks where this process looks.
    command = [sys.executable, "-P", "-m", "hsm_enroll.token.serving", str(_DESCRIPTOR)]
    environment = {name: value for name, value in os.environ.items() if name != _PIN_VARIABLE}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    streams = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(_DESCRIPTOR)]
    passed = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), _DESCRIPTOR)]
    return os.posix_spawn(sys.executable, command, environment, file_actions=[*passed, *streams])


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    try:
        ours, theirs = socket.socketpair()
        return _moved(ours), _moved(theirs)
    except OSError as error:
        raise _no_process(error) from error


def _moved(connection: socket.socket) -> socket.socket:
    """Give a socket another number where it has got that of a standard stream which the caller has closed (``>&-``)."""
    if connection.fileno() >= _DESCRIPTOR:
        return connection
    with connection:
        return socket.socket(fileno=fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, _DESCRIPTOR))


def _no_process(error: OSError) -> HsmEnrollError:
    return HsmEnrollError(
        f"no process can be started for the module: {error.strerror}",
        hint="End other programs, then run the same command again.",
    )


def _read(document: dict[str, Any]) -> tuple[Any, HsmEnrollError | None]:
    """Return an answer, or the error that it is.

    Raises:
        ValueError: it is neither.
    """
    try:
        return (None, _told(document)) if "error" in document else (document["answer"], None)
    except (LookupError, TypeError) as error:
        raise ValueError("neither an answer nor an error") from error


def _told(document: dict[str, Any]) -> HsmEnrollError:
    error = HsmEnrollError.of_document(document["error"])
    if isinstance(error, TokenRefusedError):
        error.of_key_type = document["ofKeyType"]
    # For --verbose: what led to it in the other process.
    error.add_note(document["trace"])
    return error


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # one of the real-time signals
