"""How fast the forwarder sends: a token bucket. Pure: the time comes in as an argument."""

from __future__ import annotations

# A tenth of a second's worth: makes up for waking up late, and keeps any one second close to the rate.
_BURST_SECONDS = 0.1
# What the sum of many small numbers may show for one.
_ONE = 1.0 - 1e-6


class Pace:
    """At most so many messages a second, over any longer time.

    Args:
        rate: messages a second; 0 is without a limit.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate * _BURST_SECONDS)
        self._tokens = self._most
        self._counted_at = 0.0
        self._paused_until = 0.0

    def take(self, now: float) -> bool:
        """Whether a message may be sent now; it counts as sent."""
        if now < self._paused_until:
            return False
        if not self._rate:
            return True
        self._count(now)
        if self._tokens < _ONE:
            return False
        self._tokens -= 1.0
        return True

    def next_at(self, now: float) -> float:
        """Return when the next message may be sent."""
        if not self._rate:
            return max(now, self._paused_until)
        self._count(now)
        return max(self._paused_until, now + max(0.0, 1.0 - self._tokens) / self._rate)

    def pause(self, until: float) -> None:
        """Send nothing until then: the broker has said that it is too much."""
        self._paused_until = max(self._paused_until, until)

    def _count(self, now: float) -> None:
        self._tokens = min(self._most, self._tokens + max(0.0, now - self._counted_at) * self._rate)
        self._counted_at = now
