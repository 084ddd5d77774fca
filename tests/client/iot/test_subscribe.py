"""A device that listens, and a connection that is used after it was opened."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from pathlib import Path

import pytest

from hsm_enroll.errors import MqttError, MqttRefusedError, UsageError
from hsm_enroll.iot import Message, connect
from hsm_enroll.store.identity import Identity
from tests.client.iot.apart import apart
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.broker import Broker, Neighbour
from tests.support.scripted import CONNECT, Packet
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


def _subscribe(identity: Identity, ca_file: Path, topic_filter: str) -> None:
    with connect(identity, PIN, ca_file=ca_file) as connection:
        connection.subscribe(topic_filter)
