"""How it is measured: in pairs, in the same run, and told as a median and its spread."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence


def ratios(ours: Callable[[], float], peer: Callable[[], float], runs: int) -> list[float]:
    """Time both in turn, so that a machine whose speed drifts treats them alike; the first pair warms up.

    Args:
        ours, peer: each does its work once and returns how long that took, in seconds.
        runs: pairs that count.
    """
    pairs = [(ours(), peer()) for _ in range(runs + 1)]
    return [own / other for own, other in pairs[1:]]


def process_seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run a command and return how long the whole process took, in seconds; see :func:`run`."""
    return run(command, environment)[0]


def run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, str]:
    """Run a command; return how long the whole process took, in seconds, and what it wrote to its standard output.

    Python may keep its byte code, as where a program is installed.

    Raises:
        RuntimeError: it failed; what it said is in the message.
    """
    variables = {**os.environ, **environment}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    begin = time.perf_counter()
    process = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if process.returncode != 0:
        raise RuntimeError(f"{command}: {process.stdout}{process.stderr}")
    return seconds, process.stdout


def show(name: str, figures: Sequence[float]) -> None:
    """Print one figure: its median and its spread."""
    low, middle, high = min(figures), statistics.median(figures), max(figures)
    print(f"{name:<60} median {middle:.2f}   {low:.2f} to {high:.2f}   {len(figures)} runs")
