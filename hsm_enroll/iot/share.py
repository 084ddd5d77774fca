"""How much of what is sent may be messages of topics that the broker has refused. Pure: the time is an argument."""

from __future__ import annotations

from hsm_enroll.iot.pace import Pace

_UNLIMITED_SECONDS = 10.0
_PER_SECOND = 50.0  # without a limit for all messages


class Share:
    """Half of the rate for refused topics, unless there are no others: there may be thousands of them.

    Args:
        rate: how many messages a second are sent at most; 0 is without a limit.
    """

    def __init__(self, rate: float) -> None:
        self._pace = Pace(rate / 2 or _PER_SECOND)
        self._others = 0
        self._unlimited_until = 0.0

    def next_at(self, now: float) -> float:
        """Return when a message of a refused topic may be sent."""
        return now if now < self._unlimited_until else self._pace.next_at(now)

    def take(self, now: float, *, is_refused: bool) -> None:
        """Note that a message is sent, and whether its topic was refused before."""
        if is_refused:
            self._pace.take(now)
        else:
            self._others += 1

    def end(self, now: float) -> None:
        """Note that all messages have been looked at: if none was of another topic, there is no need to save."""
        if not self._others:
            self._unlimited_until = now + _UNLIMITED_SECONDS
        self._others = 0
