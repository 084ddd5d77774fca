"""Very many topics that the broker refuses: they neither hold up the others nor fill the memory."""

from __future__ import annotations

import random

import pytest

from hsm_enroll.iot.pace import Pace
from hsm_enroll.iot.refusals import Refusals
from hsm_enroll.iot.window import InFlight
from hsm_enroll.store.outbox import QueuedMessage
from tests.client.iot.simulated import Simulation


def _refused(message: QueuedMessage) -> str:
    return "" if message.topic == "yes" else "NOT_AUTHORIZED"


def test_thousands_of_refused_messages_do_not_starve_another_topic() -> None:
    """They get half of the rate at most, once their topics are known, so that others are sent soon."""
    simulation = Simulation(rate=100.0)
    for number in range(10_000):
        simulation.outbox.add(f"no/{number % 20}", b"no %d" % number)
    simulation.broker.script = _refused
    waited: list[float] = []

    def add() -> None:
        begin = simulation.clock.now
        number = len(waited)
        simulation.outbox.add("yes", b"%d" % number)
        waited.append(begin)

    for second in range(40, 100):
        simulation.clock.after(second, add)
    simulation.run(300.0)
    arrived = {payload: at for at, payload in simulation.broker.sent}
    # Whether there are others is looked at every ten seconds.
    assert max(arrived[b"%d" % number] - begin for number, begin in enumerate(waited)) < 11.0
    assert simulation.outbox.messages == {}
    assert len(simulation.outbox.aside) == 10_000


def test_what_is_skipped_is_not_read_all_the_time() -> None:
    """With thousands of messages that wait, others are sent without going through all of them each time."""
    simulation = Simulation(rate=100.0)
    for number in range(5000):
        simulation.outbox.add(f"no/{number % 500}", b"no %d" % number)
    simulation.add("yes", 3000)
    simulation.broker.script = _refused
    simulation.run(35.0)
    assert len(simulation.broker.payloads("yes")) > 1500
    assert simulation.outbox.reads < 100_000


def test_a_topic_whose_wait_is_over_waits_until_what_was_skipped_is_read_again() -> None:
    """D21: its later messages are reached before that, and do not overtake."""
    simulation = Simulation(rate=100.0)
    payloads = simulation.add("a", 1)
    for number in range(8000):
        simulation.outbox.add(f"no/{number % 50}", b"no %d" % number)
    simulation.add("yes", 300)
    for number in range(1, 300):
        payloads += simulation.add("a", 1, first=number)
        simulation.add("yes", 1, first=1000 + number)
    answers = iter(["NOT_AUTHORIZED"])
    simulation.broker.script = lambda message: next(answers, "") if message.topic == "a" else _refused(message)
    simulation.run(200.0)
    assert [payload for topic, payload in simulation.broker.received if topic == "a"] == payloads


def test_nothing_but_refused_topics_is_sent_at_the_whole_rate() -> None:
    """Nobody else needs the other half."""
    simulation = Simulation(rate=100.0)
    simulation.add("no", 3000)
    simulation.broker.script = _refused
    simulation.run(80.0)
    assert simulation.outbox.messages == {}


@pytest.mark.parametrize("seed", range(10))
def test_the_order_is_kept_among_many_topics_that_wait(seed: int) -> None:
    """D21: however often topics are refused for a while, each one's messages arrive in their order."""
    chance = random.Random(seed)
    simulation = Simulation(rate=chance.choice([0.0, 50.0]))
    topics = {f"t{number}": simulation.add(f"t{number}", 20) for number in range(50)}
    refused: dict[str, int] = {}

    def script(message: QueuedMessage) -> str:
        first = refused.get(message.topic)
        if first is not None and message.id > first and first in simulation.outbox.messages:
            return "QUOTA_EXCEEDED"
        if simulation.clock.now < 1200.0 and chance.random() < 0.1:
            refused[message.topic] = message.id
            return "QUOTA_EXCEEDED"
        return ""

    simulation.broker.script = script
    for _ in range(5):
        simulation.clock.after(chance.uniform(0.0, 300.0), simulation.broker.cut)
    simulation.run(3000.0)
    assert simulation.outbox.messages == {}
    for topic, payloads in topics.items():
        assert simulation.broker.payloads(topic) == payloads


def test_refused_topics_do_not_fill_the_memory() -> None:
    """If more topics wait than are remembered, the next one's message is set aside at its first refusal."""
    refusals = Refusals()
    untils = [refusals.refuse(_message(number), "NOT_AUTHORIZED", 0.0, accepted=0) for number in range(10_001)]
    assert set(untils[:-1]) == {5.0}
    assert untils[-1] is None
    assert refusals.refuse(_message(0), "NOT_AUTHORIZED", 5.0, accepted=0) == 35.0
    # A full quota is not the message's fault.
    assert refusals.refuse(_message(20_000), "QUOTA_EXCEEDED", 0.0, accepted=0) == 5.0
    assert not refusals.has("t20000")


def test_topics_whose_messages_were_set_aside_are_forgotten_in_turn() -> None:
    """The first of very many is tried three times again."""
    refusals = Refusals()
    for number in range(1001):
        assert refusals.refuse(_message(number), "TOPIC_NAME_INVALID", 0.0, accepted=0) is None
    assert not refusals.has("t0")
    assert refusals.has("t1")


def _message(number: int) -> InFlight:
    return InFlight(number, f"t{number}", 100, 0.0, number)


@pytest.mark.parametrize("rate", [0.5, 1.0, 1.5, 3.0, 100.0])
@pytest.mark.parametrize("late", [0.0, 0.003, 0.3])
def test_no_second_has_more_messages_than_the_rate(rate: float, late: float) -> None:
    """Whoever wakes up late may catch up, but any one second has at most the rate, rounded up."""
    pace, now, times = Pace(rate), 1000.0, []
    while now < 1030.0:
        if pace.is_open(now):
            pace.take(now)
            times.append(now)
        else:
            now = pace.next_at(now) + late
    most = max(sum(1 for other in times if at <= other < at + 1.0) for at in times)
    assert most <= -(-rate // 1)
    assert len(times) <= 30 * rate + max(1.0, rate / 10) + 1
    if late < 0.01:
        assert len(times) >= 30 * rate * 0.95
