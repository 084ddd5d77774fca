"""The message that shows that a new certificate works: sent, and received again."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING

from hsm_enroll.errors import MqttError
from hsm_enroll.iot.device_topics import DeviceTopics

if TYPE_CHECKING:
    from hsm_enroll.iot import Connection

PURPOSE = "renew"
"""The purpose of its connection, which has a client id of its own."""

_RECEIVE_SECONDS = 15.0


def make(connection: Connection, thing_name: str) -> None:
    """Publish a message on the Thing's own topic, and wait until the broker has delivered it back.

    Args:
        connection: an open connection with the new certificate.
        thing_name: the Thing.

    Raises:
        MqttError: the broker refuses, or the message does not come back.
    """
    topic = DeviceTopics.of(thing_name).hello
    content = {"message": "renewal", "thingName": thing_name, "nonce": secrets.token_hex(16)}
    payload = json.dumps(content).encode("utf-8")
    messages = connection.subscribe(topic)
    connection.publish(topic, payload)
    until = time.monotonic() + _RECEIVE_SECONDS
    while (left := until - time.monotonic()) > 0:
        message = messages.receive(left)
        # Others may publish on this topic too.
        if message is not None and message.payload == payload:
            return
    raise MqttError(
        f"the broker did not deliver the message on {topic} within {_RECEIVE_SECONDS:.0f} s",
        hint=f"The device policy has to allow the Thing to subscribe to {topic} and receive on it: ask the operator.",
    )
