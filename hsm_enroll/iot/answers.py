"""The answers that a link's thread has for the forwarder's, and how that one waits for them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_enroll.iot.backlog import Source
    from hsm_enroll.iot.links import OpenLink

_GATHER_SECONDS = 0.001

Answer = tuple["OpenLink", int, str | None]
"""The link it came over, the message's id, and the name of the reason if the message was refused."""


class Answers:
    """A queue. Any thread may add an answer; one thread takes them, and waits.

    Args:
        outbox: what the thread waits with, since new messages are to end its wait, too.
    """

    def __init__(self, outbox: Source) -> None:
        self._outbox = outbox
        self._answers: deque[Answer] = deque()
        self._awaited: int | None = None  # how many there have to be to end the wait; None while nobody waits
        self._was_taken = False  # since the last wait

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, link: OpenLink, message_id: int, reason: str | None) -> None:
        """Add an answer. Does not block."""
        self._answers.append((link, message_id, reason))
        awaited = self._awaited  # read once: the other thread may be done with its wait meanwhile
        if awaited is not None and len(self._answers) >= awaited:
            self._awaited = None
            self._outbox.interrupt()

    def take(self) -> Answer:
        """Take the oldest answer."""
        self._was_taken = True
        return self._answers.popleft()

    def wait(self, seconds: float, *, wanted: int) -> None:
        """Wait for an answer, a new message or an interrupt; just after other answers for several, but only a moment.

        The link's thread is likely to be busy with them, and each thread would hold up the other for the interpreter's
        lock if this one ran for each answer.

        Args:
            seconds: how long at most.
            wanted: how many answers there have to be so that no more are waited for.
        """
        was_taken, self._was_taken = self._was_taken, False
        if was_taken and wanted > 1:
            self._wait(wanted, min(seconds, _GATHER_SECONDS))
        else:
            self._wait(1, seconds)

    def _wait(self, count: int, seconds: float) -> None:
        self._awaited = count
        if len(self._answers) < count:
            self._outbox.wait(seconds)
        self._awaited = None
