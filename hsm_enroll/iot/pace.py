"""How fast the forwarder sends: a token bucket, and a count of the last second. Pure: the time is an argument."""

from __future__ import annotations

import math
from collections import deque

# A tenth of a second's worth at once makes up for waking up late.
_BURST_SECONDS = 0.1
# What the sum of many small numbers may show for one.
_ONE = 1.0 - 1e-6


class Pace:
    """At most so many messages in any one second, and over any longer time.

    Args:
        rate: messages a second; 0 is without a limit.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate * _BURST_SECONDS)
        self._tokens = self._most
        self._counted_at = 0.0
        self._paused_until = 0.0
        self._taken: deque[float] = deque(maxlen=max(1, math.ceil(rate)))

    def is_open(self, now: float) -> bool:
        """Whether a message may be sent now."""
        return now >= self.next_at(now)

    def take(self, now: float) -> None:
        """Note that a message is sent."""
        if self._rate:
            self._count(now)
            self._tokens -= 1.0
            self._taken.append(now)

    def next_at(self, now: float) -> float:
        """Return when the next message may be sent."""
        if not self._rate:
            return max(now, self._paused_until)
        self._count(now)
        missing = 0.0 if self._tokens >= _ONE else 1.0 - self._tokens
        is_full = len(self._taken) == self._taken.maxlen
        return max(self._paused_until, now + missing / self._rate, self._taken[0] + 1.0 if is_full else now)

    def pause(self, until: float) -> None:
        """Send nothing until then: the broker has said that it is too much."""
        self._paused_until = max(self._paused_until, until)

    def _count(self, now: float) -> None:
        self._tokens = min(self._most, self._tokens + max(0.0, now - self._counted_at) * self._rate)
        self._counted_at = now
