"""How old a message is, whatever the wall clock has done meanwhile. Pure, but for :func:`now`.

Gateways without a battery for their clock start in 1970, or when their firmware was built, and are put right by NTP
later, see ``wall``. Within one boot the time since its start is what counts, which no one can set (CLOCK_BOOTTIME,
clock_gettime(2); it goes on while the machine sleeps). Over a restart only the wall clock can tell, so it is believed
if it can be right.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hsm_enroll.errors import StateError
from hsm_enroll.store.outbox.wall import Wall

# As for certificates, see hsm_enroll.device.clock: a clock that shows another time has never been set.
_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_LATEST = datetime(2049, 1, 1, tzinfo=UTC).timestamp()
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WALL = Wall()


class Moment(NamedTuple):
    """A point in time.

    Attributes:
        wall: what the wall clock showed, in seconds since 1970; 0 if it was not known to be right.
        running: seconds since the machine was started.
        boot: which start that was.
    """

    wall: float
    running: float
    boot: str


def now() -> Moment:
    """Read the clocks.

    Raises:
        StateError: the system does not say which boot this is.
    """
    return Moment(_WALL.now(), time.clock_gettime(time.CLOCK_BOOTTIME), _boot(BOOT_ID))


@cache
def _boot(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StateError(
            f"{file} cannot be read: {error.strerror}",
            hint="The age of messages depends on it. A systemd unit must not have ProcSubset=pid.",
        ) from error


def age(queued: Moment, at: Moment) -> float:
    """Return how many seconds have passed between two moments, as far as that can be known; never too many.

    Args:
        queued: the earlier one.
        at: the later one.
    """
    if queued.boot == at.boot:
        return max(0.0, at.running - queued.running)
    # A container may have a boot id of its own, which its services do not see: systemd shows them the machine's. Only a
    # shorter time since the start tells that there was another one.
    since = at.running - queued.running
    least = at.running if since < 0 else since
    if not (_plausible(queued) and _plausible(at)):
        return least
    return max(least, at.wall - queued.wall)


def _plausible(moment: Moment) -> bool:
    return _EARLIEST <= moment.wall <= _LATEST
