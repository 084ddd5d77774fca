"""Messages for which a broker ends the connection, and connections that end for other reasons."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest

from hsm_enroll.iot.links import Ender
from hsm_enroll.store.outbox import QueuedMessage
from tests.client.iot.simulated import Simulation


@pytest.fixture
def simulation() -> Simulation:
    """A forwarder without a limit of its own, and a broker that accepts everything."""
    return Simulation()


def _answering(topic: str, verdict: str) -> Callable[[QueuedMessage], str]:
    return lambda message: verdict if message.topic == topic else ""


def _add_now_and_then(simulation: Simulation, topic: str, seconds: int) -> None:
    for second in range(10, seconds, 10):
        simulation.clock.after(second, partial(simulation.add, topic, 1, second))


@pytest.mark.parametrize("seed", range(10))
def test_a_network_that_fails_all_the_time_costs_no_message(seed: int) -> None:
    """Connections that are cut or fall silent, whenever it may be, set nothing aside, and all arrives in order."""
    chance = random.Random(seed)
    simulation = Simulation()
    broker = simulation.broker
    payloads = simulation.add("a", 20)

    def script(_: QueuedMessage) -> str:
        broker.one_way = chance.uniform(0.001, 2.0)
        return chance.choice(["", "cut", "cut", "dead"])

    broker.script = script
    for _ in range(200):
        simulation.clock.after(chance.uniform(0.0, 2000.0), broker.cut)
    simulation.run(4000.0)
    assert simulation.outbox.aside == {}
    assert broker.payloads("a") == payloads


def test_a_network_that_always_cuts_a_message_holds_up_its_topic_alone(simulation: Simulation) -> None:
    """What is cut off each time is never set aside, and the others are delivered meanwhile."""
    kept = simulation.add("no", 2)
    others = simulation.add("yes", 50)
    simulation.broker.script = _answering("no", "cut")
    _add_now_and_then(simulation, "other", 1000)
    simulation.run(1000.0)
    assert simulation.outbox.aside == {}
    assert [message.payload for message, _ in simulation.outbox.messages.values()] == kept
    assert simulation.broker.payloads("yes") == others


def test_links_that_are_cut_within_a_second_do_not_stop_it(simulation: Simulation) -> None:
    """A message does not wait for a link that lasts: on such a network there may never be one."""
    payloads = simulation.add("a", 50)
    broker = simulation.broker
    broker.reconnects_after = 0.1
    broker.script = lambda _: "cut" if simulation.clock.now < 1005.0 else ""
    for tenth in range(50, 1200, 8):
        simulation.clock.after(tenth / 10, broker.cut)
    simulation.run(100.0)
    assert broker.payloads("a") == payloads


def test_a_close_without_a_reason_is_believed_when_others_are_accepted_between(simulation: Simulation) -> None:
    """Without any other message that the broker accepts, it may be the broker: the message stays."""
    (payload,) = simulation.add("no", 1)
    simulation.broker.script = _answering("no", "close")
    simulation.run(1000.0)
    assert simulation.outbox.aside == {}
    simulation = Simulation()
    simulation.add("no", 1)
    simulation.broker.script = _answering("no", "close")
    _add_now_and_then(simulation, "other", 300)
    simulation.run(300.0)
    assert list(simulation.outbox.aside) == [payload]


def test_a_reason_is_believed_by_itself(simulation: Simulation) -> None:
    """A broker that says NOT_AUTHORIZED three times means the message, also if there is no other one."""
    (payload,) = simulation.add("no", 1)
    simulation.broker.script = _answering("no", "close NOT_AUTHORIZED")
    simulation.run(300.0)
    assert simulation.outbox.aside == {payload: "the broker ended the connection (NOT_AUTHORIZED)"}
    assert simulation.broker.links_lost == 5  # two before messages are sent alone


def test_a_connection_that_ends_much_later_is_not_the_messages_fault(simulation: Simulation) -> None:
    """A broker answers at once; if it is silent for a while first, something else has happened."""
    payloads = simulation.add("a", 1)
    broker = simulation.broker

    def script(_: QueuedMessage) -> str | None:
        if simulation.clock.now > 1200.0:
            return ""
        assert broker.current is not None
        simulation.clock.after(10.0, partial(broker.current.end, "NOT_AUTHORIZED", Ender.BROKER))
        return None

    broker.script = script
    _add_now_and_then(simulation, "other", 400)
    simulation.run(400.0)
    assert simulation.outbox.aside == {}
    assert broker.payloads("a") == payloads


def test_what_this_side_gives_up_is_not_the_messages_fault() -> None:
    """Also where the timeout is so short that the end of the link comes at once."""
    simulation = Simulation(timeout=1.0)
    payloads = simulation.add("a", 1)
    simulation.broker.script = lambda message: None if message.topic == "a" and simulation.clock.now < 1300.0 else ""
    _add_now_and_then(simulation, "other", 500)
    simulation.run(500.0)
    assert simulation.outbox.aside == {}
    assert simulation.broker.payloads("a") == payloads
