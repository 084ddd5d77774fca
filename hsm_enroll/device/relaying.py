"""Gives messages that others publish to programs on this device: over the forwarder's connection, through a socket.

It is not a queue: the broker gets its PUBACK when a message has arrived here (MQTT 5.0 §4.3.2), whether anybody reads
it or not, and what arrives while no program is connected is dropped and counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hsm_enroll.device import message_line
from hsm_enroll.iot.listening import Listening, Tell
from hsm_enroll.readers import Readers

if TYPE_CHECKING:
    from hsm_enroll.iot.exchange import Exchange

_COUNT = 100  # messages of a filter between two looks at the readers


class Subscribable(Protocol):
    """A line to the broker."""

    @property
    def exchange(self) -> Exchange | None:
        """What subscriptions go through; None while there is nothing."""


class Relay:
    """Runs on a thread of its own; the methods may be called by any.

    Args:
        filters: topic filters, see ``limits.check_filter``.
        socket: the path of the socket.
        timeout: seconds until a SUBACK.

    Attributes:
        received: how many messages have arrived.
        unread: how many of them were dropped since no program was connected.
    """

    def __init__(self, filters: Sequence[str], socket: Path, timeout: float) -> None:
        self.received = 0
        self.unread = 0
        self._filters = filters
        self._socket = socket
        self._timeout = timeout
        self._line: Subscribable | None = None
        self._readers: Readers | None = None
        self._ending = False
        self._error: BaseException | None = None

    @contextmanager
    def running(self, tell: Tell, on_drop: Callable[[str], None], on_failure: Callable[[], None]) -> Iterator[None]:
        """Serve the socket until the block ends.

        Args:
            tell: called with each filter that is subscribed or refused, see ``Listening``.
            on_drop: called with the reason when a program is disconnected.
            on_failure: called if it cannot go on; then the end of the block raises the error.

        Raises:
            UsageError, BusyError, StateError: see ``Readers``.
        """
        with Readers(self._socket, on_drop) as self._readers:
            listening = Listening(self._filters, timeout=self._timeout, tell=tell, on_change=self._readers.interrupt)
            run = threading.Thread(
                target=self._run, args=(self._readers, listening, on_failure), name="hsm-enroll readers", daemon=True
            )
            run.start()
            try:
                yield
            finally:
                self._ending = True
                self._readers.interrupt()
                run.join()
        if self._error is not None:
            raise self._error

    def use(self, line: Subscribable | None) -> None:
        """Receive messages over this line from now on; None is over none."""
        self._line = line
        self.wake()

    def wake(self) -> None:
        """Have it look at the line: it may have another link, or none."""
        if self._readers is not None:
            self._readers.interrupt()

    def _run(self, readers: Readers, listening: Listening, on_failure: Callable[[], None]) -> None:
        try:
            while not self._ending:
                self._relay(readers, listening)
        except BaseException as error:  # noqa: BLE001 - raised at the end of the block
            self._error = error
            on_failure()

    def _relay(self, readers: Readers, listening: Listening) -> None:
        line = self._line
        messages = listening.take(line.exchange if line is not None else None, _COUNT)
        for message in messages:
            self.received += 1
            if not readers.deliver(message_line.of(message).encode("ascii")):
                self.unread += 1
        readers.wait(0.0 if messages else listening.seconds_left)
