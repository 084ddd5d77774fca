"""Whatever comes in at the broker's port: packets, or one error, and never more memory than a packet may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_enroll.local import mqtt_packets as mqtt
from hsm_enroll.local.guard import Guard
from hsm_enroll.local.mqtt_packets import MalformedPacketError
from hsm_enroll.local.rights import OBSERVER, Principal, Rights

_LENGTHS = st.sampled_from([0, 1, 127, 128, 129, 16383, 16384, 131072])


def _framed(first: int, body: bytes) -> bytes:
    length, rest = bytearray(), len(body)
    while rest >= 128:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes((first, *length, rest)) + body


@given(st.lists(st.tuples(st.integers(0, 255), _LENGTHS), max_size=6), st.data())
def test_packets_come_out_as_they_went_in_however_they_are_cut(
    sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    """A stream gives the same packets in one piece and in any two."""
    whole = b"".join(_framed(first, bytes(size)) for first, size in sizes)
    cut = data.draw(st.integers(0, len(whole)))
    buffer, found = bytearray(), []
    for part in (whole[:cut], whole[cut:]):
        buffer += part
        found += mqtt.take_packets(buffer, mqtt.MAX_PACKET)
    assert [packet.encoding for packet in found] == [_framed(first, bytes(size)) for first, size in sizes]
    assert [(packet.kind << 4 | packet.flags, packet.body) for packet in found] == [
        (first, bytes(size)) for first, size in sizes
    ]
    assert buffer == b""


@given(st.integers(0, 255), st.integers(mqtt.MAX_PACKET + 1, 268435455))
def test_a_packet_that_is_too_large_is_refused_by_its_length_alone(first: int, size: int) -> None:
    """It is not waited for."""
    encoded = bytes((first, size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21))
    if size < 1 << 21:
        encoded = encoded[:3] + bytes((size >> 14,))
    with pytest.raises(MalformedPacketError) as caught:
        mqtt.take_packets(bytearray(encoded), mqtt.MAX_PACKET)
    assert caught.value.reason == mqtt.TOO_LARGE


def test_what_comes_before_a_packet_that_is_too_large_is_not_lost() -> None:
    """The good ones are given out, and the next look meets the bad one."""
    buffer = bytearray(b"\xc0\x00" + b"\x30\xff\xff\xff\x7f")
    assert [packet.encoding for packet in mqtt.take_packets(buffer, mqtt.MAX_PACKET)] == [b"\xc0\x00"]
    with pytest.raises(MalformedPacketError):
        mqtt.take_packets(buffer, mqtt.MAX_PACKET)


@given(st.binary(max_size=200))
def test_any_bytes_are_packets_or_malformed(content: bytes) -> None:
    """No other error comes out of the parser, and what comes out and what is left is what went in."""
    buffer = bytearray(content)
    try:
        found = mqtt.take_packets(buffer, mqtt.MAX_PACKET)
    except MalformedPacketError:
        return
    assert b"".join(packet.encoding for packet in found) + buffer == content


@given(st.integers(0, 255), st.binary(max_size=80), st.sampled_from([mqtt.V3, mqtt.V5]))
def test_any_packet_gets_a_verdict_or_is_malformed(first: int, body: bytes, level: int) -> None:
    """From either side; and whoever may do nothing has no PUBLISH and no SUBSCRIBE forwarded."""
    (packet,) = mqtt.take_packets(bytearray(_framed(first, body)), None)
    for principal in (OBSERVER, Principal((), ())):
        guard = Guard(level, Rights(principal, "x"))
        for decide in (guard.from_device, guard.from_broker):
            try:
                verdict = decide(packet)
            except MalformedPacketError:
                continue
            forbidden = packet.kind == mqtt.PUBLISH or (packet.kind == mqtt.SUBSCRIBE and decide == guard.from_device)
            assert not (forbidden and principal is not OBSERVER and verdict.forward)


@given(st.binary(max_size=80))
def test_any_first_packet_is_a_connect_or_malformed(body: bytes) -> None:
    """Also behind a good beginning."""
    for start in (b"", b"\x00\x04MQTT\x04", b"\x00\x04MQTT\x05"):
        (packet,) = mqtt.take_packets(bytearray(_framed(0x10, start + body)), None)
        try:
            assert mqtt.read_connect(packet).level in (mqtt.V3, mqtt.V5)
        except MalformedPacketError:
            continue
