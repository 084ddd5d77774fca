"""A device that listens, and a connection that is used after it was opened."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from pathlib import Path
from typing import cast

import pytest

from hsm_enroll.errors import MqttError, MqttRefusedError, UsageError
from hsm_enroll.iot import Message, QoS
from hsm_enroll.store.identity import Identity
from tests.client.iot.apart import apart, connect
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.broker import Broker, Neighbour
from tests.support.scripted import CONNECT, SUBSCRIBE, Packet
from tests.support.softhsm import PIN


@pytest.fixture
def listener(identity: Identity, broker: Broker) -> Identity:
    """A device whose broker is there."""
    return dataclasses.replace(identity, mqtt_port=broker.port)


def test_messages_of_another_program_are_received(listener: Identity, broker: Broker, authority: Authority) -> None:
    """A subscriber gets what others publish, in order, and may stop after as many as it wants."""
    messages = apart(_receive_two, listener, authority.certificate, broker.neighbour)
    topic = f"device/{listener.thing_name}/orders"
    assert messages == [Message(topic, "première".encode()), Message(topic, b"second")]


def _receive_two(identity: Identity, ca_file: Path, neighbour: Neighbour) -> list[Message]:
    topic = f"device/{identity.thing_name}/orders"
    with connect(identity, PIN, ca_file=ca_file) as connection:
        messages = connection.subscribe(f"device/{identity.thing_name}/+")
        for payload in ("première", "second", "third"):
            neighbour.publish(topic, payload)
        return list(itertools.islice(messages, 2))


def test_two_subscriptions_are_kept_apart(listener: Identity, authority: Authority) -> None:
    """Each subscription of a connection yields its own messages and not the other's."""
    assert apart(_receive_from_two_topics, listener, authority.certificate) == [[b"a", b"c"], [b"b"]]


def _receive_from_two_topics(identity: Identity, ca_file: Path) -> list[list[bytes]]:
    base = f"device/{identity.thing_name}"
    with connect(identity, PIN, ca_file=ca_file) as connection:
        streams = [connection.subscribe(f"{base}/1/#"), connection.subscribe(f"{base}/2")]
        for topic, payload in ((f"{base}/1/x", b"a"), (f"{base}/2", b"b"), (f"{base}/1/y", b"c")):
            connection.publish(topic, payload)
        return [[next(stream).payload for _ in range(count)] for stream, count in zip(streams, (2, 1), strict=True)]


def test_closing_ends_the_messages(listener: Identity, authority: Authority) -> None:
    """Who waits for messages stops waiting, without an error, when another thread closes the connection."""
    assert apart(_close_while_waiting, listener, authority.certificate) == [b"only"]


def _close_while_waiting(identity: Identity, ca_file: Path) -> list[bytes]:
    topic = f"device/{identity.thing_name}/x"
    connection = connect(identity, PIN, ca_file=ca_file)
    received = []
    closer = threading.Thread(target=connection.close)
    messages = connection.subscribe(topic)
    connection.publish(topic, b"only")
    for message in messages:
        received.append(message.payload)
        closer.start()
    closer.join()
    return received


def test_closing_twice_is_closing_once(listener: Identity, broker: Broker, authority: Authority) -> None:
    """A closed connection can be closed again, says goodbye to the broker once, and publishes nothing any more."""
    assert apart(_close_twice, listener, authority.certificate) == "mqtt-failed"
    broker.log.wait_for(f"Received DISCONNECT from {listener.thing_name}")
    broker.log.wait_for(f"Client {listener.thing_name} disconnected.")


def _close_twice(identity: Identity, ca_file: Path) -> str:
    with connect(identity, PIN, ca_file=ca_file) as connection:
        connection.close()
        connection.close()
        with pytest.raises(MqttError, match="is closed") as caught:
            connection.publish(f"device/{identity.thing_name}/x", b"x")
    return caught.value.code


def test_another_library_uses_the_connection_while_it_is_open(listener: Identity, authority: Authority) -> None:
    """awscrt's own client works beside the connection's methods; once the connection is closed it is not given out."""
    assert apart(_publish_with_awscrt, listener, authority.certificate) == b"by awscrt"


def _publish_with_awscrt(identity: Identity, ca_file: Path) -> bytes:
    from awscrt import mqtt5

    topic = f"device/{identity.thing_name}/x"
    with connect(identity, PIN, ca_file=ca_file) as connection:
        messages = connection.subscribe(topic)
        packet = mqtt5.PublishPacket(topic=topic, payload=b"by awscrt", qos=mqtt5.QoS.AT_LEAST_ONCE)
        connection.awscrt_client.publish(packet).result(20.0)
        payload = next(messages).payload
    with pytest.raises(MqttError, match="is closed"):
        _ = connection.awscrt_client
    return payload


def test_a_refused_subscription_is_an_error(identity: Identity, authority: Authority) -> None:
    """A SUBACK with "not authorized" (MQTT 5.0 §3.9.3) is a refusal, not a wait without end."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)

    def script(packet: Packet) -> bytes:
        return scripted.connack(0) if packet.type == CONNECT else scripted.suback(packet, 0x87)

    with scripted.serving(script, context) as port:
        identity = dataclasses.replace(identity, mqtt_port=port)
        with pytest.raises(MqttRefusedError, match=r"'plant/#': it is not allowed \(NOT_AUTHORIZED\)"):
            apart(_subscribe, identity, authority.certificate, "plant/#")


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a+"])
def test_what_is_no_filter_is_wrong_usage(topic_filter: str, listener: Identity, authority: Authority) -> None:
    """A topic filter that MQTT does not allow is the caller's mistake."""
    with pytest.raises(UsageError, match="is not a valid topic filter"):
        apart(_subscribe, listener, authority.certificate, topic_filter)


def _subscribe(identity: Identity, ca_file: Path, topic_filter: str, qos: QoS = 1) -> None:
    with connect(identity, PIN, ca_file=ca_file) as connection:
        connection.subscribe(topic_filter, qos=qos)


def test_receiving_has_a_time_limit(listener: Identity, authority: Authority) -> None:
    """receive returns None when its time is up, and a message as soon as there is one; 0 takes what is there."""
    assert apart(_receive_with_limits, listener, authority.certificate) == [None, None, b"a", b"b", None]


def _receive_with_limits(identity: Identity, ca_file: Path) -> list[bytes | None]:
    topic = f"device/{identity.thing_name}/x"
    with connect(identity, PIN, ca_file=ca_file) as connection:
        messages = connection.subscribe(topic)
        received = [messages.receive(timeout=0), messages.receive(timeout=0.1)]
        connection.publish(topic, b"a")
        connection.publish(topic, b"b")
        received += [messages.receive(timeout=60), messages.receive(), messages.receive(timeout=0)]
        return [None if message is None else message.payload for message in received]


def test_after_unsubscribing_nothing_more_comes(listener: Identity, broker: Broker, authority: Authority) -> None:
    """What had come can still be taken; then iterating stops and receive says so. Other subscriptions go on."""
    before, after, error, other = apart(_unsubscribe, listener, authority.certificate)
    assert (before, after, other) == ([b"a"], [], b"b")
    assert error == f"the subscription to 'device/{listener.thing_name}/x' has ended"
    broker.log.wait_for(f"Received UNSUBSCRIBE from {listener.thing_name}")


def _unsubscribe(identity: Identity, ca_file: Path) -> tuple[list[bytes], list[bytes], str, bytes]:
    topic, elsewhere = (f"device/{identity.thing_name}/{name}" for name in "xy")
    with connect(identity, PIN, ca_file=ca_file) as connection:
        messages, others = connection.subscribe(topic), connection.subscribe(elsewhere)
        connection.publish(topic, b"a")
        connection.publish(elsewhere, b"a")
        assert others.receive().payload == b"a"
        messages.unsubscribe()
        connection.publish(topic, b"b")
        connection.publish(elsewhere, b"b")
        other = others.receive().payload
        before, after = ([message.payload for message in messages] for _ in range(2))
        with pytest.raises(MqttError) as caught:
            messages.receive()
        return before, after, caught.value.message, other


def test_a_subscription_of_the_same_filter_stays(listener: Identity, authority: Authority) -> None:
    """Leaving the block of one of two subscriptions to the same filter leaves the other one in place."""
    assert apart(_leave_one_block, listener, authority.certificate) == b"a"


def _leave_one_block(identity: Identity, ca_file: Path) -> bytes:
    topic = f"device/{identity.thing_name}/x"
    with connect(identity, PIN, ca_file=ca_file) as connection:
        kept = connection.subscribe(topic)
        with connection.subscribe(topic) as left:
            assert left.topic == topic
        connection.publish(topic, b"a")
        assert list(left) == []
        return kept.receive().payload


def test_a_block_is_left_with_its_own_error(listener: Identity, authority: Authority) -> None:
    """Leaving a subscription's block when the connection is gone raises nothing that would hide another error."""
    assert apart(_leave_closed, listener, authority.certificate) == "mine"


def _leave_closed(identity: Identity, ca_file: Path) -> str:
    connection = connect(identity, PIN, ca_file=ca_file)
    try:
        with connection.subscribe(f"device/{identity.thing_name}/x"):
            connection.close()
            raise ValueError("mine")
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("qos", [0, 1])
def test_a_subscription_asks_for_its_quality_of_service(qos: QoS, identity: Identity, authority: Authority) -> None:
    """The SUBSCRIBE has the QoS that the program wants (MQTT 5.0 §3.8.3.1)."""
    asked: list[int] = []

    def script(packet: Packet) -> bytes:
        if packet.type == CONNECT:
            return scripted.connack(0)
        if packet.type != SUBSCRIBE:
            return b""
        asked.append(packet.body[-1] & 3)
        return scripted.suback(packet, qos)

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port:
        apart(_subscribe, dataclasses.replace(identity, mqtt_port=port), authority.certificate, "a", qos)
    assert asked == [qos]


def test_a_quality_of_service_that_aws_iot_lacks_is_wrong_usage(listener: Identity, authority: Authority) -> None:
    """QoS 2 is refused before anything is sent."""
    with pytest.raises(UsageError, match="AWS IoT has no QoS 2"):
        apart(_subscribe, listener, authority.certificate, "a", cast("QoS", 2))
