"""Subscriptions of a process that stays connected: over one link after another, and with filters that are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hsm_enroll.errors import HsmEnrollError, MqttError
from hsm_enroll.iot import inbox
from hsm_enroll.iot.exchange import Exchange, Request
from hsm_enroll.iot.inbox import Message, Stream
from hsm_enroll.iot.link import Link
from hsm_enroll.iot.listening import Listening
from hsm_enroll.iot.target import Target

_TARGET = Target("gateway-17", "gateway-17", "", Path("/module"), "token", "key", "localhost", 8883, None)
_GRANTED, _REFUSED = 1, 0x87  # MQTT 5.0 §3.9.3
_TIMEOUT = 20.0


class _Link:
    """A link whose broker answers when the test says so.

    Attributes:
        asked: the requests, in order.
    """

    accepts_qos_0_only = False

    def __init__(self) -> None:
        self.ended: Future[Any] = Future()
        self.asked: list[tuple[str, Future[Any]]] = []

    def request(self, what: str, _send: Callable[[Any], Future[Any]]) -> Future[Any]:
        """Note a request."""
        self.asked.append((what, Future()))
        return self.asked[-1][1]

    def answer(self, code: int) -> None:
        """Answer the last request."""
        name = {_GRANTED: "GRANTED_QOS_1", _REFUSED: "NOT_AUTHORIZED"}[code]
        self.asked[-1][1].set_result(SimpleNamespace(reason_codes=[_Code(code, name)]))

    def loss(self) -> HsmEnrollError:
        """Say why it has ended."""
        return MqttError("lost")


class _Code(int):
    """A reason code with its name, as awscrt has it."""

    name: str

    def __new__(cls, value: int, name: str) -> _Code:
        made = super().__new__(cls, value)
        made.name = name
        return made


class _World:
    """A listening with its exchange, and what it tells."""

    def __init__(self, *filters: str) -> None:
        self.now = 1000.0
        self.told: list[tuple[str, str | None]] = []
        self.changed = threading.Event()
        self.exchange = Exchange(_TARGET, reconnects=True)
        self.listening = Listening(
            filters, timeout=_TIMEOUT, tell=self._tell, on_change=self.changed.set, clock=lambda: self.now
        )

    def connect(self) -> _Link:
        """Have another link."""
        made = _Link()
        self.exchange.use(cast("Link", made), _TIMEOUT)
        return made

    def lose(self, link: _Link) -> None:
        """Lose the link, and what was asked on it."""
        link.ended.set_result(object())
        for _, answer in link.asked:
            if not answer.done():
                answer.set_exception(link.loss())
        self.exchange.lose(link.loss())

    def take(self, count: int = 100) -> list[Message]:
        """Have it look."""
        return self.listening.take(self.exchange, count)

    def subscribed(self, *answers: int) -> _Link:
        """Have another link, whose broker answers one SUBSCRIBE after another."""
        link = self.connect()
        for code in answers:
            self.take()
            link.answer(code)
        self.take()
        return link

    def deliver(self, topic: str, payload: bytes) -> Message:
        """Have a message arrive."""
        message = Message(topic, payload)
        self.exchange.deliver(message)
        return message

    def _tell(self, topic: str, error: HsmEnrollError | None) -> None:
        self.told.append((topic, error.message if error else None))


def test_filters_are_subscribed_one_after_another_and_their_messages_come() -> None:
    """The next SUBSCRIBE follows the SUBACK; a filter that is given twice is one."""
    world = _World("a/#", "b", "a/#")
    link = world.connect()
    assert world.take() == []
    assert [what for what, _ in link.asked] == ["subscribing to 'a/#'"]
    world.take()
    assert len(link.asked) == 1
    world.changed.clear()
    link.answer(_GRANTED)
    assert world.changed.is_set()
    world.take()
    assert link.asked[-1][0] == "subscribing to 'b'"
    link.answer(_GRANTED)
    world.take()
    assert len(link.asked) == 2
    assert world.told == [("a/#", None), ("b", None)]

    world.changed.clear()
    messages = [world.deliver("a/1", b"1"), world.deliver("a/2", b"2"), world.deliver("b", b"3")]
    assert world.changed.is_set()
    world.deliver("c", b"4")
    assert world.take(1) == [messages[0], messages[2]]
    assert world.take() == [messages[1]]


def test_after_a_loss_all_is_subscribed_again() -> None:
    """Nothing that came before is lost, and the exchange itself does not hold up the link with it."""
    world = _World("a", "b")
    link = world.subscribed(_GRANTED, _GRANTED)
    last = [world.deliver("a", b"last"), world.deliver("a", b"very last")]
    world.lose(link)
    assert world.take(1) == last
    assert world.take() == []
    link = world.connect()  # it would wait for a SUBACK
    world.take()
    assert [what for what, _ in link.asked] == ["subscribing to 'a'"]
    link.answer(_GRANTED)
    world.take()
    link.answer(_GRANTED)
    world.take()
    assert world.told == [("a", None), ("b", None)] * 2
    assert world.take() == []
    message = world.deliver("a", b"new")
    assert world.take() == [message]


def test_what_came_with_a_subscription_is_not_lost_with_its_link() -> None:
    """If a link is lost after the SUBACK, but before anybody has looked, that is no refusal, and no message is lost."""
    world = _World("a")
    for payload in (b"1", b"2", b"3"):
        link = world.connect()
        world.take()
        link.answer(_GRANTED)
        message = world.deliver("a", payload)
        world.lose(link)
        assert world.take() == [message]
    world.subscribed(_GRANTED)
    assert world.told == [("a", None)]


def test_a_link_that_was_lost_and_replaced_unseen_is_noticed() -> None:
    """What is subscribed is subscribed on this very link."""
    world = _World("a")
    world.lose(world.subscribed(_GRANTED))
    link = world.subscribed(_GRANTED)
    assert link.asked[-1][0] == "subscribing to 'a'"
    message = world.deliver("a", b"1")
    assert world.take() == [message]


def test_another_identitys_exchange_is_taken_over() -> None:
    """All is subscribed there; what the one before had received is not lost."""
    world = _World("a")
    world.subscribed(_GRANTED)
    last = world.deliver("a", b"last")
    world.exchange.end(None)
    world.exchange = Exchange(_TARGET, reconnects=True)
    assert world.take() == [last]
    world.subscribed(_GRANTED)
    message = world.deliver("a", b"new")
    assert world.take() == [message]
    assert world.listening.take(None, 1) == []


def test_a_refused_filter_does_not_hold_up_the_others_and_is_tried_again() -> None:
    """It is told once, with the reason; the pauses between the attempts grow, and end when it is accepted."""
    world = _World("no", "yes")
    link = world.subscribed(_REFUSED, _GRANTED)
    refusal = "localhost:8883 refused subscribing to 'no': it is not allowed (NOT_AUTHORIZED)"
    assert world.told == [("no", refusal), ("yes", None)]
    pauses = []
    for code in (_REFUSED, _REFUSED, _GRANTED):
        pauses.append(world.listening.seconds_left)
        world.now += pauses[-1] - 0.1
        world.take()
        count = len(link.asked)
        world.now += 0.2
        world.take()
        assert len(link.asked) == count + 1
        link.answer(code)
        world.take()
    assert pauses == pytest.approx([5, 10, 20], rel=0.1)
    assert world.told[2:] == [("no", None)]
    message = world.deliver("yes", b"1")
    assert world.take() == [message]


def test_a_filter_that_makes_the_broker_end_the_link_waits_like_a_refused_one() -> None:
    """The link can be used for other things meanwhile; a loss once is not suspicious."""
    world = _World("deadly", "yes")
    for _ in range(2):
        link = world.connect()
        world.take()
        assert link.asked[-1][0] == "subscribing to 'deadly'"
        world.lose(link)
        world.take()
    assert world.told == [("deadly", "the connection was lost when subscribing to 'deadly'")]
    link = world.subscribed(_GRANTED)
    assert link.asked[-1][0] == "subscribing to 'yes'"
    world.now += 6.0
    world.take()
    assert link.asked[-1][0] == "subscribing to 'deadly'"


def test_losses_with_answers_in_between_are_not_suspicious() -> None:
    """A bad network is not taken for a refusal."""
    world = _World("a")
    for _ in range(3):
        link = world.connect()
        world.take()
        world.lose(link)
        world.take()
        world.lose(world.subscribed(_GRANTED))
    world.take()
    assert world.told == [("a", None)] * 3


def test_a_link_that_ends_at_that_moment_leaves_nothing_behind() -> None:
    """The request would wait for the next link, where it would be one too many."""
    world = _World("a")
    link = world.connect()
    subscribe = world.exchange.subscribe

    def end_and_subscribe(*arguments: Any, **options: Any) -> tuple[Stream, Request]:
        world.lose(link)
        return subscribe(*arguments, **options)

    world.exchange.subscribe = end_and_subscribe  # type: ignore[method-assign]
    world.take()
    world.take()
    assert world.connect().asked == []


def test_a_broker_that_does_not_answer_is_not_waited_for_forever() -> None:
    """The next filter has its turn after the timeout, and the one without an answer later."""
    world = _World("silent", "yes")
    link = world.connect()
    world.take()
    assert world.listening.seconds_left == _TIMEOUT
    world.now += _TIMEOUT
    world.take()
    assert [topic for topic, _ in world.told] == ["silent"]
    link.answer(_GRANTED)
    world.take()
    assert world.told[1:] == [("yes", None)]


def test_messages_that_come_too_fast_end_a_subscription_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said; those that were kept are delivered, and it is subscribed again."""
    monkeypatch.setattr(inbox, "CAPACITY", 1000)
    world = _World("a")
    link = world.subscribed(_GRANTED)
    kept = [world.deliver("a", b"x" * 100) for _ in range(2)]
    world.deliver("a", b"x" * 1000)
    assert world.take() == kept
    assert len(world.told) == 2
    assert "came faster than they were taken" in str(world.told[1][1])
    world.now += 6.0
    world.take()
    link.answer(_GRANTED)
    world.take()
    assert world.told[-1] == ("a", None)


def test_a_mistake_of_our_own_is_not_taken_for_a_refusal() -> None:
    """An exception that no broker has caused goes to the caller."""
    world = _World("a")
    link = world.connect()
    world.take()
    link.asked[-1][1].set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        world.take()


def test_nothing_is_left_to_do_without_a_link() -> None:
    """Whoever has one says so."""
    world = _World("a")
    world.take()
    assert world.listening.seconds_left == 60.0
