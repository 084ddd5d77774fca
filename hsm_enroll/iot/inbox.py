"""Where received messages wait for whoever subscribed to them. Knows no MQTT library."""

from __future__ import annotations

from dataclasses import dataclass, field
from queue import SimpleQueue

from hsm_enroll.iot import topics


@dataclass(frozen=True, slots=True)
class Message:
    """A message received.

    Attributes:
        topic: the topic it was published to.
        payload: its content.
    """

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The messages of one subscription, in the order they came; None is the end."""

    topic_filter: str
    messages: SimpleQueue[Message | None] = field(default_factory=SimpleQueue)


class Inbox:
    """The streams of one connection. One thread delivers while others add and take: the tuple is replaced whole."""

    def __init__(self) -> None:
        self._streams: tuple[Stream, ...] = ()

    def add(self, topic_filter: str) -> Stream:
        """Begin to keep the messages that match a filter."""
        stream = Stream(topic_filter)
        self._streams = (*self._streams, stream)
        return stream

    def remove(self, stream: Stream) -> None:
        """Keep no more messages for a stream."""
        self._streams = tuple(other for other in self._streams if other is not stream)

    def deliver(self, message: Message) -> None:
        """Hand a message to every stream whose filter matches its topic."""
        for stream in self._streams:
            if topics.matches(stream.topic_filter, message.topic):
                stream.messages.put(message)

    def end(self) -> None:
        """End every stream after what it holds."""
        for stream in self._streams:
            stream.messages.put(None)
