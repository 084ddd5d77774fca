"""The outbox as the rest of the program uses it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from weakref import finalize

from hsm_enroll.store.outbox import age, damage, database, rows, totals
from hsm_enroll.store.outbox.database import Database
from hsm_enroll.store.outbox.draining import Drainer
from hsm_enroll.store.outbox.refused import Shelf
from hsm_enroll.store.outbox.reserve import Reserve
from hsm_enroll.store.outbox.totals import Totals
from hsm_enroll.store.outbox.values import NewMessage, OutboxLimits, OutboxState, QueuedMessage, RefusedMessage
from hsm_enroll.store.outbox.wakeup import Wakeup
from hsm_enroll.store.outbox.writing import Writer

_OLDEST = f"SELECT {rows.AGE_MEMBERS} FROM messages ORDER BY id LIMIT 1"  # noqa: S608 - constants


def exists(folder: Path) -> bool:
    """Whether there is an outbox in the folder, so that who only looks need not create one.

    A link counts as one: it cannot be used, which somebody should learn.
    """
    return os.path.lexists(folder / database.NAME)


class Outbox:
    """A queue of messages on the disk. All methods may be called from any thread.

    Use it in a ``with`` statement, or call ``close``. After a fork both processes may go on using it.
    """

    def __init__(self, folder: Path, limits: OutboxLimits, may_begin: Callable[[], None]) -> None:
        """Use :meth:`open` instead, which also sees whether the database can be used."""
        self._database = Database(folder, may_begin)
        self._reserve = Reserve(folder)
        self._writer = Writer(self._database, limits, self._reserve)
        self._drainer = Drainer(self._database, limits, self._reserve)
        self._shelf = Shelf(self._database, self._reserve)
        self._wakeup = Wakeup(folder)
        # Closed with the lock held, also where nobody calls close(): see Database.
        self._close = finalize(self, _close, self._writer, self._database, self._wakeup)

    @classmethod
    def open(cls, folder: Path, limits: OutboxLimits, may_begin: Callable[[], None] = lambda: None) -> Outbox:
        """Open the outbox, which is created if there is none.

        A damaged database is set aside and a new one is begun; :meth:`state` tells so.

        Args:
            folder: the state folder; created (mode 0700) if it is missing.
            limits: how much it may hold; they concern what *this* object adds and takes.
            may_begin: called whenever a new database is to be made, now or later, where nobody can remove the outbox;
                raises to prevent it.

        Raises:
            StateTooNewError: a newer version of the program wrote it.
            StateError: it cannot be opened: the owner, a full or read-only disk, a network file system, a link.
            HsmEnrollError: what ``may_begin`` raises.
        """
        outbox = cls(folder, limits, may_begin)
        try:
            outbox._database.run(totals.load, writing=False, reserve=outbox._reserve)
        except BaseException:
            outbox.close()
            raise
        return outbox

    def add(self, *messages: NewMessage) -> None:
        """Queue messages, all or none; they are on the disk when this returns.

        Raises:
            OutboxFullError: they do not fit.
            StateError: the disk is full, read-only or broken. They may have been queued nevertheless, as after an
                exception that a signal handler raises.
            MachineLimitError: no thread can be started.
        """
        if messages:
            self._writer.add(messages)
            self._wakeup.send()

    def next(self, after: int, count: int) -> list[QueuedMessage]:
        """Return the oldest messages, in their order. Those that have expired are removed and counted instead.

        Args:
            after: the id of the last message that the caller has already; 0 for none.
            count: how many at most.

        Raises:
            StateError: the database cannot be used.
        """
        return self._drainer.next(after, count)

    def remove(self, ids: Sequence[int]) -> None:
        """Remove messages that have been delivered, durably; ids that are not there any more are ignored.

        Raises:
            StateError: they cannot be removed at the moment, and are all still there.
        """
        self._drainer.remove(ids)

    def set_aside(self, message_id: int, reason: str) -> None:
        """Take a message that the broker does not accept out of the queue, and keep it with the reason.

        Raises:
            StateError: the database cannot be written to.
        """
        self._drainer.set_aside(message_id, reason)

    def refused(self) -> list[RefusedMessage]:
        """Return what was set aside and is still there, in the order in which it was queued.

        Raises:
            StateError: the database cannot be used.
        """
        return self._shelf.messages()

    def put_back(self, messages: Sequence[RefusedMessage]) -> int:
        """Queue messages that were set aside again, behind all others, with new ids; their age goes on.

        They are moved some at a time. If that is interrupted, each message is in one place or the other. There is
        always room: what was set aside and what is queued share the limit.

        Args:
            messages: in the order in which they are to be sent.

        Returns:
            How many were still there.

        Raises:
            StateError: the database cannot be written to; the messages that have not been moved are still set aside.
        """
        return self._shelf.put_back(messages, self._wakeup.send)

    def discard(self, messages: Sequence[RefusedMessage]) -> int:
        """Delete messages that were set aside, some at a time; return how many were still there.

        Raises:
            StateError: the database cannot be written to.
        """
        return self._shelf.delete(messages)

    def state(self) -> OutboxState:
        """Return what the outbox holds; does not take longer with more messages.

        Raises:
            StateError: the database cannot be read.
        """
        now, oldest_age = self._database.run(_look, writing=False, reserve=self._reserve)
        return OutboxState(
            messages=now.messages,
            bytes=now.bytes,
            oldest_age=oldest_age,
            refused=now.refused,
            refused_bytes=now.refused_bytes,
            dropped=now.dropped,
            expired=now.expired,
            damaged_files=damage.damaged_files(self._database.file),
        )

    def wait(self, timeout: float) -> None:
        """Wait until somebody may have added a message, or :meth:`interrupt` is called.

        For the one process that drains: the last one that called this is told of new messages. The first call returns
        at once, since nobody could tell of a message before.

        Args:
            timeout: in seconds.
        """
        self._wakeup.wait(timeout)

    def interrupt(self) -> None:
        """End a wait; if there is none, the next one. May be called in a signal handler."""
        self._wakeup.interrupt()

    def close(self) -> None:
        """Close the database. The object cannot be used any more."""
        self._close()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close(writer: Writer, database: Database, wakeup: Wakeup) -> None:
    writer.close()
    database.close()
    wakeup.close()


def _look(connection: sqlite3.Connection) -> tuple[Totals, float | None]:
    now = totals.load(connection)
    oldest = connection.execute(_OLDEST).fetchone()
    if oldest is None:
        totals.check_empty(now)
        return now, None
    _, seconds = rows.seconds_old(age.now(), *oldest)
    return now, seconds
