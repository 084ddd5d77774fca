"""Admission: spaces new enrollments in time, so that AWS IoT is not asked for more than it allows. Pure arithmetic.

AWS IoT issues a fixed number of certificates per second and refuses the rest. So each new enrollment takes a *turn*,
and turns follow each other at the rate that AWS IoT allows. A device whose turn is not yet due is told when to come
back. Its turn stays its own, however late it comes.

A Thing's renewals are limited as well, since a device that renews over and over would take the turns of all others: ten
at once, and then one per hour. Its certificate does not expire meanwhile, so that waiting costs a device nothing.
"""

from __future__ import annotations

from math import ceil

RENEWALS_AT_ONCE = 10
SECONDS_PER_RENEWAL = 3600

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


def count_renewal(until: int, now: float) -> int:
    """Return a Thing's count with one more renewal.

    Args:
        until: the count so far: when it would be as if there had been no renewal, in seconds since the epoch (the
            theoretical arrival time of GCRA, ITU-T I.371).
        now: the time, likewise.
    """
    return max(until, int(now)) + SECONDS_PER_RENEWAL


def seconds_to_next_renewal(until: int, now: float) -> int:
    """Return in how many seconds a Thing may have another renewal begun, whose count is this; 0 for now."""
    return max(0, ceil(count_renewal(until, now) - RENEWALS_AT_ONCE * SECONDS_PER_RENEWAL - now))
