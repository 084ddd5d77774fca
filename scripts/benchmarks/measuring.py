"""How it is measured: in pairs, in the same run, and told as a median and its spread."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

missed: list[str] = []
"""The names of the figures that have missed their limits; `scripts/bench` exits with 1 if there are any."""


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


def show(name: str, figures: Sequence[float], *, at_least: float | None = None, at_most: float | None = None) -> None:
    """Print one figure: its median and its spread, and whether the median keeps its limit, if it has one."""
    low, middle, high = min(figures), statistics.median(figures), max(figures)
    verdict = judged(name, middle, at_least=at_least, at_most=at_most)
    print(f"{name:<60} median {middle:.2f}   {low:.2f} to {high:.2f}   {len(figures)} runs{verdict}")


def judged(name: str, figure: float, *, at_least: float | None = None, at_most: float | None = None) -> str:
    """Return what a line of output says about a figure's limit, if it has one, and note the name if it is missed."""
    verdicts = []
    for limit, words, is_met in (
        (at_least, "at least", at_least is None or figure >= at_least),
        (at_most, "at most", at_most is None or figure <= at_most),
    ):
        if limit is not None:
            verdicts.append(f"   {words} {limit:g}: {'met' if is_met else 'MISSED'}")
        if not is_met:
            missed.append(name)
    return "".join(verdicts)
