"""SoftHSM's process killed in the middle of its work, wherever a test wants."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from tests.support.processes import program, run

_SOURCE = Path(__file__).with_name("killed_writes.c")


def killed_at_write(number: int) -> dict[str, str]:
    """Return the environment in which SoftHSM's process is killed when it is about to write a file for the n-th time.

    The first time is in C_Login.
    """
    return {"LD_PRELOAD": str(_library()), "KILL_AT_WRITE": str(number)}


@cache
def _library() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="killed-writes-"))
    atexit.register(shutil.rmtree, folder)
    library = folder / "killed_writes.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    run([program("gcc", package="gcc"), *options, "-o", str(library), str(_SOURCE)])
    return library
