"""Messages as rows of the database. A checksum tells whether a row is as it was written, which SQLite does not."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from hsm_enroll.store.outbox.age import Moment, age
from hsm_enroll.store.outbox.damage import DamagedError
from hsm_enroll.store.outbox.values import NewMessage, Properties, QueuedMessage

# What a row takes beside topic, properties and payload, roughly; so an empty message counts too.
_OVERHEAD = 100
_NONE = Properties()
_NUMBERS = struct.Struct("<qqqddd")
_NEVER = float("nan")  # SQLite stores it as NULL, so that no expiry has this value
AGE_MEMBERS = "expires_after, queued_wall, queued_running, queued_boot"
MEMBERS = f"id, checksum, size, topic, retain, {AGE_MEMBERS}, properties, payload"
# Without id and checksum.
Members = tuple[int, str, int, float | None, float, float, str, str | None, bytes]


def members(message: NewMessage, at: Moment) -> Members:
    """Return the members of a new message's row."""
    properties = _properties_text(message.properties)
    return (
        len(message.topic.encode()) + len(properties or "") + len(message.payload) + _OVERHEAD,
        message.topic,
        int(message.retain),
        None if message.expires_after is None else float(message.expires_after),
        at.wall,
        at.running,
        at.boot,
        properties,
        bytes(message.payload),
    )


def row(message_id: int, new: Members) -> tuple[Any, ...]:
    """Return the row of a new message."""
    return (message_id, _checksum(message_id, *new), *new)


def messages(found: Sequence[Sequence[Any]], after: int, at: Moment, offset: int) -> list[QueuedMessage]:
    """Return the messages of rows.

    Args:
        found: rows in the order of their ids.
        after: an id that is less than theirs.
        at: the time.
        offset: what to add to their ids.

    Raises:
        DamagedError: they are not as they were written.
    """
    read: list[QueuedMessage] = []
    for message_id, checksum, size, topic, retain, expires_after, wall, running, boot, properties, payload in found:
        members = (size, topic, retain, expires_after, wall, running, boot, properties, payload)
        if message_id <= after:
            raise DamagedError("its messages are not in order")
        if checksum != _checksum(message_id, *members):
            raise DamagedError(f"message {message_id} is damaged")
        seconds = age(Moment(wall, running, boot), at)
        read.append(
            QueuedMessage(
                message_id + offset,
                topic,
                payload,
                retain == 1,
                _NONE if properties is None else _properties(properties),
                None if expires_after is None else expires_after - seconds,
                seconds,
                size,
            )
        )
        after = message_id
    return read


def seconds_old(at: Moment, expires_after: Any, wall: Any, running: Any, boot: Any) -> tuple[float | None, float]:
    """Return what is left of a row's time (None: it never expires), and its age, in seconds; without its checksum.

    Raises:
        DamagedError: they cannot be told.
    """
    kinds = (type(wall), type(running), type(boot))
    if kinds != (float, float, str) or type(expires_after) not in (float, type(None)):
        raise DamagedError("the time of a message is damaged")
    seconds = age(Moment(wall, running, boot), at)
    return None if expires_after is None else expires_after - seconds, seconds


def _checksum(
    message_id: int,
    size: int,
    topic: str,
    retain: int,
    expires_after: float | None,
    wall: float,
    running: float,
    boot: str,
    properties: str | None,
    payload: bytes,
) -> int:
    """Return the CRC-32 of a row.

    Raises:
        DamagedError: its members are not of their types.
    """
    try:
        numbers = _NUMBERS.pack(
            message_id, size, retain, _NEVER if expires_after is None else expires_after, wall, running
        )
        texts = f"{topic}\0{boot}\0{properties}".encode("utf-8", "backslashreplace")
        return zlib.crc32(payload, zlib.crc32(texts, zlib.crc32(numbers)))
    except (struct.error, TypeError) as error:
        raise DamagedError(f"message {message_id} is damaged: {error}") from error


def _properties_text(properties: Properties) -> str | None:
    if properties == _NONE:
        return None
    correlation = properties.correlation_data
    return json.dumps(
        {
            "content_type": properties.content_type,
            "response_topic": properties.response_topic,
            "correlation_data": None if correlation is None else base64.b64encode(correlation).decode(),
            "user_properties": properties.user_properties,
        }
    )


def _properties(text: str) -> Properties:
    document = json.loads(text)
    correlation = document["correlation_data"]
    return Properties(
        content_type=document["content_type"],
        response_topic=document["response_topic"],
        correlation_data=None if correlation is None else base64.b64decode(correlation),
        user_properties=tuple((name, value) for name, value in document["user_properties"]),
    )
