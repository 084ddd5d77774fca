"""Parses the MQTT control packets that AWS IoT authorizes (MQTT 3.1.1 and 5.0), and builds the responses to them."""

from __future__ import annotations

from typing import NamedTuple

from hsm_enroll.local.limits import MAX_PAYLOAD

V3, V5 = 4, 5
"""Protocol levels of MQTT 3.1.1 and 5.0 (§3.1.2.2 of either)."""

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, DISCONNECT = 1, 2, 3, 4, 8, 9, 14
"""Packet types (§2.1.2)."""

MALFORMED, PROTOCOL_ERROR, NOT_AUTHORIZED, QOS_NOT_SUPPORTED, TOO_LARGE = 0x81, 0x82, 0x87, 0x9B, 0x95
CLIENT_ID_INVALID, FILTER_INVALID, TOPIC_INVALID, QUOTA_EXCEEDED = 0x85, 0x8F, 0x90, 0x97
"""Reason codes of MQTT 5.0 (§2.4)."""

MAX_PACKET = MAX_PAYLOAD + 128 * 1024
"""Bytes of a packet from a device: the payload, and at most 64 KiB each for the topic and the properties."""

DISCONNECTION = bytes((DISCONNECT << 4, 0))
"""The packet with which a client ends its connection (§3.14)."""

_PROTOCOL_NAMES = {V3: b"\x00\x04MQTT\x04", V5: b"\x00\x04MQTT\x05"}
_V3_REFUSED_SUBSCRIPTION = 0x80
# MQTT 3.1.1 §3.2.2.3: the return codes of a CONNACK that correspond to the reason codes of MQTT 5.0.
_V3_RETURN_CODES = {CLIENT_ID_INVALID: 2, NOT_AUTHORIZED: 5}
_TOPIC_ALIAS = 0x23
# MQTT 5.0 §2.2.2.2: the size of each property's value in octets. A negative number is a number of strings or binary
# values, each of which starts with its length in two octets; 0 is a variable byte integer.
_SIZES = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, _TOPIC_ALIAS), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
    **dict.fromkeys((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), -1),
    0x0B: 0,
    0x26: -2,
}


class MalformedPacketError(Exception):
    """The bytes are not valid MQTT, or AWS IoT does not support them.

    Args:
        text: says why.
        reason: the reason code of MQTT 5.0 (§2.4).
    """

    def __init__(self, text: str, reason: int = MALFORMED) -> None:
        super().__init__(text)
        self.reason = reason


class Packet(NamedTuple):
    """One control packet.

    Attributes:
        kind: its type.
        flags: the lower half of its first octet.
        body: everything after the fixed header.
        encoding: the whole packet.
    """

    kind: int
    flags: int
    body: bytes
    encoding: bytes


class Connect(NamedTuple):
    """A CONNECT (§3.1).

    Attributes:
        level: `V3` or `V5`.
        client_id: the client identifier.
        will_topic: the topic of its will; None if it has no will.
        will_retain: whether the will is to be retained.
    """

    level: int
    client_id: str
    will_topic: str | None
    will_retain: bool


class Publish(NamedTuple):
    """A PUBLISH (§3.3).

    Attributes:
        topic: the topic; empty if only `alias` is given.
        qos: quality of service, 0 to 2.
        retain: whether the message is to be retained.
        packet_id: packet identifier; None with QoS 0.
        alias: topic alias of MQTT 5.0; None if there is none.
        size: bytes of the payload.
    """

    topic: str
    qos: int
    retain: bool
    packet_id: int | None
    alias: int | None
    size: int


class Subscribe(NamedTuple):
    """A SUBSCRIBE (§3.8): its packet identifier and its topic filters."""

    packet_id: int
    filters: tuple[str, ...]


def take_packets(buffer: bytearray, max_size: int | None) -> list[Packet]:
    """Remove the complete packets from the front of a buffer, and return them.

    Args:
        buffer: the bytes received so far.
        max_size: maximum number of bytes after a packet's length; None is no limit.

    Raises:
        MalformedPacketError: the length of the first packet is malformed or too large. If valid packets come before the
            malformed one, they are returned, and the next call raises.
    """
    packets, start = [], 0
    try:
        while (length := _variable_byte_integer(buffer, start + 1)) is not None:
            size, body = length
            if max_size is not None and size > max_size:
                raise MalformedPacketError(f"a packet of {size} bytes", TOO_LARGE)
            end = body + size
            if end > len(buffer):
                break
            encoding = bytes(buffer[start:end])
            packets.append(Packet(encoding[0] >> 4, encoding[0] & 15, encoding[body - start :], encoding))
            start = end
    except MalformedPacketError:
        if not packets:
            raise
    del buffer[:start]
    return packets


def read_connect(packet: Packet) -> Connect:
    """Parse the first packet of a client.

    Raises:
        MalformedPacketError: it is not a CONNECT of MQTT 3.1.1 or 5.0.
    """
    if packet.kind != CONNECT:
        raise MalformedPacketError("the first packet is not a CONNECT", PROTOCOL_ERROR)
    reader = _Reader(packet.body)
    name = reader.take(7)
    level = next((level for level, known in _PROTOCOL_NAMES.items() if known == name), None)
    if level is None:
        raise MalformedPacketError("neither MQTT 3.1.1 nor 5.0")
    flags = reader.number(1)
    reader.number(2)  # keep alive
    if level == V5:
        reader.properties()
    client_id = reader.text()
    if not flags & 0x04:
        return Connect(level, client_id, None, will_retain=False)
    if level == V5:
        reader.properties()
    return Connect(level, client_id, reader.text(), bool(flags & 0x20))


def read_publish(packet: Packet, level: int) -> Publish:
    """Parse a PUBLISH.

    Raises:
        MalformedPacketError: it is malformed.
    """
    qos = packet.flags >> 1 & 3
    reader = _Reader(packet.body)
    topic = reader.text()
    packet_id = reader.number(2) if qos else None
    alias = reader.properties() if level == V5 else None
    if qos == 3 or packet_id == 0 or (not topic and alias is None):
        raise MalformedPacketError("an invalid PUBLISH", PROTOCOL_ERROR)
    return Publish(topic, qos, bool(packet.flags & 1), packet_id, alias, reader.remaining)


def read_subscribe(packet: Packet, level: int) -> Subscribe:
    """Parse a SUBSCRIBE.

    Raises:
        MalformedPacketError: it is malformed.
    """
    reader = _Reader(packet.body)
    packet_id = reader.number(2)
    if level == V5:
        reader.properties()
    filters = []
    while reader.remaining:
        filters.append(reader.text())
        reader.number(1)  # options
    if not filters or not packet_id:
        raise MalformedPacketError("an invalid SUBSCRIBE", PROTOCOL_ERROR)
    return Subscribe(packet_id, tuple(filters))


def connack_refused(reason: int, level: int) -> bytes:
    """Return a CONNACK with a reason code (§3.2); no bytes if MQTT 3.1.1 has no return code for it."""
    if level == V5:
        return _packet(CONNACK, bytes((0, reason, 0)))
    return _packet(CONNACK, bytes((0, _V3_RETURN_CODES[reason]))) if reason in _V3_RETURN_CODES else b""


def puback_not_authorized(packet_id: int) -> bytes:
    """Return a PUBACK of MQTT 5.0 with "not authorized" (§3.4.2.1)."""
    return _packet(PUBACK, packet_id.to_bytes(2) + bytes((NOT_AUTHORIZED,)))


def suback_not_authorized(request: Subscribe, level: int) -> bytes:
    """Return a SUBACK that refuses every filter (§3.9)."""
    properties, reason = (b"\x00", NOT_AUTHORIZED) if level == V5 else (b"", _V3_REFUSED_SUBSCRIPTION)
    return _packet(SUBACK, request.packet_id.to_bytes(2) + properties + bytes((reason,)) * len(request.filters))


def puback_success(packet_id: int) -> bytes:
    """Return a PUBACK with "success" (§3.4)."""
    return _packet(PUBACK, packet_id.to_bytes(2))


def disconnect(reason: int, level: int) -> bytes:
    """Return a DISCONNECT (MQTT 5.0 §3.14); no bytes for MQTT 3.1.1, in which only a client may send one."""
    return _packet(DISCONNECT, bytes((reason,))) if level == V5 else b""


def connect(client_id: str) -> bytes:
    """Return a CONNECT of MQTT 3.1.1 with a clean session and without keep-alive (§3.1)."""
    return _packet(CONNECT, _PROTOCOL_NAMES[V3] + b"\x02\x00\x00" + _text(client_id))


def publish(topic: str, payload: bytes, *, qos: int, retain: bool) -> bytes:
    """Return a PUBLISH of MQTT 3.1.1 with QoS 0, or with QoS 1 and packet identifier 1 (§3.3)."""
    return _packet(PUBLISH, _text(topic) + (b"\x00\x01" if qos else b"") + payload, flags=qos << 1 | retain)


class _Reader:
    """Reads values from a packet's body, one after the other."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def remaining(self) -> int:
        return len(self._body) - self._at

    def take(self, size: int) -> bytes:
        taken = self._body[self._at : self._at + size]
        if len(taken) < size:
            raise MalformedPacketError("a truncated packet")
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def text(self) -> str:
        """Read a UTF-8 encoded string (§1.5.3 of MQTT 3.1.1, §1.5.4 of 5.0)."""
        try:
            text = self.take(self.number(2)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedPacketError("a string that is not UTF-8") from error
        if "\x00" in text:
            raise MalformedPacketError("a string with U+0000 in it")
        return text

    def properties(self) -> int | None:
        """Read the properties (MQTT 5.0 §2.2.2), and return the topic alias if there is one."""
        end = self._variable_integer() + self._at
        if end > len(self._body):
            raise MalformedPacketError("a truncated packet")
        alias = None
        while self._at < end:
            kind = self._variable_integer()
            if kind not in _SIZES:
                raise MalformedPacketError("a property that MQTT 5.0 does not have")
            if kind == _TOPIC_ALIAS:
                alias = self.number(2)
            else:
                self._skip(_SIZES[kind])
        if self._at != end:
            raise MalformedPacketError("properties that are longer than their length")
        return alias

    def _skip(self, size: int) -> None:
        if size == 0:
            self._variable_integer()
        elif size > 0:
            self.take(size)
        for _ in range(-size):
            self.take(self.number(2))

    def _variable_integer(self) -> int:
        found = _variable_byte_integer(self._body, self._at)
        if found is None:
            raise MalformedPacketError("a truncated packet")
        value, self._at = found
        return value


def _variable_byte_integer(buffer: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """Return a variable byte integer (§2.2.3 of MQTT 3.1.1) and where it ends; None if it is not complete yet."""
    value = 0
    for index in range(4):
        if at + index >= len(buffer):
            return None
        octet = buffer[at + index]
        value |= (octet & 0x7F) << 7 * index
        if octet < 0x80:
            return value, at + index + 1
    raise MalformedPacketError("a length of more than four octets")


def _text(text: str) -> bytes:
    content = text.encode()
    return len(content).to_bytes(2) + content


def _packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    length, rest = bytearray(), len(body)
    while rest >= 0x80:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes((kind << 4 | flags, *length, rest)) + body
