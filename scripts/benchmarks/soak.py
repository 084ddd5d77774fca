"""A day of ``hsm-enroll forward`` in fast motion: do its memory and its descriptors stay the same, does all arrive?

The connection is cut in the middle of each round. The figures are taken between the rounds, when nothing waits.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import one_device
from benchmarks.figures import Figure
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
from tests.support.cable import Cable, cable

_PROGRAM = str(Path(__file__).with_name("soak_program.py"))
_BATCH = 1_000
_LOOK_SECONDS = 0.05
_TIME_LIMIT = 600.0


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure.

    Raises:
        RuntimeError: a message did not arrive.
    """
    messages, reconnections = (10_000, 10) if quick else (1_000_000, 100)
    with (
        tempfile.TemporaryDirectory() as name,
        one_device.running(Path(name)) as environment,
        cable(int(environment["HSM_ENROLL_MQTT_PORT"])) as laid,
        _observing(environment) as arrived,
    ):
        home, path = Path(environment["HSM_ENROLL_HOME"]), Path(name) / "messages.sock"
        told = {"HSM_ENROLL_MQTT_PORT": str(laid.port), "HSM_ENROLL_DRAINING_RATE": "0"}
        with (
            _forwarding({**environment, **told}, path) as process,
            _reading(path),
            Outbox.open(home, OutboxLimits(2**30)) as outbox,
        ):
            soak = _Soak(process.pid, outbox, laid, arrived)
            rounds = [soak.round(range(first, messages, reconnections)) for first in range(reconnections)]
    if len(arrived.different) != messages:
        raise RuntimeError(f"{messages - len(arrived.different)} messages were lost")
    yield from _figures(rounds, f"{messages:,} messages")
    again = (arrived.total - messages) / messages
    yield Figure.of("soak-twice", "messages that arrived twice", "all", [again], unit="share")


@dataclass(slots=True)
class _Arrived:
    """What an independent subscriber has received."""

    total: int = 0
    different: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Soak:
    """A forwarder, its outbox, and its connection."""

    process: int
    outbox: Outbox
    cable: Cable
    arrived: _Arrived

    def round(self, numbers: range) -> tuple[int, int]:
        """Send messages, cut the connection meanwhile, and return the memory in kB and the descriptors after it."""
        before = len(self.arrived.different)
        for at in range(0, len(numbers), _BATCH):
            batch = numbers[at : at + _BATCH]
            self.outbox.add(*[NewMessage(one_device.TOPIC, str(number).encode()) for number in batch])
        self._wait_for(before + len(numbers) // 2)
        self.cable.cut()
        self._wait_for(before + len(numbers))
        while self.outbox.state().messages:
            time.sleep(_LOOK_SECONDS)
        return _resident(self.process), len(list(Path(f"/proc/{self.process}/fd").iterdir()))

    def _wait_for(self, count: int) -> None:
        deadline = time.monotonic() + _TIME_LIMIT
        while len(self.arrived.different) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{count - len(self.arrived.different)} messages did not arrive in {_TIME_LIMIT:g} s"
                )
            time.sleep(_LOOK_SECONDS)


@contextmanager
def _observing(environment: dict[str, str]) -> Iterator[_Arrived]:
    """Subscribe with another program, whose connection nobody cuts."""
    arrived, begun = _Arrived(), threading.Event()
    command = ["stdbuf", "-oL", "mosquitto_sub", "-d", "-q", "1", "-t", one_device.TOPIC, "-F", "message: %p"]
    connection = ["-h", "localhost", "-p", environment["HSM_ENROLL_MQTT_PORT"], "-i", "observer"]
    files = {"--cafile": "HSM_ENROLL_CA_FILE", "--cert": "CERTIFICATE", "--key": "KEY"}
    identity = [word for option, name in files.items() for word in (option, environment[name])]

    def read() -> None:
        for line in process.stdout or ():
            if line.startswith("message: "):
                arrived.total += 1
                arrived.different.add(int(line.removeprefix("message: ")))
            elif line.startswith("Subscribed"):
                begun.set()

    with subprocess.Popen([*command, *connection, *identity], stdout=subprocess.PIPE, text=True) as process:
        reading = threading.Thread(target=read)
        reading.start()
        begun.wait(_TIME_LIMIT)
        try:
            yield arrived
        finally:
            process.terminate()
            reading.join()


@contextmanager
def _forwarding(environment: dict[str, str], path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the forwarder, until it has subscribed and then until the block ends."""
    options = ["forward", "--json", "--subscribe", one_device.TOPIC, "--socket", str(path)]
    command = [sys.executable, _PROGRAM, *options, "--metrics-file", str(path.with_name("hsm-enroll.prom"))]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for line in process.stdout:
            event = json.loads(line)
            if "event" not in event:
                raise RuntimeError(line)
            if event["event"] == "subscribed":
                break
        reading = threading.Thread(target=process.stdout.read)
        reading.start()
        try:
            yield process
        finally:
            process.terminate()
            reading.join()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Have a program read from the forwarder's socket, until that ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as program:
        program.connect(str(path))

        def read() -> None:
            while program.recv(2**20):
                pass

        threading.Thread(target=read, daemon=True).start()
        yield
        program.shutdown(socket.SHUT_RDWR)


def _resident(process: int) -> int:
    (line,) = (
        line for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines() if line.startswith("Rss:")
    )
    return int(line.split()[1])


def _figures(rounds: list[tuple[int, int]], work: str) -> Iterator[Figure]:
    """Compare the last tenth of the rounds with the second tenth: the first one warms up."""
    tenth = max(1, len(rounds) // 10)
    memory, descriptors = zip(*rounds, strict=True)
    for name, values, limit in (("memory", memory, 1.1), ("descriptors", descriptors, 1.0)):
        begin = statistics.median(values[tenth : 2 * tenth])
        after = [value / begin for value in values[-tenth:]]
        yield Figure.of(f"soak-{name}", f"forward's {name} after {work}", "before", after, at_most=limit)
