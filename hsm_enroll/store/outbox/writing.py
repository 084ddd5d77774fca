"""Adding messages. Threads that add at the same time share one transaction, and so one flush of the disk."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from queue import Empty, SimpleQueue
from typing import Literal

from hsm_enroll.errors import MachineLimitError, OutboxFullError
from hsm_enroll.settings import WhenFull
from hsm_enroll.store.outbox import age, forks, removal, rows, totals
from hsm_enroll.store.outbox.database import Database
from hsm_enroll.store.outbox.reserve import Reserve
from hsm_enroll.store.outbox.totals import Totals
from hsm_enroll.store.outbox.values import NewMessage, OutboxLimits

INSERT = f"INSERT INTO messages ({rows.MEMBERS}) VALUES ({', '.join('?' * 11)})"  # noqa: S608 - constants
# A full outbox is searched for what has expired at most this often, since all of it is read.
_PAUSE = 60.0  # seconds


class _Unfinished(Enum):
    """There may be room once more has been removed, in another transaction: others must not wait for too long."""

    UNFINISHED = "unfinished"


_UNFINISHED = _Unfinished.UNFINISHED


class _Call:
    """A call of ``add``, which waits until it is finished."""

    def __init__(self, members: Sequence[rows.Members]) -> None:
        self.members = members
        self.size = sum(size for size, *_ in members)
        self.error: Exception | None = None
        self._finished = threading.Lock()
        self._finished.acquire()

    def wait(self) -> None:
        """Wait until it is finished."""
        self._finished.acquire()

    def finish(self, error: Exception | None) -> None:
        """Let the caller go on."""
        self.error = error
        self._finished.release()


class Writer:
    """Adds messages for all threads of a process.

    Who adds alone writes for itself. As soon as two add at the same time, a thread of its own does it from then on. If
    one of the callers wrote for the others, as is usual, a signal handler that raises an exception, as that of Ctrl-C,
    could leave them waiting for ever.
    """

    def __init__(self, database: Database, limits: OutboxLimits, reserve: Reserve) -> None:
        self._database = database
        self._reserve = reserve
        self._limits = limits
        self._searched = float("-inf")
        self._search_after = 0
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()
        self._closed = False
        forks.watch(self)

    def add(self, messages: Sequence[NewMessage]) -> None:
        """Add messages, all or none; they are on the disk when this returns.

        Raises:
            OutboxFullError: they do not fit.
            StateError: the database cannot be written to.
            MachineLimitError: no thread can be started.
            ValueError: the outbox is closed.
        """
        at = age.now()
        call = _Call([rows.members(message, at) for message in messages])
        with self._mutex:
            if self._closed:
                raise ValueError("the outbox is closed")
            is_alone = self._thread is None and not self._database.is_busy
            if not is_alone:
                self._start()
                self._calls.put(call)
        if is_alone:
            self._write([call])
        call.wait()
        if call.error is not None:
            raise call.error

    def close(self) -> None:
        """Add what is waiting, and end the thread."""
        with self._mutex:
            self._closed = True
            self._stop()

    def before_fork(self, hold: forks.Hold) -> None:
        """Have both processes begin without a thread and without a connection. Those who add now wait for the end."""
        hold(self._mutex)
        self._stop()
        self._database.before_fork(hold)

    def _stop(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._calls.put(None)
            self._thread.join()
        self._thread = None

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        self._calls = SimpleQueue()  # the last thread may have left a None
        self._thread = threading.Thread(target=self._work, args=(self._calls,), name="outbox", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise MachineLimitError("cannot start a thread that writes to the outbox: too many threads") from error

    def _work(self, calls: SimpleQueue[_Call | None]) -> None:
        """Write what has gathered while the batch before was written, until None comes."""
        while (call := calls.get()) is not None:
            batch = [call]
            with suppress(Empty):
                while (following := calls.get_nowait()) is not None:
                    batch.append(following)
                calls.put(None)  # for the next turn
            self._write(batch)

    def _write(self, batch: Sequence[_Call]) -> None:
        while batch:
            outcomes: Sequence[Exception | None]
            try:
                outcomes = self._database.run(partial(self._insert, batch), writing=True)
            except Exception as error:  # noqa: BLE001 - raised by each caller
                outcomes = [error for _ in batch]
            for call, outcome in zip(batch, outcomes, strict=False):
                call.finish(outcome)
            batch = batch[len(outcomes) :]

    def _insert(self, batch: Sequence[_Call], connection: sqlite3.Connection) -> Sequence[Exception | None]:
        """Insert each call's messages if they fit; return what there is to say to each.

        The last ones are left for another transaction if more has to be removed first than one should.
        """
        self._reserve.fill()
        now = totals.load(connection)
        outcomes: list[Exception | None] = []
        for call in batch:
            refusal = self._make_room(connection, now, call.size)
            if refusal is _UNFINISHED:
                break
            outcomes.append(refusal)
            if refusal is None:
                numbered = [rows.row(number, new) for number, new in enumerate(call.members, now.last_id + 1)]
                connection.executemany(INSERT, numbered)
                now.last_id += len(numbered)
                now.messages += len(numbered)
                now.bytes += call.size
        totals.save(connection, now)
        return outcomes

    def _make_room(
        self, connection: sqlite3.Connection, now: Totals, size: int
    ) -> OutboxFullError | Literal[_Unfinished.UNFINISHED] | None:
        """Remove what has expired, and what may be dropped; return an error if there is no room nevertheless."""
        most = self._limits.max_bytes - size
        if most < 0:
            return OutboxFullError(
                f"a message of {size} bytes does not fit into an outbox of {self._limits.max_bytes} bytes",
                hint="HSM_ENROLL_OUTBOX_BYTES sets how much fits.",
            )
        if now.bytes > most and not self._expire(connection, now) and now.bytes > most:
            return _UNFINISHED
        if now.bytes > most and self._limits.when_full is WhenFull.REFUSE:
            return OutboxFullError(
                f"the outbox is full: {now.messages} messages with {now.bytes} of {self._limits.max_bytes} bytes"
            )
        removal.drop_oldest(connection, now, most)
        if now.bytes > most:
            return _UNFINISHED
        removal.drop_refused(connection, now, most - now.bytes)
        return None

    def _expire(self, connection: sqlite3.Connection, now: Totals) -> bool:
        """Remove some of what has expired; return whether all messages have been looked at."""
        if time.monotonic() - self._searched < _PAUSE:
            return True
        following = removal.expire(connection, now, self._limits.max_age, age.now(), self._search_after)
        self._search_after = following or 0
        if following is None:
            self._searched = time.monotonic()
        return following is None
