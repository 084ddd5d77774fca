"""A machine at its limits: system calls that fail with a chosen error, in every program with this environment."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from tests.support.processes import program, run

_SOURCE = Path(__file__).with_name("failing_calls.c")


def failing(**faults: int | str) -> dict[str, str]:
    """Return the environment in which calls fail: ``fork=errno.EAGAIN``, ``fsync="5:3"``; see ``failing_calls.c``."""
    plan = {f"FAIL_{call.upper()}": str(fault) for call, fault in faults.items()}
    return {"LD_PRELOAD": str(_library()), **plan}


@cache
def _library() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="failing-calls-"))
    atexit.register(shutil.rmtree, folder)
    library = folder / "failing_calls.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    run([program("gcc", package="gcc"), *options, "-o", str(library), str(_SOURCE)])
    return library
