"""MQTT control packets, as far as AWS IoT decides by them (MQTT 3.1.1 and 5.0), and the answers that refuse them."""

from __future__ import annotations

from typing import NamedTuple

V3, V5 = 4, 5
"""Protocol levels of MQTT 3.1.1 and 5.0 (§3.1.2.2 of either)."""

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, DISCONNECT = 1, 2, 3, 4, 8, 9, 14
"""Packet types (§2.1.2)."""

MALFORMED, PROTOCOL_ERROR, NOT_AUTHORIZED, TAKES_NO_QOS_2, TOO_LARGE = 0x81, 0x82, 0x87, 0x9B, 0x95
"""Reason codes of MQTT 5.0 (§2.4)."""

LARGEST_PAYLOAD = 128 * 1024
"""Bytes of a message (AWS IoT Core, "Message broker limits and quotas")."""

LARGEST = LARGEST_PAYLOAD + 128 * 1024
"""Bytes of a device's packet: beside the payload, a topic and properties have at most 64 KiB each here."""

_NAMES = {V3: b"\x00\x04MQTT\x04", V5: b"\x00\x04MQTT\x05"}
_V3_REFUSED_CONNECTION, _V3_REFUSED_SUBSCRIPTION = 5, 0x80
_TOPIC_ALIAS = 0x23
# MQTT 5.0 §2.2.2.2: how many octets the value of a property has. A negative number is that many strings or binary
# values, each of which bears its length in two octets; 0 is a variable byte integer.
_SIZES = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, _TOPIC_ALIAS), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
    **dict.fromkeys((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), -1),
    0x0B: 0,
    0x26: -2,
}


class MalformedPacketError(Exception):
    """The bytes are no MQTT, or none that AWS IoT speaks; the text says why, and `reason` is MQTT 5.0's code for it."""

    def __init__(self, text: str, reason: int = MALFORMED) -> None:
        super().__init__(text)
        self.reason = reason


class Packet(NamedTuple):
    """One control packet.

    Attributes:
        kind: its type.
        flags: the lower half of its first octet.
        body: what follows the fixed header.
        encoding: all of it.
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
        will_topic: where its will goes to; None is no will.
        will_retain: whether that is to be retained.
    """

    level: int
    client_id: str
    will_topic: str | None
    will_retain: bool


class Publish(NamedTuple):
    """A PUBLISH (§3.3).

    Attributes:
        topic: empty where `alias` stands for it.
        quality: of service, 0 to 2.
        retain: whether it is to be retained.
        packet_id: None with quality 0.
        alias: topic alias of MQTT 5.0; None is none.
        size: bytes of the payload.
    """

    topic: str
    quality: int
    retain: bool
    packet_id: int | None
    alias: int | None
    size: int


class Subscribe(NamedTuple):
    """A SUBSCRIBE (§3.8): its packet identifier and its topic filters."""

    packet_id: int
    filters: tuple[str, ...]


def take(buffer: bytearray, largest: int | None) -> list[Packet]:
    """Take the complete packets off the front of a buffer.

    Args:
        buffer: what has been received.
        largest: bytes that a packet may have after its length; None is any.

    Raises:
        MalformedPacketError: the first length is no variable byte integer, or too much. Good packets that come before
            such a one are returned, and it is met by the next call.
    """
    packets, start = [], 0
    try:
        while (length := _remaining_length(buffer, start + 1)) is not None:
            size, body = length
            if largest is not None and size > largest:
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
    """Read the first packet of a client.

    Raises:
        MalformedPacketError: it is no CONNECT of MQTT 3.1.1 or 5.0.
    """
    if packet.kind != CONNECT:
        raise MalformedPacketError("the first packet is no CONNECT", PROTOCOL_ERROR)
    reader = _Reader(packet.body)
    name = reader.take(7)
    level = next((level for level, known in _NAMES.items() if known == name), None)
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
    """Read a PUBLISH.

    Raises:
        MalformedPacketError: it is none.
    """
    quality = packet.flags >> 1 & 3
    reader = _Reader(packet.body)
    topic = reader.text()
    packet_id = reader.number(2) if quality else None
    alias = reader.properties() if level == V5 else None
    if quality == 3 or packet_id == 0 or (not topic and alias is None):
        raise MalformedPacketError("a PUBLISH that makes no sense", PROTOCOL_ERROR)
    return Publish(topic, quality, bool(packet.flags & 1), packet_id, alias, reader.left)


def read_subscribe(packet: Packet, level: int) -> Subscribe:
    """Read a SUBSCRIBE.

    Raises:
        MalformedPacketError: it is none.
    """
    reader = _Reader(packet.body)
    packet_id = reader.number(2)
    if level == V5:
        reader.properties()
    filters = []
    while reader.left:
        filters.append(reader.text())
        reader.number(1)  # options
    if not filters or not packet_id:
        raise MalformedPacketError("a SUBSCRIBE that makes no sense", PROTOCOL_ERROR)
    return Subscribe(packet_id, tuple(filters))


def refused_connection(level: int) -> bytes:
    """Return a CONNACK that says "not authorized" (§3.2)."""
    return _packet(CONNACK, b"\x00\x87\x00" if level == V5 else bytes((0, _V3_REFUSED_CONNECTION)))


def refused_publication(packet_id: int) -> bytes:
    """Return a PUBACK of MQTT 5.0 that says "not authorized" (§3.4.2.1)."""
    return _packet(PUBACK, packet_id.to_bytes(2) + bytes((NOT_AUTHORIZED,)))


def refused_subscription(request: Subscribe, level: int) -> bytes:
    """Return a SUBACK that refuses every filter (§3.9)."""
    properties, reason = (b"\x00", NOT_AUTHORIZED) if level == V5 else (b"", _V3_REFUSED_SUBSCRIPTION)
    return _packet(SUBACK, request.packet_id.to_bytes(2) + properties + bytes((reason,)) * len(request.filters))


def acknowledged(packet_id: int) -> bytes:
    """Return a PUBACK that says "success" (§3.4)."""
    return _packet(PUBACK, packet_id.to_bytes(2))


def disconnection(reason: int, level: int) -> bytes:
    """Return the server's DISCONNECT of MQTT 5.0 (§3.14); nothing for 3.1.1, where the server cannot say a reason."""
    return _packet(DISCONNECT, bytes((reason,))) if level == V5 else b""


class _Reader:
    """Takes values off the front of a packet's body."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._body) - self._at

    def take(self, size: int) -> bytes:
        taken = self._body[self._at : self._at + size]
        if len(taken) < size:
            raise MalformedPacketError("a packet that is cut off")
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def text(self) -> str:
        """Take a UTF-8 encoded string (§1.5.3 of MQTT 3.1.1, §1.5.4 of 5.0)."""
        try:
            text = self.take(self.number(2)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedPacketError("a string that is not UTF-8") from error
        if "\x00" in text:
            raise MalformedPacketError("a string with U+0000 in it")
        return text

    def properties(self) -> int | None:
        """Take the properties (MQTT 5.0 §2.2.2) and return the topic alias, if one is among them."""
        end = self._variable() + self._at
        if end > len(self._body):
            raise MalformedPacketError("a packet that is cut off")
        alias = None
        while self._at < end:
            kind = self._variable()
            if kind not in _SIZES:
                raise MalformedPacketError("a property that MQTT 5.0 does not know")
            if kind == _TOPIC_ALIAS:
                alias = self.number(2)
            else:
                self._skip(_SIZES[kind])
        if self._at != end:
            raise MalformedPacketError("properties longer than they say")
        return alias

    def _skip(self, size: int) -> None:
        if size == 0:
            self._variable()
        elif size > 0:
            self.take(size)
        for _ in range(-size):
            self.take(self.number(2))

    def _variable(self) -> int:
        length = _remaining_length(self._body, self._at)
        if length is None:
            raise MalformedPacketError("a packet that is cut off")
        value, self._at = length
        return value


def _remaining_length(buffer: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """Return a variable byte integer (§2.2.3 of MQTT 3.1.1) and where it ends; None if there is more to come."""
    value = 0
    for index in range(4):
        if at + index >= len(buffer):
            return None
        octet = buffer[at + index]
        value |= (octet & 0x7F) << 7 * index
        if octet < 0x80:
            return value, at + index + 1
    raise MalformedPacketError("a length of more than four octets")


def _packet(kind: int, body: bytes) -> bytes:
    length, rest = bytearray(), len(body)
    while rest >= 0x80:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes((kind << 4, *length, rest)) + body
