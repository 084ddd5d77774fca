"""The end of an outbox: nothing of it is left, however often that is interrupted, and it does not come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_enroll.errors import NotEnrolledError
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits, exists, remove

_LIMITS = OutboxLimits(max_bytes=2**26)
# The lock is of no use, but other processes may have it open.
_LEFT = {"outbox.lock"}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _refuse() -> None:
    raise NotEnrolledError("not enrolled any more")


def test_nothing_is_left_but_what_was_damaged(tmp_path: Path) -> None:
    """Database, log, socket and reserve go, also while others have them open; a database that was set aside stays."""
    (tmp_path / "outbox.db").write_bytes(b"not a database" * 100)
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        outbox.add(NewMessage("t", b"1"))
        outbox.wait(0)
        (damaged,) = outbox.state().damaged_files
        remove(tmp_path)
        assert not exists(tmp_path)
    assert _names(tmp_path) == {*_LEFT, damaged.name}


def test_a_folder_without_an_outbox(tmp_path: Path) -> None:
    """There is nothing to remove, and nothing is made for it."""
    remove(tmp_path)
    assert _names(tmp_path) == set()


@pytest.mark.parametrize("left", ["outbox.db-wal", "outbox.db-shm", "outbox.reserve", "outbox.db.new-wal"])
def test_an_interrupted_removal_is_resumed(tmp_path: Path, left: str) -> None:
    """What a removal that was killed has left goes with the next one."""
    (tmp_path / left).write_bytes(b"a message")
    remove(tmp_path)
    assert _names(tmp_path) == _LEFT


def test_a_log_that_was_left_is_never_used(tmp_path: Path) -> None:
    """If a new outbox is begun where a removal was killed after the database was gone, the old messages stay away."""
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        outbox.add(NewMessage("t", b"old"))
        (tmp_path / "outbox.db").unlink()
        with Outbox.open(tmp_path, _LIMITS) as new:
            new.add(NewMessage("t", b"new"))
            assert [message.payload for message in new.next(0, 9)] == [b"new"]


def test_a_link_is_removed_but_not_what_it_leads_to(tmp_path: Path) -> None:
    """It was not made by this program, and what is there may be somebody else's."""
    (tmp_path / "elsewhere").write_bytes(b"data")
    (tmp_path / "outbox.db").symlink_to(tmp_path / "elsewhere")
    remove(tmp_path)
    assert _names(tmp_path) == {*_LEFT, "elsewhere"}


def test_it_does_not_come_back(tmp_path: Path) -> None:
    """Who has it open begins a new one only if that is allowed, and is told otherwise; others may."""
    allowed = [True]
    with Outbox.open(tmp_path, _LIMITS, lambda: None if allowed else _refuse()) as outbox:
        outbox.add(NewMessage("t", b"1"))
        allowed.clear()
        outbox.add(NewMessage("t", b"2"))
        remove(tmp_path)
        with pytest.raises(NotEnrolledError):
            outbox.add(NewMessage("t", b"3"))
        assert not exists(tmp_path)
        allowed.append(True)
        outbox.add(NewMessage("t", b"4"))
        assert [message.payload for message in outbox.next(0, 9)] == [b"4"]
