"""Publishes a message to the broker in the cloud's own name, as AWS IoT's data plane does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from hsm_enroll.local import mqtt_packets

_TIME_LIMIT = 5.0  # seconds
_CONNACK_ACCEPTED = b"\x20\x02\x00\x00"  # MQTT 3.1.1 §3.2


class Message(NamedTuple):
    """A message (API_iotdata_Publish).

    Attributes:
        topic: the topic.
        payload: the content.
        qos: quality of service, 0 or 1.
        retain: whether the broker keeps it for later subscribers.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool


async def deliver(
    message: Message, open_broker: Callable[[], Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
) -> None:
    """Publish a message, and return once the broker has taken it.

    Args:
        message: the message.
        open_broker: opens a connection to the broker.

    Raises:
        OSError, TimeoutError: the broker was not there, or did not take it.
    """
    async with asyncio.timeout(_TIME_LIMIT):
        reader, writer = await open_broker()
        try:
            writer.write(mqtt_packets.connect(f"local.cloud-{uuid.uuid4().hex}"))
            if await reader.readexactly(len(_CONNACK_ACCEPTED)) != _CONNACK_ACCEPTED:
                raise ConnectionRefusedError("mosquitto refused the connection")
            writer.write(mqtt_packets.publish(*message[:2], qos=message.qos, retain=message.retain))
            # The broker handles packets in order, and closes the connection once it has come to this one.
            writer.write(mqtt_packets.DISCONNECTION)
            await reader.read()
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("mosquitto closed the connection") from error
        finally:
            writer.close()
