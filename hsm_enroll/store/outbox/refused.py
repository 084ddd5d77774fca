"""What was set aside because the broker refused it: listed, queued again, or deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from hsm_enroll.store.outbox import age, draining, removal, rows, totals
from hsm_enroll.store.outbox.damage import DamagedError
from hsm_enroll.store.outbox.database import Database
from hsm_enroll.store.outbox.reserve import Reserve
from hsm_enroll.store.outbox.values import RefusedMessage
from hsm_enroll.store.outbox.writing import INSERT

_PAGE = 1000
# SQLite tells the length of a payload without reading it.
_LIST = """
    SELECT id, topic, length(payload), size, refused_wall, reason FROM refused WHERE id > ? ORDER BY id LIMIT ?
"""
_KINDS = (int, str, int, int, float, str)
_ONE = f"SELECT {rows.MEMBERS} FROM refused WHERE id = ?"  # noqa: S608 - constants
_IS_THERE = "SELECT id FROM refused WHERE id = ? AND size = ?"
# In one transaction, so that who adds and who sends need not wait for long: so many messages, or so many bytes.
_MOST = 200
_MOST_BYTES = 2 * 1024 * 1024


class Shelf:
    """The messages that were set aside."""

    def __init__(self, database: Database, reserve: Reserve) -> None:
        self._database = database
        self._reserve = reserve

    def messages(self) -> list[RefusedMessage]:
        """Return all of them, in the order in which they were queued."""
        found: list[RefusedMessage] = []
        while True:
            after = found[-1].id if found else 0
            page = self._database.run(partial(_read, after), writing=False, reserve=self._reserve)
            found += page
            if len(page) < _PAGE:
                return found

    def put_back(self, messages: Sequence[RefusedMessage], progress: Callable[[], None]) -> int:
        """Queue messages again, with new ids; return how many were still there.

        Args:
            messages: in the order in which they are to be sent.
            progress: called when some have been queued.
        """
        count = 0
        for batch in _batches(messages):
            # A full disk ends it, as it does for new messages: what the reserve has is for those that were delivered.
            count += self._database.run(partial(_put_back, batch), writing=True)
            progress()
        return count

    def delete(self, messages: Sequence[RefusedMessage]) -> int:
        """Delete messages; return how many were still there."""
        count = sum(
            self._database.run(partial(_delete, batch), writing=True, reserve=self._reserve)
            for batch in _batches(messages)
        )
        if self._database.run(draining.has_much_to_spare, writing=False):
            draining.give_back(self._database)
        return count


def _batches(messages: Sequence[RefusedMessage]) -> Iterator[list[RefusedMessage]]:
    batch: list[RefusedMessage] = []
    size = 0
    for message in messages:
        if batch and (len(batch) == _MOST or size + message.size > _MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += message.size
    if batch:
        yield batch


def _read(after: int, connection: sqlite3.Connection) -> list[RefusedMessage]:
    found = connection.execute(_LIST, (after, _PAGE)).fetchall()
    for row in found:
        if tuple(map(type, row)) != _KINDS or row[0] <= after:
            raise DamagedError(f"what was set aside after message {after} is damaged")
        after = row[0]
    return [RefusedMessage(*row) for row in found]


def _put_back(batch: Sequence[RefusedMessage], connection: sqlite3.Connection) -> int:
    now, at = totals.load(connection), age.now()
    before = now.messages
    for message in batch:
        found = connection.execute(_ONE, (message.id,)).fetchall()
        # Whoever needed room, or another run of the same command, may have been faster. This also checks the checksum.
        for sound in rows.messages(found, message.id - 1, at, offset=0):
            _, _, *members = found[0]
            removal.delete_refused(connection, now, message.id, sound.size)
            now.last_id += 1
            connection.execute(INSERT, rows.row(now.last_id, tuple(members)))
            now.messages += 1
            now.bytes += sound.size
    totals.save(connection, now)
    return now.messages - before


def _delete(batch: Sequence[RefusedMessage], connection: sqlite3.Connection) -> int:
    now = totals.load(connection)
    count = 0
    for message in batch:
        if connection.execute(_IS_THERE, (message.id, message.size)).fetchone():
            removal.delete_refused(connection, now, message.id, message.size)
            count += 1
    totals.save(connection, now)
    return count
