"""Keeps received messages until the subscriber takes them. Knows no MQTT library."""

from __future__ import annotations

from dataclasses import dataclass, field
from queue import SimpleQueue

from hsm_enroll.iot import topics


@dataclass(frozen=True, slots=True)
class Message:
    """A received message.

    Attributes:
        topic: the topic it was published to.
        payload: its content.
    """

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The messages of one subscription in order of arrival; None marks the end."""

    topic_filter: str
    messages: SimpleQueue[Message | None] = field(default_factory=SimpleQueue)


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
                stream.messages.put(message)

    def end(self) -> None:
        """End every stream after the messages that it holds."""
        for stream in self._streams:
            stream.messages.put(None)
