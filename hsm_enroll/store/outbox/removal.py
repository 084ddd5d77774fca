"""Taking messages out of the database, each time with what that changes in the totals."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from hsm_enroll.store.outbox import rows
from hsm_enroll.store.outbox.age import Moment
from hsm_enroll.store.outbox.damage import DamagedError
from hsm_enroll.store.outbox.totals import Totals

# At a time, so that memory does not grow with the number of messages.
_MOST = 10_000
_STEP = 100


def delete(connection: sqlite3.Connection, totals: Totals, ids: Iterable[int]) -> int:
    """Delete messages; return how many there were. The caller saves the totals.

    Raises:
        DamagedError: the search for a message misses it, or a size is damaged.
    """
    removed = 0
    checked = False
    for message_id in ids:
        found = connection.execute("DELETE FROM messages WHERE id = ? RETURNING size", (message_id,)).fetchall()
        for (size,) in found:
            if type(size) is not int:
                raise DamagedError(f"the size of message {message_id} is damaged")
            removed += 1
            totals.bytes -= size
        if not found and not checked:
            checked = _check_search(connection, message_id)
    totals.messages -= removed
    return removed


def _check_search(connection: sqlite3.Connection, missing: int) -> bool:
    """Tell a message that somebody else has removed from one that SQLite's search misses.

    The keys in the inner pages of the tree have no checksum, and with a wrong one a message would come again. All pages
    are read for this, but hardly ever: those who make room remove the oldest messages. Must be called before the next
    message is deleted, which may put the key right.

    Returns:
        Whether the pages have been read, and are sound.
    """
    oldest = connection.execute("SELECT id FROM messages ORDER BY id LIMIT 1").fetchone()
    if oldest is None or missing < oldest[0]:
        return False
    if connection.execute("PRAGMA quick_check(messages)").fetchone() != ("ok",):
        raise DamagedError(f"message {missing} cannot be found")
    return True


def has_expired(expires_in: float | None, seconds: float, max_age: float | None) -> bool:
    """Whether a message of this age has expired, by its own time or by the limit."""
    return (expires_in is not None and expires_in <= 0) or (max_age is not None and seconds >= max_age)


def expire(connection: sqlite3.Connection, totals: Totals, max_age: float | None, at: Moment) -> bool:
    """Delete messages that have expired; return whether there may be more of them."""
    which = "" if max_age is not None else "WHERE expires_after IS NOT NULL"
    expired: list[int] = []
    all_times = f"SELECT id, {rows.AGE_MEMBERS} FROM messages {which} ORDER BY id"  # noqa: S608 - constants
    for message_id, *times in connection.execute(all_times):
        if has_expired(*rows.seconds_old(at, *times), max_age):
            expired.append(message_id)
        if len(expired) == _MOST:
            break
    totals.expired += delete(connection, totals, expired)
    return len(expired) == _MOST


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
    """Delete the oldest messages until the others have at most this many bytes.

    Raises:
        DamagedError: there are fewer messages than the totals say.
    """
    while totals.bytes > most:
        before = totals.bytes
        for message_id, _ in _oldest(connection, "messages", totals.bytes - most):
            totals.dropped += delete(connection, totals, [message_id])
        _check_progress(before, totals.bytes)


def drop_refused(connection: sqlite3.Connection, totals: Totals, most: int) -> None:
    """Delete what was set aside, the oldest first, until the rest has at most this many bytes.

    Raises:
        DamagedError: there is less than the totals say.
    """
    while totals.refused_bytes > max(most, 0):
        before = totals.refused_bytes
        for message_id, size in _oldest(connection, "refused", totals.refused_bytes - max(most, 0)):
            _delete_refused(connection, totals, message_id, size)
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
        _delete_refused(connection, totals, message_id, size)


def _delete_refused(connection: sqlite3.Connection, totals: Totals, message_id: int, size: int) -> None:
    if connection.execute("DELETE FROM refused WHERE id = ?", (message_id,)).rowcount != 1:
        raise DamagedError(f"refused message {message_id} cannot be found")
    totals.refused_bytes -= size


def _oldest(connection: sqlite3.Connection, table: str, needed: int) -> list[tuple[int, int]]:
    """Return ids and sizes of the oldest rows that make the room that is needed, or of a part of them."""
    chosen: list[tuple[int, int]] = []
    for message_id, size in connection.execute(f"SELECT id, size FROM {table} ORDER BY id LIMIT {_STEP}"):  # noqa: S608
        if needed <= 0:
            break
        chosen.append((message_id, size))
        needed -= size
    return chosen


def _check_progress(before: int, after: int) -> None:
    if after >= before:
        raise DamagedError("its totals do not fit its messages")
