"""Start a process for code that may hang, crash, or end its process: a PKCS#11 module, or what talks to a TPM.

It is a fork where that is safe, since an interpreter takes longer to start than a token takes to respond. A fork copies
one thread, and the state of every lock and of every module; so a process with other threads, or with a library that
loads modules, starts a new interpreter instead.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from hsm_enroll import machine
from hsm_enroll.secret import PIN_VARIABLE
from hsm_enroll.token import frames

# Libraries that load modules: in a fork the module would already be initialised, and share this process's connection to
# its chip.
_MODULE_LOADERS = {"awscrt", "pkcs11"}
_DESCRIPTOR = 3  # the socket's, in a new interpreter


class Child(NamedTuple):
    """A process that waits for requests, and our end of its socket pair."""

    process: int
    socket: socket.socket


class Job(NamedTuple):
    """What a process serves.

    Attributes:
        subject: whom it talks to, for an error's message.
        serve: serves requests from a socket, until the other side closes it.
        program: the module that does the same in an interpreter of its own.
    """

    subject: str
    serve: Callable[[int], None]
    program: str


def may_fork() -> bool:
    """Whether a fork of this process is safe: it has one thread, and no library that loads modules."""
    if not _MODULE_LOADERS.isdisjoint(sys.modules):
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - names are enough
    except OSError:
        return False


def start(job: Job) -> Child:
    """Start a process that waits for requests.

    Args:
        job: what it serves.

    Raises:
        MachineLimitError: the system cannot start one.
    """
    ours, theirs = _socket_pair(job)
    # A fork must not run this process's signal handlers.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        process = _fork(theirs, job) if may_fork() else _spawn(theirs, job)
    except OSError as error:
        ours.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise machine.no_process(error, _what(job)) from error
    finally:
        theirs.close()
    child = Child(process, ours)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    except BaseException:  # Ctrl-C was pressed meanwhile
        kill(child)
        raise
    return child


def _fork(theirs: socket.socket, job: Job) -> int:
    process = os.fork()
    if process == 0:
        _be_child(theirs.fileno(), job)
    return process


def _be_child(descriptor: int, job: Job) -> NoReturn:
    """Serve requests, then exit without running anything that was inherited from the parent.

    If this process cannot become a worker, the first request's response says why.
    """
    try:
        # Collecting the parent's objects here could close descriptors.
        gc.freeze()
        # A child that hangs must not keep the parent's file locks.
        os.closerange(_DESCRIPTOR, descriptor)
        os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
        job.serve(descriptor)
    except Exception as error:  # noqa: BLE001 - the top of this process
        if (limit := machine.explained(error)) is not None:
            with socket.socket(fileno=descriptor) as connection, suppress(OSError):
                frames.send(connection, {"error": limit.document, "ofKeyType": False, "trace": repr(error)})
    finally:
        os._exit(0)


def _spawn(theirs: socket.socket, job: Job) -> int:
    # -P: a file in the current directory must not replace one of our modules; PYTHONPATH is this process's sys.path.
    # What a distribution's package runs without (-I, -S), its worker runs without too.
    isolation = ["-P", "-S"] if sys.flags.no_site else ["-P"]
    command = [sys.executable, *isolation, "-m", job.program, str(_DESCRIPTOR)]
    environment = {name: value for name, value in os.environ.items() if name != PIN_VARIABLE}
    if sys.flags.ignore_environment:
        environment = {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    streams = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(_DESCRIPTOR)]
    passed = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), _DESCRIPTOR)]
    return os.posix_spawn(sys.executable, command, environment, file_actions=[*passed, *streams])


def _what(job: Job) -> str:
    return f"a process for {job.subject}"


def _socket_pair(job: Job) -> tuple[socket.socket, socket.socket]:
    try:
        ours, theirs = socket.socketpair()
        return _moved(ours), _moved(theirs)
    except OSError as error:
        raise machine.no_process(error, _what(job)) from error


def _moved(connection: socket.socket) -> socket.socket:
    """Move a socket off the number of a standard stream that the caller has closed (``>&-``)."""
    if connection.fileno() >= _DESCRIPTOR:
        return connection
    with connection:
        return socket.socket(fileno=fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, _DESCRIPTOR))


def kill(child: Child) -> int:
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
