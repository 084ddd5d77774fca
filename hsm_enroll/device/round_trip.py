"""The message that shows that a new certificate works: sent, and received again."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING

from hsm_enroll.errors import MqttRefusedError
from hsm_enroll.iot.device_topics import DeviceTopics

if TYPE_CHECKING:
    from hsm_enroll.iot import Connection

PURPOSE = "renew"
"""The purpose of its connection, which has a client id of its own."""

# The broker sends it when it acknowledges it, which has happened by then. AWS IoT drops it in silence until it knows
# the certificate's rights; so the wait is short, and the whole is tried again, see ``first_message``.
_RECEIVE_SECONDS = 5.0


def make(connection: Connection, thing_name: str) -> None:
    """Publish a message on the Thing's own topic, and wait until the broker has delivered it back.

    Args:
        connection: an open connection with the new certificate.
        thing_name: the Thing.

    Raises:
        MqttRefusedError: the broker refuses, or the message does not come back, as if its policy did not allow it.
        MqttError: any other failure.
    """
    topic = DeviceTopics.of(thing_name).hello
    content = {"message": "renewal", "thingName": thing_name, "nonce": secrets.token_hex(16)}
    payload = json.dumps(content).encode("utf-8")
    messages = connection.subscribe(topic)
    connection.publish(topic, payload)
    until = time.monotonic() + _RECEIVE_SECONDS
    while (left := until - time.monotonic()) > 0:
        message = messages.receive(left)
        if message is None:
            break
        # Others may publish on this topic too.
        if message.payload == payload:
            return
    raise MqttRefusedError(
        f"the broker did not deliver the message on {topic} within {_RECEIVE_SECONDS:.0f} s",
        hint=f"The device policy has to allow the Thing to subscribe to {topic} and receive on it: ask the operator.",
    )
