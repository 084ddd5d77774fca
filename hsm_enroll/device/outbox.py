"""This device's outbox, as the settings have it, for whoever writes into it or asks what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_enroll.store.outbox import Outbox, OutboxLimits, OutboxState, RefusedMessage, exists

if TYPE_CHECKING:
    from hsm_enroll.settings import Settings

_NOTHING = OutboxState(
    messages=0, bytes=0, oldest_age=None, refused=0, refused_bytes=0, dropped=0, expired=0, damaged_files=()
)
# The limits are for who adds and takes messages.
_LOOKING = OutboxLimits(max_bytes=0)


def limits(resolved: Settings) -> OutboxLimits:
    """Return the outbox's limits."""
    return OutboxLimits(
        max_bytes=resolved.outbox_bytes, max_age=resolved.outbox_max_age or None, when_full=resolved.outbox_when_full
    )


def state(folder: Path) -> OutboxState:
    """Return what the outbox of a state folder holds; creates none where there is none.

    Raises:
        StateError, StateTooNewError: there is one, but it cannot be used.
    """
    if not exists(folder):
        return _NOTHING
    with Outbox.open(folder, _LOOKING) as outbox:
        return outbox.state()


def refused(folder: Path) -> list[RefusedMessage]:
    """Return the messages that were set aside, since the broker refused them, in the order in which they were queued.

    Raises:
        StateError, StateTooNewError: there is an outbox, but it cannot be used.
    """
    if not exists(folder):
        return []
    with Outbox.open(folder, _LOOKING) as outbox:
        return outbox.refused()


def retry(folder: Path, topic: str | None) -> int:
    """Queue messages that were set aside again, and have them sent; those that are set aside meanwhile are left alone.

    Does *not* check that the broker accepts them now: it may refuse them again.

    Args:
        folder: the state folder.
        topic: only those of this topic; None for all.

    Returns:
        How many were queued.

    Raises:
        StateError, StateTooNewError: the outbox cannot be used; what has not been queued is still set aside.
    """
    if not exists(folder):
        return 0
    with Outbox.open(folder, _LOOKING) as outbox:
        return outbox.put_back([message for message in outbox.refused() if topic in {None, message.topic}])


def discard(folder: Path, messages: Sequence[RefusedMessage]) -> int:
    """Delete messages that were set aside; return how many were still there.

    Raises:
        StateError, StateTooNewError: the outbox cannot be used.
    """
    with Outbox.open(folder, _LOOKING) as outbox:
        return outbox.discard(messages)


def what_waits(found: OutboxState) -> str:
    """Return how much waits to be sent, for a person."""
    if found.messages == 0:
        return "no message waits"
    count = "1 message waits" if found.messages == 1 else f"{found.messages} messages wait"
    age = "" if found.oldest_age is None else f", the oldest for {_duration(found.oldest_age)}"
    return f"{count} ({_size(found.bytes)}){age}"


def what_was_lost(found: OutboxState) -> str:
    """Return how many messages were not delivered, and why, for a person; "" if there are none."""
    counts = {
        "refused by the broker": found.refused,
        "expired": found.expired,
        "dropped to make room": found.dropped,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(count: int) -> str:
    for unit, size in (("MiB", 1024**2), ("KiB", 1024)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
