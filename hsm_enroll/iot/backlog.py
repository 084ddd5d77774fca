"""What the forwarder takes from the outbox, and what it is done with: read ahead in pages, and removed many at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from hsm_enroll.errors import StateError

if TYPE_CHECKING:
    from hsm_enroll.store.outbox import QueuedMessage

# How long messages that are done with may wait to be removed together, and how many of them.
_REMOVE_SECONDS = 0.05
_REMOVE_COUNT = 500
# Done with, but not removable, since the disk is full: nothing more is sent, so that memory does not fill, too.
_MOST_UNREMOVED = 10_000
_RETRY_SECONDS = 2.0
# Messages are read in pages, of so many or so many bytes; the next one as soon as less than a page is left.
_FIRST_COUNT = 32
_MOST_COUNT = 256
_PAGE_BYTES = 2 * 1024 * 1024
# What is skipped is returned to after a tenth as many others were sent, and not so often that this takes all the time.
_SKIPS_PER_SENT = 10
_SECONDS_PER_SKIP = 0.0002

Result = TypeVar("Result")


class Execute(Protocol):
    """Runs functions on another thread, one after another."""

    def __call__(self, work: Callable[[], Result], /) -> Future[Result]:
        """Return what the function will return."""


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


class _Page(NamedTuple):
    """The messages that were found, of as many as were wanted, and when."""

    messages: list[QueuedMessage]
    wanted: int
    at: float


@dataclass(frozen=True, slots=True)
class Job(Generic[Result]):
    """Something that is done on another thread, and when it began."""

    outcome: Future[Result]
    began: float


class Backlog:
    """The messages of an outbox, from a position on that moves with each one that is taken.

    The outbox is used on another thread: a slow disk does not hold up what is sent, nor who waits for an answer of this
    one. If the outbox cannot be used, nothing is returned for some seconds, and ``trouble`` says why.

    What is skipped is returned to with ``go_back``. All that is behind it is read again then, so that waits until
    enough has been sent in between, or nothing else is left.

    Args:
        outbox: the outbox.
        execute: runs a function on another thread, one after another; ``interrupt`` tells of their ends.
        clock: seconds since some moment; they never go back.

    Attributes:
        trouble: why the outbox cannot be used at the moment; None if it can.
    """

    def __init__(self, outbox: Source, execute: Execute, clock: Callable[[], float]) -> None:
        self.trouble: StateError | None = None
        self._outbox = outbox
        self._execute = execute
        self._clock = clock
        self._position = 0
        self._read: deque[Read] = deque()
        self._count = _FIRST_COUNT
        self._reading: Job[_Page] | None = None
        self._is_stale = False  # the page that is being read is not wanted any more
        self._look_again = False
        self._has_looked = False
        self._is_at_end = False
        # What was skipped since the last time that it was returned to.
        self._first_skipped: int | None = None
        self._behind: set[str] = set()
        self._skips = self._sent = 0
        self._went_back_at = 0.0
        self._wants_back = False
        # Each message's id, and the reason if it is to be set aside; those that are being removed; and those of them
        # that have not been so far.
        self._done: dict[int, str | None] = {}
        self._done_since = 0.0
        self._leaving: dict[int, str | None] = {}
        self._unremoved: dict[int, str | None] = {}
        self._removal: Job[None] | None = None
        self._retry_at = 0.0

    @property
    def busy_since(self) -> float | None:
        """Since when the outbox has not answered; None if nothing is asked of it."""
        return min((job.began for job in (self._reading, self._removal) if job is not None), default=None)

    # What is next.

    def next(self, now: float) -> Read | None:
        """Return the next message without taking it; None if there is none, or nothing may be sent now."""
        if now < self._retry_at or len(self._done) + len(self._leaving) >= _MOST_UNREMOVED:
            return None
        while self._read or self._look(now):
            message_id = self._read[0].message.id
            if message_id not in self._done and message_id not in self._leaving:
                if len(self._read) < self._count and not self._is_at_end:
                    self._look(now)
                return self._read[0]
            self.pass_over()
        return None

    @property
    def is_at_end(self) -> bool:
        """Whether all messages have been looked at."""
        return self._is_at_end and not self._read

    def take(self) -> None:
        """Take the next message: it is sent."""
        self._sent += 1
        self.pass_over()

    def pass_over(self) -> None:
        """Move on to the message after the next one."""
        self._position = self._read.popleft().message.id

    def skip(self) -> None:
        """Pass over the next message, which is wanted later, like all of its topic: ``go_back`` returns to it."""
        self.come_back_for(self._read[0].message.id, self._read[0].message.topic)
        self._skips += 1
        self.pass_over()

    def come_back_for(self, message_id: int, topic: str) -> None:
        """Have ``go_back`` return at least to this message."""
        self._behind.add(topic)
        first = self._first_skipped
        self._first_skipped = message_id if first is None else min(first, message_id)

    @property
    def has_skipped(self) -> bool:
        """Whether anything was skipped."""
        return self._first_skipped is not None

    def is_behind(self, topic: str) -> bool:
        """Whether a message with this topic was skipped, so that those after it have to be, too."""
        return topic in self._behind

    def want_back(self) -> None:
        """Have ``go_back_at`` say when to return to what was skipped."""
        self._wants_back = self._first_skipped is not None

    def go_back_at(self) -> float | None:
        """Return when to return to what was skipped, which may be past; None if that is not wanted, or not yet."""
        if not self._wants_back:
            return None
        if self._sent * _SKIPS_PER_SENT >= self._skips or self.is_at_end:
            return self._went_back_at + self._skips * _SECONDS_PER_SKIP
        return None

    def go_back(self, now: float) -> None:
        """Return to the first message that was skipped."""
        if self._first_skipped is not None:
            self.rewind(self._first_skipped)
        self._first_skipped = None
        self._behind.clear()
        self._skips = self._sent = 0
        self._went_back_at = now
        self._wants_back = False

    def rewind(self, message_id: int) -> None:
        """Have the next message be this one, if it is still there."""
        self._position = min(self._position, message_id - 1)
        self._read.clear()
        self._is_at_end = self._has_looked = False
        self._is_stale = self._reading is not None

    # What is done with.

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
        """Begin to remove what is done with."""
        self._leaving, self._done = self._done, {}
        self._unremoved = dict(self._leaving)
        self._removal = self._begin(partial(_remove, self._outbox, self._unremoved))

    def settle(self, now: float) -> None:
        """Take note of what the other thread has done."""
        # Asked first: if a removal is done, so is a page that was read before it, with messages that are removed now.
        is_removed = self._removal is not None and self._removal.outcome.done()
        self._settle_reading(now)
        if is_removed:
            self._settle_removal(now)

    def close(self, now: float) -> None:
        """Remove what is done with, and return when that has been tried."""
        self._await(now)
        if self._done:
            self.remove()
            self._await(now)

    def _await(self, now: float) -> None:
        if self._reading is not None:
            wait([self._reading.outcome])
        if self._removal is not None:
            wait([self._removal.outcome])
        self.settle(now)

    def _settle_removal(self, now: float) -> None:
        if self._removal is None or not self._removal.outcome.done():
            return
        removal, self._removal = self._removal, None
        # They may have been read once more before they were removed.
        self._read = deque(read for read in self._read if read.message.id not in self._leaving)
        self._done = {**self._unremoved, **self._done}
        self._leaving = {}
        try:
            removal.outcome.result()
            self.trouble = None
        except StateError as error:
            self._fail(error, now)

    # Reading.

    def _look(self, now: float) -> bool:
        """Have the next page read; return whether there is a message already."""
        if self._reading is not None:
            self._look_again = True  # what was added just now may be missing
            return False
        if now < self._retry_at or self._has_looked:
            return False
        after = self._read[-1].message.id if self._read else self._position
        self._reading = self._begin(partial(_read, self._outbox, after, self._count, self._clock))
        self._settle_reading(now)
        return bool(self._read)

    def _settle_reading(self, now: float) -> None:
        self._has_looked = False
        if self._reading is None or not self._reading.outcome.done():
            return
        reading, self._reading = self._reading, None
        is_stale, self._is_stale = self._is_stale, False
        look_again, self._look_again = self._look_again, False
        try:
            page = reading.outcome.result()
        except StateError as error:
            self._fail(error, now)
            return
        if not self._done and not self._leaving:  # otherwise it may still be impossible to remove them
            self.trouble = None
        if is_stale:
            return
        self._read.extend(Read(message, page.at) for message in page.messages)
        self._is_at_end = len(page.messages) < page.wanted
        self._has_looked = self._is_at_end and not look_again
        if page.messages:
            average = sum(message.size for message in page.messages) / len(page.messages)
            self._count = max(1, min(_MOST_COUNT, int(_PAGE_BYTES / average)))

    def _begin(self, work: Callable[[], Result]) -> Job[Result]:
        job = Job(self._execute(work), self._clock())
        if not job.outcome.done():
            job.outcome.add_done_callback(lambda _: self._outbox.interrupt())
        return job

    def _fail(self, error: StateError, now: float) -> None:
        self.trouble = error
        self._retry_at = now + _RETRY_SECONDS


def _read(outbox: Source, after: int, count: int, clock: Callable[[], float]) -> _Page:
    at = clock()
    return _Page(outbox.next(after, count), count, at)


def _remove(outbox: Source, done: dict[int, str | None]) -> None:
    """Remove messages, and set aside those that have a reason; what was done is taken out of the dictionary."""
    delivered = [message_id for message_id, reason in done.items() if reason is None]
    outbox.remove(delivered)
    for message_id in delivered:
        del done[message_id]
    for message_id, reason in list(done.items()):
        outbox.set_aside(message_id, reason or "")
        del done[message_id]
