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
from typing import Self

from tests.support.clocks import Clock
from tests.support.duplicates import Repeated, counted
from tests.support.forwarders import RunningForwarder
from tests.support.gateways import Gateway
from tests.support.recording import RecordingBroker
from tests.support.small_disk import SmallDisk
from tests.support.softhsm import SoftHsm
from tests.support.writers import Writer

Faults = Mapping[str, Callable[[], None]]

# Longer than the forwarder waits for an answer, twice.
_OUTAGE = 6.0  # seconds
_DAY = timedelta(days=1)


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


def broker_faults(broker: RecordingBroker, *, stopped: float) -> Faults:
    """Return what can happen to a broker.

    Args:
        broker: the broker.
        stopped: seconds for which it is stopped.
    """
    return {
        "broker stopped": partial(_stop, broker, stopped),
        "broker deaf": partial(_deafen, broker),
        "broker mute": partial(_mute, broker),
        "connection half-open": partial(_freeze, broker),
        "connection cut": broker.cut,
    }


def _stop(broker: RecordingBroker, seconds: float) -> None:
    broker.stop()
    time.sleep(seconds)
    broker.start()


def _deafen(broker: RecordingBroker) -> None:
    broker.is_deaf = True
    time.sleep(_OUTAGE)
    broker.is_deaf = False


def _mute(broker: RecordingBroker) -> None:
    broker.is_mute = True
    broker.cut()
    time.sleep(_OUTAGE)
    broker.is_mute = False


def _freeze(broker: RecordingBroker) -> None:
    broker.freeze()
    time.sleep(_OUTAGE)


def machine_faults(gateway: Gateway, disk: SmallDisk, clock: Clock) -> Faults:
    """Return what can happen to the gateway's machine: its token, its disk and its clock."""
    return {
        "token away": partial(_take_token, gateway.softhsm, gateway.broker),
        "disk full": partial(_fill, disk),
        "clock a day forward": partial(_set, clock, _DAY),
        "clock a day back": partial(_set, clock, -_DAY),
    }


def _take_token(softhsm: SoftHsm, broker: RecordingBroker) -> None:
    away = softhsm.folder / "away"
    softhsm.tokens.rename(away)
    softhsm.tokens.mkdir(mode=0o700)
    broker.cut()
    time.sleep(_OUTAGE)
    softhsm.tokens.rmdir()
    away.rename(softhsm.tokens)


def _fill(disk: SmallDisk) -> None:
    disk.fill()
    time.sleep(_OUTAGE)
    disk.free()


def _set(clock: Clock, offset: timedelta) -> None:
    clock.set(offset)
    time.sleep(_OUTAGE)
    clock.set(timedelta())
