"""The messages that were sent on a link and are not answered yet. Pure: the time comes in as an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

# Enough to keep a connection busy that takes half a second for an answer, at AWS IoT's 100 messages a second.
MOST_MESSAGES = 64
# What AWS IoT takes from one connection in two seconds ("Throughput per second per connection"): on a slow network,
# more would only wait longer for its answer.
MOST_BYTES = 1024 * 1024


class InFlight(NamedTuple):
    """A message that was sent.

    Attributes:
        id: its id in the outbox.
        topic: its topic.
        size: its size in bytes.
        sent_at: when it was sent, by the forwarder's clock.
        number: how many were sent on this link before it.
    """

    id: int
    topic: str
    size: int
    sent_at: float
    number: int


class Answered(NamedTuple):
    """A message that was answered.

    Attributes:
        message: the message.
        seconds: how long the broker had been silent while it was in flight.
    """

    message: InFlight
    seconds: float


class Window:
    """What is in flight on one link.

    Attributes:
        limit: how many messages may be in flight: what this side wants, or the broker's Receive Maximum if that is less
            (MQTT 5.0 §3.2.2.3.3).
    """

    def __init__(self) -> None:
        self.limit = MOST_MESSAGES
        self._messages: dict[int, InFlight] = {}
        self._bytes = 0
        self._sent = 0
        self._answered = -1
        self._answered_at = 0.0

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, message_id: int) -> bool:
        return message_id in self._messages

    @property
    def is_full(self) -> bool:
        """Whether as many messages as may be are in flight."""
        return len(self._messages) >= self.limit

    def has_room(self, size: int) -> bool:
        """Whether a message of that many bytes may be sent; a single one may always."""
        if not self._messages:
            return True
        return not self.is_full and self._bytes + size <= MOST_BYTES

    def has_topic(self, topic: str) -> bool:
        """Whether a message with this topic is in flight."""
        return any(message.topic == topic for message in self._messages.values())

    def add(self, message_id: int, topic: str, size: int, now: float) -> None:
        """Note that a message was sent."""
        self._messages[message_id] = InFlight(message_id, topic, size, now, self._sent)
        self._bytes += size
        self._sent += 1

    def answered(self, message_id: int, now: float) -> Answered | None:
        """Note that a message was answered, and return it; None if it was not in flight."""
        message = self._messages.pop(message_id, None)
        if message is None:
            return None
        self._bytes -= message.size
        seconds = now - max(message.sent_at, self._answered_at)
        self._answered = max(self._answered, message.number)
        self._answered_at = now
        return Answered(message, seconds)

    def clear(self) -> list[InFlight]:
        """Forget the link, and return what was in flight, in the order in which it was sent."""
        messages = list(self._messages.values())
        self.__init__()  # type: ignore[misc]  # the next link begins like the first one
        return messages

    @property
    def oldest(self) -> InFlight | None:
        """What was sent first; None if nothing is in flight."""
        return next(iter(self._messages.values()), None)

    def silent_at(self, patience: Callable[[int], float]) -> float | None:
        """Return when the link counts as dead if there is no further answer; None if nothing is in flight.

        A broker answers in the order of what it received (MQTT 5.0 §4.6). So a message is late if the broker has been
        silent for too long since it was sent, or if a later one was answered: AWS IoT discards what exceeds its quota,
        without an answer.

        Args:
            patience: returns how many seconds a message of a size may take.
        """
        oldest = self.oldest
        if oldest is None:
            return None
        if oldest.number < self._answered:
            return oldest.sent_at + patience(oldest.size)
        return max(oldest.sent_at, self._answered_at) + patience(oldest.size)
