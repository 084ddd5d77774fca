"""Drains the outbox: one thread sends what is in it over one link after another, and removes what was acknowledged.

Nothing leaves the outbox without its PUBACK (MQTT 5.0 §4.3.2). When a link is lost, everything that was in flight on it
is forgotten and sent again, in its order, over the next one. So messages of a topic arrive in the order in which they
were added, and those that were in flight may arrive twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from hsm_enroll.errors import HsmEnrollError, MqttError, MqttUnreachableError
from hsm_enroll.iot.backlog import Backlog, Execute, Read, Source
from hsm_enroll.iot.pace import Pace
from hsm_enroll.iot.refusals import PASSING, Refusals
from hsm_enroll.iot.window import MOST_MESSAGES, InFlight, Window

if TYPE_CHECKING:
    from hsm_enroll.store.outbox import QueuedMessage

_CHECK_SECONDS = 5.0  # between two looks at whether the identity has changed
_SKIP_COUNT = 1000  # messages of topics that wait, after which answers are taken before more are skipped
_PAUSE_SECONDS = 1.0  # after the broker has said that it is too much
# Losses in a row without an acknowledgement, after which messages are sent one by one to find out which one it is.
_SUSPICIOUS_LOSSES = 2
# A link that has lasted so long without a message was not ended by what would have ended it anyway.
_SETTLE_SECONDS = 1.0
# The broker's own reasons for a DISCONNECT (MQTT 5.0 §3.14.2.1), which no message has caused.
_BROKERS_REASONS = {
    *("SERVER_SHUTTING_DOWN", "SERVER_BUSY", "KEEP_ALIVE_TIMEOUT", "SESSION_TAKEN_OVER", "USE_ANOTHER_SERVER"),
    *("SERVER_MOVED", "ADMINISTRATIVE_ACTION", "CONNECTION_RATE_EXCEEDED", "MAXIMUM_CONNECT_TIME", "QUOTA_EXCEEDED"),
    *("MESSAGE_RATE_TOO_HIGH", "RECEIVE_MAXIMUM_EXCEEDED", "NORMAL_DISCONNECTION"),
}

Answered = Callable[[int, str | None], None]
"""Called on any thread with a message's id, and the name of the reason for a refusal; None is an acknowledgement."""


class OpenLink(Protocol):
    """A link: a connection from its CONNACK to its end."""

    @property
    def receive_maximum(self) -> int:
        """How many messages may be in flight (MQTT 5.0 §3.2.2.3.3)."""

    @property
    def loss(self) -> HsmEnrollError | None:
        """Why it has ended; None while it has not."""

    def publish(self, message: QueuedMessage, expires_in: float | None, answered: Answered) -> None:
        """Send a message with QoS 1; without an effect if the link has ended."""

    def abandon(self, error: HsmEnrollError) -> None:
        """End it: it does not work any more."""


class Line(Protocol):
    """What links come from, one after another."""

    def link(self) -> OpenLink | None:
        """Return the link in use, the same object each time; None if there is none at the moment.

        Raises:
            HsmEnrollError: there will be none any more.
        """


class Outcome(StrEnum):
    """Why a run has ended: it was stopped, or the device's identity has changed."""

    STOPPED = "stopped"
    CHANGED = "changed"


SetAside = Callable[[str, str], None]
"""Called with the topic of a message that was set aside, and the reason."""


@dataclass(slots=True)
class Totals:
    """What has been done since the start.

    Attributes:
        sent: messages that were acknowledged.
        set_aside: messages that were set aside.
        rate: messages a second that were acknowledged, over the last ten seconds.
    """

    sent: int = 0
    set_aside: int = 0
    rate: float = 0.0


class Forwarder:
    """Drains an outbox. :meth:`run` is called by one thread; the other methods may be called by any.

    Args:
        outbox: what to drain.
        rate: messages a second at most; 0 is without a limit.
        timeout: seconds without an acknowledgement after which a link counts as dead.
        on_set_aside: called by the thread that runs.
        observe: called by it after each change, but at most once a second, and at least every few seconds.
        clock: seconds since some moment; they never go back.
        execute: runs what waits for the disk on another thread; None is a thread of its own.

    Attributes:
        totals: what has been done.
        backlog: what is left.
    """

    def __init__(
        self,
        outbox: Source,
        *,
        rate: float,
        timeout: float,
        on_set_aside: SetAside = lambda _topic, _reason: None,
        observe: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        execute: Execute | None = None,
    ) -> None:
        self.totals = Totals()
        self.backlog = Backlog(outbox, execute or ThreadPoolExecutor(1, "hsm-enroll outbox").submit)
        self._outbox = outbox
        self._timeout = timeout
        self._on_set_aside = on_set_aside
        self._observe = observe
        self._clock = clock
        self._pace = Pace(rate)
        self._window = Window()
        self._refusals = Refusals()
        self._link: OpenLink | None = None
        self._link_since = 0.0
        self._abandoned: OpenLink | None = None
        self._losses = 0
        self._is_alone = False
        self._may_set_aside = True
        self._hold_ends: float | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=11)
        self._check_at = 0.0
        self._wake_at = 0.0
        self._stopping = False
        self._is_observed = False
        self._is_waiting = False
        self._answers: deque[tuple[OpenLink, int, str | None]] = deque()

    def stop(self) -> None:
        """Have the run end once what is in flight is acknowledged, or the timeout is over."""
        self._stopping = True
        self._outbox.interrupt()

    def wake(self) -> None:
        """Have it look at the link, there may be another one, or none any more; and observe that within a second."""
        self._is_observed = False
        self._outbox.interrupt()

    def run(self, line: Line, changed: Callable[[], bool]) -> Outcome:
        """Drain the outbox until the run is stopped or the device's identity has changed.

        Args:
            line: the links.
            changed: whether there is another identity than the line's; asked every few seconds and after a loss.

        Raises:
            HsmEnrollError: there will be no link any more, or the outbox cannot be used.
        """
        self._check_at = 0.0
        outcome, ends_by = None, 0.0
        try:
            while True:
                now = self._clock()
                self._wake_at = now + _CHECK_SECONDS
                self._look_at_link(line, now)
                self._take_answers(now)
                if outcome is None and (outcome := self._should_end(changed, now)):
                    ends_by = now + self._timeout
                if outcome and (not self._window or now >= ends_by):
                    return outcome
                self._remove(now)
                if outcome is None:
                    self._send(now)
                self._check_silence(now)
                self._count(now)
                self._wait(now)
        finally:
            self._take_answers(self._clock())
            self._forget_link()
            self.backlog.close(self._clock())
            self._observe()

    def _should_end(self, changed: Callable[[], bool], now: float) -> Outcome | None:
        if self._stopping:
            return Outcome.STOPPED
        if now < self._check_at:
            return None
        self._check_at = now + _CHECK_SECONDS
        return Outcome.CHANGED if changed() else None

    # The link.

    def _look_at_link(self, line: Line, now: float) -> None:
        link = line.link()
        if self._link is not None and (link is not self._link or link.loss is not None):
            self._lose(self._link, now)
        if self._link is None and link is not None and link.loss is None:
            self._link, self._link_since = link, now
            self._window.limit = max(1, min(MOST_MESSAGES, link.receive_maximum))

    def _lose(self, link: OpenLink, now: float) -> None:
        self._take_answers(now)  # what was acknowledged before the loss is not sent again
        was_alone = self._is_alone
        in_flight = self._forget_link()
        self._check_at = now
        reason = link.loss.reason if isinstance(link.loss, MqttError) else None
        was_abandoned, self._abandoned = link is self._abandoned, None
        if not in_flight or was_abandoned or reason in _BROKERS_REASONS:
            return
        self._losses += 1
        if was_alone:
            self._blame(in_flight[0], reason, now)

    def _forget_link(self) -> list[InFlight]:
        self._link, self._is_alone = None, False
        in_flight = self._window.clear()
        if in_flight:
            self.backlog.rewind(min(message.id for message in in_flight))
        self.backlog.go_back()  # a message may have waited for one behind it that was in flight
        return in_flight

    def _blame(self, message: InFlight, reason: str | None, now: float) -> None:
        """Treat the end of the link as the refusal of the one message that was in flight.

        Between two messages that are set aside for it, at least one other is acknowledged: otherwise it may be the
        broker that accepts nothing.
        """
        if self._refusals.refuse(message, reason or "", now, ends_link=True, is_final=self._may_set_aside):
            self._may_set_aside = False
            self._set_aside(message, f"the broker ended the connection ({reason or 'no reason given'})", now)
        else:
            self._hold(message)

    def _check_silence(self, now: float) -> None:
        silent_at = self._window.silent_at(self._timeout)
        if silent_at is None or self._link is None:
            return
        if now >= silent_at:
            self._abandoned = self._link
            error = MqttUnreachableError(f"the broker did not acknowledge a message within {self._timeout:g} s")
            self._link.abandon(error)
            silent_at = now
        self._wake_by(silent_at)

    # Answers, on the link's threads and then on this one.

    def _answered(self, link: OpenLink, message_id: int, reason: str | None) -> None:
        self._answers.append((link, message_id, reason))
        if self._is_waiting:
            self._is_waiting = False
            self._outbox.interrupt()

    def _take_answers(self, now: float) -> None:
        while self._answers:
            link, message_id, reason = self._answers.popleft()
            message = self._window.answered(message_id, now) if link is self._link else None
            # An acknowledgement counts even if the link was given up before it came.
            if reason is None:
                self._acknowledged(message_id, message, now)
            elif message is not None:
                self._refused(message, reason, now)

    def _acknowledged(self, message_id: int, message: InFlight | None, now: float) -> None:
        self.totals.sent += 1
        self._losses, self._may_set_aside = 0, True
        self.backlog.finish(message_id, None, now)
        if message is not None and self._refusals.accept(message.topic):
            self.backlog.go_back()

    def _refused(self, message: InFlight, reason: str, now: float) -> None:
        if reason in PASSING:
            self._pace.pause(now + _PAUSE_SECONDS)
        if self._refusals.refuse(message, reason, now):
            self._set_aside(message, reason, now)
        else:
            self._hold(message)

    def _set_aside(self, message: InFlight, reason: str, now: float) -> None:
        self.totals.set_aside += 1
        self.backlog.finish(message.id, reason, now)
        self.backlog.go_back()
        self._on_set_aside(message.topic, reason)

    def _hold(self, message: InFlight) -> None:
        self.backlog.come_back_for(message.id)
        # A late answer may come after the end: then the topic is tried at once.
        ends = self._refusals.held_until(message.topic)
        self._hold_ends = ends if self._hold_ends is None else min(ends, self._hold_ends)

    # Sending.

    def _remove(self, now: float) -> None:
        self.backlog.settle(now)
        remove_at = self.backlog.remove_at(is_idle=not self._window)
        if remove_at is None:
            return
        if now >= remove_at:
            self.backlog.remove()
        else:
            self._wake_by(remove_at)

    def _send(self, now: float) -> None:
        if self._hold_ends is not None and now >= self._hold_ends:
            self.backlog.go_back()
            self._hold_ends = self._refusals.next_at(now)
        if self._hold_ends is not None:
            self._wake_by(self._hold_ends)
        skipped = 0
        while self._link is not None and (read := self.backlog.next(now)) is not None:
            message = read.message
            if message.id in self._window:
                self.backlog.take()
            elif self._must_wait(message.topic, now):
                self.backlog.skip()
                skipped += 1
                if skipped == _SKIP_COUNT:
                    self._wake_by(now)
                    return
            elif self._may_send(message, now):
                self._publish(read, self._link, now)
            else:
                return

    def _must_wait(self, topic: str, now: float) -> bool:
        if self._refusals.is_held(topic, now):
            return True
        return self._refusals.is_suspect(topic) and self._window.has_topic(topic)

    def _may_send(self, message: QueuedMessage, now: float) -> bool:
        if self._has_to_be_alone(message.topic):
            settled_at = self._link_since + _SETTLE_SECONDS
            if now < settled_at:
                self._wake_by(settled_at)
                return False
            if self._window:
                return False
        if (self._is_alone and self._window) or not self._window.has_room(message.size):
            return False
        if self._pace.take(now):
            return True
        self._wake_by(self._pace.next_at(now))
        return False

    def _has_to_be_alone(self, topic: str) -> bool:
        return self._losses >= _SUSPICIOUS_LOSSES or self._refusals.ends_links(topic)

    def _publish(self, read: Read, link: OpenLink, now: float) -> None:
        message, expires_in = read.message, read.message.expires_in
        if expires_in is not None:
            expires_in -= now - read.at
            if expires_in <= 0:  # the outbox removes it when it is read again
                self.backlog.rewind(message.id)
                return
        self.backlog.take()
        self._is_alone = self._has_to_be_alone(message.topic)
        self._window.add(message.id, message.topic, message.size, now)
        link.publish(message, expires_in, lambda message_id, reason: self._answered(link, message_id, reason))

    # Waiting.

    def _wake_by(self, at: float) -> None:
        self._wake_at = min(self._wake_at, at)

    def _count(self, now: float) -> None:
        if not self._samples or now >= self._samples[-1][0] + 1.0:
            self._samples.append((now, self.totals.sent))
            since, sent = self._samples[0]
            self.totals.rate = (self.totals.sent - sent) / (now - since) if now > since else 0.0
            self._is_observed = True
            self._observe()
        if not self._is_observed or self.totals.rate or self.totals.sent != self._samples[-1][1]:
            self._wake_by(self._samples[-1][0] + 1.0)

    def _wait(self, now: float) -> None:
        self._is_waiting = True
        if not self._answers:
            self._outbox.wait(max(0.0, self._wake_at - now))
        self._is_waiting = False
