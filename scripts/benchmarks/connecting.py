"""How long it takes to connect with the key in the token, against the article's SDK with a key file: same broker.

On loopback awscrt waits 40 ms for an acknowledgement in the middle of its handshake: it does not set TCP_NODELAY.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import one_device, slow_network
from benchmarks.figures import Figure
from benchmarks.measuring import ratios, run, runs

# Round trip in milliseconds; AWS IoT is not on loopback.
_ROUND_TRIPS = (0, 50)
_RUNS = 11
_PROGRAM = str(Path(__file__).with_name("connecting_program.py"))
_CONNECTIONS = {"login": "login and connection", "again": "connection after a loss"}


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    with tempfile.TemporaryDirectory() as name, one_device.running(Path(name)) as environment:
        port = int(environment["HSM_ENROLL_MQTT_PORT"])
        for round_trip in _ROUND_TRIPS:
            with slow_network.running(round_trip, port, port) as (_, far):
                told = {**environment, "HSM_ENROLL_MQTT_PORT": str(far)}
                yield from _measure(round_trip, told, runs(_RUNS, quick=quick))


def _measure(round_trip: int, environment: dict[str, str], pairs: int) -> Iterator[Figure]:
    def seconds(whose: str) -> float:
        """Connect in a process of its own, and return how long that took without the process's start and imports."""
        return float(run([sys.executable, _PROGRAM, whose], environment)[1])

    def whole(whose: str) -> float:
        """Return how long the whole process took."""
        return run([sys.executable, _PROGRAM, whose], environment)[0]

    peer = f"the article's SDK, {round_trip} ms away"
    for whose, meaning in _CONNECTIONS.items():
        figures = ratios(partial(seconds, whose), partial(seconds, "sdk"), pairs)
        yield Figure.of(f"connect-{whose}-{round_trip}ms", meaning, peer, figures, at_most=1.2)
    figures = ratios(partial(whole, "library"), partial(whole, "sdk"), pairs)
    yield Figure.of(f"connect-process-{round_trip}ms", "process with connect()", peer, figures)
