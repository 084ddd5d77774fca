"""A broker, an outbox and a clock in memory, in which a day of the forwarder's takes no time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from hsm_enroll.errors import HsmEnrollError, MqttError, StateError
from hsm_enroll.iot.forwarder import Forwarder, Outcome
from hsm_enroll.iot.links import Answered, Ender
from hsm_enroll.store.outbox import Properties, QueuedMessage

T = TypeVar("T")

_LONGEST = 7 * 86400.0

Script = Callable[[QueuedMessage], str | None]
"""What the broker does with a message: "" acknowledges it, None ignores it, "dead" ignores all that comes over the link
from now on, "close" and "close REASON" end the link, with a DISCONNECT if there is a reason, "cut" cuts the connection,
"last" acknowledges the message and ends the link at the same moment, and anything else is the name of a reason code."""


class SimulatedClock:
    """A clock that shows the time of the next thing that happens."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._coming: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def after(self, seconds: float, happen: Callable[[], object]) -> None:
        """Have something happen."""
        self.at(self.now + seconds, happen)

    def at(self, moment: float, happen: Callable[[], object]) -> None:
        """Have something happen at a moment."""
        heapq.heappush(self._coming, (moment, next(self._numbers), happen))

    def advance(self, seconds: float) -> None:
        """Let time pass until the next thing has happened, or for so long."""
        until = self.now + seconds
        if not self._coming or self._coming[0][0] > until:
            self.now = until
        else:
            self.now = max(self.now, self._coming[0][0])
            heapq.heappop(self._coming)[2]()
        assert self.now < _LONGEST, "the forwarder does not end"


class SimulatedOutbox:
    """An outbox in memory.

    Attributes:
        aside: the reasons of what was set aside, by payload.
        failing: the operations that fail at the moment.
        reads: how many messages were read.
    """

    def __init__(self, clock: SimulatedClock) -> None:
        self.messages: dict[int, tuple[QueuedMessage, float]] = {}
        self.aside: dict[bytes, str] = {}
        self.failing: set[str] = set()
        self.reads = 0
        self._clock = clock
        self._last = 0
        self._interrupted = False

    def add(self, topic: str, payload: bytes, expires_in: float | None = None) -> None:
        """Add a message."""
        self._last += 1
        size = len(payload) + 100
        message = QueuedMessage(self._last, topic, payload, False, Properties(), expires_in, 0.0, size)
        self.messages[self._last] = message, self._clock.now
        self.interrupt()

    def next(self, after: int, count: int) -> list[QueuedMessage]:
        """Return the next messages."""
        self._check("next")
        found: list[QueuedMessage] = []
        for message, queued in list(self.messages.values()):
            left = None if message.expires_in is None else message.expires_in - (self._clock.now - queued)
            if left is not None and left <= 0:
                del self.messages[message.id]
            elif message.id > after and len(found) < count:
                found.append(_expiring(message, left))
        self.reads += len(found)
        return found

    def remove(self, ids: Sequence[int]) -> None:
        """Remove messages."""
        self._check("remove")
        for message_id in ids:
            self.messages.pop(message_id, None)

    def set_aside(self, message_id: int, reason: str) -> None:
        """Set a message aside."""
        self._check("set_aside")
        if message_id in self.messages:
            message, _ = self.messages.pop(message_id)
            self.aside[message.payload] = reason

    def wait(self, timeout: float) -> None:
        """Let time pass, until there is a message or an interrupt."""
        until = self._clock.now + timeout
        while not self._interrupted and self._clock.now < until:
            self._clock.advance(until - self._clock.now)
        self._interrupted = False

    def interrupt(self) -> None:
        """End the next wait at once."""
        self._interrupted = True

    def _check(self, operation: str) -> None:
        if operation in self.failing:
            raise StateError(f"the outbox cannot {operation}: no space left on device")


def _expiring(message: QueuedMessage, left: float | None) -> QueuedMessage:
    return QueuedMessage(
        message.id, message.topic, message.payload, message.retain, message.properties, left, 0.0, message.size
    )


class SimulatedLink:
    """A connection to the simulated broker."""

    def __init__(self, broker: SimulatedBroker) -> None:
        self.receive_maximum = broker.receive_maximum
        self.loss: HsmEnrollError | None = None
        self.ender = Ender.OTHER
        self._broker = broker
        self._in_flight: set[int] = set()
        self._is_dead = False
        # TCP keeps the order in both directions.
        self._arrives_at = self._answered_at = 0.0

    def publish(self, message: QueuedMessage, expires_in: float | None, answered: Answered) -> None:
        """Have the broker see to a message."""
        if self.loss is not None:
            return
        assert message.expires_in is None or (expires_in or 0) > 0
        self._in_flight.add(message.id)
        self._broker.most_in_flight = max(self._broker.most_in_flight, len(self._in_flight))
        self._broker.sent.append((self._broker.clock.now, message.payload))
        self._arrives_at = max(self._arrives_at, self._broker.clock.now + self._broker.one_way)
        self._broker.clock.at(self._arrives_at, lambda: self._arrive(message, answered))

    def end(self, reason: str | None = None, ender: Ender = Ender.BROKER) -> None:
        """End it from the other side."""
        if self.loss is None:
            loss = MqttError("the connection was lost")
            loss.reason = reason
            self.ender = ender
            self._lose(loss)

    def abandon(self, error: HsmEnrollError) -> None:
        """End it from this side."""
        self._lose(error)

    def _lose(self, loss: HsmEnrollError) -> None:
        self.loss = loss
        self._broker.links_lost += 1
        self._broker.connect_later()

    def _arrive(self, message: QueuedMessage, answered: Answered) -> None:
        if self.loss is not None or self._is_dead:
            return
        broker = self._broker
        verdict = broker.script(message)
        self._is_dead = verdict == "dead"
        if verdict is None or self._is_dead:
            return
        if verdict == "last":
            broker.received.append((message.topic, message.payload))
            answered(message.id, None)
            self.end()
            return
        if verdict == "cut":
            self.end(ender=Ender.CUT)
            return
        if verdict.startswith("close"):
            self.end(verdict.removeprefix("close").strip() or None)
            return
        if not verdict:
            broker.received.append((message.topic, message.payload))
        self._answered_at = max(self._answered_at, broker.clock.now + broker.one_way)
        broker.clock.at(self._answered_at, lambda: self._answer(message.id, verdict, answered))

    def _answer(self, message_id: int, verdict: str, answered: Answered) -> None:
        if self.loss is None:
            self._in_flight.discard(message_id)
            answered(message_id, verdict or None)


@dataclass
class SimulatedBroker:
    """A broker, and the keeper that connects to it.

    Attributes:
        script: what it does with each message.
        received: what it has accepted, in order: topics and payloads.
        sent: what was sent to it, with the time.
        end: the error with which the keeper has given up.
    """

    clock: SimulatedClock
    script: Script = lambda _: ""
    receive_maximum: int = 100
    one_way: float = 0.01
    reconnects_after: float = 0.5
    received: list[tuple[str, bytes]] = field(default_factory=list)
    sent: list[tuple[float, bytes]] = field(default_factory=list)
    most_in_flight: int = 0
    links_lost: int = 0
    end: HsmEnrollError | None = None
    forwarder: Forwarder | None = None
    current: SimulatedLink | None = None

    def link(self) -> SimulatedLink | None:
        """Return the link in use."""
        if self.end is not None:
            raise self.end
        return self.current

    def connect(self) -> None:
        """Have a link."""
        self.current = SimulatedLink(self)
        self._wake()

    def connect_later(self) -> None:
        """Have another link in a while."""
        self.current = None
        self.clock.after(self.reconnects_after, self.connect)
        self._wake()

    def cut(self, reason: str | None = None) -> None:
        """End the link, if there is one; the reason is that of a DISCONNECT, and None cuts the connection."""
        if self.current is not None:
            self.current.end(reason, Ender.BROKER if reason else Ender.CUT)

    def give_up(self, error: HsmEnrollError) -> None:
        """Have no link any more."""
        self.end = error
        self._wake()

    def payloads(self, topic: str) -> list[bytes]:
        """Return what has arrived on a topic, in order, the second of two equal ones left out."""
        return list(dict.fromkeys(payload for each, payload in self.received if each == topic))

    def _wake(self) -> None:
        if self.forwarder is not None:
            self.forwarder.wake()


def _at_once(work: Callable[[], T]) -> Future[T]:
    done: Future[T] = Future()
    try:
        done.set_result(work())
    except StateError as error:
        done.set_exception(error)
    return done


class Simulation:
    """A forwarder, its outbox and its broker."""

    def __init__(self, *, rate: float = 0.0, timeout: float = 20.0) -> None:
        self.clock = SimulatedClock()
        self.outbox = SimulatedOutbox(self.clock)
        self.broker = SimulatedBroker(self.clock)
        self.told: list[tuple[str, str]] = []
        self.forwarder = Forwarder(
            self.outbox,
            rate=rate,
            timeout=timeout,
            on_set_aside=lambda topic, reason: self.told.append((topic, reason)),
            clock=self.clock,
            execute=_at_once,
        )
        self.broker.forwarder = self.forwarder
        self.broker.connect()

    def add(self, topic: str, count: int, first: int = 0) -> list[bytes]:
        """Add messages with numbers as payloads, and return the payloads."""
        payloads = [f"{topic} {number}".encode() for number in range(first, first + count)]
        for payload in payloads:
            self.outbox.add(topic, payload)
        return payloads

    def run(self, seconds: float, changed: Callable[[], bool] = lambda: False) -> Outcome:
        """Forward for some seconds, and then stop."""
        self.clock.after(seconds, self.forwarder.stop)
        return self.forwarder.run(self.broker, changed)
