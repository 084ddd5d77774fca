"""How it is measured: in pairs, in the same run."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

_QUICK_RUNS = 2


def runs(wanted: int, *, quick: bool) -> int:
    """Return how often something is measured: a quick run only shows that everything works."""
    return min(wanted, _QUICK_RUNS) if quick else wanted


def ratios(ours: Callable[[], float], peer: Callable[[], float], runs: int) -> list[float]:
    """Time both in turn, so that a machine whose speed drifts treats them alike; the first pair warms up.

    Args:
        ours, peer: each does its work once and returns how long that took, in seconds.
        runs: pairs that count.
    """
    pairs = [(ours(), peer()) for _ in range(runs + 1)]
    return [own / other for own, other in pairs[1:]]


def shares(seconds: float, steps: Mapping[str, float]) -> dict[str, float]:
    """Return the share of each step of a command in the time of its process, and that of the process's begin and end.

    Args:
        seconds: those of the process.
        steps: the seconds of each, by its name; skipped ones took none and are left out.
    """
    parts = {**{f"step {name}": step for name, step in steps.items() if step}, "before and after": 0.0}
    parts["before and after"] = seconds - sum(parts.values())
    return {name: part / seconds for name, part in parts.items()}


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
