"""The steps of a use case, as they are shown while they run and reported afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

Progress = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it went.

    Attributes:
        name: its name, one of the use case's own.
        seconds: how long it took.
        skipped: whether this run did not do it: an earlier one had, or it was not wanted.
    """

    name: str
    seconds: float
    skipped: bool


@dataclass(slots=True)
class Steps:
    """The steps of one run, in order.

    Attributes:
        progress: called with a step's name, entered while the step runs.
        done: those that have ended.
    """

    progress: Progress
    done: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step; one that raises is not noted."""
        begin = time.monotonic()
        with self.progress(name):
            yield
        self.done.append(Step(name, round(time.monotonic() - begin, 3), skipped=False))

    def skip(self, name: str) -> None:
        """Note a step that this run does not do."""
        self.done.append(Step(name, 0.0, skipped=True))
