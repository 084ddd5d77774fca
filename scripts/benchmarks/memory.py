"""The memory of a process and all its descendants, by sampling; so not within a run whose time counts."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_PAUSE_SECONDS = 0.002


def peak_megabytes(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run a command and return the most that it and its descendants together had at one time, in MB.

    Their Pss is added up, which counts a page that several processes share once (proc(5), smaps_rollup). A peak that is
    shorter than the time between two samples may be missed.

    Raises:
        RuntimeError: the command failed.
    """
    peak = 0
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_kilobytes, _tree(process.pid))))
            time.sleep(_PAUSE_SECONDS)
    if process.returncode != 0:
        raise RuntimeError(f"{command}: status {process.returncode}")
    return peak / 1000


def _tree(process: int) -> Iterator[int]:
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in _read(task).split():
            yield from _tree(int(child))


def _kilobytes(process: int) -> int:
    lines = _read(Path(f"/proc/{process}/smaps_rollup")).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _read(file: Path) -> str:
    """Return what a process tells of itself; nothing where it has ended."""
    try:
        return file.read_text()
    except OSError:
        return ""
