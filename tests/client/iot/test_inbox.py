"""Where received messages wait."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hsm_enroll.errors import MqttError, MqttTakenOverError
from hsm_enroll.iot.inbox import CAPACITY, Inbox, Message, Stream


def _taken(stream: Stream) -> Iterator[Message]:
    """Take what is there."""
    while (message := stream.wait(0)) is not None:
        yield message


def test_threads_that_subscribe_at_once_lose_no_stream() -> None:
    """A stream that one thread adds stays, whatever others add and remove at the same moment."""
    inbox = Inbox()

    def add(number: int) -> Stream:
        inbox.remove(inbox.add("other"))
        return inbox.add(f"plant/{number}")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            streams = list(pool.map(add, range(1000)))
    finally:
        sys.setswitchinterval(before)
    assert [stream.topic_filter for stream in streams if not inbox.has(stream.topic_filter)] == []
    assert not inbox.has("other")


def test_a_message_goes_to_every_stream_it_matches() -> None:
    """Overlapping filters each get the message, in the order of arrival, and then the end."""
    inbox = Inbox()
    wide, narrow = inbox.add("plant/#"), inbox.add("plant/1")
    first, second = Message("plant/1", b"a"), Message("plant/2", b"b")
    for message in (first, second):
        inbox.deliver(message)
    inbox.end()
    assert list(_taken(wide)) == [first, second]
    assert list(_taken(narrow)) == [first]


def test_a_removed_stream_keeps_nothing_more() -> None:
    """A subscription that the broker refused does not gather messages of another one of the same filter."""
    inbox = Inbox()
    kept, removed = inbox.add("plant/#"), inbox.add("plant/#")
    inbox.remove(removed)
    inbox.deliver(Message("plant/1", b"a"))
    inbox.end()
    assert list(_taken(kept)) == [Message("plant/1", b"a")]
    removed.end()
    assert list(_taken(removed)) == []


def test_a_stream_that_nobody_reads_does_not_grow_without_end() -> None:
    """D29: a stream keeps as many messages as there is room for, in memory, then ends and says why."""
    inbox = Inbox()
    stream = inbox.add("plant/#")
    message = Message("plant/1", b"x" * (CAPACITY // 4))
    for _ in range(10):
        inbox.deliver(message)
    assert [stream.take() for _ in range(3)] == [message] * 3
    with pytest.raises(MqttError, match="32 MiB are waiting"):
        stream.take()


def test_a_stream_that_is_read_takes_any_number_of_messages() -> None:
    """D29: what has been taken takes no room any more; empty messages take some too."""
    inbox = Inbox()
    stream = inbox.add("plant/#")
    for _ in range(10):
        inbox.deliver(Message("plant/1", b"x" * (CAPACITY // 4)))
        assert stream.take() is not None
    for _ in range(CAPACITY // 256):
        inbox.deliver(Message("plant/1", b""))
    with pytest.raises(MqttError, match="32 MiB are waiting"):
        list(_taken(stream))


def test_a_stream_ends_after_its_messages_with_its_error() -> None:
    """What came before the end is given out, then the error each time; a stream that was ended on purpose just ends."""
    inbox = Inbox()
    message = Message("plant/1", b"a")
    for error in (None, MqttTakenOverError("it was taken over")):
        stream = inbox.add("plant/#")
        inbox.deliver(message)
        stream.end(error)
        stream.end(MqttError("too late"))
        assert (stream.take(), stream.is_over) == (message, True)
        for _ in range(2):
            if error is None:
                assert stream.wait(None) is None
            else:
                with pytest.raises(MqttTakenOverError, match="taken over"):
                    stream.wait(None)


def test_each_change_of_a_stream_is_told() -> None:
    """Who cannot wait in a thread is called for each message and for the end."""
    stream = Stream("plant/#")
    changes: list[bool] = []
    stream.on_change = lambda: changes.append(stream.is_over)
    stream.put(Message("plant/1", b"a"))
    stream.take()
    stream.end()
    assert changes == [False, True]
