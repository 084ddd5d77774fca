"""The forwarder against a simulated broker: what it sends, in which order, and what it removes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import pytest

from hsm_enroll.errors import PinWrongError
from hsm_enroll.iot.forwarder import Outcome
from hsm_enroll.store.outbox import QueuedMessage
from tests.client.iot.simulated import SimulatedBroker, Simulation


@pytest.fixture
def simulation() -> Simulation:
    """A forwarder without a limit of its own, and a broker that accepts everything."""
    return Simulation()


def _refusing(topic: str, verdict: str) -> Callable[[QueuedMessage], str]:
    return lambda message: verdict if message.topic == topic else ""


def test_everything_arrives_in_order_and_leaves_the_outbox(simulation: Simulation) -> None:
    """D21: what was queued before the start and what comes later is sent once, in order, and then removed."""
    payloads = simulation.add("a", 300)
    simulation.clock.after(5.0, lambda: payloads.extend(simulation.add("a", 50, first=300)))
    simulation.run(30.0)
    assert [payload for _, payload in simulation.broker.received] == payloads
    assert simulation.outbox.messages == {}
    assert simulation.forwarder.totals.sent == 350


def test_nothing_is_removed_without_an_acknowledgement(simulation: Simulation) -> None:
    """A message that the broker never answers stays in the outbox, however long it takes, and is not set aside."""
    simulation.add("a", 3)
    simulation.broker.script = lambda _: None
    simulation.run(4000.0)
    assert len(simulation.outbox.messages) == 3
    assert simulation.outbox.aside == {}


@pytest.mark.parametrize(("receive_maximum", "most"), [(1, 1), (7, 7), (100, 64), (65535, 64)])
def test_no_more_is_in_flight_than_the_broker_takes(receive_maximum: int, most: int) -> None:
    """The broker's Receive Maximum is kept (MQTT 5.0 §3.2.2.3.3), and this side's own limit."""
    simulation = Simulation()
    simulation.broker.receive_maximum = receive_maximum
    simulation.broker.connect()
    simulation.add("a", 300)
    simulation.run(60.0)
    assert simulation.broker.most_in_flight == most
    assert simulation.outbox.messages == {}


def test_many_answers_are_taken_at_once(simulation: Simulation) -> None:
    """While no more may be in flight, many are sent at a time, and not one message for each answer."""
    broker = simulation.broker

    def answer_apart(_: QueuedMessage) -> str:
        broker.one_way += 0.00001
        return ""

    broker.script = answer_apart
    simulation.add("a", 64 + 10 * 32)
    simulation.run(30.0)
    assert simulation.outbox.messages == {}
    assert len({at for at, _ in broker.sent}) < len(broker.sent) / 8


def test_large_messages_are_in_flight_one_mebibyte_at_a_time(simulation: Simulation) -> None:
    """On a slow network more would only make the last one wait until it counts as lost."""
    for number in range(40):
        simulation.outbox.add("a", bytes(128 * 1024) + str(number).encode())
    simulation.run(30.0)
    assert simulation.broker.most_in_flight == 7
    assert simulation.outbox.messages == {}


def test_the_rate_is_kept_in_every_second(simulation: Simulation) -> None:
    """At most the configured messages in any one second, and hardly fewer over time."""
    simulation = Simulation(rate=100.0)
    simulation.add("a", 1000)
    simulation.run(60.0)
    times = [at for at, _ in simulation.broker.sent]
    assert max(sum(1 for other in times if at <= other < at + 1.0) for at in times) == 100
    assert 9.5 <= times[-1] - times[0] <= 10.1


def test_the_rate_is_told() -> None:
    """The totals say how many messages a second were acknowledged lately; none, when nothing has come for a while."""
    simulation = Simulation(rate=50.0)
    simulation.add("a", 1000)
    told: list[float] = []
    for seconds in (5.0, 15.0, 35.0):
        simulation.clock.after(seconds, lambda: told.append(simulation.forwarder.totals.rate))
    simulation.run(40.0)
    assert told == pytest.approx([50.0, 50.0, 0.0], rel=0.05)


def test_what_was_in_flight_is_sent_again_in_order(simulation: Simulation) -> None:
    """After a loss the next link gets what was not acknowledged, in order; only that arrives twice."""
    topics = {topic: simulation.add(topic, 100) for topic in ("a", "b")}
    broker = simulation.broker

    for seconds in (0.025, 0.54, 1.06):
        simulation.clock.after(seconds, broker.cut)
    simulation.run(30.0)
    for topic, payloads in topics.items():
        assert broker.payloads(topic) == payloads
    assert simulation.outbox.messages == {}
    assert broker.links_lost == 3
    assert 0 < len(broker.received) - 200 <= 3 * 64
    # What was on its way to the broker when the link ended was sent twice, too, but arrived once.
    assert len(broker.received) - 200 <= simulation.forwarder.totals.repeated == len(broker.sent) - 200


def test_nothing_is_sent_while_there_is_no_link(simulation: Simulation) -> None:
    """D21: during an outage messages wait, and are not read again and again."""
    simulation.broker.reconnects_after = 3600.0
    simulation.broker.cut()
    simulation.add("a", 10)
    simulation.run(3000.0)
    assert simulation.broker.sent == []
    assert len(simulation.outbox.messages) == 10
    assert simulation.outbox.reads == 0


def test_a_link_without_answers_is_given_up(simulation: Simulation) -> None:
    """Half-open TCP, or a broker that accepts and never answers: after the timeout another link is tried."""
    payloads = simulation.add("a", 10)
    answers = iter([None] * 10)
    simulation.broker.script = lambda _: next(answers, "")
    simulation.run(60.0)
    assert simulation.broker.payloads("a") == payloads
    assert simulation.broker.links_lost == 1
    gave_up = next(at for at, payload in simulation.broker.sent[10:] if payload == payloads[0])
    assert 20.0 <= gave_up - simulation.broker.sent[0][0] <= 21.0


def test_a_slow_broker_is_not_given_up_while_it_answers() -> None:
    """The timeout counts from the last answer: on a slow network the last of many messages may take longer."""
    simulation = Simulation(timeout=20.0)
    payloads = simulation.add("a", 64)
    broker = simulation.broker
    broker.script = _one_after_the_other(broker)
    simulation.run(400.0)
    assert broker.links_lost == 0
    assert [payload for _, payload in broker.received] == payloads


def _one_after_the_other(broker: SimulatedBroker) -> Callable[[QueuedMessage], str]:
    """Five seconds for each message."""
    begin = broker.clock.now

    def answer(_: QueuedMessage) -> str:
        broker.one_way = 5.0 * (len(broker.received) + 1) - (broker.clock.now - begin)
        return ""

    return answer


def test_a_message_that_the_broker_has_discarded_is_sent_again(simulation: Simulation) -> None:
    """AWS IoT drops what exceeds its quota without an answer: the message is late although others are answered."""
    payloads = simulation.add("a", 5)
    dropped = iter([""] * 2 + [None])
    simulation.broker.script = lambda _: next(dropped, "")
    for second in range(1, 30):
        simulation.clock.after(second, lambda: simulation.add("b", 1))
    simulation.run(60.0)
    assert sorted(simulation.broker.payloads("a")) == payloads
    assert simulation.broker.links_lost == 1
    begin, again = [at for at, payload in simulation.broker.sent if payload == payloads[2]]
    assert 20.0 <= again - begin <= 21.0
    assert simulation.outbox.messages == {}


def test_a_refused_topic_is_set_aside_and_the_others_go_on(simulation: Simulation) -> None:
    """A topic that the policy does not allow waits while others are sent; after three tries it is set aside."""
    refused, fine = simulation.add("no", 150), simulation.add("yes", 150)
    simulation.broker.script = _refusing("no", "NOT_AUTHORIZED")
    simulation.run(1.0)
    assert simulation.broker.payloads("yes") == fine
    assert simulation.outbox.aside == {}
    simulation = _again(simulation)
    simulation.run(120.0)
    assert simulation.outbox.aside == dict.fromkeys(refused, "NOT_AUTHORIZED")
    assert list(simulation.outbox.aside) == refused
    assert simulation.told == [("no", "NOT_AUTHORIZED")] * 150
    assert simulation.outbox.messages == {}
    tries = [payload for _, payload in simulation.broker.sent]
    assert tries.count(refused[0]) == 3


def _again(before: Simulation) -> Simulation:
    """Return the simulation with another run of the program: the same outbox and broker."""
    after = Simulation()
    for message, _ in before.outbox.messages.values():
        after.outbox.add(message.topic, message.payload)
    after.broker.script = before.broker.script
    return after


def test_a_refusal_that_passes_costs_neither_messages_nor_order(simulation: Simulation) -> None:
    """A policy that is attached a little late: the topic is tried again, in its order, and nothing is set aside."""
    payloads = simulation.add("a", 100)
    simulation.clock.after(4.0, lambda: payloads.extend(simulation.add("a", 10, first=100)))
    simulation.broker.script = lambda _: "NOT_AUTHORIZED" if simulation.clock.now < 1003.0 else ""
    simulation.run(60.0)
    assert [payload for _, payload in simulation.broker.received] == payloads
    assert simulation.outbox.aside == {}


def test_a_full_quota_is_waited_for(simulation: Simulation) -> None:
    """QUOTA_EXCEEDED is not the message's fault: nothing is set aside, and less is sent."""
    payloads = simulation.add("a", 20)
    simulation.broker.script = lambda _: "QUOTA_EXCEEDED" if simulation.clock.now < 2000.0 else ""
    simulation.run(1200.0)
    assert [payload for _, payload in simulation.broker.received] == payloads
    assert simulation.outbox.aside == {}
    assert len(simulation.broker.sent) < 120


def test_a_full_quota_slows_every_topic_down(simulation: Simulation) -> None:
    """It is the connection's or the account's: for a second nothing is sent at all."""
    simulation = Simulation(rate=50.0)
    simulation.add("b", 10)
    simulation.add("a", 1)
    simulation.add("b", 190, first=10)
    answers = iter(["QUOTA_EXCEEDED"])
    simulation.broker.script = lambda message: next(answers, "") if message.topic == "a" else ""
    simulation.run(60.0)
    times = [at for at, _ in simulation.broker.sent]
    assert max(later - earlier for earlier, later in pairwise(times[:100])) >= 0.95
    assert simulation.outbox.messages == {}


@pytest.mark.parametrize("verdict", ["NOT_AUTHORIZED", "QUOTA_EXCEEDED"])
def test_a_topic_whose_refused_message_expires_goes_on_in_order(simulation: Simulation, verdict: str) -> None:
    """The message after it takes its place: it is tried again, and before what was added later."""
    simulation.outbox.add("a", b"expires", 3.0)
    payloads = simulation.add("a", 3)
    simulation.broker.script = lambda _: verdict if simulation.clock.now < 1010.0 else ""
    simulation.clock.after(20.0, lambda: payloads.extend(simulation.add("a", 2, first=3)))
    simulation.run(200.0)
    assert [payload for _, payload in simulation.broker.received] == payloads
    assert simulation.outbox.messages == {}


@pytest.mark.parametrize("verdict", ["NOT_AUTHORIZED", "close"])
def test_what_follows_a_refused_message_that_expires_is_set_aside(simulation: Simulation, verdict: str) -> None:
    """Its tries are counted, so that the topic does not wait, or end connections, for ever."""
    seen = iter([True])

    def script(message: QueuedMessage) -> str:
        if message.topic == "a" and next(seen, False):
            simulation.clock.after(4.0, partial(simulation.outbox.messages.pop, message.id))
        return verdict if message.topic == "a" else ""

    simulation.add("a", 1)
    following = simulation.add("a", 1, first=1)
    for second in range(10, 900, 10):
        simulation.clock.after(second, partial(simulation.add, "b", 1, second))
    simulation.broker.script = script
    simulation.run(1000.0)
    assert list(simulation.outbox.aside) == following
    assert simulation.outbox.messages == {}
    assert simulation.broker.links_lost < 10


def test_a_late_refusal_from_a_topic_whose_wait_is_over_has_it_tried_again(simulation: Simulation) -> None:
    """A refused message waits for those in flight behind it, and is sent when the last of them is answered."""
    payloads = simulation.add("a", 3)
    verdicts = iter(["NOT_AUTHORIZED"] * 3)
    simulation.broker.script = _slowing(simulation.broker, verdicts, after=2)
    simulation.clock.after(12.0, lambda: payloads.extend(simulation.add("a", 2, first=3)))
    simulation.run(60.0)
    assert [payload for _, payload in simulation.broker.received] == payloads
    assert simulation.outbox.messages == {}


def test_a_wait_that_ends_as_another_begins_is_not_forgotten(simulation: Simulation) -> None:
    """A topic is tried again in its order, although another one is refused at the moment at which its wait ends."""
    payloads = simulation.add("a", 1)
    simulation.clock.after(5.0, partial(simulation.add, "b", 1))
    simulation.clock.after(5.0, lambda: payloads.extend(simulation.add("a", 1, first=1)))
    refused = set[str]()

    def script(message: QueuedMessage) -> str:
        is_new = message.topic not in refused
        refused.add(message.topic)
        return "NOT_AUTHORIZED" if is_new else ""

    simulation.broker.script = script
    simulation.run(60.0)
    assert simulation.broker.payloads("a") == payloads
    a_again = [at for at, payload in simulation.broker.sent if payload == payloads[0]][1]
    assert a_again < 1006.0


def test_a_loss_while_a_refused_message_waits_keeps_the_order(simulation: Simulation) -> None:
    """The next link gets the refused message before those that were in flight behind it."""
    payloads = simulation.add("a", 3)
    verdicts = iter(["NOT_AUTHORIZED"] * 3)
    simulation.broker.script = _slowing(simulation.broker, verdicts, after=2)
    simulation.clock.after(6.0, simulation.broker.cut)
    simulation.run(60.0)
    assert [payload for _, payload in simulation.broker.received] == payloads
    assert simulation.outbox.messages == {}


def _slowing(broker: SimulatedBroker, verdicts: Iterator[str], after: int) -> Callable[[QueuedMessage], str]:
    """The next verdict, or an acknowledgement; the one after so many takes seven seconds."""
    numbers = itertools.count()

    def answer(_: QueuedMessage) -> str:
        broker.one_way = 7.0 if next(numbers) == after else 0.01
        return next(verdicts, "")

    return answer


@pytest.mark.parametrize("reason", ["TOPIC_NAME_INVALID", "PAYLOAD_FORMAT_INVALID"])
def test_what_will_never_be_accepted_is_set_aside_at_once(simulation: Simulation, reason: str) -> None:
    """The same message would get the same answer."""
    bad = simulation.add("no", 1)
    simulation.broker.script = _refusing("no", reason)
    simulation.run(2.0)
    assert simulation.outbox.aside == dict.fromkeys(bad, reason)
    assert len(simulation.broker.sent) == 1


@pytest.mark.parametrize("verdict", ["close", "close PACKET_TOO_LARGE"])
def test_a_message_that_ends_the_connection_is_found_and_set_aside(simulation: Simulation, verdict: str) -> None:
    """A broker that answers one message by closing the connection gets all others; the one is set aside."""
    before = simulation.add("yes", 70)
    bad = simulation.add("no", 1)
    after = simulation.add("yes", 70, first=70)
    for second in range(10, 300, 10):
        simulation.clock.after(second, partial(simulation.add, "other", 1, second))
    simulation.broker.script = _refusing("no", verdict)
    simulation.run(300.0)
    assert simulation.broker.payloads("yes") == before + after
    assert list(simulation.outbox.aside) == bad
    assert simulation.outbox.aside[bad[0]].startswith("the broker ended the connection")
    assert simulation.outbox.messages == {}


def test_after_a_message_that_ends_connections_others_are_sent_together(simulation: Simulation) -> None:
    """One acknowledgement shows that the broker works: then many are in flight again."""
    simulation.add("no", 1)
    simulation.add("yes", 70)
    simulation.broker.script = _refusing("no", "close")
    simulation.clock.after(200.0, lambda: setattr(simulation.broker, "most_in_flight", 0))
    simulation.clock.after(200.0, lambda: simulation.add("yes", 70, first=70))
    simulation.run(300.0)
    assert simulation.broker.most_in_flight == 64


def test_what_is_acknowledged_at_the_moment_of_a_loss_is_not_sent_again(simulation: Simulation) -> None:
    """An answer that came before the end of its link counts."""
    simulation.add("a", 200)
    numbers = itertools.count(1)
    simulation.broker.script = lambda _: "last" if next(numbers) % 10 == 0 else ""
    simulation.run(200.0)
    arrived = [payload for _, payload in simulation.broker.received]
    last = [payload for number, payload in enumerate(arrived, 1) if number % 10 == 0]
    assert all(arrived.count(payload) == 1 for payload in last)
    assert simulation.outbox.messages == {}


def test_what_is_acknowledged_at_the_end_is_removed(simulation: Simulation) -> None:
    """An answer that came before the error that ends the run counts."""
    simulation.add("a", 1)

    def script(_: QueuedMessage) -> str:
        simulation.broker.give_up(PinWrongError("no"))
        return "last"

    simulation.broker.script = script
    with pytest.raises(PinWrongError):
        simulation.run(60.0)
    assert simulation.outbox.messages == {}


def test_what_cannot_be_removed_is_not_sent_when_a_topic_is_tried_again(simulation: Simulation) -> None:
    """D11: going back for a topic that has waited passes over what is acknowledged, and still in the outbox."""
    simulation.add("late", 1)
    simulation.add("a", 30)
    simulation.outbox.failing = {"remove"}
    simulation.clock.after(20.0, simulation.outbox.failing.clear)
    answers = iter(["NOT_AUTHORIZED"])
    simulation.broker.script = lambda message: next(answers, "") if message.topic == "late" else ""
    simulation.run(60.0)
    assert len(simulation.broker.received) == 31
    assert simulation.outbox.messages == {}


def test_what_is_removed_after_it_was_read_again_is_not_sent_again(simulation: Simulation) -> None:
    """D11: going back reads what is acknowledged again; it is still not sent if it is removed before its turn."""
    simulation.add("late", 1)
    simulation.add("later", 1)
    simulation.add("a", 20)
    simulation.outbox.failing = {"remove"}
    simulation.clock.after(10.0, simulation.outbox.failing.clear)
    broker = simulation.broker
    broker.receive_maximum = 1
    broker.connect()
    late = iter(["NOT_AUTHORIZED"])
    later = iter(["NOT_AUTHORIZED"])

    def script(message: QueuedMessage) -> str:
        verdict = next({"late": late, "later": later}.get(message.topic, iter(())), "")
        broker.one_way = 10.0 if message.topic == "late" and not verdict else 0.01
        return verdict

    broker.script = script
    simulation.run(60.0)
    assert len(broker.received) == 22
    assert simulation.outbox.messages == {}


@pytest.mark.parametrize("answer", ["close", "UNSPECIFIED_ERROR", "IMPLEMENTATION_SPECIFIC_ERROR"])
def test_a_broker_that_accepts_nothing_costs_one_message_at_most(simulation: Simulation, answer: str) -> None:
    """A broker that closes the connection at whatever message, or only says no, is at fault itself: they stay."""
    payloads = [payload for topic in "abcdefgh" for payload in simulation.add(topic, 5)]
    broken_until = simulation.clock.now + 7200.0
    simulation.broker.script = lambda _: answer if simulation.clock.now < broken_until else ""
    simulation.run(9000.0)
    assert len(simulation.outbox.aside) <= 1
    received = {payload for _, payload in simulation.broker.received}
    assert received | set(simulation.outbox.aside) == set(payloads)
    assert simulation.outbox.messages == {}


def test_a_broker_that_restarts_again_and_again_costs_nothing(simulation: Simulation) -> None:
    """No message is blamed for what the broker says is its own reason."""
    payloads = simulation.add("a", 5)
    answers = iter(["close SERVER_SHUTTING_DOWN"] * 20)
    simulation.broker.script = lambda _: next(answers, "")
    simulation.run(300.0)
    assert simulation.broker.payloads("a") == payloads
    assert simulation.outbox.aside == {}


def test_links_that_end_while_nothing_is_sent_blame_nobody(simulation: Simulation) -> None:
    """A message is only blamed if its link had lasted a while without it."""
    payloads = simulation.add("a", 3)
    broker = simulation.broker
    for tenth in range(2, 2000, 6):
        simulation.clock.after(tenth / 10, broker.cut)
    broker.one_way = 1.0
    simulation.run(260.0)
    assert simulation.outbox.aside == {}
    assert broker.payloads("a") == payloads


def test_stopping_finishes_what_is_in_flight(simulation: Simulation) -> None:
    """D20: nothing new is sent, and what is acknowledged within the timeout is removed."""
    simulation.add("a", 200)
    simulation.broker.one_way = 2.0
    assert simulation.run(1.0) is Outcome.STOPPED
    assert len(simulation.broker.sent) == 64
    assert len(simulation.outbox.messages) == 136
    assert simulation.clock.now < 1010.0


def test_stopping_does_not_wait_for_ever(simulation: Simulation) -> None:
    """D20: a broker that does not answer delays the end by the timeout at most."""
    simulation.add("a", 2)
    simulation.broker.script = lambda _: None
    simulation.run(1.0)
    assert len(simulation.outbox.messages) == 2
    assert simulation.clock.now <= 1023.0


def test_another_identity_takes_over_without_a_loss_or_a_duplicate(simulation: Simulation) -> None:
    """A renewal: what is in flight is acknowledged before the connection is given up, and the next one goes on."""
    payloads = simulation.add("a", 1000)
    simulation.broker.one_way = 0.5
    first = simulation.forwarder.run(simulation.broker, lambda: simulation.clock.now > 1003.0)
    assert first is Outcome.CHANGED
    assert simulation.broker.links_lost == 0
    assert 0 < len(simulation.broker.received) < 1000
    simulation.broker.connect()
    simulation.run(60.0)
    assert [payload for _, payload in simulation.broker.received] == payloads


def test_another_identity_is_noticed_at_once_when_an_attempt_fails(simulation: Simulation) -> None:
    """Who wakes it need not wait for the next of the regular looks."""
    simulation.clock.after(1.5, simulation.forwarder.wake)
    assert simulation.forwarder.run(simulation.broker, lambda: simulation.clock.now > 1001.0) is Outcome.CHANGED
    assert simulation.clock.now == 1001.5


def test_whoever_cannot_connect_any_more_ends_with_the_error(simulation: Simulation) -> None:
    """D1: a wrong PIN ends the run; what was acknowledged before is removed."""
    simulation.add("a", 10)
    simulation.clock.after(1.0, lambda: simulation.broker.give_up(PinWrongError("no")))
    with pytest.raises(PinWrongError):
        simulation.run(60.0)
    assert simulation.outbox.messages == {}


def test_a_full_disk_while_draining_costs_no_duplicates(simulation: Simulation) -> None:
    """D21: what cannot be removed now is removed later, and not sent again while the process lives."""
    payloads = simulation.add("a", 300)
    simulation.outbox.failing = {"remove"}
    simulation.clock.after(10.0, simulation.outbox.failing.clear)
    simulation.clock.after(0.5, simulation.broker.cut)
    simulation.run(60.0)
    assert [payload for _, payload in simulation.broker.received] == payloads
    assert simulation.outbox.messages == {}
    assert simulation.forwarder.backlog.trouble is None


def test_a_full_disk_is_told(simulation: Simulation) -> None:
    """While it lasts, the forwarder knows why nothing is removed."""
    simulation.add("a", 3)
    simulation.outbox.failing = {"remove"}
    simulation.run(5.0)
    assert "no space left" in str(simulation.forwarder.backlog.trouble)


def test_a_disk_that_cannot_be_read_is_tried_again(simulation: Simulation) -> None:
    """D11: the forwarder goes on when the outbox can be read again."""
    payloads = simulation.add("a", 3)
    simulation.outbox.failing = {"next"}
    simulation.clock.after(30.0, simulation.outbox.failing.clear)
    simulation.run(60.0)
    assert simulation.broker.payloads("a") == payloads


def test_a_message_that_expires_while_it_waits_is_not_sent(simulation: Simulation) -> None:
    """An expiry counts while the message waits for its turn; what is left of it goes with the message."""
    simulation = Simulation(rate=1.0)
    simulation.add("a", 20)
    simulation.outbox.add("a", b"late", 10.0)
    simulation.outbox.add("a", b"in time", 100.0)
    simulation.run(120.0)
    assert simulation.broker.payloads("a")[-1] == b"in time"
    assert b"late" not in simulation.broker.payloads("a")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_nothing_is_lost_and_the_order_is_kept(seed: int) -> None:
    """D21: after losses, dead links and slow answers all have arrived, in order; twice only what was in flight."""
    chance = random.Random(seed)
    simulation = Simulation(rate=chance.choice([0.0, 50.0]))
    broker = simulation.broker
    broker.receive_maximum = chance.choice([1, 5, 100])
    topics = {f"t{number}": simulation.add(f"t{number}", 40) for number in range(5)}

    def script(_: QueuedMessage) -> str | None:
        broker.one_way = chance.uniform(0.001, 0.2)
        return "" if simulation.clock.now > 1300.0 or chance.random() > 0.01 else chance.choice(["close", "dead"])

    broker.script = script
    for _ in range(10):
        simulation.clock.after(chance.uniform(0.0, 60.0), partial(broker.cut, chance.choice([None, "SERVER_BUSY"])))
    simulation.run(2000.0)
    aside = set(simulation.outbox.aside)
    assert not aside
    for topic, payloads in topics.items():
        assert broker.payloads(topic) == payloads
    assert simulation.outbox.messages == {}
    assert len(broker.received) - 200 <= 64 * broker.links_lost


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_refused_or_expires_the_others_arrive_in_order(seed: int) -> None:
    """D21: after refusals, expiries, losses and very slow answers nothing is left, and all else has come in order."""
    chance = random.Random(seed)
    simulation = Simulation(rate=chance.choice([0.0, 20.0]))
    broker, outbox = simulation.broker, simulation.outbox
    broker.receive_maximum = chance.choice([1, 5, 100])
    broker.script = _capricious(simulation, chance)
    topics: dict[str, list[bytes]] = {f"t{number}": [] for number in range(3)}
    expiring = set[bytes]()

    def add(topic: str) -> None:
        payload = f"{topic} {len(topics[topic])}".encode()
        topics[topic].append(payload)
        expires_in = chance.choice([None, None, chance.uniform(1.0, 60.0)])
        if expires_in is not None:
            expiring.add(payload)
        outbox.add(topic, payload, expires_in)

    for topic, number in itertools.product(topics, range(40)):
        simulation.clock.after(0.0 if number < 20 else chance.uniform(0.0, 100.0), partial(add, topic))
    for _ in range(5):
        simulation.clock.after(chance.uniform(0.0, 100.0), partial(broker.cut, chance.choice([None, "SERVER_BUSY"])))
    simulation.run(2000.0)
    assert outbox.messages == {}
    for topic, payloads in topics.items():
        arrived = broker.payloads(topic)
        assert arrived == sorted(arrived, key=payloads.index)
        assert set(payloads) - set(arrived) <= expiring | set(outbox.aside)


def _capricious(simulation: Simulation, chance: random.Random) -> Callable[[QueuedMessage], str | None]:
    """Refusals, losses and slow answers for five minutes; but what is behind a refused message is refused as well.

    A broker that accepted it would break the order by itself.
    """
    refused: dict[str, set[int]] = {}

    def script(message: QueuedMessage) -> str | None:
        before = refused.setdefault(message.topic, set())
        simulation.broker.one_way = chance.choice([*[chance.uniform(0.001, 0.2)] * 20, chance.uniform(5.0, 8.0)])
        is_over = simulation.clock.now > 1300.0
        is_behind = any(each < message.id and each in simulation.outbox.messages for each in before)
        if is_behind or (not is_over and chance.random() < (0.5 if message.id in before else 0.04)):
            before.add(message.id)
            return chance.choice(["NOT_AUTHORIZED", "QUOTA_EXCEEDED"])
        if not is_over and chance.random() < 0.01:
            return chance.choice(["close", "dead"])
        before.discard(message.id)
        return ""

    return script
