"""Messages as rows of the database. A checksum tells whether a row is as it was written, which SQLite does not."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hsm_enroll.store.outbox.age import Moment, age
from hsm_enroll.store.outbox.damage import DamagedError
from hsm_enroll.store.outbox.values import NewMessage, Properties, QueuedMessage

# What a row takes beside topic, properties and payload, roughly; so an empty message counts too.
_OVERHEAD = 100
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
    return (message_id, _checksum(message_id, new), *new)


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
    ids = [after, *(message_id for message_id, *_ in found)]
    if any(later <= earlier for earlier, later in pairwise(ids)):
        raise DamagedError("its messages are not in order")
    return [_message(*row, at=at, offset=offset) for row in found]


def _message(message_id: int, checksum: int, *stored: Any, at: Moment, offset: int) -> QueuedMessage:
    if checksum != _checksum(message_id, stored):
        raise DamagedError(f"message {message_id} is damaged")
    size, topic, retain, expires_after, wall, running, boot, properties, payload = stored
    expires_in, seconds = seconds_old(at, expires_after, wall, running, boot)
    return QueuedMessage(
        id=message_id + offset,
        topic=topic,
        payload=payload,
        retain=bool(retain),
        properties=_properties(properties),
        expires_in=expires_in,
        age=seconds,
        size=size,
    )


def seconds_old(at: Moment, expires_after: Any, wall: Any, running: Any, boot: Any) -> tuple[float | None, float]:
    """Return what is left of a row's time (None: it never expires), and its age, in seconds; without its checksum.

    Raises:
        DamagedError: they cannot be told.
    """
    kinds = tuple(map(type, (wall, running, boot)))
    if kinds != (float, float, str) or type(expires_after) not in (float, type(None)):
        raise DamagedError("the time of a message is damaged")
    seconds = age(Moment(wall, running, boot), at)
    return None if expires_after is None else expires_after - seconds, seconds


def _checksum(message_id: int, stored: Sequence[Any]) -> int:
    *others, payload = stored
    text = repr((message_id, others)).encode("utf-8", "backslashreplace")
    return zlib.crc32(payload if isinstance(payload, bytes) else repr(payload).encode(), zlib.crc32(text))


def _properties_text(properties: Properties) -> str | None:
    if properties == Properties():
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


def _properties(text: str | None) -> Properties:
    if text is None:
        return Properties()
    document = json.loads(text)
    correlation = document["correlation_data"]
    return Properties(
        content_type=document["content_type"],
        response_topic=document["response_topic"],
        correlation_data=None if correlation is None else base64.b64decode(correlation),
        user_properties=tuple((name, value) for name, value in document["user_properties"]),
    )
