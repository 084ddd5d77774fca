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
from functools import partial
from typing import TYPE_CHECKING

from hsm_enroll.errors import MqttError, MqttUnreachableError
from hsm_enroll.iot.answers import Answers
from hsm_enroll.iot.backlog import Backlog, Execute, Read, Source
from hsm_enroll.iot.links import Ender
from hsm_enroll.iot.pace import Pace
from hsm_enroll.iot.patience import Patience
from hsm_enroll.iot.refusals import PASSING, Refusals
from hsm_enroll.iot.share import Share
from hsm_enroll.iot.suspicion import SETTLE_SECONDS, Suspicion
from hsm_enroll.iot.window import MOST_MESSAGES, InFlight, Window

if TYPE_CHECKING:
    from hsm_enroll.iot.links import Line, OpenLink
    from hsm_enroll.store.outbox import QueuedMessage

_CHECK_SECONDS = 5.0  # between two looks at whether the identity has changed
_SKIP_COUNT = 1000  # messages of topics that wait, after which answers are taken before more are skipped
_PAUSE_SECONDS = 1.0  # after the broker has said that it is too much
_HOLD_SECONDS = 0.1  # many topics whose wait ends are tried together
_MOST_UNANSWERED = 10_000


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
        repeated: messages that were sent again since a link had ended before their answer came.
        rate: messages a second that were acknowledged, over the last ten seconds.
    """

    sent: int = 0
    set_aside: int = 0
    repeated: int = 0
    rate: float = 0.0


class Forwarder:
    """Drains an outbox. :meth:`run` is called by one thread; the other methods may be called by any.

    Args:
        outbox: what to drain.
        rate: messages a second at most; 0 is without a limit.
        timeout: seconds without an acknowledgement after which a link counts as dead; more for a message that has
            taken longer than that.
        on_set_aside: called by the thread that runs.
        observe: called by it after each change, but at most once a second, and at least every few seconds.
        clock: seconds since some moment; they never go back.
        execute: runs what uses the disk on another thread; None is a thread of its own.

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
        self.backlog = Backlog(outbox, execute or ThreadPoolExecutor(1, "hsm-enroll outbox").submit, clock)
        self._outbox = outbox
        self._timeout = timeout
        self._on_set_aside = on_set_aside
        self._observe = observe
        self._clock = clock
        self._pace = Pace(rate)
        self._share = Share(rate)
        self._patience = Patience(timeout)
        self._window = Window()
        self._refusals = Refusals()
        self._suspicion = Suspicion()
        self._unanswered: set[int] = set()
        self._link: OpenLink | None = None
        self._link_since = 0.0
        self._is_alone = False
        self._hold_ends: float | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=11)
        self._check_at = 0.0
        self._wake_at = 0.0
        self._stopping = False
        self._is_observed = False
        self._answers = Answers(outbox)

    def stop(self) -> None:
        """Have the run end once what is in flight is acknowledged, or the timeout is over."""
        self._stopping = True
        self._outbox.interrupt()

    def wake(self) -> None:
        """Have it look at the link, there may be another one, or none any more; and observe that within a second.

        It also asks whether the identity has changed.
        """
        self._is_observed = False
        self._check_at = 0.0
        self._outbox.interrupt()

    def run(self, line: Line, changed: Callable[[], bool]) -> Outcome:
        """Drain the outbox until the run is stopped or the device's identity has changed.

        Args:
            line: the links.
            changed: whether there is another identity than the line's; asked every few seconds, after a loss, and when
                it is woken up.

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
            self._forget_link(self._clock())
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
        was_alone, since = self._is_alone, self._link_since
        in_flight = self._forget_link(now)
        self._check_at = now
        reason = link.loss.reason if isinstance(link.loss, MqttError) else None
        message = self._suspicion.lose(link.ender, reason, in_flight, was_alone=was_alone, link_since=since, now=now)
        if message is None:
            return
        if link.ender is Ender.CUT:
            self._hold(message, self._refusals.suspect(message, now))
            return
        until = self._refusals.blame(message, reason, now, accepted=self.totals.sent)
        if until is None:
            self._set_aside(message, f"the broker ended the connection ({reason or 'no reason given'})", now)
        else:
            self._hold(message, until)

    def _forget_link(self, now: float) -> list[InFlight]:
        self._link, self._is_alone = None, False
        in_flight = self._window.clear()
        ids = {message.id for message in in_flight}
        if ids:
            self.backlog.rewind(min(ids))
        self.backlog.go_back(now)  # a message may have waited for one behind it that was in flight
        # Those that have expired since are never sent again.
        self._unanswered = ids if len(self._unanswered) > _MOST_UNANSWERED else self._unanswered | ids
        return in_flight

    def _check_silence(self, now: float) -> None:
        oldest, silent_at = self._window.oldest, self._window.silent_at(self._patience.of)
        if oldest is None or silent_at is None or self._link is None:
            return
        if now >= silent_at:
            seconds = self._patience.of(oldest.size)
            longer = self._patience.lose(oldest.size)
            what = f"the broker did not acknowledge a message within {seconds:g} s"
            self._link.abandon(MqttUnreachableError(f"{what}; the next attempt has {longer:g} s"))
            silent_at = now
        self._wake_by(silent_at)

    # Answers.

    def _take_answers(self, now: float) -> None:
        while self._answers:
            link, message_id, reason = self._answers.take()
            answered = self._window.answered(message_id, now) if link is self._link else None
            # An acknowledgement counts even if the link was given up before it came.
            if reason is None:
                self._acknowledged(message_id, now)
            if answered is None:
                continue
            if reason is not None:
                self._refused(answered.message, reason, now)
                continue
            self._patience.accept(answered.message.size, answered.seconds)
            if self._refusals.accept(answered.message.topic):
                self.backlog.want_back()

    def _acknowledged(self, message_id: int, now: float) -> None:
        self.totals.sent += 1
        self._suspicion.accept()
        self.backlog.finish(message_id, None, now)

    def _refused(self, message: InFlight, reason: str, now: float) -> None:
        if reason in PASSING:
            self._pace.pause(now + _PAUSE_SECONDS)
        until = self._refusals.refuse(message, reason, now, accepted=self.totals.sent)
        if until is None:
            self._set_aside(message, reason, now)
        else:
            self._hold(message, until)

    def _set_aside(self, message: InFlight, reason: str, now: float) -> None:
        self.totals.set_aside += 1
        self.backlog.finish(message.id, reason, now)
        self.backlog.want_back()
        self._on_set_aside(message.topic, reason)

    def _hold(self, message: InFlight, until: float) -> None:
        self.backlog.come_back_for(message.id, message.topic)
        # A late answer may come after the end: then the topic is tried at once.
        self._come_back_by(until)

    def _come_back_by(self, until: float) -> None:
        self._hold_ends = until if self._hold_ends is None else min(until, self._hold_ends)

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
        self._go_back(now)
        is_calm = self._refusals.are_none and not self._suspicion.is_strong and not self.backlog.has_skipped
        skipped = 0
        while self._link is not None and (read := self.backlog.next(now)) is not None:
            message = read.message
            alone = not is_calm and self._has_to_be_alone(message.topic)
            if message.id in self._window:
                self.backlog.pass_over()
            elif not is_calm and self._must_wait(message.topic, now):
                self.backlog.skip()
                skipped += 1
                if skipped == _SKIP_COUNT:
                    self._wake_by(now)
                    return
            elif self._may_send(message, now, alone=alone):
                self._publish(read, self._link, now, alone=alone)
            else:
                return
        if self.backlog.is_at_end:
            self._share.end(now)
        self._wake_to_go_back()

    def _go_back(self, now: float) -> None:
        if self._hold_ends is not None and now >= self._hold_ends:
            self.backlog.want_back()
            next_at = self._refusals.next_at(now)
            self._hold_ends = None if next_at is None else max(next_at, now + _HOLD_SECONDS)
        if self._hold_ends is not None:
            self._wake_by(self._hold_ends)
        at = self.backlog.go_back_at()
        if at is not None and now >= at:
            self.backlog.go_back(now)

    def _wake_to_go_back(self) -> None:
        at = self.backlog.go_back_at()
        if at is not None and self._link is not None:
            self._wake_by(at)

    def _must_wait(self, topic: str, now: float) -> bool:
        if self.backlog.is_behind(topic) or self._refusals.is_held(topic, now):
            return True
        if self._refusals.is_suspect(topic) and self._window.has_topic(topic):
            return True
        if not self._refusals.has(topic) or (next_at := self._share.next_at(now)) <= now:
            return False
        self._come_back_by(next_at)
        return True

    def _may_send(self, message: QueuedMessage, now: float, *, alone: bool) -> bool:
        if alone:
            settled_at = self._link_since + SETTLE_SECONDS
            if now < settled_at and (self._suspicion.has_to_settle or self._refusals.has_to_settle(message.topic)):
                self._wake_by(settled_at)
                return False
            if self._window:
                return False
        if (self._is_alone and self._window) or not self._window.has_room(message.size):
            return False
        next_at = self._pace.next_at(now)
        if now < next_at:
            self._wake_by(next_at)
        return now >= next_at

    def _has_to_be_alone(self, topic: str) -> bool:
        return self._suspicion.is_strong or self._refusals.ends_links(topic)

    def _publish(self, read: Read, link: OpenLink, now: float, *, alone: bool) -> None:
        message, expires_in = read.message, read.message.expires_in
        if expires_in is not None:
            expires_in -= now - read.at
            if expires_in <= 0:  # the outbox removes it when it is read again
                self.backlog.rewind(message.id)
                return
        self.backlog.take()
        self._pace.take(now)
        self._share.take(now, is_refused=self._refusals.has(message.topic))
        if message.id in self._unanswered:
            self._unanswered.remove(message.id)
            self.totals.repeated += 1
        self._is_alone = alone
        self._window.add(message.id, message.topic, message.size, now)
        link.publish(message, expires_in, partial(self._answers.add, link))

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
        # Without room for more, nothing is lost by waiting until half of what is in flight is answered.
        wanted = self._window.limit // 2 if self._window.is_full else 1
        self._answers.wait(max(0.0, self._wake_at - now), wanted=wanted)
