"""What was set aside: listed, queued again in its order, or deleted; nothing is lost or doubled on the way."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from hsm_enroll.device import outbox as outboxes
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits, Properties, age
from hsm_enroll.store.outbox.age import Moment
from tests.client.conftest import RunPython

_ROOMY = OutboxLimits(max_bytes=2**26)
_TIME_LIMIT = 60.0
_PROPERTIES = Properties("text/plain", "answers", b"\0\xff", (("unit", "°C"),))


def _set_aside(outbox: Outbox, *messages: NewMessage, reason: str = "NOT_AUTHORIZED") -> None:
    outbox.add(*messages)
    for message in outbox.next(0, len(messages)):
        outbox.set_aside(message.id, reason)


def _payloads(outbox: Outbox) -> list[str]:
    return [message.payload.decode() for message in outbox.next(0, 10_000)]


def _numbered(count: int, topic: str = "t") -> list[NewMessage]:
    return [NewMessage(topic, f"{number}".encode()) for number in range(count)]


def test_what_is_set_aside_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its topic, the size of its payload, the time and the reason, and without the payload itself."""
    monkeypatch.setattr(age, "now", lambda: Moment(1_790_000_000.0, 100.0, "boot"))
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        _set_aside(outbox, NewMessage("a", b"\xff" * 100_000))
        monkeypatch.setattr(age, "now", lambda: Moment(0.0, 200.0, "boot"))
        _set_aside(outbox, NewMessage("b", b""), reason="TOPIC_NAME_INVALID")
        first, second = outbox.refused()
    assert (first.topic, first.bytes, first.at, first.reason) == ("a", 100_000, 1_790_000_000.0, "NOT_AUTHORIZED")
    assert (second.topic, second.bytes, second.at, second.reason) == ("b", 0, 0.0, "TOPIC_NAME_INVALID")
    assert first.id < second.id


def test_what_is_put_back_is_queued_behind_the_others_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its order, with new ids and all that belongs to it; its age goes on; the totals are right."""
    monkeypatch.setattr(age, "now", lambda: Moment(0.0, 100.0, "boot"))
    full = NewMessage("t", b"\0", retain=True, expires_after=60.0, properties=_PROPERTIES)
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        _set_aside(outbox, NewMessage("t", b"1"), full)
        outbox.add(NewMessage("t", b"later"))
        (later,), before = outbox.next(0, 9), outbox.state()
        monkeypatch.setattr(age, "now", lambda: Moment(0.0, 110.0, "boot"))
        assert outbox.put_back(outbox.refused()) == 2
        first, second, third = outbox.next(0, 9)
        state = outbox.state()
        assert outbox.refused() == []
    assert first.id == later.id
    assert later.id < second.id < third.id
    assert (second.payload, second.age, second.expires_in) == (b"1", 10.0, None)
    assert (third.payload, third.retain, third.properties, third.expires_in) == (b"\0", True, _PROPERTIES, 50.0)
    assert before.refused_bytes == second.size + third.size
    assert (state.messages, state.bytes) == (3, before.bytes + before.refused_bytes)
    assert (state.refused, state.refused_bytes) == (2, 0)


def test_many_are_put_back_in_their_order(tmp_path: Path) -> None:
    """More than a page of the list, and than a transaction takes; large ones are in transactions of their own."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        _set_aside(outbox, *_numbered(1100), NewMessage("t", b"x" * 2**21), NewMessage("t", b"x" * 2**21))
        assert outbox.put_back(outbox.refused()) == 1102
        assert _payloads(outbox)[:1100] == [str(number) for number in range(1100)]
        assert (outbox.state().messages, outbox.state().refused_bytes) == (1102, 0)


def test_those_of_one_topic_are_put_back_alone(tmp_path: Path) -> None:
    """The others stay set aside."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        _set_aside(outbox, NewMessage("a", b"1"), NewMessage("b", b"2"), NewMessage("a", b"3"))
        assert outboxes.retry(tmp_path, "a") == 2
        assert _payloads(outbox) == ["1", "3"]
        assert [message.topic for message in outbox.refused()] == ["b"]
        assert outboxes.retry(tmp_path, "a") == 0


def test_what_somebody_else_has_taken_is_left_out(tmp_path: Path) -> None:
    """Two that put the same back, or delete it, do it once, and each says how many it was."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        _set_aside(outbox, *_numbered(3))
        listed = outbox.refused()
        assert outbox.put_back(listed[:1]) == 1
        assert outbox.discard(listed[1:2]) == 1
        assert (outbox.put_back(listed), outbox.discard(listed)) == (1, 0)
        assert _payloads(outbox) == ["0", "2"]


def test_who_drains_is_woken(tmp_path: Path) -> None:
    """A forwarder that waits for messages is told, and does not wait for its next look."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        _set_aside(outbox, *_numbered(1))
        outbox.wait(0)
        waiting = threading.Thread(target=outbox.wait, args=(600.0,), daemon=True)
        waiting.start()
        outboxes.retry(tmp_path, None)
        waiting.join(_TIME_LIMIT)
        assert not waiting.is_alive()


def test_deleting_makes_room_and_leaves_the_queue_alone(tmp_path: Path) -> None:
    """What is deleted is given back to the disk, and counts as refused as before."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        _set_aside(outbox, *[NewMessage("t", bytes(20_000))] * 300)
        outbox.add(NewMessage("t", b"later"))
        assert outboxes.discard(tmp_path, outbox.refused()) == 300
        assert (outbox.refused(), _payloads(outbox)) == ([], ["later"])
        state = outbox.state()
    assert (state.messages, state.refused, state.refused_bytes, state.dropped) == (1, 300, 0, 0)
    assert (tmp_path / "outbox.db").stat().st_size < 2_000_000


def test_a_message_that_is_damaged_is_not_sent(tmp_path: Path) -> None:
    """D21: as with any damage, the database is set aside, and nothing that was not published is queued."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        _set_aside(outbox, *_numbered(1))
        with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection, connection:
            connection.execute("UPDATE refused SET payload = x'ff'")
        assert outbox.put_back(outbox.refused()) == 0
        assert _payloads(outbox) == []
        assert len(outbox.state().damaged_files) == 1


_KILLED = """
import os, signal, sys
from pathlib import Path
from hsm_enroll.store.outbox import Outbox, OutboxLimits, removal
folder, most = Path(sys.argv[1]), int(sys.argv[2])
deleted = removal.delete_refused
count = 0
def delete(*arguments):
    global count
    count += 1
    if count > most:
        os.kill(os.getpid(), signal.SIGKILL)
    deleted(*arguments)
removal.delete_refused = delete
with Outbox.open(folder, OutboxLimits(max_bytes=0)) as outbox:
    outbox.put_back(outbox.refused())
"""


@pytest.mark.parametrize(("most", "moved"), [(0, 0), (200, 200), (450, 400)])
def test_a_run_that_is_killed_loses_nothing(tmp_path: Path, run_python: RunPython, most: int, moved: int) -> None:
    """D21: each message is either queued or set aside, and the totals fit; the next run moves the rest, in order."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        _set_aside(outbox, *_numbered(500))
        sizes = outbox.state().refused_bytes
    killed: subprocess.Popen[str] = run_python(_KILLED, str(tmp_path), str(most))
    assert killed.wait(_TIME_LIMIT) == -9
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        state = outbox.state()
        assert (state.messages, len(outbox.refused())) == (moved, 500 - moved)
        assert state.bytes + state.refused_bytes == sizes
        assert outbox.put_back(outbox.refused()) == 500 - moved
        assert _payloads(outbox) == [str(number) for number in range(500)]
        assert (outbox.state().bytes, outbox.state().refused_bytes) == (sizes, 0)
