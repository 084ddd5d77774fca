"""Outages of the enrollment API that were asked for: what goes wrong with its next requests."""

from __future__ import annotations

import enum
import threading

SLOW_SECONDS = 5.0


class Fault(enum.Enum):
    """What goes wrong with one request; the values are those of ``local fail --next``.

    Attributes:
        UNAVAILABLE: API Gateway responds with 503, without invoking the function.
        LOST: the function carries the request out, and the connection is closed without a response.
        THROTTLED: API Gateway responds with 429, without Retry-After and without invoking the function.
        SLOW: the function is invoked after `SLOW_SECONDS`.
    """

    UNAVAILABLE = "503"
    LOST = "lost"
    THROTTLED = "throttle"
    SLOW = "slow"


class Faults:
    """The faults that are still to come, in order. Thread-safe."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    def add(self, fault: Fault, count: int) -> None:
        """Let a fault happen to so many further requests."""
        with self._lock:
            self._pending += [fault] * count

    def take(self, method: str) -> Fault | None:
        """Remove the next fault for a request with an HTTP method, and return it; None if there is none.

        `Fault.LOST` waits for a POST: only there does it matter that the request was carried out.
        """
        with self._lock:
            fault = next((fault for fault in self._pending if fault is not Fault.LOST or method == "POST"), None)
            if fault is not None:
                self._pending.remove(fault)
            return fault

    def delay(self) -> None:
        """Wait as long as a slow request takes, or until `cancel` is called."""
        self._cancelled.wait(SLOW_SECONDS)

    def cancel(self) -> None:
        """Drop all faults, and end all delays."""
        with self._lock:
            self._pending.clear()
        self._cancelled.set()
