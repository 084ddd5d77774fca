"""Admission: spaces new enrollments in time, so that AWS IoT is not asked for more than it allows. Pure arithmetic.

AWS IoT issues a fixed number of certificates per second and refuses the rest. So each new enrollment takes a *turn*,
and turns follow each other at the rate that AWS IoT allows. A device whose turn is not yet due is told when to come
back. Its turn stays its own, however late it comes.
"""

from __future__ import annotations

from math import ceil

_SHORT_WAIT = 1.0  # seconds; for less, a device is not sent away: the function waits instead


def turn(free_at: float, now: float, rate: float) -> tuple[float, float]:
    """Return the next turn, and when the turn after it is.

    Args:
        free_at: the first turn that nobody has taken yet, in seconds since the epoch; it may be in the past.
        now: the time, likewise.
        rate: turns per second.
    """
    begin = max(free_at, now)
    return begin, begin + 1 / rate


def seconds_to_wait(turn: float, now: float) -> int:
    """Return in how many seconds the device whose turn this is has to come back, at least 2; 0 if it need not leave.

    Args:
        turn: its turn, in seconds since the epoch.
        now: the time, likewise.
    """
    ahead = turn - now
    return 0 if ahead <= _SHORT_WAIT else ceil(ahead)
