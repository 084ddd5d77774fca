"""Taking messages: in the order in which they were queued, and removed once they were delivered."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from hsm_enroll.errors import StateError
from hsm_enroll.store.outbox import age, removal, rows, totals
from hsm_enroll.store.outbox.damage import DamagedError
from hsm_enroll.store.outbox.database import Database
from hsm_enroll.store.outbox.reserve import Reserve
from hsm_enroll.store.outbox.values import OutboxLimits, QueuedMessage

Result = TypeVar("Result")

_NEXT = f"SELECT {rows.MEMBERS} FROM messages WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - constants
# A wrong key in an inner page of the tree, which has no checksum, leads SQLite's search astray. These go there from the
# other side: from the end, or a step back from what was found.
_LAST = "SELECT id FROM messages ORDER BY id DESC LIMIT 1"
_SET_ASIDE = f"""
    INSERT INTO refused ({rows.MEMBERS}, reason, refused_wall)
    SELECT {rows.MEMBERS}, ?, ? FROM messages WHERE id = ?
"""  # noqa: S608 - constants
# Free pages are given back to the file system when there are more than this, and as many as those in use: a step each
# time, since pages have to be moved for it.
_FREE_PAGES = 256
_PAGES_AT_ONCE = 256


class Drainer:
    """Takes messages. Its ids go on where a damaged database was replaced, although the new one begins with 1 again."""

    def __init__(self, database: Database, limits: OutboxLimits, reserve: Reserve) -> None:
        self._database = database
        self._reserve = reserve
        self._limits = limits
        self._generation = 0
        self._offset = 0
        self._largest = 0

    def next(self, after: int, count: int) -> list[QueuedMessage]:
        """Return the oldest messages with a greater id; remove those that have expired."""
        messages: list[QueuedMessage] = []
        while (wanted := count - len(messages)) > 0:
            found = self._run(partial(self._read, after, wanted), writing=False)
            expired = {
                message.id
                for message in found
                if removal.has_expired(message.expires_in, message.age, self._limits.max_age)
            }
            messages += [message for message in found if message.id not in expired] if expired else found
            if expired:
                self._run(partial(self._expire, expired, len(expired) == len(found)), writing=True)
            if len(found) < wanted:
                break
            after = found[-1].id
        return messages

    def remove(self, ids: Sequence[int]) -> None:
        """Remove messages that have been delivered, and give back what the file no longer needs."""
        if not ids or not self._run(partial(self._remove, ids), writing=True):
            return
        give_back(self._database)

    def set_aside(self, message_id: int, reason: str) -> None:
        """Keep a message where it no longer is in the way."""
        self._run(partial(self._set_aside, message_id, reason), writing=True)

    def _run(self, operation: Callable[[sqlite3.Connection], Result], *, writing: bool) -> Result:
        return self._database.run(operation, writing=writing, reserve=self._reserve)

    def _read(self, after: int, count: int, connection: sqlite3.Connection) -> list[QueuedMessage]:
        self._follow()
        at = age.now()
        after -= self._offset
        found = connection.execute(_NEXT, (after, count)).fetchall()
        skipped = connection.execute(removal.BEFORE, found[0][:1]) if found else connection.execute(_LAST)
        last = skipped.fetchone()
        if last is None and not found:
            totals.check_empty(totals.load(connection))
        if last is not None and last[0] > after:
            raise DamagedError(f"the search for what follows message {after} misses message {last[0]}")
        messages = rows.messages(found, after, at, self._offset)
        if messages:
            self._largest = max(self._largest, messages[-1].id)
        return messages

    def _expire(self, ids: Collection[int], on: bool, connection: sqlite3.Connection) -> None:
        """Remove messages that have expired; where ``on`` says so, also those after them, many at a time."""
        now = totals.load(connection)
        stored = self._stored(ids)
        now.expired += removal.delete(connection, now, stored)
        if on and stored:
            removal.expire_following(connection, now, self._limits.max_age, age.now(), max(stored))
        totals.save(connection, now)

    def _remove(self, ids: Collection[int], connection: sqlite3.Connection) -> bool:
        """Remove messages; return whether the file is much larger than it has to be."""
        now = totals.load(connection)
        removal.delete(connection, now, self._stored(ids))
        totals.save(connection, now)
        return has_much_to_spare(connection)

    def _set_aside(self, message_id: int, reason: str, connection: sqlite3.Connection) -> None:
        now = totals.load(connection)
        at = age.now()
        for stored in self._stored([message_id]):
            connection.execute(_SET_ASIDE, (reason, at.wall, stored))
            before = now.bytes
            if removal.delete(connection, now, [stored]):
                now.refused += 1
                now.refused_bytes += before - now.bytes
        removal.expire_refused(connection, now, self._limits.max_age, at)
        removal.drop_refused(connection, now, self._limits.max_bytes - now.bytes)
        totals.save(connection, now)

    def _stored(self, ids: Collection[int]) -> list[int]:
        """Return the ids as the database has them, without those of one that was replaced."""
        self._follow()
        return [message_id - self._offset for message_id in ids if message_id > self._offset]

    def _follow(self) -> None:
        """Begin after the ids that were given out, if the database is a new one."""
        if self._database.generation != self._generation:
            self._generation = self._database.generation
            self._offset = self._largest


def give_back(database: Database) -> None:
    """Give back what the file does not need, after something was removed. If that is not possible, it can wait."""
    with suppress(StateError):
        # All of it: if the outbox has filled the disk, nothing can be added until there is room for the reserve.
        while database.run(_shrink, writing=True):
            pass
        database.checkpoint()


def _shrink(connection: sqlite3.Connection) -> bool:
    """Give back some pages; return whether there are more. The file itself becomes smaller at the next checkpoint."""
    # SQLite frees a page for each row of the result, but sqlite3 fetches no rows that have no columns.
    for _ in range(_PAGES_AT_ONCE):
        connection.execute("PRAGMA incremental_vacuum(1)")
    return has_much_to_spare(connection)


def has_much_to_spare(connection: sqlite3.Connection) -> bool:
    """Whether the file is much larger than it has to be."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    return bool(free > _FREE_PAGES and free > pages - free)
