"""A child process that takes the risk of a PKCS#11 module: it is foreign code, and may hang, crash, or end its process.

The child is a fork where that is safe, since a second interpreter takes longer to start than a token takes to answer. A
fork copies one thread, and the state of every lock and of every module; so a process that has other threads, or has
initialised a module (PKCS#11 v2.40 §6.7.1 leaves a child of such a process to C_Initialize anew), starts
``python -m hsm_enroll.token.shield`` instead.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from hsm_enroll.errors import HsmEnrollError, ModuleMissingError, ModuleUnusableError
from hsm_enroll.token import modules

if TYPE_CHECKING:
    from pathlib import Path

# C_Initialize of a TPM's module talks to the chip: seconds on real hardware, never half a minute.
TIME_LIMIT_SECONDS = 30.0

_PIN_VARIABLE = "HSM_ENROLL_PIN"
# What ends this process by an exception: it must not arrive in a child that still has this process's stack.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PIECE = 65536
_TIMED_OUT = "timed out"


def asked(module: Path, question: Callable[..., Any], *arguments: str, time_limit: float | None = None) -> Any:
    """Return what a function answers in a child process.

    Args:
        module: file of the module that it will load.
        question: a function of a module of this package that can be imported by its name; its answer is JSON.
        arguments: what it is called with; none of it is a secret.
        time_limit: seconds until the child is killed; None is half a minute.

    Raises:
        ModuleMissingError: there is no such file.
        ModuleUnusableError: the module hangs, crashes, or ends the child.
        HsmEnrollError: what the function raised, with the same class.
    """
    if not os.path.isfile(module):  # noqa: PTH113 - unlike is_file it never raises
        raise ModuleMissingError(f"there is no PKCS#11 module {module}")
    limit = TIME_LIMIT_SECONDS if time_limit is None else time_limit
    answer, ending = (_forked if _may_fork() else _spawned)(question, arguments, limit)
    if ending == _TIMED_OUT:
        raise ModuleUnusableError(
            f"{module} does not answer: it was stopped after {limit:.0f} s",
            hint="Check that its device is connected and not held by another program.",
        )
    if isinstance(ending, int) and ending < 0:
        raise ModuleUnusableError(f"{module} crashed while it was loaded ({signal.Signals(-ending).name})")
    try:
        document = json.loads(answer)
    except ValueError as error:
        raise ModuleUnusableError(f"{module} ended the process that loaded it") from error
    if "error" in document:
        raise HsmEnrollError.of_document(document["error"])
    return document["answer"]


def _may_fork() -> bool:
    try:
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names are enough
    except OSError:
        return False
    return threads == 1 and not modules.any_loaded()


def _forked(question: Callable[..., Any], arguments: tuple[str, ...], limit: float) -> tuple[bytes, int | str]:
    """Return what the child wrote, and its status as ``subprocess`` tells it."""
    reading, writing = os.pipe()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    child = os.fork()
    if child == 0:
        _answer_and_exit(question, arguments, writing)
    os.close(writing)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        answer = _read(reading, time.monotonic() + limit)
    finally:
        os.close(reading)
        # One that has answered is at its end, and one that has not is not waited for; neither is left behind.
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if answer is None:
        return b"", _TIMED_OUT
    return answer, 0 if answer else os.waitstatus_to_exitcode(status)


def _read(descriptor: int, deadline: float) -> bytes | None:
    """Read to the end; None where that has not come in time."""
    pieces = bytearray()
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return bytes(pieces)
        pieces += piece


def _spawned(question: Callable[..., Any], arguments: tuple[str, ...], limit: float) -> tuple[bytes, int | str]:
    import subprocess

    # -P: a module in the current directory must not stand in for one of ours; the child looks where this process looks.
    command = [sys.executable, "-P", "-m", __name__, question.__module__, question.__name__, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        child = subprocess.run(command, capture_output=True, timeout=limit, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return b"", _TIMED_OUT
    return child.stdout, child.returncode


def _answer_and_exit(question: Callable[..., Any], arguments: tuple[str, ...], descriptor: int) -> NoReturn:
    """Answer, as the child, and end without running anything that a fork has inherited."""
    try:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        # Foreign code runs from here on. It has no use for the PIN, and what it prints is no answer.
        os.environ.pop(_PIN_VARIABLE, None)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        try:
            document = {"answer": question(*arguments)}
        except HsmEnrollError as error:
            document = {"error": error.document}
        with os.fdopen(descriptor, "wb") as answers:
            answers.write(json.dumps(document).encode("ascii"))
    finally:
        os._exit(0)


if __name__ == "__main__":
    _answer_and_exit(getattr(import_module(sys.argv[1]), sys.argv[2]), tuple(sys.argv[3:]), os.dup(1))
