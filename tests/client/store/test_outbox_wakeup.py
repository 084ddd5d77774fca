"""Who drains goes on where nobody can wake it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
from hsm_enroll.store.outbox.wakeup import Wakeup

_ROOMY = OutboxLimits(1024 * 1024)
_TIMES = 300


@pytest.fixture
def in_turns() -> Iterator[None]:
    """Threads that take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("in_turns")
def test_it_may_be_closed_while_another_thread_interrupts(tmp_path: Path) -> None:
    """An interrupt that comes too late has no effect: none on another file either, which has the number by then."""
    failures: list[Exception] = []

    def interrupt(wakeup: Wakeup) -> None:
        try:
            for _ in range(50):
                wakeup.interrupt()
        except Exception as error:  # noqa: BLE001 - whichever it is
            failures.append(error)

    for _ in range(_TIMES):
        wakeup = Wakeup(tmp_path)
        thread = threading.Thread(target=interrupt, args=(wakeup,))
        thread.start()
        wakeup.close()
        thread.join()
    assert failures == []


def test_without_a_socket_it_looks_by_itself(tmp_path: Path) -> None:
    """Something else has the socket's name: a wait is short then; the socket is made as soon as that is possible."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        blocker = tmp_path / "outbox.wake"
        blocker.mkdir()
        outbox.wait(600)
        outbox.interrupt()
        outbox.wait(600)
        blocker.rmdir()
        outbox.wait(600)
        assert blocker.is_socket()
        outbox.add(NewMessage("a", b"1"))
        outbox.wait(600)
