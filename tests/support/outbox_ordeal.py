"""All that can happen to an outbox, one fault after another, while programs write to it and a forwarder drains it."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from tests.support.clocks import Clock
from tests.support.duplicates import Repeated, counted
from tests.support.forwarders import RunningForwarder
from tests.support.gateways import TOPICS, Gateway, gateway
from tests.support.recording import RecordingBroker
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.softhsm import SoftHsm
from tests.support.writers import Writer, writing

Faults = Mapping[str, Callable[[], None]]

_DAY = timedelta(days=1)
_LATENCY = 0.1  # of the broker, in seconds: something is in flight most of the time
_SIZE = 4000  # bytes of a message
_ROOM = "24m"


class Durations(NamedTuple):
    """How long it takes, in seconds.

    Attributes:
        pause: from one message of a program to its next.
        outage: each fault but kills; the forwarder waits two seconds for an answer.
        stopped: for which the broker is stopped.
    """

    pause: float
    outage: float
    stopped: float


@dataclass(frozen=True)
class Account:
    """What has become of the messages; all of them have been checked.

    Attributes:
        faults: how often each fault was there.
        added: how many messages were added.
        refused: how many were refused, each with a reason.
        unclear: how many were being added by a program that was killed.
        delivered: how many different messages were delivered.
        repeated: what was delivered more than once.
    """

    faults: Mapping[str, int]
    added: int
    refused: int
    unclear: int
    delivered: int
    repeated: Sequence[Repeated]

    @property
    def text(self) -> str:
        """It as lines of text."""
        duplicates = counted(self.repeated)
        lines = [
            ("added", self.added),
            ("refused, with a reason", self.refused),
            ("being added when the program was killed", self.unclear),
            ("delivered", self.delivered),
            ("lost or out of order", 0),
            ("delivered again", duplicates.total()),
            *((f"  {reason}", count) for reason, count in duplicates.most_common()),
            ("  for another reason", 0),
            ("faults", sum(self.faults.values())),
            *((f"  {fault}", count) for fault, count in self.faults.items()),
        ]
        return "\n".join(f"{name:<60}{count:>7}" for name, count in lines)


class Ordeal:
    """The forwarder of a gateway, which is started again whenever it is killed, and what happens to it.

    Args:
        gateway: the gateway.
        writers: its programs; they run.
    """

    def __init__(self, gateway: Gateway, writers: Sequence[Writer]) -> None:
        self.kills: Faults = {"forwarder killed": self._kill_forwarder, "writer killed": self._kill_writer}
        self._gateway = gateway
        self._writers = writers
        self._counts: Counter[str] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def suffer_all(self, rare: Faults, often: Faults, tell: Callable[[str], None]) -> None:
        """Have all faults happen, in a random order, and then more kills until all messages have been added.

        Args:
            rare: happen once each.
            often: happen once each after each rare one.
            tell: is told before each.
        """
        for name in random.sample(list(rare), k=len(rare)):
            for each in (name, *random.sample(list(often), k=len(often))):
                tell(f"{sum(len(writer.added) for writer in self._writers)} messages, {each}")
                self.suffer({**rare, **often}, each)
        while any(writer.is_writing for writer in self._writers):
            self.suffer(self.kills, random.choice(list(self.kills)))

    def suffer(self, faults: Faults, name: str) -> None:
        """Have a fault happen, and come to its end."""
        self._counts[name] += 1
        faults[name]()
        assert self._forwarder.is_running, self._forwarder.wait()

    def end(self) -> Account:
        """Wait until everything is delivered, check it, and return what has become of it."""
        for writer in self._writers:
            writer.wait()
            self._gateway.broker.wait_for_all(writer.messages)
        self._forwarder.wait_for("connected")  # it may have been started a moment ago
        assert self._forwarder.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        repeated = self._gateway.check(self._writers)
        return Account(
            self._counts,
            added=sum(len(writer.added) for writer in self._writers),
            refused=sum(len(writer.refused) for writer in self._writers),
            unclear=sum(len(writer.unclear) for writer in self._writers),
            delivered=len(set(self._gateway.broker.received)),
            repeated=repeated,
        )

    def _start(self) -> None:
        self._forwarder = self._stack.enter_context(RunningForwarder(self._gateway.device))

    def _kill_forwarder(self) -> None:
        time.sleep(random.uniform(0.0, 2.0))
        self._forwarder.kill()
        self._stack.close()
        self._start()

    def _kill_writer(self) -> None:
        time.sleep(random.uniform(0.0, 0.5))
        writer = random.choice(self._writers)
        if writer.is_writing:
            writer.kill()
            writer.start()


def endure(folder: Path, messages: int, durations: Durations, tell: Callable[[str], None]) -> Account:
    """Have a gateway's outbox suffer each fault at least once, and more of them until all messages are written.

    Args:
        folder: for all that is needed; empty.
        messages: how many are written.
        durations: how long it takes.
        tell: is told before each fault.

    Raises:
        AssertionError: something is lost, out of order, or delivered twice without a reason.
    """
    clock = Clock(folder / "clock")
    with gateway(folder) as enrolled, small_disk(folder / "disk", enrolled.device.home, _ROOM) as disk:
        enrolled.broker.latency = _LATENCY
        cramped = enrolled.on(disk).with_environment(**clock.environment)
        device, count = cramped.device, messages // len(TOPICS)
        with (
            writing(
                device.environment, TOPICS, count, pause=durations.pause, size=_SIZE, prefix=device.prefix
            ) as writers,
            Ordeal(cramped, writers) as ordeal,
        ):
            rare = _broker_faults(cramped.broker, durations)
            often = {**_machine_faults(cramped, disk, clock, durations.outage), **ordeal.kills}
            ordeal.suffer_all(rare, often, tell)
            return ordeal.end()


def _broker_faults(broker: RecordingBroker, durations: Durations) -> Faults:
    return {
        "broker stopped": partial(_stop, broker, durations.stopped),
        "broker deaf": partial(_deafen, broker, durations.outage),
        "broker mute": partial(_mute, broker, durations.outage),
        "connection half-open": partial(_freeze, broker, durations.outage),
        "connection cut": broker.cut,
    }


def _stop(broker: RecordingBroker, seconds: float) -> None:
    broker.stop()
    time.sleep(seconds)
    broker.start()


def _deafen(broker: RecordingBroker, seconds: float) -> None:
    broker.is_deaf = True
    time.sleep(seconds)
    # Or what it has not answered would be sent again after what it answers from now on.
    broker.cut()
    broker.is_deaf = False


def _mute(broker: RecordingBroker, seconds: float) -> None:
    broker.is_mute = True
    broker.cut()
    time.sleep(seconds)
    broker.is_mute = False


def _freeze(broker: RecordingBroker, seconds: float) -> None:
    broker.freeze()
    time.sleep(seconds)


def _machine_faults(enrolled: Gateway, disk: SmallDisk, clock: Clock, outage: float) -> Faults:
    return {
        "token away": partial(_take_token, enrolled.softhsm, enrolled.broker, outage),
        "disk full": partial(_fill, disk, outage),
        "clock a day forward": partial(_set, clock, _DAY, outage),
        "clock a day back": partial(_set, clock, -_DAY, outage),
    }


def _take_token(softhsm: SoftHsm, broker: RecordingBroker, seconds: float) -> None:
    away = softhsm.folder / "away"
    softhsm.tokens.rename(away)
    softhsm.tokens.mkdir(mode=0o700)
    broker.cut()
    time.sleep(seconds)
    softhsm.tokens.rmdir()
    away.rename(softhsm.tokens)


def _fill(disk: SmallDisk, seconds: float) -> None:
    disk.fill()
    time.sleep(seconds)
    disk.free()


def _set(clock: Clock, offset: timedelta, seconds: float) -> None:
    clock.set(offset)
    time.sleep(seconds)
    clock.set(timedelta())
