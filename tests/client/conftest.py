"""What several of the client's test modules need."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from traceback import TracebackException

import pytest

import hsm_enroll

_TESTS = str(Path(__file__).parents[1])
RunPython = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run_python() -> Iterator[RunPython]:
    """Start another interpreter that sees this package: a program's text and its arguments; all end with the test."""
    with ExitStack() as running:

        def start(program: str, *arguments: object) -> subprocess.Popen[str]:
            process = running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program, *map(str, arguments)],
                    cwd=Path(hsm_enroll.__file__).parents[1],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            running.callback(process.kill)
            return process

        yield start


@pytest.fixture
def broken_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes what is written and cannot keep it."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("os.fsync", fail)


@pytest.fixture
def shown_with_locals() -> Callable[[BaseException], str]:
    """Print an exception as the most talkative traceback does: its causes, every frame but the test's, every local."""

    def show(error: BaseException) -> str:
        shown: list[str] = []
        link: TracebackException | None = TracebackException.from_exception(error, capture_locals=True)
        while link is not None:
            shown += [f"{frame}: {frame.locals}" for frame in link.stack if not frame.filename.startswith(_TESTS)]
            shown += link.format_exception_only()
            link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        return "\n".join(shown)

    return show
