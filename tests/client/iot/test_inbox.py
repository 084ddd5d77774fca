"""Where received messages wait."""

from __future__ import annotations

from hsm_enroll.iot.inbox import Inbox, Message


def test_a_message_goes_to_every_stream_it_matches() -> None:
    """Overlapping filters each get the message, in the order of arrival, and then the end."""
    inbox = Inbox()
    wide, narrow = inbox.add("plant/#"), inbox.add("plant/1")
    first, second = Message("plant/1", b"a"), Message("plant/2", b"b")
    for message in (first, second):
        inbox.deliver(message)
    inbox.end()
    assert [wide.messages.get_nowait() for _ in range(3)] == [first, second, None]
    assert [narrow.messages.get_nowait() for _ in range(2)] == [first, None]


def test_a_removed_stream_keeps_nothing_more() -> None:
    """A subscription that the broker refused does not gather messages of another one of the same filter."""
    inbox = Inbox()
    kept, removed = inbox.add("plant/#"), inbox.add("plant/#")
    inbox.remove(removed)
    inbox.deliver(Message("plant/1", b"a"))
    assert kept.messages.qsize() == 1
    assert removed.messages.empty()
