"""The message that shows that a new certificate works, with a connection in memory."""

from __future__ import annotations

import json
from typing import cast

import pytest

from hsm_enroll.device import first_message, round_trip
from hsm_enroll.device.ports import Nobody
from hsm_enroll.errors import MqttError
from hsm_enroll.iot import Connection, Message
from tests.support.world import FakeClock


class _Broker:
    """A connection to a broker that delivers to its subscriber what was published, and other things before it."""

    def __init__(self, *others: bytes, delivers: bool = True) -> None:
        self.topics: list[str] = []
        self.published: list[tuple[str, bytes]] = []
        self._queue = list(others)
        self._delivers = delivers

    def subscribe(self, topic: str) -> _Broker:
        assert not self.published, "it has to subscribe first"
        self.topics.append(topic)
        return self

    def publish(self, topic: str, payload: bytes) -> None:
        self.published.append((topic, payload))
        if self._delivers:
            self._queue.append(payload)

    def receive(self, timeout: float) -> Message | None:
        assert 0 < timeout <= 5
        if not self._queue:
            return None
        return Message(self.topics[0], self._queue.pop(0))


def test_the_same_message_has_to_come_back() -> None:
    """It is sent to the Thing's own topic, after a subscription to it; what others send there does not count."""
    broker = _Broker(b"hello", b"")
    round_trip.make(cast("Connection", broker), "gateway-17")
    [(topic, payload)] = broker.published
    assert (broker.topics, topic) == (["certtest/gateway-17"], "certtest/gateway-17")
    assert json.loads(payload)["thingName"] == "gateway-17"
    other = _Broker()
    round_trip.make(cast("Connection", other), "gateway-17")
    assert other.published[0][1] != payload


def test_a_message_that_does_not_come_back_is_an_error() -> None:
    """A broker that only takes messages has not shown that the certificate may receive any."""
    with pytest.raises(MqttError, match="did not deliver"):
        round_trip.make(cast("Connection", _Broker(b"hello", delivers=False)), "gateway-17")


def test_a_message_that_was_dropped_is_sent_again() -> None:
    """Until AWS IoT knows the new certificate's rights, it drops messages in silence: the whole is tried again."""
    brokers = [_Broker(delivers=False), _Broker(delivers=False), _Broker()]
    left, clock = list(brokers), FakeClock()
    first_message.send(lambda: round_trip.make(cast("Connection", left.pop(0)), "gateway-17"), clock, Nobody())
    assert [len(broker.published) for broker in brokers] == [1, 1, 1]
    assert (left, len(clock.waits)) == ([], 2)
