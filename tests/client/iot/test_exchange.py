"""Requests and subscriptions over a connection's links."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

from hsm_enroll.iot.exchange import Exchange
from hsm_enroll.iot.link import Link
from hsm_enroll.iot.target import Target


class _Link:
    """A link that is open, answers nothing, and runs a function just before it sends a certain request."""

    accepts_qos_0_only = False

    def __init__(self) -> None:
        self.ended: Future[None] = Future()
        self.sent: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}

    def request(self, what: str, _send: Callable[[Any], Future[Any]]) -> Future[Any]:
        """Record a request as sent."""
        self.before.get(what, lambda: None)()
        self.sent.append(what)
        return Future()


def test_a_thread_that_subscribes_while_another_unsubscribes_keeps_its_subscription(tmp_path: Path) -> None:
    """The broker gets the SUBSCRIBE last: an UNSUBSCRIBE after it would leave the new subscription without messages."""
    target = Target("gateway-17", "gateway-17", "", tmp_path, "token", "key", "localhost", 8883, None)
    exchange, link = Exchange(target, reconnects=False), _Link()
    exchange.use(cast("Link", link), 1)
    stream, _ = exchange.subscribe("plant/1", 1)
    subscribed = Event()

    def subscribe() -> None:
        exchange.subscribe("plant/1", 1)
        subscribed.set()

    other = Thread(target=subscribe)

    def interrupt() -> None:
        other.start()
        subscribed.wait(0.2)  # it must not get this far

    link.before["unsubscribing from 'plant/1'"] = interrupt
    exchange.unsubscribe(stream)
    other.join()
    assert link.sent[1:] == ["unsubscribing from 'plant/1'", "subscribing to 'plant/1'"]
