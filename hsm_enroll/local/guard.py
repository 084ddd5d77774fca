"""What becomes of each MQTT packet between a device and the broker, as AWS IoT Core decides it; no network.

AWS IoT's developer guide ("MQTT", "MQTT 5 reason codes") says what a client sees: a CONNECT, PUBLISH or SUBSCRIBE
that no policy allows is answered with "not authorized"; where MQTT 3.1.1 has no such answer, to a PUBLISH, the
connection ends.
"""

from __future__ import annotations

from typing import NamedTuple

from hsm_enroll.local import mqtt_packets as mqtt
from hsm_enroll.local.mqtt_packets import MalformedPacketError, Packet
from hsm_enroll.local.rights import Rights


class Verdict(NamedTuple):
    """What to do about a packet.

    Attributes:
        forward: what goes on to the other side.
        answer: what goes back to the side it came from.
        refused: what was not allowed, for the log; None where all was.
        ends: whether the connection ends.
    """

    forward: bytes = b""
    answer: bytes = b""
    refused: str | None = None
    ends: bool = False


def at_the_door(connect: mqtt.Connect, packet: Packet, rights: Rights) -> Verdict:
    """Decide on a CONNECT: the client id, and where its will may go, have to be allowed."""
    if not rights.may_connect:
        refused: str | None = f"iot:Connect as client {connect.client_id!r}"
    elif connect.will_topic is not None and not rights.may_publish(connect.will_topic, retain=connect.will_retain):
        refused = f"a will for {connect.will_topic!r}"
    else:
        return Verdict(forward=packet.encoding)
    return Verdict(answer=mqtt.refused_connection(connect.level), refused=refused, ends=True)


class Guard:
    """Decides for one connection, once its CONNECT was let through.

    Args:
        level: the protocol level, `mqtt_packets.V3` or `V5`.
        rights: what the connection may do; may be replaced.
    """

    def __init__(self, level: int, rights: Rights) -> None:
        self.level = level
        self.rights = rights
        self._aliases_of_device: dict[int, str] = {}
        self._aliases_of_broker: dict[int, str] = {}

    def from_device(self, packet: Packet) -> Verdict:
        """Decide on what the device sends.

        Of a SUBSCRIBE that has one filter that is not allowed, all are refused.

        Raises:
            MalformedPacketError: it cannot be read, or has no place here.
        """
        if packet.kind == mqtt.PUBLISH:
            return self._publication(packet)
        if packet.kind == mqtt.SUBSCRIBE:
            return self._subscription(packet)
        if packet.kind == mqtt.CONNECT:
            raise MalformedPacketError("a second CONNECT", mqtt.PROTOCOL_ERROR)
        return Verdict(forward=packet.encoding)

    def from_broker(self, packet: Packet) -> Verdict:
        """Decide on what the broker sends: a message that the device may not receive is taken from it in silence.

        Raises:
            MalformedPacketError: it cannot be read.
        """
        if packet.kind != mqtt.PUBLISH:
            return Verdict(forward=packet.encoding)
        message = mqtt.read_publish(packet, self.level)
        topic = _resolved(message, self._aliases_of_broker)
        if self.rights.may_receive(topic):
            return Verdict(forward=packet.encoding)
        answer = b"" if message.packet_id is None else mqtt.acknowledged(message.packet_id)
        return Verdict(answer=answer, refused=f"iot:Receive from {topic!r}")

    def _publication(self, packet: Packet) -> Verdict:
        message = mqtt.read_publish(packet, self.level)
        topic = _resolved(message, self._aliases_of_device)
        if message.quality == 2:
            raise MalformedPacketError("a PUBLISH of QoS 2", mqtt.TAKES_NO_QOS_2)
        if message.size > mqtt.LARGEST_PAYLOAD:
            raise MalformedPacketError(f"a payload of {message.size} bytes", mqtt.TOO_LARGE)
        if self.rights.may_publish(topic, retain=message.retain):
            return Verdict(forward=packet.encoding)
        refused = f"{'iot:RetainPublish' if message.retain else 'iot:Publish'} to {topic!r}"
        if message.packet_id is None or self.level != mqtt.V5:
            return Verdict(answer=mqtt.disconnection(mqtt.NOT_AUTHORIZED, self.level), refused=refused, ends=True)
        return Verdict(answer=mqtt.refused_publication(message.packet_id), refused=refused)

    def _subscription(self, packet: Packet) -> Verdict:
        request = mqtt.read_subscribe(packet, self.level)
        refused = [topic_filter for topic_filter in request.filters if not self.rights.may_subscribe(topic_filter)]
        if not refused:
            return Verdict(forward=packet.encoding)
        answer = mqtt.refused_subscription(request, self.level)
        return Verdict(answer=answer, refused=f"iot:Subscribe to {refused[0]!r}")


def _resolved(message: mqtt.Publish, aliases: dict[int, str]) -> str:
    """Return a message's topic, and learn what its alias stands for (MQTT 5.0 §3.3.2.3.4)."""
    if message.alias is None:
        return message.topic
    if message.topic:
        aliases[message.alias] = message.topic
    if message.alias not in aliases:
        raise MalformedPacketError("a topic alias that stands for nothing", mqtt.PROTOCOL_ERROR)
    return aliases[message.alias]
