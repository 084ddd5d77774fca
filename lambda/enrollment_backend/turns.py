"""The counter of turns, an item of the ledger's table: which turn is the next that nobody has taken, see `admission`.

A failure of the table here stops no enrollment: the turn then is now. AWS IoT may refuse some calls, and those devices
come again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enrollment_backend import admission, log
from enrollment_backend.aws_errors import AwsError, ConditionFailedError
from enrollment_backend.table import Table, Write

_COUNTER = ("admission", "next")
_IS_FREE = "attribute_not_exists(#free_at) OR #free_at <= :now"


@dataclass(frozen=True)
class Turns:
    """Hands out turns.

    Args:
        table: the ledger's table.
        rate: turns per second.
        now: the time, in seconds since the epoch.
    """

    table: Table
    rate: float
    now: Callable[[], float]

    def take_if_due(self) -> bool:
        """Take the next turn if it is due, and return whether it was; if not, nothing has changed."""
        now = self.now()
        _, free_at = admission.turn(now, now, self.rate)
        write = Write(_COUNTER, {"free_at": _microseconds(free_at)}, _IS_FREE, {"now": _microseconds(now)})
        try:
            self.table.update(write)
        except ConditionFailedError:
            return False
        except AwsError as error:
            log.error("turn-not-counted", **error.facts)
        return True

    def take(self) -> float:
        """Take the next turn, due or not, and return it, in seconds since the epoch."""
        period = _microseconds(1 / self.rate)
        try:
            counter = self.table.update(Write(_COUNTER, {}, "", {}, add={"free_at": period}))
        except AwsError as error:
            log.error("turn-not-counted", **error.facts)
            return self.now()
        return float(counter["free_at"] - period) / 1_000_000


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)  # an item's numbers are integers
