"""What the forwarder takes from the outbox, and what it is done with: read ahead in pages, and removed many at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hsm_enroll.errors import StateError

if TYPE_CHECKING:
    from hsm_enroll.store.outbox import QueuedMessage

# How long messages that are done with may wait to be removed together, and how many of them.
_REMOVE_SECONDS = 0.05
_REMOVE_COUNT = 500
# Done with, but not removable, since the disk is full: nothing more is sent, so that memory does not fill, too.
_MOST_UNREMOVED = 10_000
_RETRY_SECONDS = 2.0
# Messages are read in pages, of so many or so many bytes: what is in flight is answered meanwhile.
_FIRST_COUNT = 32
_MOST_COUNT = 64
_PAGE_BYTES = 2 * 1024 * 1024


Execute = Callable[[Callable[[], None]], "Future[None]"]
"""Runs a function on another thread."""


class Source(Protocol):
    """The outbox, see ``store.outbox.Outbox``."""

    def next(self, after: int, count: int) -> list[QueuedMessage]:
        """Return the oldest messages with an id above the given one."""

    def remove(self, ids: Sequence[int]) -> None:
        """Remove messages that have been acknowledged."""

    def set_aside(self, message_id: int, reason: str) -> None:
        """Take a message that the broker does not accept out of the way."""

    def wait(self, timeout: float) -> None:
        """Wait for messages, or for an interrupt."""

    def interrupt(self) -> None:
        """End a wait, or the next one."""


class Read(NamedTuple):
    """A message, and when it was read."""

    message: QueuedMessage
    at: float


class Backlog:
    """The messages of an outbox, from a position on that moves with each one that is taken.

    What is done with is removed on another thread: a slow disk does not hold up what is sent. If the outbox cannot be
    used, nothing is returned for some seconds, and ``trouble`` says why.

    Args:
        outbox: the outbox.
        execute: runs a function on another thread.

    Attributes:
        trouble: why the outbox cannot be used at the moment; None if it can.
    """

    def __init__(self, outbox: Source, execute: Execute) -> None:
        self.trouble: StateError | None = None
        self._outbox = outbox
        self._execute = execute
        self._position = 0
        self._read: deque[Read] = deque()
        self._count = _FIRST_COUNT
        self._skipped: int | None = None
        # Each message's id, and the reason if it is to be set aside; those that are being removed; and those of them
        # that have not been so far.
        self._done: dict[int, str | None] = {}
        self._done_since = 0.0
        self._leaving: dict[int, str | None] = {}
        self._unremoved: dict[int, str | None] = {}
        self._removal: Future[None] | None = None
        self._retry_at = 0.0

    def next(self, now: float) -> Read | None:
        """Return the next message without taking it; None if there is none, or nothing may be sent now."""
        if now < self._retry_at or len(self._done) + len(self._leaving) >= _MOST_UNREMOVED:
            return None
        while self._read or self._fill(now):
            message_id = self._read[0].message.id
            if message_id not in self._done and message_id not in self._leaving:
                return self._read[0]
            self.take()
        return None

    def take(self) -> None:
        """Take the next message: move on to the one after it."""
        self._position = self._read.popleft().message.id

    def skip(self) -> None:
        """Take the next message, which is wanted later: ``go_back`` returns to it."""
        self.come_back_for(self._read[0].message.id)
        self.take()

    def come_back_for(self, message_id: int) -> None:
        """Have ``go_back`` return at least to this message."""
        self._skipped = message_id if self._skipped is None else min(self._skipped, message_id)

    def go_back(self) -> None:
        """Return to the first message that was skipped."""
        if self._skipped is not None:
            self.rewind(self._skipped)
            self._skipped = None

    def rewind(self, message_id: int) -> None:
        """Have the next message be this one, if it is still there."""
        self._position = min(self._position, message_id - 1)
        self._read.clear()

    def finish(self, message_id: int, reason: str | None, now: float) -> None:
        """Note that a message is done with: acknowledged, or to be set aside with a reason."""
        if not self._done:
            self._done_since = now
        self._done[message_id] = reason

    def remove_at(self, *, is_idle: bool) -> float | None:
        """Return when what is done with is to be removed; None if there is nothing, or a removal is under way."""
        if not self._done or self._removal is not None:
            return None
        waits = not is_idle and len(self._done) < _REMOVE_COUNT
        return max(self._done_since + (_REMOVE_SECONDS if waits else 0.0), self._retry_at)

    def remove(self) -> None:
        """Begin to remove what is done with; ``interrupt`` tells of the end."""
        self._leaving, self._done = self._done, {}
        self._unremoved = dict(self._leaving)
        self._removal = self._execute(partial(_remove, self._outbox, self._unremoved))
        self._removal.add_done_callback(lambda _: self._outbox.interrupt())

    def settle(self, now: float) -> None:
        """Take note of a removal that has ended."""
        if self._removal is None or not self._removal.done():
            return
        removal, self._removal = self._removal, None
        # They may have been read once more before they were removed.
        self._read = deque(read for read in self._read if read.message.id not in self._leaving)
        self._done = {**self._unremoved, **self._done}
        self._leaving = {}
        try:
            removal.result()
            self.trouble = None
        except StateError as error:
            self._fail(error, now)

    def close(self, now: float) -> None:
        """Remove what is done with, and return when that has been tried."""
        self._await_removal(now)
        if self._done:
            self.remove()
            self._await_removal(now)

    def _await_removal(self, now: float) -> None:
        if self._removal is not None:
            wait([self._removal])
            self.settle(now)

    def _fill(self, now: float) -> bool:
        try:
            page = self._outbox.next(self._position, self._count)
        except StateError as error:
            self._fail(error, now)
            return False
        self._read.extend(Read(message, now) for message in page)
        if page:
            average = sum(message.size for message in page) / len(page)
            self._count = max(1, min(_MOST_COUNT, int(_PAGE_BYTES / average)))
        if not self._done:  # otherwise it may still be impossible to remove them
            self.trouble = None
        return bool(page)

    def _fail(self, error: StateError, now: float) -> None:
        self.trouble = error
        self._retry_at = now + _RETRY_SECONDS


def _remove(outbox: Source, done: dict[int, str | None]) -> None:
    """Remove messages, and set aside those that have a reason; what was done is taken out of the dictionary."""
    delivered = [message_id for message_id, reason in done.items() if reason is None]
    outbox.remove(delivered)
    for message_id in delivered:
        del done[message_id]
    for message_id, reason in list(done.items()):
        outbox.set_aside(message_id, reason or "")
        del done[message_id]
