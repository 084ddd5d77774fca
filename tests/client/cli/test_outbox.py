"""``hsm-enroll outbox``: what was set aside is listed, queued again or deleted, without network, token or PIN."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_enroll.store import forwarder
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits, age
from hsm_enroll.store.outbox.age import Moment
from tests.support.devices import Machine
from tests.support.screen import Screen

_LIMITS = OutboxLimits(max_bytes=2**20)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A device with three refused messages of two topics, and one that waits."""
    made = Machine(tmp_path, {})
    monkeypatch.setattr(age, "now", lambda: Moment(1_795_701_731.0, 100.0, "boot"))
    with Outbox.open(made.home, _LIMITS) as outbox:
        outbox.add(NewMessage("a/b", b"21.5"), NewMessage("c", b"one"), NewMessage("a/b", b""), NewMessage("d", b"4"))
        for message in outbox.next(0, 3):
            outbox.set_aside(message.id, "NOT_AUTHORIZED")
    return made


def _topics(device: Machine) -> list[str]:
    with Outbox.open(device.home, _LIMITS) as outbox:
        return [message.topic for message in outbox.next(0, 9)]


def test_refused_messages_are_listed(device: Machine) -> None:
    """A row or a member each, with topic, size, time and reason; the text says what can be done."""
    first, *others = device.json("outbox", "refused")["messages"]
    assert first == {
        "id": 1,
        "topic": "a/b",
        "bytes": 4,
        "refusedAt": "2026-11-26T14:02:11Z",
        "reason": "NOT_AUTHORIZED",
    }
    assert [(each["id"], each["topic"]) for each in others] == [(2, "c"), (3, "a/b")]
    run = device.run("outbox", "refused")
    assert run.stdout.splitlines()[:2] == [
        "     ID  SET ASIDE              BYTES  REASON                TOPIC",
        "      1  2026-11-26T14:02:11Z       4  NOT_AUTHORIZED        a/b",
    ]
    assert run.stderr == "Send them again: hsm-enroll outbox retry. Delete them: hsm-enroll outbox discard\n"


def test_on_a_terminal_that_is_too_narrow_for_the_table_there_are_entries(device: Machine) -> None:
    """Two lines each, and no heading, which would not stand above anything; where the table fits there is one."""
    with Screen(device, "outbox", "refused", columns=60) as screen:
        assert screen.end() == 0
        assert screen.text.splitlines()[:3] == [
            "1 a/b",
            "  set aside 2026-11-26T14:02:11Z, 4 bytes, NOT_AUTHORIZED",
            "2 c",
        ]
    with Screen(device, "outbox", "refused") as screen:
        assert screen.end() == 0
        assert screen.text.splitlines()[0].split() == ["ID", "SET", "ASIDE", "BYTES", "REASON", "TOPIC"]


def test_they_are_queued_again(device: Machine) -> None:
    """All or those of one topic, behind what waits; the command says if nobody sends them."""
    run = device.run("outbox", "retry", "--topic", "a/b")
    assert (run.returncode, run.stdout) == (0, "queued 2 messages again\n")
    assert run.stderr == "They wait: hsm-enroll forward is not running.\n"
    assert _topics(device) == ["d", "a/b", "a/b"]
    with forwarder.running(device.home):
        run = device.run("outbox", "retry")
    assert (run.stdout, run.stderr) == ("queued 1 message again\n", "")
    assert device.json("outbox", "retry") == {"queued": 0}
    assert device.run("outbox", "retry", "--topic", "c").stdout == "no message is set aside for c\n"
    assert device.refused("outbox", "retry", "--topic", "a/#") == (2, "usage")


def test_they_are_deleted_if_somebody_says_so(device: Machine) -> None:
    """Without a terminal that takes --yes; what waits to be sent stays."""
    assert device.refused("outbox", "discard") == (2, "usage")
    assert len(device.json("outbox", "refused")["messages"]) == 3
    assert device.json("outbox", "discard", "--yes") == {"discarded": 3}
    assert _topics(device) == ["d"]
    assert device.run("outbox", "discard", "--yes").stdout == "no message is set aside\n"


@pytest.mark.parametrize(("answer", "left"), [("n", 3), ("y", 0)])
def test_a_person_is_asked_before_they_are_deleted(device: Machine, answer: str, left: int) -> None:
    """The question says how many there are; no is no error."""
    with Screen(device, "outbox", "discard") as screen:
        screen.expect("Delete 3 messages for 2 topics? They have not been delivered. [y/N]")
        screen.type(f"{answer}\n")
        assert screen.end() == (0 if answer == "y" else 130)
    assert len(device.json("outbox", "refused")["messages"]) == left


def test_where_there_is_no_outbox_nothing_is_made(tmp_path: Path) -> None:
    """All three say that there is nothing, and look is all that they do."""
    device = Machine(tmp_path, {})
    assert device.json("outbox", "refused") == {"messages": []}
    assert device.json("outbox", "retry") == {"queued": 0}
    assert device.json("outbox", "discard", "--yes") == {"discarded": 0}
    assert not device.home.exists()
