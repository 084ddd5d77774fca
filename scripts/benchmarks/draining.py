"""How fast the forwarder drains an outbox, against bare awscrt with the same window: mosquitto on loopback, SoftHSM."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import one_device
from benchmarks.figures import Figure
from benchmarks.measuring import ratios, runs
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits

_PAYLOAD = b"21.5" * 25
_LIMITED, _UNLIMITED = 1_000, 20_000
_LIMITED_RUNS, _UNLIMITED_RUNS = 3, 9
_PROGRAM = Path(__file__).with_name("draining_program.py")


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    with tempfile.TemporaryDirectory() as parent, one_device.running(Path(parent)) as environment:
        for rate, count, wanted in ((100, _LIMITED, _LIMITED_RUNS), (0, _UNLIMITED, _UNLIMITED_RUNS)):
            seconds = partial(_seconds, Path(parent), environment, count, rate)
            # A ratio of speeds: the peer's time comes first.
            speeds = ratios(partial(seconds, "bare"), partial(seconds, "ours"), runs(wanted, quick=quick))
            name, pace, limit = ("paced", "100 a second", 0.95) if rate else ("unlimited", "no limit", 0.8)
            yield Figure.of(f"draining-{name}", f"draining speed, {pace}", "bare awscrt", speeds, at_least=limit)


def _seconds(parent: Path, environment: dict[str, str], count: int, rate: int, whose: str) -> float:
    """Send messages in a process of its own, and return how long that took."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        if whose == "ours":
            _fill(Path(folder), count)
        command = [sys.executable, str(_PROGRAM), whose, folder, str(count), str(rate)]
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(run.stdout)


def _fill(folder: Path, count: int) -> None:
    with Outbox.open(folder, OutboxLimits(2**30)) as outbox:
        for _ in range(0, count, 1_000):
            outbox.add(*[NewMessage(one_device.TOPIC, _PAYLOAD)] * 1_000)
