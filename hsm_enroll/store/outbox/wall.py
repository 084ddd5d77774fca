"""The time that the wall clock shows, if it is known to be right.

A gateway without a battery for its clock starts at the date at which systemd was built, or at which it was stopped: a
time that looks plausible, and is months late. What is queued then would be months old as soon as NTP has set the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Not when it is needed: a signal handler that raises in the middle of an import would leave that locked.
try:
    import ctypes

    _LIBC: ctypes.CDLL | None = ctypes.CDLL(None)
except MemoryError:
    # Under MemoryDenyWriteExecute= of a systemd unit, some libffi finds no memory for the code that ctypes begins with.
    _LIBC = None

SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
HARDWARE_CLOCK = Path("/sys/class/rtc/rtc0/since_epoch")
# A hardware clock may show the local time. One without a battery is years away from what systemd corrects it to.
_TOLERANCE_SECONDS = 86400.0
_LOOK_SECONDS = 1.0
_TIME_ERROR = 5  # adjtimex(2)


def is_right(shown: float, *, synchronized: bool, hardware: float | None) -> bool:
    """Whether a clock can be believed: it was set from the network, or agrees with the hardware's. Pure.

    Args:
        shown: what it shows, in seconds since 1970.
        synchronized: whether NTP has set it.
        hardware: what the hardware's clock shows; None if there is none.
    """
    return synchronized or (hardware is not None and abs(shown - hardware) < _TOLERANCE_SECONDS)


def kernel_says_so() -> bool:
    """Whether the kernel takes the clock for right, as chrony and ntpd tell it: adjtimex(2).

    False also where it may not be asked, as with ProtectClock= in a systemd unit.
    """
    if _LIBC is None:
        return False
    nothing_to_set = ctypes.create_string_buffer(512)  # more than a struct timex has
    return 0 <= int(_LIBC.adjtimex(nothing_to_set)) < _TIME_ERROR


class Wall:
    """The wall clock. Once it has been right it is believed: nothing sets it to a wrong time by itself.

    Args:
        ask_kernel: see :func:`kernel_says_so`.
    """

    def __init__(self, ask_kernel: Callable[[], bool] = kernel_says_so) -> None:
        self._ask_kernel = ask_kernel
        self._is_right = False
        self._look_at = 0.0

    def now(self) -> float:
        """Return the time in seconds since 1970; 0 if it is not known to be right."""
        shown = time.time()
        if not self._is_right and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self._is_right = is_right(shown, synchronized=self._is_synchronized(), hardware=_hardware_clock())
        return shown if self._is_right else 0.0

    def _is_synchronized(self) -> bool:
        return SYNCHRONIZED.exists() or self._ask_kernel()


def _hardware_clock() -> float | None:
    with suppress(OSError, ValueError):
        return float(HARDWARE_CLOCK.read_text(encoding="utf-8"))
    return None
