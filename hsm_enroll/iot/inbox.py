"""Keeps received messages until the subscriber takes them. Knows no MQTT library."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Lock

from hsm_enroll.errors import HsmEnrollError, MqttError
from hsm_enroll.iot import failures, topics

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
        retained: whether the broker had kept it from before the subscription (MQTT 5.0 §3.3.1.3).
    """

    topic: str
    payload: bytes
    retained: bool = False


class Stream:
    """The messages of one subscription in order of arrival, up to ``CAPACITY`` of those that nobody has taken.

    Attributes:
        topic_filter: what it is subscribed to.
        on_change: called after a message has come or the stream has ended, on the thread that brought it; must not
            wait.
    """

    def __init__(self, topic_filter: str) -> None:
        self.topic_filter = topic_filter
        self.on_change: Callable[[], None] = _nothing
        self._waiting: deque[Message] = deque()
        self._size = 0
        self._ended = False
        self._error: HsmEnrollError | None = None
        self._changed = Condition()

    def put(self, message: Message) -> bool:
        """Keep a message, or end the stream if there is no room for it; never waits for the subscriber.

        Returns:
            Whether it takes further messages.
        """
        with self._changed:
            if self._ended:
                return False
            if self._size + _size(message) > CAPACITY:
                self._ended, self._error = True, _overflow(self.topic_filter)
            else:
                self._waiting.append(message)
                self._size += _size(message)
            takes_more = not self._ended
            self._changed.notify_all()
        self.on_change()
        return takes_more

    def end(self, error: HsmEnrollError | None = None) -> None:
        """End the stream after the messages that it holds; the error says why, if this side did not want it."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()
        self.on_change()

    @property
    def is_over(self) -> bool:
        """Whether it has ended and every message has been taken."""
        with self._changed:
            return self._ended and not self._waiting

    def take(self) -> Message | None:
        """Take the next message, or return None if none has come yet, or none will.

        Raises:
            HsmEnrollError: it is over because of this error.
        """
        with self._changed:
            if self._waiting:
                message = self._waiting.popleft()
                self._size -= _size(message)
                return message
            if self._error is not None:
                raise failures.again(self._error)
            return None

    def wait(self, timeout: float | None) -> Message | None:
        """Wait for the next message and take it; None after the timeout, in seconds, or once the stream is over.

        Raises:
            HsmEnrollError: it is over because of this error.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended, timeout)
            return self.take()


class Inbox:
    """The streams of one connection.

    One thread delivers while others add and remove streams, so the tuple is always replaced as a whole.
    """

    def __init__(self) -> None:
        self._changing = Lock()
        self._streams: tuple[Stream, ...] = ()

    def add(self, topic_filter: str) -> Stream:
        """Start keeping the messages that match a topic filter."""
        stream = Stream(topic_filter)
        with self._changing:
            self._streams = (*self._streams, stream)
        return stream

    def remove(self, stream: Stream) -> None:
        """Stop keeping messages for a stream."""
        with self._changing:
            self._streams = tuple(other for other in self._streams if other is not stream)

    def deliver(self, message: Message) -> list[Stream]:
        """Add a message to every stream whose filter matches its topic; return those that take no more."""
        matching = [stream for stream in self._streams if topics.matches(stream.topic_filter, message.topic)]
        return [stream for stream in matching if not stream.put(message)]

    def end(self, error: HsmEnrollError | None = None) -> None:
        """End every stream after the messages that it holds; see :meth:`Stream.end`."""
        for stream in self._streams:
            stream.end(error)

    def has(self, topic_filter: str) -> bool:
        """Whether any stream is subscribed to this very filter."""
        return any(stream.topic_filter == topic_filter for stream in self._streams)


def _nothing() -> None:
    """Nobody listens."""


def _overflow(topic_filter: str) -> MqttError:
    return MqttError(
        f"messages of {topic_filter!r} came faster than they were taken: {CAPACITY // 2**20} MiB are waiting",
        hint="Take them faster, or subscribe to fewer topics.",
    )


def _size(message: Message) -> int:
    return len(message.topic) + len(message.payload) + _OVERHEAD
