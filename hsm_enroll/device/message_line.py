"""A message that was received as one line of JSON, wherever a program reads it: docs/schema/subscribe.json."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_enroll.iot import Message


def of(message: Message) -> str:
    """Return the line, with its line feed; it is ASCII. A payload that is not UTF-8 is in base64 (RFC 4648 §4)."""
    try:
        content = {"payload": message.payload.decode("utf-8")}
    except UnicodeDecodeError:
        content = {"payloadBase64": base64.b64encode(message.payload).decode("ascii")}
    return json.dumps({"topic": message.topic, **content}) + "\n"
