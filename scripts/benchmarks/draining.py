"""How fast the forwarder drains an outbox, against bare awscrt with the same window: mosquitto on loopback, SoftHSM."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import one_device
from benchmarks.measuring import ratios, show
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits

_PAYLOAD = b"21.5" * 25
_LIMITED, _UNLIMITED = 1_000, 20_000
_LIMITED_RUNS, _UNLIMITED_RUNS = 3, 9
_PROGRAM = Path(__file__).with_name("draining_program.py")


def measure() -> None:
    """Measure and print a line for each figure."""
    with tempfile.TemporaryDirectory() as name, one_device.running(Path(name)) as environment:
        for count, rate, runs in ((_LIMITED, 100, _LIMITED_RUNS), (_UNLIMITED, 0, _UNLIMITED_RUNS)):

            def seconds(whose: str, count: int = count, rate: int = rate) -> float:
                """Send messages in a process of its own, and return how long that took."""
                with tempfile.TemporaryDirectory(dir=name) as folder:
                    if whose == "ours":
                        _fill(Path(folder), count)
                    command = [sys.executable, str(_PROGRAM), whose, folder, str(count), str(rate)]
                    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                return float(run.stdout)

            # A ratio of speeds: the peer's time comes first.
            pace, limit = ("100 a second", 0.95) if rate else ("no limit", 0.8)
            speeds = ratios(lambda: seconds("bare"), lambda: seconds("ours"), runs)
            show(f"draining / bare awscrt, {pace}", speeds, at_least=limit)


def _fill(folder: Path, count: int) -> None:
    with Outbox.open(folder, OutboxLimits(2**30)) as outbox:
        for _ in range(0, count, 1_000):
            outbox.add(*[NewMessage(one_device.TOPIC, _PAYLOAD)] * 1_000)
