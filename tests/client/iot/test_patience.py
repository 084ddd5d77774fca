"""A message that takes longer than the timeout, since the network is slow: it is delivered nevertheless."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hsm_enroll.iot.patience import Patience
from hsm_enroll.store.outbox import QueuedMessage
from tests.client.iot.simulated import SimulatedBroker, Simulation

_LARGE = bytes(100 * 1024)


def _slow(broker: SimulatedBroker, bytes_per_second: float) -> Callable[[QueuedMessage], str]:
    """A network with so many bytes a second, and answers that take as long as the message."""

    def answer(message: QueuedMessage) -> str:
        broker.one_way = message.size / bytes_per_second
        return ""

    return answer


def test_a_message_that_takes_minutes_arrives() -> None:
    """Each attempt has twice as long as the one before, so that it is not sent again for ever."""
    simulation = Simulation(timeout=20.0)
    simulation.broker.script = _slow(simulation.broker, 1024.0)
    simulation.outbox.add("a", _LARGE)
    simulation.outbox.add("a", _LARGE + b"2")
    simulation.run(2000.0)
    assert simulation.outbox.messages == {}
    assert simulation.broker.links_lost == 4  # after 20, 40, 80 and 160 s; the second message had 320 s at once


def test_a_small_message_has_the_usual_time_meanwhile() -> None:
    """A dead link is noticed in time where no large message is on its way."""
    patience = Patience(20.0)
    patience.lose(1000)
    assert (patience.of(999), patience.of(1000), patience.of(5000)) == (20.0, 40.0, 40.0)


def test_the_time_is_the_usual_one_again_when_that_is_enough() -> None:
    """A dead link has nothing to do with the size of the message that was on its way."""
    patience = Patience(20.0)
    patience.lose(1000)
    patience.accept(999, 1.0)
    patience.accept(1000, 30.0)
    assert patience.of(1000) == 40.0
    patience.accept(1000, 1.0)
    assert patience.of(1000) == 20.0


@pytest.mark.parametrize(
    ("timeout", "size", "most"),
    [(20.0, 125, 161.0), (5.0, 12_500, 140.0), (20.0, 128 * 1024, 900.0), (600.0, 125, 900.0), (1000.0, 125, 1000.0)],
)
def test_the_time_has_a_limit(timeout: float, size: int, most: float) -> None:
    """What the message needs at 1 kbit/s, and eight times what was asked for; a quarter of an hour, or what was."""
    patience = Patience(timeout)
    assert [patience.lose(size) for _ in range(20)][-1] == most
