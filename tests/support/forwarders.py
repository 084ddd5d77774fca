"""``hsm-enroll forward`` in a process of its own, with what it says."""

from __future__ import annotations

import json
import threading
from typing import Any, Self

from tests.support import documents
from tests.support.devices import Machine

_TIME_LIMIT = 90.0


class RunningForwarder:
    """A process, which is killed at the end of the block if it still runs.

    Args:
        machine: where it runs.
        options: the command's options.
    """

    def __init__(self, machine: Machine, *options: str) -> None:
        self._process = machine.start("forward", "--json", *options)
        self._events: list[dict[str, Any]] = []
        self._is_over = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()
        self._reader.join(_TIME_LIMIT)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until an event has come a number of times, and return the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or len(self.events(event)) >= count, _TIME_LIMIT)
            found = self.events(event)
            assert len(found) >= count, (self._events, self._process.poll())
            return found[-1]

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return the events of a name so far."""
        return [each for each in self._events if each.get("event") == event]

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait(_TIME_LIMIT)

    def stop(self, number: int) -> int:
        """Send it a signal, and return its exit status."""
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended, and return its exit status."""
        status = self._process.wait(_TIME_LIMIT)
        self._reader.join(_TIME_LIMIT)
        assert self._process.stderr is not None
        assert "Traceback" not in self._process.stderr.read()
        return status

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            document = json.loads(line)
            name = documents.ERROR if "error" in document and "event" not in document else "forward"
            documents.validator(name).validate(document)
            with self._changed:
                self._events.append(document)
                self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
