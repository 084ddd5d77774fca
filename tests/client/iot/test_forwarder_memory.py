"""How much memory the forwarder takes for a long outbox."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.iot.forwarder import Forwarder, Outcome
from hsm_enroll.iot.links import Answered, Ender
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits, QueuedMessage

T = TypeVar("T")

_FEW, _MANY = 1_000, 20_000


@dataclass
class _Accepting:
    """A line with one link, which acknowledges everything at once, and stops the forwarder after the last message."""

    left: int
    forwarder: Forwarder | None = None
    receive_maximum: int = 100
    loss: HsmEnrollError | None = None
    ender: Ender = Ender.OTHER

    def link(self) -> _Accepting:
        """Return the link."""
        return self

    def publish(self, message: QueuedMessage, expires_in: float | None, answered: Answered) -> None:
        """Acknowledge a message."""
        del expires_in
        answered(message.id, None)
        self.left -= 1
        if not self.left:
            assert self.forwarder is not None
            self.forwarder.stop()

    def abandon(self, error: HsmEnrollError) -> None:
        """Fail: nothing here is late."""
        raise error


def _at_once(work: Callable[[], T]) -> Future[T]:
    """Do something on this thread: how threads are scheduled does not decide what is read ahead then."""
    done: Future[T] = Future()
    done.set_result(work())
    return done


def _peak(folder: Path, count: int) -> int:
    """Drain that many messages, and return the most bytes that Python had at one time for it."""
    folder.mkdir()
    with Outbox.open(folder, OutboxLimits(2**30)) as outbox:
        for _ in range(0, count, _FEW):
            outbox.add(*[NewMessage("t", bytes(200))] * _FEW)
        line = _Accepting(count)
        tracemalloc.start()
        line.forwarder = Forwarder(outbox, rate=0.0, timeout=60.0, clock=lambda: 1000.0, execute=_at_once)
        assert line.forwarder.run(line, lambda: False) is Outcome.STOPPED
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (line.forwarder.totals.sent, outbox.state().messages) == (count, 0)
    return peak


def test_memory_does_not_grow_with_what_waits(tmp_path: Path) -> None:
    """D21: twenty times as many messages are drained with the same memory."""
    few, many = _peak(tmp_path / "few", _FEW), _peak(tmp_path / "many", _MANY)
    assert many == pytest.approx(few, rel=0.1)
