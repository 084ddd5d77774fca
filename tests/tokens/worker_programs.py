"""Programs that use workers, each in the situation that a test asks for.

Whether a worker is forked depends on the whole process, and pytest's has threads of its own; so each test runs
``main`` below as a program. What a program does is one of ``worker_tasks``; what that returns is JSON.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.token import worker
from hsm_enroll.token.reports import TokenReport
from tests.support.processes import run, wait_until

FORKED = "one thread"
PREPARED = "one thread, and a worker before anything else"
SPAWNED = "two threads"
MODULE_LOADED = "the module loaded by python-pkcs11"
AWSCRT_LOADED = "awscrt loaded"
CHILDREN_IGNORED = "SIGCHLD ignored"
CHILDREN_REAPED = "a SIGCHLD handler that takes every status"

_PROGRAM = "import sys; from tests.tokens import worker_programs; worker_programs.main(*sys.argv[1:])"
_NO_LOG = Path(os.devnull)


def main(situation: str, task: str, module: str, *arguments: str) -> None:
    """Do one of the tasks in a situation, as a program, and print what it returns.

    A child that flushed what it has inherited, or ran what is to run at the end, would show.
    """
    print("asked")  # noqa: T201
    atexit.register(_note_end, Path(module).with_name("ended"))
    from tests.tokens import worker_tasks

    with _in(situation, Path(module)):
        returned = getattr(worker_tasks, task)(Path(module), *arguments)
    print(json.dumps(returned))  # noqa: T201


def command(situation: str, task: Callable[..., Any], module: Path, *arguments: str) -> list[str]:
    """Return what starts a program that does a task in a situation."""
    return [sys.executable, "-P", "-c", _PROGRAM, situation, task.__name__, str(module), *arguments]


def environment() -> dict[str, str]:
    """Return what it needs to find this module."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def done(situation: str, task: Callable[..., Any], module: Path, *arguments: str) -> Any:
    """Return what a task returns in a program of its own, which prints nothing else, to stderr neither."""
    [first, answer] = run(command(situation, task, module, *arguments), environment()).splitlines()
    assert first == "asked"
    assert ended_once(module)
    return json.loads(answer)


def ended_once(module: Path) -> bool:
    """Whether the end of one process alone has been noted; forgets it."""
    note = module.with_name("ended")
    ends = note.read_text()
    note.unlink()
    return ends == "ended\n"


def as_outcome(error: HsmEnrollError) -> dict[str, Any]:
    """Return an error as the tasks tell it."""
    return {"kind": type(error).__name__, **error.document}


def told(report: TokenReport) -> str:
    """Return a token's report as the tasks tell it."""
    return repr(report).replace(str(report.name.module), "MODULE")


def has_ended(process: int) -> bool:
    """Whether a process is gone, or dead and kept by whoever has not asked for its status (proc(5), /proc/pid/stat)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def await_mark(*marks: str | Path) -> None:
    """Wait until modules that hang have written their process's id."""
    written = [Path(mark) for mark in marks]
    wait_until(
        lambda: all(mark.exists() and mark.read_text().endswith("\n") for mark in written), "C_Initialize", _NO_LOG
    )


def _note_end(note: Path) -> None:
    with note.open("a") as ended:
        ended.write("ended\n")


@contextmanager
def _in(situation: str, module: Path) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    if situation == PREPARED:
        worker.prepare()
    if situation == SPAWNED:
        thread.start()
    if situation == MODULE_LOADED:
        from hsm_enroll.token import modules

        modules.load(module)
    if situation == AWSCRT_LOADED:
        import awscrt  # noqa: F401 - that it is there is the situation
    if situation == CHILDREN_IGNORED:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if situation == CHILDREN_REAPED:
        signal.signal(signal.SIGCHLD, _reap)
    try:
        yield
    finally:
        over.set()


def _reap(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
