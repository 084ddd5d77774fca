"""What the forwarder reads ahead and removes on another thread, when that thread takes its time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import pytest

from hsm_enroll.errors import StateError
from hsm_enroll.iot.backlog import Backlog
from tests.client.iot.simulated import SimulatedClock, SimulatedOutbox

T = TypeVar("T")


class _Outcome(Future[T]):
    """The outcome of something; whoever finds that it is not done has the thread work, if that was asked for."""

    def __init__(self, thread: _Thread) -> None:
        super().__init__()
        self._thread = thread

    def done(self) -> bool:
        """Return whether it was done when that was asked."""
        is_done = super().done()
        if not is_done:
            self._thread.was_looked_at()
        return is_done


class _Thread:
    """A thread that works when it is told to."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []
        self._works_after_a_look = False

    def __call__(self, work: Callable[[], T]) -> Future[T]:
        """Note what to do."""
        outcome: Future[T] = _Outcome(self)

        def run() -> None:
            try:
                outcome.set_result(work())
            except StateError as error:
                outcome.set_exception(error)

        self._waiting.append(run)
        return outcome

    def work(self) -> None:
        """Do what comes next."""
        self._waiting.pop(0)()

    def work_after_a_look(self) -> None:
        """Do all there is to do, once somebody has found that something of it is not done."""
        self._works_after_a_look = True

    def was_looked_at(self) -> None:
        """Note that somebody has found that something is not done."""
        while self._works_after_a_look and self._waiting:
            self.work()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting


class _World:
    """A backlog with its outbox, clock and thread."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        self.outbox = SimulatedOutbox(self.clock)
        self.thread = _Thread()
        self.backlog = Backlog(self.outbox, self.thread, self.clock)

    def next(self) -> bytes | None:
        """Return the next message's payload, as the forwarder's loop asks for it."""
        self.backlog.settle(self.clock.now)
        read = self.backlog.next(self.clock.now)
        return read.message.payload if read else None


@pytest.fixture
def world() -> _World:
    """An outbox with three messages."""
    world = _World()
    for payload in (b"1", b"2", b"3"):
        world.outbox.add("a", payload)
    return world


def test_the_disk_is_not_waited_for(world: _World) -> None:
    """Until a page is read there is nothing to send; how long the disk has been busy is known."""
    assert world.next() is None
    world.clock.advance(70.0)
    assert world.next() is None
    assert world.backlog.busy_since == 1000.0
    world.thread.work()
    assert world.next() == b"1"
    assert world.backlog.busy_since is None


def test_a_page_that_was_asked_for_before_a_loss_is_not_used(world: _World) -> None:
    """What was in flight comes first again."""
    world.next()
    world.thread.work()
    assert world.next() == b"1"
    world.backlog.take()
    world.backlog.take()
    world.backlog.take()
    assert world.next() is None
    world.backlog.rewind(1)
    world.thread.work()
    assert world.next() is None
    world.thread.work()
    assert world.next() == b"1"


def test_what_is_added_while_a_page_is_read_is_read_soon(world: _World) -> None:
    """Whoever adds a message wakes the forwarder; if it cannot look then, it looks once more by itself."""
    world.outbox.messages.clear()
    assert world.next() is None
    world.thread.work()
    world.outbox.add("a", b"4")
    assert world.next() is None  # what was read is known now, and nothing was added meanwhile
    assert world.thread.is_idle
    assert world.next() is None
    assert world.next() is None  # it is woken while the page is read
    world.outbox.messages.clear()
    world.thread.work()
    world.outbox.add("a", b"5")
    world.next()
    world.thread.work()
    assert world.next() == b"5"


@pytest.fixture
def removing(world: _World) -> _World:
    """The first message is being removed while the page with it is read again."""
    world.next()
    world.thread.work()
    for _ in range(3):
        assert world.next() is not None
        world.backlog.take()
    world.backlog.finish(1, None, world.clock.now)
    world.backlog.rewind(1)
    world.next()
    world.backlog.remove()
    return world


def test_what_is_removed_while_it_is_read_again_is_not_sent_again(removing: _World) -> None:
    """A page that was read before a removal, and is looked at after it, still has what was removed."""
    removing.thread.work()
    removing.thread.work()
    assert removing.next() == b"2"


def test_what_is_removed_between_two_looks_at_the_other_thread_is_not_sent_again(removing: _World) -> None:
    """It may finish a page, and remove what is in it, just when it was found to be still reading that page."""
    removing.thread.work_after_a_look()
    assert (removing.next() or removing.next()) == b"2"


def test_what_cannot_be_removed_is_trouble_until_it_is(world: _World) -> None:
    """That messages can be read does not mean that it is over: the next attempt may not have ended."""
    world.next()
    world.thread.work()
    world.next()
    world.backlog.take()
    world.backlog.finish(1, None, world.clock.now)
    world.outbox.failing = {"remove"}
    world.backlog.remove()
    world.thread.work()
    assert world.next() is None
    assert world.backlog.trouble is not None
    world.clock.advance(10.0)
    world.backlog.rewind(1)
    world.next()
    world.backlog.remove()
    world.thread.work()
    world.next()
    assert world.backlog.trouble is not None
    world.outbox.failing = set()
    world.thread.work()
    world.next()
    assert world.backlog.trouble is None


def test_the_next_page_is_read_before_the_last_one_is_used_up(world: _World) -> None:
    """A slow disk does not hold up what is sent."""
    for number in range(4, 100):
        world.outbox.add("a", b"%d" % number)
    world.next()
    world.thread.work()
    seen = []
    while (payload := world.next()) is not None:
        seen.append(payload)
        world.backlog.take()
        if not world.thread.is_idle:
            world.thread.work()
    assert seen == [b"%d" % number for number in range(1, 100)]


def test_closing_waits_for_the_disk(world: _World) -> None:
    """Nothing uses the outbox any more afterwards."""
    world.next()
    world.thread.work()
    world.next()
    world.backlog.take()
    world.backlog.finish(1, None, world.clock.now)
    world.backlog.remove()
    world.thread.work()
    world.backlog.close(world.clock.now)
    assert list(world.outbox.messages) == [2, 3]
    assert world.thread.is_idle


def test_a_page_is_read_while_another_one_is_left() -> None:
    """What is sent does not have to wait for the disk: a page is read while another one is left."""
    world = _World()
    for number in range(1000):
        world.outbox.add("a", str(number).encode())
    world.next()
    for _ in range(2):
        world.thread.work()
        world.next()
    assert world.outbox.reads == 32 + 256
    assert world.thread.is_idle
    for _ in range(33):
        assert world.next() is not None
        world.backlog.take()
    assert world.next() is not None
    assert not world.thread.is_idle


def test_large_messages_are_not_read_far_ahead() -> None:
    """A page has 2 MiB at most, and there are two in memory, after a first one that has 32 messages of any size."""
    world = _World()
    for _ in range(100):
        world.outbox.add("a", bytes(128 * 1024))
    world.next()
    while not world.thread.is_idle:
        world.thread.work()
        world.next()
    assert world.outbox.reads == 32
