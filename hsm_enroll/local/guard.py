"""Decides what to do with each MQTT packet between a device and the broker, as AWS IoT Core does; no network.

AWS IoT's developer guide ("MQTT", "MQTT 5 reason codes") describes what a client sees: the response to a CONNECT,
PUBLISH or SUBSCRIBE that no policy allows is "not authorized". MQTT 3.1.1 has no such response to a PUBLISH; there, the
connection is closed. So it is in either version if a packet exceeds a quota ("AWS IoT Core message broker and protocol
limits and quotas"); MQTT 5 has a reason code for that.
"""

from __future__ import annotations

from typing import NamedTuple

from hsm_enroll.local import limits
from hsm_enroll.local import mqtt_packets as mqtt
from hsm_enroll.local.mqtt_packets import MalformedPacketError, Packet
from hsm_enroll.local.rights import Rights


class Verdict(NamedTuple):
    """What to do about a packet.

    Attributes:
        forward: bytes to send to the other side.
        response: bytes to send back to the sender.
        refused: what was not allowed, for the log; None if everything was allowed.
        ends: whether to close the connection.
    """

    forward: bytes = b""
    response: bytes = b""
    refused: str | None = None
    ends: bool = False


def check_connect(connect: mqtt.Connect, packet: Packet, rights: Rights) -> Verdict:
    """Decide about a CONNECT: its client id, and the topic of its will, must be valid and allowed."""
    reason = mqtt.NOT_AUTHORIZED
    if limits.is_too_long(connect.client_id, limits.MAX_CLIENT_ID):
        refused, reason = "a client id that is too long", mqtt.CLIENT_ID_INVALID
    elif not rights.may_connect:
        refused = f"iot:Connect as client {connect.client_id!r}"
    elif connect.will_topic is None:
        return Verdict(forward=packet.encoding)
    elif limits.topic_fault(connect.will_topic) is not None:
        refused, reason = f"a will for {connect.will_topic!r}", mqtt.TOPIC_INVALID
    elif not rights.may_publish(connect.will_topic, retain=connect.will_retain):
        refused = f"a will for {connect.will_topic!r}"
    else:
        return Verdict(forward=packet.encoding)
    return Verdict(response=mqtt.connack_refused(reason, connect.level), refused=refused, ends=True)


class Guard:
    """Decides about the packets of one connection, once its CONNECT has been accepted.

    Args:
        level: the protocol level, `mqtt_packets.V3` or `V5`.
        rights: what the connection may do; can be replaced at any time.
    """

    def __init__(self, level: int, rights: Rights) -> None:
        self.level = level
        self.rights = rights
        self._aliases_of_device: dict[int, str] = {}
        self._aliases_of_broker: dict[int, str] = {}

    def from_device(self, packet: Packet) -> Verdict:
        """Decide about a packet from the device.

        If one filter of a SUBSCRIBE is not allowed, all of its filters are refused.

        Raises:
            MalformedPacketError: the packet is malformed, or not allowed at this point.
        """
        if packet.kind == mqtt.PUBLISH:
            return self._publish(packet)
        if packet.kind == mqtt.SUBSCRIBE:
            return self._subscribe(packet)
        if packet.kind == mqtt.CONNECT:
            raise MalformedPacketError("a second CONNECT", mqtt.PROTOCOL_ERROR)
        return Verdict(forward=packet.encoding)

    def from_broker(self, packet: Packet) -> Verdict:
        """Decide about a packet from the broker.

        A message that the device may not receive is acknowledged and dropped; the device does not notice.

        Raises:
            MalformedPacketError: the packet is malformed.
        """
        if packet.kind != mqtt.PUBLISH:
            return Verdict(forward=packet.encoding)
        message = mqtt.read_publish(packet, self.level)
        topic = _resolve_alias(message, self._aliases_of_broker)
        if self.rights.may_receive(topic):
            return Verdict(forward=packet.encoding)
        response = b"" if message.packet_id is None else mqtt.puback_success(message.packet_id)
        return Verdict(response=response, refused=f"iot:Receive from {topic!r}")

    def _publish(self, packet: Packet) -> Verdict:
        message = mqtt.read_publish(packet, self.level)
        topic = _resolve_alias(message, self._aliases_of_device)
        if message.qos == 2:
            raise MalformedPacketError("a PUBLISH with QoS 2", mqtt.QOS_NOT_SUPPORTED)
        if message.size > limits.MAX_PAYLOAD:
            raise MalformedPacketError(f"a payload of {message.size} bytes", mqtt.TOO_LARGE)
        if (fault := limits.topic_fault(topic)) is not None:
            raise MalformedPacketError(fault, mqtt.TOPIC_INVALID)
        if self.rights.may_publish(topic, retain=message.retain):
            return Verdict(forward=packet.encoding)
        refused = f"{'iot:RetainPublish' if message.retain else 'iot:Publish'} to {topic!r}"
        if message.packet_id is None or self.level != mqtt.V5:
            return Verdict(response=mqtt.disconnect(mqtt.NOT_AUTHORIZED, self.level), refused=refused, ends=True)
        return Verdict(response=mqtt.puback_not_authorized(message.packet_id), refused=refused)

    def _subscribe(self, packet: Packet) -> Verdict:
        request = mqtt.read_subscribe(packet, self.level)
        if len(request.filters) > limits.MAX_FILTERS:
            raise MalformedPacketError(f"a SUBSCRIBE with {len(request.filters)} filters", mqtt.QUOTA_EXCEEDED)
        for topic_filter in request.filters:
            if (fault := limits.topic_fault(topic_filter)) is not None:
                raise MalformedPacketError(fault, mqtt.FILTER_INVALID)
        refused = [topic_filter for topic_filter in request.filters if not self.rights.may_subscribe(topic_filter)]
        if not refused:
            return Verdict(forward=packet.encoding)
        response = mqtt.suback_not_authorized(request, self.level)
        return Verdict(response=response, refused=f"iot:Subscribe to {refused[0]!r}")


def _resolve_alias(message: mqtt.Publish, aliases: dict[int, str]) -> str:
    """Return a message's topic, and update the topic aliases (MQTT 5.0 §3.3.2.3.4)."""
    if message.alias is None:
        return message.topic
    if message.topic:
        aliases[message.alias] = message.topic
    if message.alias not in aliases:
        raise MalformedPacketError("an unknown topic alias", mqtt.PROTOCOL_ERROR)
    return aliases[message.alias]
