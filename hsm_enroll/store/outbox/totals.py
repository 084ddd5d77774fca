"""The one row that says how much there is, so that nobody has to count."""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import dataclass
from operator import attrgetter

from hsm_enroll.store.outbox.damage import DamagedError

_MEMBERS = ("last_id", "messages", "bytes", "refused_bytes", "refused", "dropped", "expired")
_SELECT = f"SELECT checksum, {', '.join(_MEMBERS)} FROM totals WHERE id = 1"  # noqa: S608 - constants
_REPLACE = "REPLACE INTO totals VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)"
_values = attrgetter(*_MEMBERS)  # dataclasses.astuple takes as long as the rest of a transaction


@dataclass(slots=True)
class Totals:
    """What the database holds and has held; sizes in bytes.

    Attributes:
        last_id: of the message that was queued last; an id is never used again.
        messages: that are waiting.
        bytes: of these.
        refused_bytes: of the messages that are kept because the broker refused them.
        refused: messages that the broker ever refused.
        dropped: messages ever removed to make room.
        expired: messages ever removed because of their age.
    """

    last_id: int = 0
    messages: int = 0
    bytes: int = 0
    refused_bytes: int = 0
    refused: int = 0
    dropped: int = 0
    expired: int = 0


def create(connection: sqlite3.Connection) -> None:
    """Write the row of an empty database."""
    save(connection, Totals())


def load(connection: sqlite3.Connection) -> Totals:
    """Read the row.

    Raises:
        DamagedError: it is missing or damaged.
    """
    row = connection.execute(_SELECT).fetchone()
    if row is None or row[0] != _checksum(row[1:]):
        raise DamagedError("its totals are damaged")
    return Totals(*row[1:])


def save(connection: sqlite3.Connection, totals: Totals) -> None:
    """Write the row, in the transaction that changes what it counts.

    Raises:
        DamagedError: what was removed does not fit what was counted.
    """
    values = _values(totals)
    if min(values) < 0 or (totals.messages == 0) != (totals.bytes == 0):
        raise DamagedError("its totals do not fit its messages")
    connection.execute(_REPLACE, (_checksum(values), *values))


def check_empty(totals: Totals) -> None:
    """Compare the totals with a table that has no messages.

    Raises:
        DamagedError: there should be some.
    """
    if totals.messages:
        raise DamagedError(f"{totals.messages} messages are missing")


def _checksum(values: tuple[object, ...]) -> int:
    return zlib.crc32(repr(values).encode())
