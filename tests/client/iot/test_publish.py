"""One message from a device to a real broker, the key in a real token."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hsm_enroll.errors import MqttError, MqttRefusedError, MqttUnreachableError, UsageError
from hsm_enroll.iot import ConnectionState, Message, Will
from hsm_enroll.key import KeyType
from hsm_enroll.store.identity import Identity
from tests.client.iot.apart import apart, connect, publish_apart
from tests.client.iot.events import Events
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.cable import cable
from tests.support.scripted import CONNECT, PUBLISH, Packet
from tests.support.softhsm import PIN


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048])
def test_a_message_reaches_an_independent_subscriber(
    key_type: KeyType, identities: dict[KeyType, Identity], broker: Broker, authority: Authority
) -> None:
    """What a device publishes arrives byte for byte at another program, whatever the type of its key."""
    identity = dataclasses.replace(identities[key_type], mqtt_port=broker.port)
    topic = f"device/{identity.thing_name}/état"
    payload = bytes(range(256))
    with broker.observed("#") as observer:
        publish_apart(identity, topic, payload, ca_file=authority.certificate)
        assert observer.wait_for(topic) == f"{topic} {payload.hex()}"


def test_an_empty_message_is_published(identity: Identity, broker: Broker, authority: Authority) -> None:
    """A payload of no bytes is a payload."""
    topic = f"device/{identity.thing_name}/empty"
    with broker.observed("#") as observer:
        publish_apart(identity, topic, b"", ca_file=authority.certificate, port=broker.port)
        assert observer.wait_for(topic).strip() == topic


def test_endpoint_and_port_can_be_overridden(identity: Identity, broker: Broker, authority: Authority) -> None:
    """An endpoint and a port that are given stand in for those of the identity."""
    identity = dataclasses.replace(identity, mqtt_endpoint="nowhere.invalid")
    publish_apart(
        identity,
        f"device/{identity.thing_name}/x",
        b"x",
        ca_file=authority.certificate,
        endpoint="127.0.0.1",
        port=broker.port,
    )
    broker.log.wait_for(f"Received PUBLISH from {identity.thing_name}")


def test_connect_tells_the_client_id_and_nothing_else(identity: Identity, authority: Authority) -> None:
    """CONNECT is MQTT 5, asks for a clean session and a minute's keep-alive, and has a client id: no user, no SDK."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    packets: list[Packet] = []

    def script(packet: Packet) -> bytes:
        packets.append(packet)
        return scripted.connack(0x88)

    with scripted.serving(script, context) as port, pytest.raises(MqttError, match="SERVER_UNAVAILABLE"):
        publish_apart(identity, "a/b", b"x", ca_file=authority.certificate, port=port)
    (connect,) = packets
    assert connect.type == CONNECT
    # MQTT 5.0 §3.1.2: protocol name and version, the flag "clean start" alone, the keep-alive in seconds.
    assert connect.body[:10] == b"\x00\x04MQTT\x05\x02\x00\x3c"
    client_id = scripted.client_id(connect)
    assert client_id.startswith(identity.thing_name)
    assert connect.body.endswith(len(client_id).to_bytes(2) + client_id.encode())


def test_a_topic_the_broker_forbids_is_an_error(identity: Identity, broker: Broker, authority: Authority) -> None:
    """D19: a PUBACK with "not authorized" is a refusal that names the topic, not a success."""
    with pytest.raises(MqttRefusedError, match=r"'device/another/x': it is not allowed \(NOT_AUTHORIZED\)"):
        publish_apart(identity, "device/another/x", b"x", ca_file=authority.certificate, port=broker.port)


@pytest.mark.parametrize("topic", ["", "device/#", "device/+/x", "a\0b"])
def test_what_is_no_topic_is_wrong_usage(topic: str, identity: Identity, broker: Broker, authority: Authority) -> None:
    """A topic that MQTT does not allow is the caller's mistake, told before anything is sent."""
    with pytest.raises(UsageError, match=r"is not a (valid )?topic"):
        publish_apart(identity, topic, b"x", ca_file=authority.certificate, port=broker.port)


def test_the_acknowledgement_is_waited_for(identity: Identity, authority: Authority) -> None:
    """A message that the broker takes and never acknowledges is not called published."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    answers = {CONNECT: scripted.connack(0)}
    with (
        scripted.serving(lambda packet: answers.get(packet.type, b""), context) as port,
        pytest.raises(MqttUnreachableError, match=r"did not acknowledge publishing to 'a/b' within 2 s"),
    ):
        publish_apart(identity, "a/b", b"x", ca_file=authority.certificate, port=port, timeout=2.0)


def test_a_connection_lost_before_the_acknowledgement_is_an_error(identity: Identity, authority: Authority) -> None:
    """A broker that hangs up on a message without a word leaves an error that says so, at once."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    answers = {CONNECT: scripted.connack(0)}
    with (
        scripted.serving(lambda packet: answers.get(packet.type), context) as port,
        pytest.raises(MqttError, match="was lost") as caught,
    ):
        publish_apart(identity, "a/b", b"x", ca_file=authority.certificate, port=port)
    assert caught.value.code == "mqtt-failed"


def test_qos_0_is_not_acknowledged(identity: Identity, authority: Authority) -> None:
    """A message of QoS 0 is published once it is sent: no packet identifier, no PUBACK; also at a broker of QoS 0."""
    sent: list[Packet] = []

    def script(packet: Packet) -> bytes:
        sent.append(packet)
        return scripted.connack_of_qos_0() if packet.type == CONNECT else b""

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port:
        apart(_publish_lightly, dataclasses.replace(identity, mqtt_port=port), authority.certificate)
    (publish,) = (packet for packet in sent if packet.type == PUBLISH)
    assert publish.body == b"\x00\x03a/b\x00x"


def _publish_lightly(identity: Identity, ca_file: Path) -> None:
    with connect(identity, PIN, ca_file=ca_file) as connection:
        connection.publish("a/b", b"x", qos=0)


def test_a_retained_message_is_kept_for_later(identity: Identity, broker: Broker, authority: Authority) -> None:
    """Who subscribes later gets a retained message, marked as such; one that comes meanwhile is not marked."""
    identity = dataclasses.replace(identity, mqtt_port=broker.port)
    topic = f"device/{identity.thing_name}/state"
    assert apart(_publish_retained, identity, authority.certificate, topic) == [
        Message(topic, b"kept", retained=True),
        Message(topic, b"new"),
    ]


def _publish_retained(identity: Identity, ca_file: Path, topic: str) -> list[Message]:
    with connect(identity, PIN, ca_file=ca_file) as connection:
        connection.publish(topic, b"kept", retain=True)
        messages = connection.subscribe(topic)
        connection.publish(topic, b"new")
        return [messages.receive(), messages.receive()]


def test_a_will_is_published_when_the_connection_is_lost(
    identity: Identity, broker: Broker, authority: Authority
) -> None:
    """The broker publishes the will of a connection that is cut, and not of one that is closed."""
    topic = f"device/{identity.thing_name}"
    with broker.observed("#") as observer:
        for number, is_cut in enumerate((False, True)):
            identity = dataclasses.replace(identity, mqtt_port=broker.port)
            apart(_leave_a_will, identity, authority.certificate, Will(f"{topic}/{number}", b"gone"), is_cut)
        assert observer.wait_for(topic) == f"{topic}/1 {b'gone'.hex()}"


def _leave_a_will(identity: Identity, ca_file: Path, will: Will, is_cut: bool) -> None:
    events = Events()
    with cable(identity.mqtt_port) as laid:
        # A cable is pulled at its end, which may be before it has carried a DISCONNECT.
        port = laid.port if is_cut else None
        with connect(identity, PIN, ca_file=ca_file, port=port, will=will, on_connection=events):
            if is_cut:
                laid.cut()
                events.wait_for(ConnectionState.ENDED)


@pytest.mark.parametrize(
    ("topic", "payload"), [("device/#", b""), ("", b""), ("a", b"x" * (128 * 1024 + 1))], ids=["filter", "", "large"]
)
def test_a_will_is_a_message_that_aws_iot_accepts(topic: str, payload: bytes) -> None:
    """What could not be published cannot be a will either."""
    with pytest.raises(UsageError):
        Will(topic, payload)


def test_a_broker_that_falls_silent_is_noticed(identity: Identity, authority: Authority) -> None:
    """A broker that does not answer to a PINGREQ within half the keep-alive is given up (MQTT 5.0 §3.1.2.10)."""
    connects: list[Packet] = []

    def script(packet: Packet) -> bytes:
        if packet.type != CONNECT:
            return b""
        connects.append(packet)
        return scripted.connack(0)

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port, pytest.raises(MqttError, match="AWS_ERROR_MQTT5_PING_RESPONSE"):
        apart(_wait_for_silence, dataclasses.replace(identity, mqtt_port=port), authority.certificate)
    assert connects[0].body[8:10] == b"\x00\x02"


def _wait_for_silence(identity: Identity, ca_file: Path) -> None:
    with connect(identity, PIN, ca_file=ca_file, keep_alive=2) as connection:
        connection.publish("a/b", b"x", timeout=60)
