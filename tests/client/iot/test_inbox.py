"""Where received messages wait."""

from __future__ import annotations

from hsm_enroll.iot.inbox import CAPACITY, Inbox, Message


def test_a_message_goes_to_every_stream_it_matches() -> None:
    """Overlapping filters each get the message, in the order of arrival, and then the end."""
    inbox = Inbox()
    wide, narrow = inbox.add("plant/#"), inbox.add("plant/1")
    first, second = Message("plant/1", b"a"), Message("plant/2", b"b")
    for message in (first, second):
        inbox.deliver(message)
    inbox.end()
    assert list(wide) == [first, second]
    assert list(narrow) == [first]


def test_a_removed_stream_keeps_nothing_more() -> None:
    """A subscription that the broker refused does not gather messages of another one of the same filter."""
    inbox = Inbox()
    kept, removed = inbox.add("plant/#"), inbox.add("plant/#")
    inbox.remove(removed)
    inbox.deliver(Message("plant/1", b"a"))
    inbox.end()
    assert list(kept) == [Message("plant/1", b"a")]
    removed.end()
    assert list(removed) == []


def test_a_stream_that_nobody_reads_does_not_grow_without_end() -> None:
    """D29: a stream keeps as many messages as there is room for, in memory, then ends and says why."""
    inbox = Inbox()
    stream = inbox.add("plant/#")
    message = Message("plant/1", b"x" * (CAPACITY // 4))
    for _ in range(10):
        inbox.deliver(message)
    assert list(stream) == [message] * 3
    assert stream.overflowed


def test_a_stream_that_is_read_takes_any_number_of_messages() -> None:
    """D29: what has been taken takes no room any more; empty messages take some too."""
    inbox = Inbox()
    stream = inbox.add("plant/#")
    messages = iter(stream)
    for _ in range(10):
        inbox.deliver(Message("plant/1", b"x" * (CAPACITY // 4)))
        next(messages)
    for _ in range(CAPACITY // 256):
        inbox.deliver(Message("plant/1", b""))
    assert stream.overflowed
