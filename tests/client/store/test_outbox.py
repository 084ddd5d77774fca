"""The outbox: what goes in comes out in order, as it was; it keeps its limits, and counts what it has to remove."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_enroll.errors import OutboxFullError, StateError
from hsm_enroll.store.outbox import (
    NewMessage,
    Outbox,
    OutboxLimits,
    Properties,
    QueuedMessage,
    WhenFull,
    age,
    exists,
)
from hsm_enroll.store.outbox.age import Moment

_ROOMY = OutboxLimits(max_bytes=2**20)
_FIRST = Moment(1_790_000_000.0, 100.0, "first boot")
_EVERYTHING = Properties("text/plain", "answers/é", b"\0\xff", (("a", "1"), ("a", "2"), ("", "")))


class Clock:
    """The clocks of the machine, which a test moves."""

    def __init__(self) -> None:
        self.now = _FIRST

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.now = Moment(self.now.wall + seconds, self.now.running + seconds, self.now.boot)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Clocks that stand still until they are moved."""
    clock = Clock()
    monkeypatch.setattr(age, "now", lambda: clock.now)
    return clock


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    """An outbox with plenty of room."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        yield outbox


def _texts(messages: list[QueuedMessage]) -> list[str]:
    return [message.payload.decode() for message in messages]


def _new(*texts: str, topic: str = "t") -> list[NewMessage]:
    return [NewMessage(topic, text.encode()) for text in texts]


def _size(outbox: Outbox) -> int:
    """Return what a message without a payload counts."""
    outbox.add(NewMessage("t", b""))
    (message,) = outbox.next(0, 1)
    outbox.remove([message.id])
    return message.size


# What goes in and comes out


@pytest.mark.parametrize(
    "message",
    [
        NewMessage("t", b""),
        NewMessage("device/gateway-17/t", bytes(range(256)) * 512),
        NewMessage("é/日本/😀", b"\0", retain=True),
        NewMessage("t", b"21.5", expires_after=3600.0, properties=_EVERYTHING),
        NewMessage("t", b"21.5", properties=Properties(correlation_data=b"")),
    ],
    ids=["empty", "largest", "letters", "everything", "empty correlation"],
)
def test_a_message_comes_out_as_it_went_in(tmp_path: Path, message: NewMessage) -> None:
    """Topic, payload, retain, expiry and properties are the same when another process opens the outbox."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        outbox.add(message)
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        (queued,) = outbox.next(0, 10)
    assert NewMessage(queued.topic, queued.payload, queued.retain, message.expires_after, queued.properties) == message
    assert (queued.expires_in is None) == (message.expires_after is None)
    assert queued.size >= len(message.topic.encode()) + len(message.payload)


def test_a_message_keeps_its_payload_to_itself(outbox: Outbox) -> None:
    """What a log or a traceback shows of a message is not what is in it."""
    new = NewMessage("t", b"password")
    outbox.add(new)
    assert "password" not in f"{new} {outbox.next(0, 1)}"
    assert "topic='t'" in repr(outbox.next(0, 1))


def test_messages_come_in_their_order(outbox: Outbox) -> None:
    """The oldest ones first, from the one after the id that is given, at most as many as were asked for."""
    outbox.add(*_new("1", "2"))
    outbox.add(*_new("3"))
    first = outbox.next(0, 2)
    assert _texts(first) == ["1", "2"]
    assert _texts(outbox.next(first[-1].id, 2)) == ["3"]
    assert _texts(outbox.next(0, 9)) == ["1", "2", "3"]
    assert outbox.next(outbox.next(0, 9)[-1].id, 9) == []


def test_nothing_is_taken_out_but_by_remove(outbox: Outbox) -> None:
    """Messages stay until they are removed, each by its id; an id that is gone does not matter."""
    outbox.add(*_new("1", "2", "3"))
    one, two, _ = outbox.next(0, 3)
    outbox.remove([two.id, one.id, two.id, 12345])
    outbox.remove([])
    assert _texts(outbox.next(0, 3)) == ["3"]
    assert outbox.state().messages == 1


def test_an_id_is_never_used_again(tmp_path: Path) -> None:
    """A message that is added to an emptied outbox, also after a restart, has a greater id than all before."""
    ids = []
    for _ in range(3):
        with Outbox.open(tmp_path, _ROOMY) as outbox:
            outbox.add(*_new("x"))
            (message,) = outbox.next(0, 9)
            outbox.remove([message.id])
        ids.append(message.id)
    assert ids == sorted(set(ids))


def test_the_state_counts_what_is_there(outbox: Outbox) -> None:
    """Messages and bytes are those that wait: after adding, removing and setting aside, as counted one by one."""
    assert (outbox.state().messages, outbox.state().bytes, outbox.state().oldest_age) == (0, 0, None)
    outbox.add(*_new("1", "22", "333"), NewMessage("t", b"x", properties=_EVERYTHING))
    queued = outbox.next(0, 9)
    outbox.remove([queued[0].id])
    outbox.set_aside(queued[1].id, "not authorized")
    outbox.set_aside(queued[1].id, "not authorized")
    state = outbox.state()
    assert (state.messages, state.bytes) == (2, queued[2].size + queued[3].size)
    assert (state.refused, state.dropped, state.expired, state.damaged_files) == (1, 0, 0, ())


def test_a_message_without_a_payload_counts(outbox: Outbox) -> None:
    """Messages fill the outbox also if they have no payload."""
    assert _size(outbox) > 50


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask, the folder is 0700 and its files 0600."""
    before = os.umask(0)
    try:
        with Outbox.open(tmp_path / "state", _ROOMY) as outbox:
            outbox.add(*_new("1"))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert set(modes) == {"outbox.db", "outbox.db-wal", "outbox.db-shm", "outbox.lock", "outbox.reserve"}
    assert set(modes.values()) == {0o600}


def test_who_only_looks_creates_none(tmp_path: Path) -> None:
    """Whether there is an outbox can be found out without making one."""
    assert not exists(tmp_path)
    assert list(tmp_path.iterdir()) == []
    Outbox.open(tmp_path, _ROOMY).close()
    assert exists(tmp_path)


@pytest.mark.parametrize("leads_to", ["a database", "nothing"])
def test_a_link_in_its_place(tmp_path: Path, leads_to: str) -> None:
    """A link is refused: log, reserve and locks would not be where the database is. A link to the folder is fine."""
    folder = tmp_path / "disk" / "state"
    with Outbox.open(folder, _ROOMY) as outbox:
        outbox.add(*_new("1"))
    (tmp_path / "state").symlink_to(folder)
    with Outbox.open(tmp_path / "state", _ROOMY) as outbox:
        assert _texts(outbox.next(0, 9)) == ["1"]
    target = (folder / "outbox.db").rename(tmp_path / "disk" / "outbox.db")
    (folder / "outbox.db").symlink_to(target if leads_to == "a database" else tmp_path / "nothing")
    with pytest.raises(StateError, match=f"{folder}/outbox.db cannot be used: it is a symbolic link") as caught:
        Outbox.open(folder, _ROOMY)
    assert "whole state folder" in caught.value.hint
    assert sorted(path.name for path in target.parent.iterdir()) == ["outbox.db", "state"]


def test_a_closed_outbox(tmp_path: Path) -> None:
    """It may be closed twice; then using it is a mistake."""
    outbox = Outbox.open(tmp_path, _ROOMY)
    outbox.close()
    outbox.close()
    outbox.interrupt()  # as a signal handler may
    with pytest.raises(ValueError, match="closed"):
        outbox.add(*_new("1"))


# Limits


def test_a_full_outbox_refuses(tmp_path: Path) -> None:
    """What does not fit is refused whole, and what is there stays; there is room again once something is removed."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        size = _size(outbox) + 1
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=3 * size)) as outbox:
        outbox.add(*_new("1", "2"))
        with pytest.raises(OutboxFullError, match=f"2 messages with {2 * size} of {3 * size} bytes") as caught:
            outbox.add(*_new("3", "4"))
        assert (caught.value.exit_status, caught.value.retryable) == (50, True)
        assert _texts(outbox.next(0, 9)) == ["1", "2"]
        outbox.add(*_new("3"))
        outbox.remove([outbox.next(0, 1)[0].id])
        outbox.add(*_new("4"))
        assert _texts(outbox.next(0, 9)) == ["2", "3", "4"]
        assert outbox.state().bytes == 3 * size


def test_a_full_outbox_drops_the_oldest(tmp_path: Path) -> None:
    """By drop-oldest a new message always fits: as many of the oldest go as have to, and are counted."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        size = _size(outbox)
    limits = OutboxLimits(max_bytes=4 * (size + 1), when_full=WhenFull.DROP_OLDEST)
    with Outbox.open(tmp_path, limits) as outbox:
        outbox.add(*_new("1", "2", "3", "4"))
        outbox.add(*_new("5"))
        assert _texts(outbox.next(0, 9)) == ["2", "3", "4", "5"]
        outbox.add(NewMessage("t", b"x" * (size + 1)))
        assert _texts(outbox.next(0, 9)) == ["4", "5", "x" * (size + 1)]
        assert (outbox.state().messages, outbox.state().dropped) == (3, 3)


@pytest.mark.parametrize("when_full", WhenFull)
def test_what_never_fits_is_refused(tmp_path: Path, when_full: WhenFull) -> None:
    """A message that is larger than the whole outbox is refused by either policy, and nothing is dropped for it."""
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=1000, when_full=when_full)) as outbox:
        outbox.add(*_new("1"))
        with pytest.raises(OutboxFullError, match="does not fit into an outbox of 1000 bytes"):
            outbox.add(NewMessage("t", bytes(1000)))
        assert _texts(outbox.next(0, 9)) == ["1"]


def test_a_smaller_limit_than_before(tmp_path: Path) -> None:
    """Where the limit was lowered, nothing is lost by that alone: messages are sent, and new ones are refused."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        outbox.add(*_new("1", "2", "3"))
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=200)) as outbox:
        with pytest.raises(OutboxFullError):
            outbox.add(*_new("4"))
        assert _texts(outbox.next(0, 9)) == ["1", "2", "3"]


def test_what_was_set_aside_gives_way(tmp_path: Path) -> None:
    """Refused messages are kept as long as there is room, and never keep a new one out."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        size = _size(outbox) + 1
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=3 * size)) as outbox:
        for text in "abcdefgh":
            outbox.add(*_new(text))
            outbox.set_aside(outbox.next(0, 1)[0].id, "not authorized")
        outbox.add(*_new("1", "2", "3"))
        assert (outbox.state().messages, outbox.state().refused) == (3, 8)
        with pytest.raises(OutboxFullError):
            outbox.add(*_new("4"))


def test_a_much_smaller_limit(tmp_path: Path) -> None:
    """By drop-oldest a great many messages go for a new one, in several transactions, since others wait for each."""
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=2**26)) as outbox:
        size = _size(outbox)
        outbox.add(*[NewMessage("t", b"")] * 12_000)
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=10 * size, when_full=WhenFull.DROP_OLDEST)) as outbox:
        outbox.add(NewMessage("t", b""))
        messages = outbox.next(0, 99)
        assert len(messages) == outbox.state().messages == 10
        assert messages[-1].id - messages[0].id == 9
        assert outbox.state().dropped == 11_991
        assert _commits(tmp_path) > 2


# Expiry


def test_a_message_expires(outbox: Outbox, clock: Clock) -> None:
    """A message whose time is over is not given out, but removed and counted; the others tell how much is left."""
    outbox.add(NewMessage("t", b"short", expires_after=10), NewMessage("t", b"long", expires_after=100), *_new("ever"))
    clock.forward(9)
    assert [message.expires_in for message in outbox.next(0, 9)] == [1, 91, None]
    clock.forward(1)
    messages = outbox.next(0, 9)
    assert [(message.payload, message.expires_in, message.age) for message in messages] == [
        (b"long", 90, 10), (b"ever", None, 10),
    ]  # fmt: skip
    assert (outbox.state().messages, outbox.state().expired, outbox.state().oldest_age) == (2, 1, 10)


def test_what_has_expired_does_not_hide_the_rest(outbox: Outbox, clock: Clock) -> None:
    """As many messages are given out as were asked for, however many before them have expired."""
    outbox.add(*(NewMessage("t", b"", expires_after=1) for _ in range(50)), *_new("1", "2", "3"))
    clock.forward(2)
    assert _texts(outbox.next(0, 2)) == ["1", "2"]
    assert outbox.state().expired == 50


def test_all_messages_have_an_age_limit(tmp_path: Path, clock: Clock) -> None:
    """With a largest age every message expires by then, unless its own time is over before."""
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=2**20, max_age=60)) as outbox:
        outbox.add(*_new("1"), NewMessage("t", b"2", expires_after=10), NewMessage("t", b"3", expires_after=1000))
        clock.forward(59)
        assert _texts(outbox.next(0, 9)) == ["1", "3"]
        outbox.add(*_new("4"))
        clock.forward(1)
        assert _texts(outbox.next(0, 9)) == ["4"]
        assert outbox.state().expired == 3


def test_what_has_expired_makes_room(tmp_path: Path, clock: Clock) -> None:
    """A full outbox whose messages have expired takes new ones, though nobody drains it."""
    limits = OutboxLimits(max_bytes=500)
    with Outbox.open(tmp_path, limits) as outbox:
        outbox.add(*_new("1"), NewMessage("t", bytes(200), expires_after=10))
        clock.forward(10)
        outbox.add(NewMessage("t", bytes(200)))
        assert (outbox.state().messages, outbox.state().expired) == (2, 1)


def test_what_has_expired_far_behind_makes_room(tmp_path: Path, clock: Clock) -> None:
    """It is looked for to the end, but not in one transaction, for which all others would wait."""
    limits = OutboxLimits(max_bytes=2**26)
    with Outbox.open(tmp_path, limits) as outbox:
        outbox.add(*[NewMessage("t", b"")] * 12_000, NewMessage("t", bytes(1000), expires_after=10))
        held = outbox.state().bytes
    clock.forward(10)
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=held)) as outbox:
        outbox.add(NewMessage("t", bytes(1000)))
        assert (outbox.state().messages, outbox.state().expired) == (12_001, 1)
        assert _commits(tmp_path) > 2
        with pytest.raises(OutboxFullError):
            outbox.add(NewMessage("t", bytes(1000)))


def test_a_restart_with_a_clock_that_was_never_set(tmp_path: Path, clock: Clock) -> None:
    """A message that was queued in 1970 does not expire because NTP then sets the clock, or a restart sets it back."""
    clock.now = Moment(50.0, 50.0, "first boot")
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        outbox.add(NewMessage("t", b"1", expires_after=100))
        for now in (Moment(1_790_000_000.0, 60.0, "first boot"), Moment(1_790_000_100.0, 20.0, "second boot")):
            clock.now = now
            assert _texts(outbox.next(0, 9)) == ["1"]


# The file


def test_the_file_shrinks_again(tmp_path: Path) -> None:
    """After a large backlog has been sent, the file is small again, step by step."""
    file = tmp_path / "outbox.db"
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=2**26)) as outbox:
        outbox.add(*(NewMessage("t", bytes(4000)) for _ in range(4000)))
    largest = file.stat().st_size
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=2**26)) as outbox:
        while messages := outbox.next(0, 100):
            outbox.remove([message.id for message in messages])
    assert largest > 16_000_000
    assert file.stat().st_size < 4_000_000


# Threads


def _commits(folder: Path) -> int:
    """Return how many transactions are in the log: frames that tell the size of the database (fileformat2 §4.1)."""
    log = (folder / "outbox.db-wal").read_bytes()
    return sum(log[start + 4 : start + 8] != bytes(4) for start in range(32, len(log), 24 + 4096))


def test_threads_share_a_transaction(tmp_path: Path) -> None:
    """Many threads that add at once need far fewer transactions than messages; each message is there, in its order."""
    threads, each = 16, 25

    def add(number: int) -> None:
        for turn in range(each):
            shared.add(NewMessage(f"t/{number}", str(turn).encode()))

    with Outbox.open(tmp_path, _ROOMY) as shared:
        before = _commits(tmp_path)
        running = [threading.Thread(target=add, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        assert _commits(tmp_path) - before < threads * each / 2
        messages = shared.next(0, 1000)
    for number in range(threads):
        assert _texts([message for message in messages if message.topic == f"t/{number}"]) == [*map(str, range(each))]


def test_a_thread_that_is_refused_does_not_disturb_others(tmp_path: Path) -> None:
    """Of threads that share a transaction, each learns what became of its own messages."""
    refused: list[int] = []
    added: list[int] = []

    def add(size: int) -> None:
        for _ in range(20):
            try:
                shared.add(NewMessage("t", bytes(size)))
                added.append(size)
            except OutboxFullError:
                refused.append(size)

    with Outbox.open(tmp_path, OutboxLimits(max_bytes=100_000)) as shared:
        running = [threading.Thread(target=add, args=(size,)) for size in (1, 1, 1, 99_990, 99_990)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        assert (set(refused), set(added)) == ({99_990}, {1})
        assert shared.state().messages == len(added) == 60


# Waking up


def _wakes(outbox: Outbox) -> bool:
    """Wait for much longer than a wake-up takes; return whether there was one."""
    waiting = threading.Thread(target=outbox.wait, args=(600,))
    waiting.start()
    waiting.join(60)
    woken = not waiting.is_alive()
    if not woken:
        outbox.interrupt()
        waiting.join()
    return woken


def test_who_waits_is_woken(tmp_path: Path) -> None:
    """A message that another process adds ends the wait; a path of any length is fine."""
    folder = tmp_path / ("x" * 150)
    with Outbox.open(folder, _ROOMY) as outbox, Outbox.open(folder, _ROOMY) as other:
        assert _wakes(outbox)  # nobody could tell of messages that were added before
        other.add(*_new("1"))
        assert _wakes(outbox)
        assert _texts(outbox.next(0, 9)) == ["1"]
        outbox.wait(0)


def test_a_wait_is_interrupted(outbox: Outbox) -> None:
    """An interrupt ends the wait, also one that comes before it."""
    outbox.wait(0)
    outbox.interrupt()
    assert _wakes(outbox)
    threading.Timer(0.05, outbox.interrupt).start()
    assert _wakes(outbox)


def test_the_last_one_that_waits_is_told(tmp_path: Path) -> None:
    """A new process that drains takes over from one that was killed, whose socket is still there."""
    first, second, writer = (Outbox.open(tmp_path, _ROOMY) for _ in range(3))
    assert _wakes(first)
    assert _wakes(second)
    writer.add(*_new("1"))
    assert _wakes(second)
    for outbox in (first, second, writer):
        outbox.close()
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        outbox.add(*_new("2"))
