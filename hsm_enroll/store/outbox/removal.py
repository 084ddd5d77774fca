"""Taking messages out of the database, each time with what that changes in the totals."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator

from hsm_enroll.store.outbox import rows
from hsm_enroll.store.outbox.age import Moment
from hsm_enroll.store.outbox.damage import DamagedError
from hsm_enroll.store.outbox.totals import Totals

# At a time, so that neither memory nor the time that others wait grows with the number of messages.
_MOST = 5_000
_STEP = 100
_COUNT = """
    SELECT count(*), count(*) FILTER (WHERE typeof(size) = 'integer' AND size BETWEEN 0 AND 0xFFFFFFFF), total(size)
    FROM messages WHERE id BETWEEN ? AND ?
"""
_IDS = "SELECT id FROM messages WHERE id BETWEEN ? AND ?"
_DELETE = "DELETE FROM messages WHERE id BETWEEN ? AND ?"
# Where a wrong key in an inner page of the tree leads SQLite's search astray, these return what they were to leave out:
# SQLite takes the first row that it finds for right.
BEFORE = "SELECT id FROM messages WHERE id < ? ORDER BY id DESC LIMIT 1"
_AFTER = "SELECT id FROM messages WHERE id > ? ORDER BY id LIMIT 1"


def delete(connection: sqlite3.Connection, totals: Totals, ids: Collection[int]) -> int:
    """Delete messages; return how many there were. The caller saves the totals.

    Raises:
        DamagedError: the search for a message misses it, or a size is damaged.
    """
    removed = 0
    for first, last in _runs(ids):
        found, sound, size = connection.execute(_COUNT, (first, last)).fetchone()
        if sound != found:
            raise DamagedError(f"the size of a message from {first} to {last} is damaged")
        # Before anything is deleted here, which may put a wrong key right.
        if found <= last - first:
            _check_search(connection, first, last)
        if connection.execute(_DELETE, (first, last)).rowcount != found:
            raise DamagedError(f"messages from {first} to {last} cannot be found again")
        removed += found
        totals.bytes -= int(size)
    totals.messages -= removed
    return removed


def _runs(ids: Collection[int]) -> Iterator[tuple[int, int]]:
    """Return first and last of the ids that follow each other without a gap: most do."""
    ordered = sorted(ids)
    if not ordered:
        return
    first = last = ordered[0]
    for message_id in ordered:
        if message_id > last + 1:
            yield first, last
            first = message_id
        last = message_id
    yield first, last


def _check_search(connection: sqlite3.Connection, first: int, last: int) -> None:
    """Tell messages that somebody else has removed from those that SQLite's search misses.

    The keys in the inner pages of the tree have no checksum, and with a wrong one a message would come again.
    """
    present = {message_id for (message_id,) in connection.execute(_IDS, (first, last))}
    for missing in set(range(first, last + 1)) - present:
        before = connection.execute(BEFORE, (missing,)).fetchone()
        after = connection.execute(_AFTER, (missing,)).fetchone()
        if (before is not None and before[0] >= missing) or (after is not None and after[0] <= missing):
            raise DamagedError(f"message {missing} cannot be found")


def has_expired(expires_in: float | None, seconds: float, max_age: float | None) -> bool:
    """Whether a message of this age has expired, by its own time or by the limit."""
    return (expires_in is not None and expires_in <= 0) or (max_age is not None and seconds >= max_age)


def expire(connection: sqlite3.Connection, totals: Totals, max_age: float | None, at: Moment, after: int) -> int | None:
    """Delete those of some messages that have expired.

    Args:
        connection, totals: as usual.
        max_age: the largest age in seconds; None: there is none.
        at: the time.
        after: the id from which on to look.

    Returns:
        The id from which on to look the next time; None at the end.
    """
    some = f"SELECT id, {rows.AGE_MEMBERS} FROM messages WHERE id > ? ORDER BY id LIMIT {_MOST}"  # noqa: S608
    seen = connection.execute(some, (after,)).fetchall()
    expired = [
        message_id for message_id, *times in seen if has_expired(*rows.seconds_old(at, *times), max_age)
    ]  # fmt: skip
    totals.expired += delete(connection, totals, expired)
    return seen[-1][0] if len(seen) == _MOST else None


def expire_following(
    connection: sqlite3.Connection, totals: Totals, max_age: float | None, at: Moment, after: int
) -> None:
    """Delete messages that have expired, from the one after an id to the first one that has not."""
    expired: list[int] = []
    following = f"SELECT id, {rows.AGE_MEMBERS} FROM messages WHERE id > ? ORDER BY id LIMIT {_MOST}"  # noqa: S608
    for message_id, *times in connection.execute(following, (after,)):
        if not has_expired(*rows.seconds_old(at, *times), max_age):
            break
        expired.append(message_id)
    totals.expired += delete(connection, totals, expired)


def drop_oldest(connection: sqlite3.Connection, totals: Totals, most: int) -> None:
    """Delete the oldest messages until the others have at most this many bytes, or a great many are deleted.

    Raises:
        DamagedError: there are fewer messages than the totals say.
    """
    if totals.bytes > most:
        before = totals.bytes
        chosen = _oldest(connection, "messages", totals.bytes - most)
        totals.dropped += delete(connection, totals, [message_id for message_id, _ in chosen])
        _check_progress(before, totals.bytes)


def drop_refused(connection: sqlite3.Connection, totals: Totals, most: int) -> None:
    """Delete what was set aside, the oldest first, until the rest has at most this many bytes, or some are deleted.

    Raises:
        DamagedError: there is less than the totals say.
    """
    before, most = totals.refused_bytes, max(most, 0)
    if before > most:
        for message_id, size in _oldest(connection, "refused", before - most):
            delete_refused(connection, totals, message_id, size)
        _check_progress(before, totals.refused_bytes)


def expire_refused(connection: sqlite3.Connection, totals: Totals, max_age: float | None, at: Moment) -> None:
    """Delete what was set aside and is older than the limit."""
    if max_age is None:
        return
    oldest = f"SELECT id, size, {rows.AGE_MEMBERS} FROM refused ORDER BY id LIMIT {_STEP}"  # noqa: S608 - constants
    for message_id, size, *times in connection.execute(oldest).fetchall():
        _, seconds = rows.seconds_old(at, *times)
        if seconds < max_age:
            return
        delete_refused(connection, totals, message_id, size)


def delete_refused(connection: sqlite3.Connection, totals: Totals, message_id: int, size: int) -> None:
    """Delete one message that was set aside and is there. The caller saves the totals.

    Raises:
        DamagedError: the search for it misses it.
    """
    if connection.execute("DELETE FROM refused WHERE id = ?", (message_id,)).rowcount != 1:
        raise DamagedError(f"refused message {message_id} cannot be found")
    totals.refused_bytes -= size


def _oldest(connection: sqlite3.Connection, table: str, needed: int) -> list[tuple[int, int]]:
    """Return ids and sizes of the oldest rows that make the room that is needed, or of a part of them."""
    chosen: list[tuple[int, int]] = []
    for message_id, size in connection.execute(f"SELECT id, size FROM {table} ORDER BY id LIMIT {_MOST}"):  # noqa: S608
        if needed <= 0:
            break
        chosen.append((message_id, size))
        needed -= size
    return chosen


def _check_progress(before: int, after: int) -> None:
    if after >= before:
        raise DamagedError("its totals do not fit its messages")
