"""A wall clock that is set while programs run; see ``set_clock.c``.

libfaketime cannot: where the other clocks are to stay as they are, it breaks ``time.sleep`` (clock_nanosleep(2) with a
deadline).
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from datetime import timedelta
from functools import cache
from pathlib import Path

from tests.support.processes import program, run

_SOURCE = Path(__file__).with_name("set_clock.c")


class Clock:
    """The wall clock of those programs that have its environment.

    Args:
        file: says how far it is off; made.
    """

    def __init__(self, file: Path) -> None:
        self.environment = {"LD_PRELOAD": str(_library()), "SET_CLOCK_FILE": str(file)}
        self._file = file
        self._file.touch()
        self.set(timedelta())

    def set(self, offset: timedelta) -> None:
        """Set it, at once, to so much later than it is."""
        with self._file.open("rb+", buffering=0) as stream:  # never empty: it is mapped
            stream.write(int(offset.total_seconds()).to_bytes(8, sys.byteorder, signed=True))


@cache
def _library() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="set-clock-"))
    atexit.register(shutil.rmtree, folder)
    library = folder / "set_clock.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    run([program("gcc", package="gcc"), *options, "-o", str(library), str(_SOURCE)])
    return library
