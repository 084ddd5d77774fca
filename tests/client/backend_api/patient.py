"""A clock that only the client's own waits move forward."""

from __future__ import annotations


class Waits(list[float]):
    """The waits of a client, in seconds, which pass at once."""

    def clock(self) -> float:
        """Return the seconds that have been waited so far."""
        return sum(self)
