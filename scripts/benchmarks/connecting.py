"""How long it takes to connect with the key in the token, against the article's SDK with a key file: same broker.

On loopback awscrt waits 40 ms for an acknowledgement in the middle of its handshake: it does not set TCP_NODELAY.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import one_device, slow_network
from benchmarks.measuring import ratios, run, show

# Round trip in milliseconds; AWS IoT is not on loopback.
_ROUND_TRIPS = (0, 50)
_RUNS = 11
_PROGRAM = str(Path(__file__).with_name("connecting_program.py"))
_CONNECTIONS = {"login": "login and connection", "again": "connection after a loss"}


def measure() -> None:
    """Measure and print a line for each figure."""
    with tempfile.TemporaryDirectory() as name, one_device.running(Path(name)) as environment:
        port = int(environment["HSM_ENROLL_MQTT_PORT"])
        for round_trip in _ROUND_TRIPS:
            with slow_network.running(round_trip, port, port) as (_, far):
                _measure(round_trip, {**environment, "HSM_ENROLL_MQTT_PORT": str(far)})


def _measure(round_trip: int, environment: dict[str, str]) -> None:
    figures: dict[str, list[float]] = {}

    def seconds(whose: str) -> float:
        """Connect in a process of its own, and return how long that took without the process's start and imports."""
        _, printed = run([sys.executable, _PROGRAM, whose], environment)
        figures.setdefault(whose, []).append(float(printed))
        return figures[whose][-1]

    def whole(whose: str) -> float:
        """Return how long the whole process took."""
        figures.setdefault(f"process {whose}", []).append(run([sys.executable, _PROGRAM, whose], environment)[0])
        return figures[f"process {whose}"][-1]

    for whose, meaning in _CONNECTIONS.items():
        pairs = ratios(partial(seconds, whose), partial(seconds, "sdk"), _RUNS)
        show(f"{meaning} / SDK, {round_trip} ms", pairs, at_most=1.2)
    show(
        f"process with connect() / SDK, {round_trip} ms",
        ratios(partial(whole, "library"), partial(whole, "sdk"), _RUNS),
    )
    medians = (f"{name} {statistics.median(values) * 1000:.0f}" for name, values in figures.items())
    print("  medians in ms: " + ", ".join(medians))
