"""What the gate makes of packets that no ordinary client sends."""

from __future__ import annotations

from typing import Any

import pytest

from hsm_enroll.iot_policy import Policy
from hsm_enroll.local import mqtt_packets as mqtt
from hsm_enroll.local.guard import Guard, Verdict, check_connect
from hsm_enroll.local.mqtt_packets import V3, V5, MalformedPacketError, Packet
from hsm_enroll.local.rights import Attachment, Principal, Rights

ARN = "arn:aws:iot:us-east-1:123456789012:"
ALLOWED = {
    "iot:Connect": "client/press",
    "iot:Publish": "topic/mine",
    "iot:Subscribe": "topicfilter/mine/#",
    "iot:Receive": "topic/mine/*",
}


def _rights(client_id: str = "press", **more: str) -> Rights:
    statements: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": action, "Resource": ARN + resource}
        for action, resource in (ALLOWED | more).items()
    ]
    policy = Policy.parse({"Version": "2012-10-17", "Statement": statements})
    return Rights(Principal((policy,), (Attachment("press", exclusive=True),)), client_id)


def _packet(encoding: bytes) -> Packet:
    (packet,) = mqtt.take_packets(bytearray(encoding), None)
    return packet


def _text(text: str) -> bytes:
    return len(text.encode()).to_bytes(2) + text.encode()


def _framed(first: int, body: bytes) -> Packet:
    assert len(body) < 128
    return _packet(bytes((first, len(body))) + body)


def _publish(level: int, topic: str, flags: int = 2, properties: bytes = b"") -> Packet:
    packet_id = b"\x00\x07" if flags & 6 else b""
    extra = bytes((len(properties),)) + properties if level == V5 else b""
    return _framed(0x30 | flags, _text(topic) + packet_id + extra + b"payload")


def _subscribe(level: int, *filters: str) -> Packet:
    properties = b"\x00" if level == V5 else b""
    return _framed(0x82, b"\x00\x09" + properties + b"".join(_text(topic) + b"\x01" for topic in filters))


def _connect(level: int, client_id: str, will: str | None = None) -> Packet:
    properties = b"\x00" if level == V5 else b""
    flags, last = (2, b"") if will is None else (6, properties + _text(will) + _text("gone"))
    head = b"\x00\x04MQTT" + bytes((level, flags)) + b"\x00\x3c" + properties
    return _framed(0x10, head + _text(client_id) + last)


@pytest.mark.parametrize("level", [V3, V5])
def test_what_is_allowed_goes_on_as_it_came(level: int) -> None:
    """Not a byte of a packet is changed on its way."""
    guard = Guard(level, _rights())
    for packet in (_publish(level, "mine"), _subscribe(level, "mine/#"), _packet(b"\xc0\x00"), _packet(b"\xe0\x00")):
        assert guard.from_device(packet) == Verdict(forward=packet.encoding)
    arriving = _publish(level, "mine/x")
    assert guard.from_broker(arriving) == Verdict(forward=arriving.encoding)


@pytest.mark.parametrize(("level", "answer"), [(V3, b"\x20\x02\x00\x05"), (V5, b"\x20\x03\x00\x87\x00")])
def test_a_foreign_client_id_is_not_authorized(level: int, answer: bytes) -> None:
    """MQTT 3.1.1 §3.2.2.3, MQTT 5.0 §3.2.2.2: CONNACK says so, and the connection ends."""
    packet = _connect(level, "other")
    verdict = check_connect(mqtt.read_connect(packet), packet, _rights("other"))
    assert (verdict.response, verdict.forward, verdict.ends) == (answer, b"", True)


@pytest.mark.parametrize("level", [V3, V5])
@pytest.mark.parametrize(("will", "ends"), [("mine", False), ("other", True)])
def test_a_will_is_a_publication(level: int, will: str, *, ends: bool) -> None:
    """A client may leave a will where it may publish, and is refused with one for elsewhere."""
    packet = _connect(level, "press", will)
    connect = mqtt.read_connect(packet)
    assert (connect.client_id, connect.will_topic) == ("press", will)
    assert check_connect(connect, packet, _rights()).ends is ends


@pytest.mark.parametrize(
    ("level", "flags", "answer", "ends"),
    [
        pytest.param(V5, 2, b"\x40\x03\x00\x07\x87", False, id="MQTT 5, QoS 1: PUBACK"),
        pytest.param(V5, 0, b"\xe0\x01\x87", True, id="MQTT 5, QoS 0: DISCONNECT"),
        pytest.param(V3, 2, b"", True, id="MQTT 3.1.1, QoS 1: the end"),
        pytest.param(V3, 0, b"", True, id="MQTT 3.1.1, QoS 0: the end"),
    ],
)
def test_a_foreign_topic_is_not_authorized(level: int, flags: int, answer: bytes, *, ends: bool) -> None:
    """MQTT 5.0 §3.4.2.1, §3.14.2.1: where the protocol has a way to say so, AWS IoT does."""
    verdict = Guard(level, _rights()).from_device(_publish(level, "other", flags))
    assert (verdict.forward, verdict.response, verdict.ends) == (b"", answer, ends)


@pytest.mark.parametrize(
    ("level", "answer"), [(V3, b"\x90\x04\x00\x09\x80\x80"), (V5, b"\x90\x05\x00\x09\x00\x87\x87")]
)
def test_one_foreign_filter_refuses_the_whole_subscription(level: int, answer: bytes) -> None:
    """MQTT 3.1.1 §3.9.3, MQTT 5.0 §3.9.3: a reason code for each filter."""
    verdict = Guard(level, _rights()).from_device(_subscribe(level, "mine/#", "#"))
    assert (verdict.forward, verdict.response, verdict.ends) == (b"", answer, False)


@pytest.mark.parametrize(("flags", "answer"), [(2, b"\x40\x02\x00\x07"), (0, b"")])
def test_what_may_not_be_received_is_acknowledged_in_the_devices_place(flags: int, answer: bytes) -> None:
    """Else the broker would wait for the PUBACK for ever, and in the end send nothing any more."""
    verdict = Guard(V5, _rights()).from_broker(_publish(V5, "other", flags))
    assert (verdict.forward, verdict.response, verdict.ends) == (b"", answer, False)


def test_a_topic_alias_is_the_topic_that_it_stands_for() -> None:
    """MQTT 5.0 §3.3.2.3.4: a refused topic is refused by its alias too, and an allowed one allowed."""
    guard = Guard(V5, _rights())
    for alias, topic in ((b"\x23\x00\x01", "mine"), (b"\x23\x00\x02", "other")):
        for said in (topic, ""):
            verdict = guard.from_device(_publish(V5, said, properties=alias))
            assert (verdict.refused is None) is (topic == "mine"), said
    with pytest.raises(MalformedPacketError, match="alias"):
        guard.from_device(_publish(V5, "", properties=b"\x23\x00\x03"))


def test_a_retained_message_takes_a_permission_of_its_own() -> None:
    """iot:RetainPublish, beside iot:Publish."""
    assert Guard(V5, _rights()).from_device(_publish(V5, "mine", 3)).refused == "iot:RetainPublish to 'mine'"
    retaining = _rights(**{"iot:RetainPublish": "topic/mine"})
    assert Guard(V5, retaining).from_device(_publish(V5, "mine", 3)).refused is None


@pytest.mark.parametrize("level", [V3, V5])
def test_a_message_of_more_than_128_kib_is_too_large(level: int) -> None:
    """AWS IoT's limit is the payload's; what the broker sends on is not measured again."""
    guard = Guard(level, _rights(**{"iot:Receive": "topic/mine"}))
    start = _text("mine") + b"\x00\x07" + (b"\x00" if level == V5 else b"")
    largest, larger = (Packet(mqtt.PUBLISH, 2, start + bytes(size), bytes(size)) for size in (131072, 131073))
    assert guard.from_device(largest).forward == largest.encoding
    assert guard.from_broker(larger).forward == larger.encoding
    with pytest.raises(MalformedPacketError) as caught:
        guard.from_device(larger)
    assert caught.value.reason == mqtt.TOO_LARGE


_LONGEST, _DEEPEST = "x" * 256, "a/b/c/d/e/f/g/h"


@pytest.mark.parametrize("level", [V3, V5])
@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        (_LONGEST, True),
        (_LONGEST + "x", False),
        ("é" * 129, False),
        (_DEEPEST, True),
        (_DEEPEST + "/", False),
        ("$aws/rules/rule/" + _DEEPEST, True),
        ("$aws/rules/rule/" + _DEEPEST + "/", False),
        ("$aws/things/press/jobs/a/b/c/d/e", True),
    ],
)
def test_a_topic_has_at_most_256_bytes_and_7_slashes(level: int, topic: str, *, allowed: bool) -> None:
    """D14: AWS IoT's quotas; the levels of Basic Ingest do not count, and AWS's own topics are as AWS made them."""
    rights = Rights(Principal((), (), everything=True), "press")
    head = _text(topic) + b"\x00\x07" + (b"\x00" if level == V5 else b"")
    published = Packet(mqtt.PUBLISH, 2, head, head)
    asked = b"\x00\x09" + (b"\x00" if level == V5 else b"") + _text(topic) + b"\x01"
    subscribed = Packet(mqtt.SUBSCRIBE, 2, asked, asked)
    for packet, reason in ((published, mqtt.TOPIC_INVALID), (subscribed, mqtt.FILTER_INVALID)):
        if allowed:
            assert Guard(level, rights).from_device(packet) == Verdict(forward=packet.encoding)
            continue
        with pytest.raises(MalformedPacketError) as caught:
            Guard(level, rights).from_device(packet)
        assert caught.value.reason == reason


def test_a_topic_that_is_too_deep_is_so_for_a_will_too() -> None:
    """D14: MQTT 5 has a reason code for it; MQTT 3.1.1 closes the connection without a CONNACK."""
    rights = Rights(Principal((), (), everything=True), "press")
    for level, answer in ((V3, b""), (V5, b"\x20\x03\x00\x90\x00")):
        packet = _connect(level, "press", _DEEPEST + "/")
        verdict = check_connect(mqtt.read_connect(packet), packet, rights)
        assert (verdict.response, verdict.forward, verdict.ends) == (answer, b"", True)


@pytest.mark.parametrize(("level", "answer"), [(V3, b"\x20\x02\x00\x02"), (V5, b"\x20\x03\x00\x85\x00")])
def test_a_client_id_has_at_most_128_bytes(level: int, answer: bytes) -> None:
    """D14: a longer one is "client identifier not valid" (MQTT 3.1.1 §3.2.2.3, MQTT 5.0 §3.2.2.2)."""
    rights = Rights(Principal((), (), everything=True), "press")
    for name, expected in (("x" * 128, b""), ("x" * 129, answer)):
        start = b"\x00\x04MQTT" + bytes((level, 2)) + b"\x00\x3c" + (b"\x00" if level == V5 else b"")
        packet = Packet(mqtt.CONNECT, 0, start + _text(name), b"encoded")
        verdict = check_connect(mqtt.read_connect(packet), packet, rights)
        assert (verdict.response, verdict.ends) == (expected, bool(expected))


def test_a_subscribe_has_at_most_8_filters() -> None:
    """D14: the ninth is one too many, even if all are allowed."""
    guard = Guard(V5, Rights(Principal((), (), everything=True), "press"))
    assert guard.from_device(_subscribe(V5, *"abcdefgh")).refused is None
    with pytest.raises(MalformedPacketError) as caught:
        guard.from_device(_subscribe(V5, *"abcdefghi"))
    assert caught.value.reason == mqtt.QUOTA_EXCEEDED


def test_rights_can_be_taken_away() -> None:
    """Once they are replaced, the next packet meets the new ones."""
    guard = Guard(V5, _rights())
    guard.rights = _rights(**{"iot:Publish": "topic/new"})
    assert guard.from_device(_publish(V5, "mine")).refused is not None


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        pytest.param(_connect(V5, "press"), mqtt.PROTOCOL_ERROR, id="a second CONNECT"),
        pytest.param(_publish(V5, "mine", 4), mqtt.QOS_NOT_SUPPORTED, id="QoS 2"),
        pytest.param(_publish(V5, "mine", 6), mqtt.PROTOCOL_ERROR, id="QoS 3"),
        pytest.param(_framed(0x32, b"\x00\x01m"), mqtt.MALFORMED, id="no packet identifier"),
        pytest.param(_framed(0x30, b"\x00\x05mine"), mqtt.MALFORMED, id="a topic cut off"),
        pytest.param(_framed(0x30, b"\x00\x01\xff\x00"), mqtt.MALFORMED, id="a topic that is not UTF-8"),
        pytest.param(_framed(0x30, b"\x00\x01\x00\x00"), mqtt.MALFORMED, id="a topic with NUL"),
        pytest.param(_framed(0x30, b"\x00\x00\x00"), mqtt.PROTOCOL_ERROR, id="no topic"),
        pytest.param(_framed(0x30, b"\x00\x01m\x02\x7f\x00"), mqtt.MALFORMED, id="an unknown property"),
        pytest.param(_framed(0x30, b"\x00\x01m\x01\x23\x00\x01"), mqtt.MALFORMED, id="properties longer than said"),
        pytest.param(_framed(0x82, b"\x00\x09\x00"), mqtt.PROTOCOL_ERROR, id="a SUBSCRIBE to nothing"),
    ],
)
def test_what_makes_no_sense_is_malformed(packet: Packet, reason: int) -> None:
    """The reason code is the one that MQTT 5.0 has for it."""
    with pytest.raises(MalformedPacketError) as caught:
        Guard(V5, _rights()).from_device(packet)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "packet", [_packet(b"\xc0\x00"), _framed(0x10, b"\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01x"), _framed(0x10, b"")]
)
def test_only_mqtt_3_1_1_and_5_get_in(packet: Packet) -> None:
    """As at AWS IoT: not MQTT 3.1, and nothing before the CONNECT."""
    with pytest.raises(MalformedPacketError):
        mqtt.read_connect(packet)
