"""Keeps topic filters subscribed over a connection's links, and none of them in the way of what else uses the links.

A filter that the broker refuses is tried again later. Some brokers end the link instead of refusing it: filters are
subscribed to one after another, so that it is known which one that was, and it waits like one that was refused.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsm_enroll.errors import HsmEnrollError, MqttUnreachableError

if TYPE_CHECKING:
    from hsm_enroll.iot.exchange import Exchange, Request
    from hsm_enroll.iot.inbox import Message, Stream
    from hsm_enroll.iot.link import Link

_FIRST_PAUSE_SECONDS = 5.0  # AWS IoT needs some for a policy that was just changed
_LONGEST_PAUSE_SECONDS = 300.0
# A link may end for any reason while a SUBSCRIBE has no answer, but hardly twice in a row.
_SUSPICIOUS_LOSSES = 2
_IDLE_SECONDS = 60.0

Tell = Callable[[str, HsmEnrollError | None], None]
"""Called with a topic filter that is subscribed, or is not because of an error; the same error in a row comes once."""


@dataclass(slots=True)
class _Filter:
    """A topic filter that is to be subscribed.

    Attributes:
        stream: its messages; None while it is not subscribed.
        failures: how often the broker has refused it since it was subscribed last.
        losses: how many links have ended in a row before its SUBACK.
        not_before: when it may be tried again.
        told: what was told last; None is that it is subscribed.
    """

    topic: str
    stream: Stream | None = None
    failures: int = 0
    losses: int = 0
    not_before: float = 0.0
    told: str | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """The one SUBSCRIBE that has no answer yet."""

    wanted: _Filter
    stream: Stream
    request: Request
    deadline: float


class Listening:
    """The subscriptions of a process that stays connected. One thread uses it.

    Args:
        filters: topic filters, see ``limits.check_filter``. A message may come once for each of them that it matches.
        timeout: seconds until a SUBACK.
        tell: see :data:`Tell`.
        on_change: called on any thread when :meth:`take` has something to do; must not wait.
        clock: seconds since some moment; they never go back.
    """

    def __init__(
        self,
        filters: Sequence[str],
        *,
        timeout: float,
        tell: Tell,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._filters = [_Filter(topic) for topic in dict.fromkeys(filters)]
        self._timeout = timeout
        self._tell = tell
        self._on_change = on_change
        self._clock = clock
        self._exchange: Exchange | None = None
        self._link: Callable[[], Link | None] = _nothing  # weak: a link keeps the token's session
        self._asked: _Asked | None = None

    def take(self, exchange: Exchange | None, count: int) -> list[Message]:
        """Subscribe to what is not subscribed on the current link, and return messages that have come.

        Args:
            exchange: what has the link; None if there is none.
            count: of each filter no more messages than this are returned.
        """
        now = self._clock()
        link = exchange.link if exchange is not None else None
        messages = [message for wanted in self._filters for message in self._taken(wanted, count, now)]
        if link is not self._link():
            messages += self._forget(now)
        self._exchange, self._link = exchange, weakref.ref(link) if link is not None else _nothing
        self._settle(now)
        if link is not None and exchange is not None and self._asked is None:
            self._ask(exchange, now)
        return messages

    @property
    def seconds_left(self) -> float:
        """After how many seconds :meth:`take` is to be called again, even if nothing has changed."""
        if self._asked is not None:
            next_at = self._asked.deadline
        else:
            next_at = min((each.not_before for each in self._filters if each.stream is None), default=float("inf"))
        # Without a link there is nothing to do until there is one.
        return min(_IDLE_SECONDS, max(0.0, next_at - self._clock())) if self._link() is not None else _IDLE_SECONDS

    def _taken(self, wanted: _Filter, count: int, now: float) -> list[Message]:
        messages: list[Message] = []
        stream = wanted.stream
        try:
            while stream is not None and len(messages) < count and (message := stream.take()) is not None:
                messages.append(message)
        except HsmEnrollError as error:
            wanted.stream = None
            if self._is_current():  # so it is no loss: messages came too fast
                self._refused(wanted, error, now)
        return messages

    def _forget(self, now: float) -> list[Message]:
        """Forget a link's subscriptions; return what is left of their messages."""
        messages = []
        if self._asked is not None:
            asked, self._asked = self._asked, None
            self._lose(asked, now)
        for wanted in self._filters:
            if wanted.stream is not None and self._exchange is not None:
                self._exchange.unsubscribe(wanted.stream)
                while not wanted.stream.is_over and (message := wanted.stream.take()) is not None:
                    messages.append(message)
                wanted.stream = None
        return messages

    def _lose(self, asked: _Asked, now: float) -> None:
        """Note that the link with a SUBSCRIBE is lost."""
        outcome = asked.request.outcome
        if not outcome.cancel() and outcome.exception() is None:  # otherwise it may wait for the next link
            asked.wanted.stream, asked.wanted.losses = asked.stream, 0  # its SUBACK came just before
            return
        asked.wanted.losses += 1
        if asked.wanted.losses >= _SUSPICIOUS_LOSSES:
            error = MqttUnreachableError(f"the connection was lost when subscribing to {asked.wanted.topic!r}")
            self._refused(asked.wanted, error, now)

    def _ask(self, exchange: Exchange, now: float) -> None:
        wanted = next((each for each in self._filters if each.stream is None and each.not_before <= now), None)
        if wanted is None:
            return
        stream, request = exchange.subscribe(wanted.topic, 1, once=True)
        stream.on_change = self._on_change
        self._asked = _Asked(wanted, stream, request, now + self._timeout)
        request.outcome.add_done_callback(lambda _: self._on_change())

    def _settle(self, now: float) -> None:
        """Take the broker's answer."""
        asked = self._asked
        if asked is None or self._exchange is None or not self._is_current():
            return
        outcome = asked.request.outcome
        if not outcome.done():
            if now < asked.deadline:
                return
            error: BaseException | None = self._exchange.unanswered(asked.request, self._timeout)
        else:
            error = outcome.exception()
        self._asked, asked.wanted.losses = None, 0
        if error is None:
            asked.wanted.stream, asked.wanted.failures, asked.wanted.told = asked.stream, 0, None
            self._tell(asked.wanted.topic, None)
        elif isinstance(error, HsmEnrollError):
            self._refused(asked.wanted, error, now)
        else:
            raise error

    def _refused(self, wanted: _Filter, error: HsmEnrollError, now: float) -> None:
        pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(wanted.failures, 10))
        wanted.failures += 1
        wanted.not_before = now + pause
        if wanted.told != error.message:
            wanted.told = error.message
            self._tell(wanted.topic, error)

    def _is_current(self) -> bool:
        """Whether the link of the last look is still open."""
        link = self._link()
        return link is not None and self._exchange is not None and self._exchange.link is link


def _nothing() -> None:
    """No link."""
