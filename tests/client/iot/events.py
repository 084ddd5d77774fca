"""Notes what a connection tells its program."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hsm_enroll.iot import ConnectionEvent, ConnectionState

_TIME_LIMIT = 30.0


class Events:
    """Every event in order; a callable, so that it can be ``on_connection``."""

    def __init__(self) -> None:
        self._events: list[ConnectionEvent] = []
        self._changed = threading.Condition()

    def __call__(self, event: ConnectionEvent) -> None:
        """Note an event."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    @property
    def states(self) -> list[str]:
        """The states so far, as plain strings."""
        with self._changed:
            return [str(event.state) for event in self._events]

    @property
    def codes(self) -> list[str | None]:
        """The errors' codes so far; None for no error."""
        with self._changed:
            return [event.error.code if event.error else None for event in self._events]

    def wait_for(self, state: ConnectionState, count: int = 1) -> None:
        """Wait until a state has come a number of times."""
        self._wait(lambda: [event.state for event in self._events].count(state) >= count)

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, _TIME_LIMIT), self._events
