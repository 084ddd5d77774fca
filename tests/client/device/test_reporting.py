"""When a forwarder's reports are written, and what is told of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_enroll.device.reporting import Reporter
from hsm_enroll.errors import StateError
from hsm_enroll.store.forwarder import ForwardReport
from hsm_enroll.store.outbox import OutboxState

_LIMIT = 30.0


def _state(*damaged: Path) -> OutboxState:
    return OutboxState(
        messages=0, bytes=0, oldest_age=None, refused=0, refused_bytes=0, dropped=0, expired=0, damaged_files=damaged
    )


class _World:
    """A reporter, and what it tells."""

    def __init__(self, folder: Path, state: Callable[[], OutboxState] = _state, patience: float = _LIMIT) -> None:
        self.folder = folder
        self.troubles: list[StateError] = []
        self.recoveries: list[None] = []
        self.damaged: list[Path] = []
        # With a metrics file the outbox is looked at each time.
        self.reporter = Reporter(
            folder,
            state,
            folder / "x.prom",
            on_trouble=self.troubles.append,
            on_recovery=lambda: self.recoveries.append(None),
            on_damage=self.damaged.append,
            patience=patience,
        )

    @property
    def sent(self) -> int | None:
        """How many messages the report on the disk says were sent."""
        report = ForwardReport.load(self.folder)
        return report.sent if report else None


def test_a_slow_disk_holds_up_nobody(tmp_path: Path) -> None:
    """Reports that come while one is being written are left out; the last one is written at the end."""
    looking, go_on = threading.Event(), threading.Event()

    def state() -> OutboxState:
        looking.set()
        assert go_on.wait(_LIMIT)
        return _state()

    world = _World(tmp_path, state)
    world.reporter.write(ForwardReport(sent=1))
    assert looking.wait(_LIMIT)
    for sent in range(2, 1000):
        world.reporter.write(ForwardReport(sent=sent))
    assert world.sent == 1
    go_on.set()
    world.reporter.close(ForwardReport(sent=1000))
    assert world.sent == 1000


def test_a_disk_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    """The forwarder ends without the last report, and no thread keeps the process."""
    looking, go_on = threading.Event(), threading.Event()
    others = set(threading.enumerate())

    def state() -> OutboxState:
        looking.set()
        go_on.wait(_LIMIT)
        return _state()

    world = _World(tmp_path, state, patience=0.01)
    world.reporter.write(ForwardReport(sent=1))
    assert looking.wait(_LIMIT)
    world.reporter.close(ForwardReport(sent=2))
    [thread] = set(threading.enumerate()) - others
    assert thread.daemon
    go_on.set()
    thread.join(_LIMIT)
    assert not thread.is_alive()
    assert world.sent == 1


def test_each_damaged_file_is_told_once(tmp_path: Path) -> None:
    """Those from before as well as those that come later."""
    damaged = [tmp_path / "outbox.db.damaged-1"]
    world = _World(tmp_path, lambda: _state(*damaged))
    world.reporter.write(ForwardReport(sent=1))
    world.reporter.close(ForwardReport(sent=2))
    assert world.damaged == damaged
    damaged.append(tmp_path / "outbox.db.damaged-2")
    world = _World(tmp_path, lambda: _state(*damaged))
    world.reporter.close(ForwardReport(sent=3))
    assert world.damaged == damaged


def test_what_cannot_be_written_is_told_once_in_a_row(tmp_path: Path) -> None:
    """D11: the reason is told, and told again only after it has worked in between, which is told too."""
    world = _World(tmp_path)
    blocker = tmp_path / ".forward.json.tmp"
    for _ in range(2):
        blocker.mkdir()
        for sent in range(3):
            world.reporter.write(ForwardReport(sent=sent))
        world.reporter.settle()
        blocker.rmdir()
        world.reporter.write(ForwardReport(sent=4))
        world.reporter.settle()
    world.reporter.close(ForwardReport())
    assert (len(world.troubles), len(world.recoveries)) == (2, 2)
    assert "forward.json cannot be written" in world.troubles[0].message


def test_a_mistake_is_not_hidden(tmp_path: Path) -> None:
    """What nobody expects ends the forwarder, as it would on its own thread."""

    def state() -> OutboxState:
        raise ZeroDivisionError

    world = _World(tmp_path, state)
    world.reporter.write(ForwardReport())
    with pytest.raises(ZeroDivisionError):
        world.reporter.close(ForwardReport())
