"""How long the forwarder waits for an acknowledgement: longer for what is too large for a slow network. Pure."""

from __future__ import annotations

_MOST_SECONDS = 900.0
# A broker that accepts a message and does not answer must not be waited for much longer than usual. But 1 kbit/s is
# what the slowest networks have, and others on this device may be using it, too.
_TIMES = 8.0
_BYTES_PER_SECOND = 125.0


class Patience:
    """How long a message may take: twice as long after each time that was not enough.

    Larger messages get the same time, and smaller ones the usual one. Once such a message is acknowledged in the usual
    time, all of them have the usual time again.

    Args:
        timeout: the usual time, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._seconds = timeout
        self._size = 0

    def of(self, size: int) -> float:
        """Return how many seconds a message of so many bytes may take."""
        return self._seconds if size >= self._size else self._timeout

    def lose(self, size: int) -> float:
        """Note that a message was not acknowledged in time, and return how much the next attempt has."""
        longest = min(_MOST_SECONDS, _TIMES * self._timeout + size / _BYTES_PER_SECOND)
        self._seconds = min(2.0 * self.of(size), max(longest, self._timeout))
        self._size = size
        return self._seconds

    def accept(self, size: int, seconds: float) -> None:
        """Note that a message was acknowledged, and after how many seconds."""
        if size >= self._size and seconds <= self._timeout:
            self._seconds, self._size = self._timeout, 0
