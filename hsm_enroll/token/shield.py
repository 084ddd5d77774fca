"""A child process that takes the risk of a PKCS#11 module: it is foreign code, and may hang, crash, or end its process.

The child is a fork where that is safe, since a second interpreter takes longer to start than a token takes to answer. A
fork copies one thread, and the state of every lock and of every module; so a process that has other threads, or has
loaded a module here (PKCS#11 v2.40 §6.7.1 leaves a child of such a process to C_Initialize anew), starts
``python -m hsm_enroll.token.shield`` instead.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from hsm_enroll.errors import HsmEnrollError, ModuleMissingError, ModuleUnusableError
from hsm_enroll.token import modules

if TYPE_CHECKING:
    from pathlib import Path

# C_Initialize of a TPM's module talks to the chip: seconds on real hardware, never half a minute.
TIME_LIMIT_SECONDS = 30.0

# What a child has written, and its status as ``subprocess`` tells it, or that it has run out of time.
_Ended = Callable[[], tuple[bytes, int | str]]

_PIN_VARIABLE = "HSM_ENROLL_PIN"
# What ends this process by an exception: it must not arrive in a child that still has this process's stack.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PIECE = 65536
# How long a child that has begun to answer may take for the next piece, also where its time is over.
_WRITING_SECONDS = 1.0
_TIMED_OUT = "timed out"


def asked(module: Path, question: Callable[..., Any], *arguments: str, time_limit: float | None = None) -> Any:
    """Return what a function answers in a child process; as :func:`asking`, for a caller who has nothing else to do."""
    with asking(module, question, *arguments, time_limit=time_limit) as answer:
        return answer()


@contextmanager
def asking(
    module: Path, question: Callable[..., Any], *arguments: str, time_limit: float | None = None
) -> Iterator[Callable[[], Any]]:
    """Have a function answer in a child process, while the block runs; the child ends with the block.

    Args:
        module: file of the module that it will load.
        question: a function of a module of this package that can be imported by its name; its answer is JSON.
        arguments: what it is called with; none of it is a secret.
        time_limit: seconds from now until the child is killed; None is half a minute.

    Yields:
        A function that waits for the answer, to be called once. It raises

        - ModuleMissingError: there is no such file.
        - ModuleUnusableError: the module hangs, crashes, or ends the child.
        - HsmEnrollError: what the function raised, with the same class, or that no child could be started.
    """
    limit = TIME_LIMIT_SECONDS if time_limit is None else time_limit
    with ExitStack() as children:
        try:
            if not os.path.isfile(module):  # noqa: PTH113 - unlike is_file it never raises
                raise ModuleMissingError(f"there is no PKCS#11 module {module}")
            ended = children.enter_context((_forked if _may_fork() else _spawned)(question, arguments, limit))
        except HsmEnrollError as error:
            # One of several modules that are asked: the others answer nevertheless.
            ended = partial(_raise, error)
        yield lambda: _told(module, ended, limit)


def _raise(error: HsmEnrollError) -> NoReturn:
    raise error


def _told(module: Path, ended: _Ended, limit: float) -> Any:
    answer, ending = ended()
    if ending in {_TIMED_OUT, -signal.SIGALRM}:
        raise ModuleUnusableError(
            f"{module} does not answer: it was stopped after {limit:.0f} s",
            hint="Check that its device is connected and not held by another program.",
        )
    if isinstance(ending, int) and ending < 0:
        raise ModuleUnusableError(f"{module} crashed ({_named(-ending)})")
    try:
        document = json.loads(answer)
    except ValueError as error:
        raise ModuleUnusableError(f"{module} ended the process that loaded it") from error
    if "error" in document:
        told = HsmEnrollError.of_document(document["error"])
        # For --verbose: what led to it in the child.
        told.add_note(document["trace"])
        raise told
    return document["answer"]


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # one of the real-time signals


def _may_fork() -> bool:
    try:
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names are enough
    except OSError:
        return False
    # Where SIGCHLD is ignored, the kernel takes a child's status, and its number may be another's by then.
    waits = signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN
    return threads == 1 and waits and not modules.any_loaded()


@contextmanager
def _forked(question: Callable[..., Any], arguments: tuple[str, ...], limit: float) -> Iterator[_Ended]:
    deadline = time.monotonic() + limit
    reading, writing = os.pipe()
    child = 0

    def ended() -> tuple[bytes, int | str]:
        answer = _read(answers.fileno(), deadline)
        if answer is None:
            return b"", _TIMED_OUT
        return answer, 0 if answer else end()

    def end() -> int:
        """Leave no child behind: one that has answered is at its end, and one that has not is not waited for."""
        nonlocal child
        status = 0
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        finally:
            # Blocked also where a signal that had come before is raised by that very call.
            try:
                if child != 0:
                    os.kill(child, signal.SIGKILL)
                    _, status = os.waitpid(child, 0)
                    child = 0
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return os.waitstatus_to_exitcode(status)

    with os.fdopen(reading, "rb") as answers, os.fdopen(writing, "wb") as theirs:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            try:
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
                child = _fork()
                if child == 0:
                    _be_child(question, arguments, writing, limit, mask)
                theirs.close()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            yield ended
        finally:
            end()


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        raise _no_process(error) from error


def _no_process(error: OSError) -> HsmEnrollError:
    return HsmEnrollError(
        f"no process can be started to ask the module in: {error.strerror}",
        hint="End other programs, then run the same command again.",
    )


def _be_child(
    question: Callable[..., Any],
    arguments: tuple[str, ...],
    descriptor: int,
    limit: float,
    mask: set[signal.Signals | int],
) -> NoReturn:
    """Answer, and end without running anything that the fork has inherited."""
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # Beyond the standard streams, one of which it may be where the caller has closed them.
        descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        # A lock of the parent's would be held on by a child that hangs.
        os.closerange(3, descriptor)
        os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
        _respond(question, arguments, descriptor, limit)
    finally:
        os._exit(0)


def _read(descriptor: int, deadline: float) -> bytes | None:
    """Read to the end; None where that has not come in time."""
    pieces = bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return bytes(pieces)
        pieces += piece
        # It has answered, and writes what a pipe does not hold only while somebody reads.
        deadline = max(deadline, time.monotonic() + _WRITING_SECONDS)
    return None


@contextmanager
def _spawned(question: Callable[..., Any], arguments: tuple[str, ...], limit: float) -> Iterator[_Ended]:
    import subprocess

    deadline = time.monotonic() + limit
    # -P: a module in the current directory must not stand in for one of ours; the child looks where this process looks.
    command = [sys.executable, "-P", "-m", __name__, str(limit), question.__module__, question.__name__, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != _PIN_VARIABLE}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def ended() -> tuple[bytes, int | str]:
        assert child.stdout is not None  # noqa: S101 - it is the pipe that was asked for
        answer = _read(child.stdout.fileno(), deadline)
        if answer is None:
            return b"", _TIMED_OUT
        try:
            return answer, 0 if answer else child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return b"", _TIMED_OUT

    try:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    except OSError as error:
        raise _no_process(error) from error
    with child:
        try:
            yield ended
        finally:
            child.kill()


def _respond(question: Callable[..., Any], arguments: tuple[str, ...], descriptor: int, limit: float) -> None:
    # Should the parent be killed, nobody else ends a child that hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.alarm(math.ceil(limit) + 1)
    # Foreign code runs from here on. It has no use for the PIN, and what it prints is no answer.
    os.environ.pop(_PIN_VARIABLE, None)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    with os.fdopen(descriptor, "wb") as answers:
        answer = json.dumps(_answer(question, arguments)).encode("ascii")
        # Whoever is to read it may be busy; where nobody is left, writing fails.
        signal.alarm(0)
        answers.write(answer)


def _answer(question: Callable[..., Any], arguments: tuple[str, ...]) -> dict[str, Any]:
    try:
        return {"answer": question(*arguments)}
    except HsmEnrollError as error:
        return {"error": error.document, "trace": _trace()}
    except Exception as error:  # noqa: BLE001 - the child's very top: what nobody foresaw is not the module's end
        unexpected = HsmEnrollError(
            f"something unexpected happened: {type(error).__name__}",
            hint="Run it again with --verbose and report what it shows.",
        )
        return {"error": unexpected.document, "trace": _trace()}


def _trace() -> str:
    import traceback

    return traceback.format_exc()


if __name__ == "__main__":
    _, time_limit, module_name, function_name, *told = sys.argv
    _respond(getattr(import_module(module_name), function_name), tuple(told), os.dup(1), float(time_limit))
