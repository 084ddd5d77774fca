"""Keeps received messages until the subscriber takes them. Knows no MQTT library."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Condition

from hsm_enroll.iot import topics

# What may wait for a subscriber, in bytes.
CAPACITY = 32 * 1024 * 1024
# A message takes this much memory besides its topic and payload, in bytes.
_OVERHEAD = 256


@dataclass(frozen=True, slots=True)
class Message:
    """A received message.

    Attributes:
        topic: the topic it was published to.
        payload: its content.
    """

    topic: str
    payload: bytes


class Stream:
    """The messages of one subscription in order of arrival, up to ``CAPACITY`` of those that nobody has taken.

    Attributes:
        topic_filter: what it is subscribed to.
        overflowed: whether a message came for which there was no room; none is kept after it.
    """

    def __init__(self, topic_filter: str) -> None:
        self.topic_filter = topic_filter
        self.overflowed = False
        self._waiting: deque[Message] = deque()
        self._size = 0
        self._ended = False
        self._changed = Condition()

    def put(self, message: Message) -> None:
        """Keep a message, or end the stream if there is no room for it; never waits for the subscriber."""
        with self._changed:
            if self._ended:
                return
            self._size += _size(message)
            self.overflowed = self._ended = self._size > CAPACITY
            if not self.overflowed:
                self._waiting.append(message)
            self._changed.notify()

    def end(self) -> None:
        """End the stream after the messages that it holds."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def __iter__(self) -> Iterator[Message]:
        """Yield each message when it comes, until the end."""
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> Message | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            message = self._waiting.popleft()
            self._size -= _size(message)
            return message


class Inbox:
    """The streams of one connection.

    One thread delivers while others add and remove streams, so the tuple is always replaced as a whole.
    """

    def __init__(self) -> None:
        self._streams: tuple[Stream, ...] = ()

    def add(self, topic_filter: str) -> Stream:
        """Start keeping the messages that match a topic filter."""
        stream = Stream(topic_filter)
        self._streams = (*self._streams, stream)
        return stream

    def remove(self, stream: Stream) -> None:
        """Stop keeping messages for a stream."""
        self._streams = tuple(other for other in self._streams if other is not stream)

    def deliver(self, message: Message) -> None:
        """Add a message to every stream whose filter matches its topic."""
        for stream in self._streams:
            if topics.matches(stream.topic_filter, message.topic):
                stream.put(message)

    def end(self) -> None:
        """End every stream after the messages that it holds."""
        for stream in self._streams:
            stream.end()


def _size(message: Message) -> int:
    return len(message.topic) + len(message.payload) + _OVERHEAD
