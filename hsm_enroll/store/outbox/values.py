"""What goes into the outbox and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hsm_enroll.settings import WhenFull


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """How much the outbox may hold.

    Attributes:
        max_bytes: of all messages together, see :attr:`QueuedMessage.size`. The file may be up to twice as large.
        max_age: in seconds; an older message counts as expired. None: no limit.
        when_full: what happens to a new message that does not fit.
    """

    max_bytes: int
    max_age: float | None = None
    when_full: WhenFull = WhenFull.REFUSE


@dataclass(frozen=True, slots=True)
class Properties:
    """What an MQTT message may carry beside its payload (MQTT 5.0 §3.3.2.3). Not checked here.

    Attributes:
        content_type: what the payload is, for example a media type.
        response_topic: where an answer is expected.
        correlation_data: what an answer has to repeat.
        user_properties: pairs of a name and a value; a name may occur several times.
    """

    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be queued. Topic and payload are *not* checked here.

    Attributes:
        retain: whether the broker keeps it for later subscribers.
        expires_after: in seconds from now, on the device and at the broker; None: never.
    """

    topic: str
    payload: bytes = field(repr=False)
    retain: bool = False
    expires_after: float | None = None
    properties: Properties = Properties()


class QueuedMessage(NamedTuple):
    """A message in the outbox. A named tuple, since thousands a second are made.

    Attributes:
        id: greater than that of every message queued before.
        expires_in: seconds that are left of its ``expires_after``; None: it never expires.
        age: seconds since it was queued; see :mod:`hsm_enroll.store.outbox.age`.
        size: what counts for the limit, in bytes: topic, payload and properties, and a little for the rest.
    """

    id: int
    topic: str
    payload: bytes
    retain: bool
    properties: Properties
    expires_in: float | None
    age: float
    size: int

    def __repr__(self) -> str:
        """Leave out the payload, which may be secret."""
        return f"QueuedMessage(id={self.id}, topic={self.topic!r}, size={self.size}, age={self.age})"


class RefusedMessage(NamedTuple):
    """A message that the broker has refused, without its payload.

    Attributes:
        id: as that of the message while it was queued.
        bytes: of the payload.
        size: what counts for the limit, as :attr:`QueuedMessage.size`.
        at: when it was set aside, in seconds since 1970; 0 if the clock was not known to be right.
        reason: name of the reason code (MQTT 5.0 §2.4), or awscrt's name for an error.
    """

    id: int
    topic: str
    bytes: int
    size: int
    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class OutboxState:
    """What the outbox holds, and what has happened to messages that were not delivered.

    Attributes:
        messages: how many are waiting.
        bytes: their sizes together.
        oldest_age: of the oldest one, in seconds; None if there is none.
        refused: how many were ever set aside because the broker refused them.
        refused_bytes: the sizes of those that are still there.
        dropped: how many were ever removed to make room for newer ones.
        expired: how many were ever removed because of their age.
        damaged_files: databases that were damaged and therefore set aside, oldest first.
    """

    messages: int
    bytes: int
    oldest_age: float | None
    refused: int
    refused_bytes: int
    dropped: int
    expired: int
    damaged_files: tuple[Path, ...]
