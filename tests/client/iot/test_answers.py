"""How the forwarder's thread waits for answers."""

from __future__ import annotations

from functools import partial

import pytest

from hsm_enroll.iot.answers import Answers
from tests.client.iot.simulated import SimulatedBroker, SimulatedClock, SimulatedLink, SimulatedOutbox


class _World:
    """A link whose answers come when the clock shows their time."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        self.outbox = SimulatedOutbox(self.clock)
        self.answers = Answers(self.outbox)
        self.link = SimulatedLink(SimulatedBroker(self.clock))

    def answer_after(self, *seconds: float) -> None:
        """Have an answer come after each of these times."""
        for message_id, each in enumerate(seconds, start=1):
            self.clock.after(each, partial(self.answers.add, self.link, message_id, None))


@pytest.fixture
def world() -> _World:
    """A link without answers so far."""
    return _World()


def test_answers_are_taken_in_their_order(world: _World) -> None:
    """They come with their link, the message's id and the reason."""
    world.answers.add(world.link, 1, None)
    world.answers.add(world.link, 2, "NOT_AUTHORIZED")
    assert len(world.answers) == 2
    assert world.answers.take() == (world.link, 1, None)
    assert world.answers.take() == (world.link, 2, "NOT_AUTHORIZED")


def test_an_answer_ends_the_wait(world: _World) -> None:
    """If one is enough, no other one is waited for."""
    world.answer_after(1.0, 1.0001)
    world.answers.wait(20.0, wanted=1)
    assert len(world.answers) == 1
    assert world.clock.now == 1001.0


def test_after_an_answer_several_are_waited_for(world: _World) -> None:
    """Those that follow closely end the wait when there are as many as are wanted."""
    world.answer_after(1.0, 1.0001, 1.0002, 1.0003)
    world.answers.wait(20.0, wanted=2)
    world.answers.take()
    world.answers.wait(20.0, wanted=2)
    assert len(world.answers) == 2
    assert world.clock.now == 1001.0002


def test_several_answers_are_not_waited_for_long(world: _World) -> None:
    """If they do not follow closely, the next wait is for a single one again."""
    world.answer_after(1.0, 1.5, 1.5001)
    world.answers.wait(20.0, wanted=2)
    world.answers.take()
    world.answers.wait(20.0, wanted=2)
    assert len(world.answers) == 0
    assert world.clock.now <= 1001.002
    world.answers.wait(20.0, wanted=2)
    assert len(world.answers) == 1
    assert world.clock.now == 1001.5


def test_an_answer_before_the_wait_is_not_overlooked(world: _World) -> None:
    """An answer that came just before the wait ends it."""
    world.answer_after(0.0)
    world.clock.advance(0.0)
    world.answers.wait(20.0, wanted=1)
    assert world.clock.now == 1000.0


def test_the_wait_ends_without_answers(world: _World) -> None:
    """It takes as long as it may, and a message that is added ends it."""
    world.answers.wait(20.0, wanted=1)
    assert world.clock.now == 1020.0
    world.clock.after(1.0, lambda: world.outbox.add("a", b""))
    world.answers.wait(20.0, wanted=1)
    assert world.clock.now == 1021.0
