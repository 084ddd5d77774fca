"""The steps of a use case: shown while they run, and reported afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

Progress = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step.

    Attributes:
        name: its name, chosen by the use case.
        seconds: how long it took.
        skipped: whether this run skipped it, because an earlier run did it or it was not requested.
    """

    name: str
    seconds: float
    skipped: bool


@dataclass(slots=True)
class Steps:
    """The steps of one run, in order.

    Attributes:
        progress: called with a step's name; returns a context manager that is entered while the step runs.
        done: the finished steps.
    """

    progress: Progress
    done: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step, and record it unless it raises."""
        begin = time.monotonic()
        with self.progress(name):
            yield
        self.done.append(Step(name, round(time.monotonic() - begin, 3), skipped=False))

    def skip(self, name: str) -> None:
        """Record a step that this run skips."""
        self.done.append(Step(name, 0.0, skipped=True))
