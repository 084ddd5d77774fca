"""The database's layout, and how a new one is made.

Version 1 is the only one so far. A later version must not change a database in place: it makes a new file from the old
one and renames it over ``outbox.db``. Processes that run an earlier version of the program then open it as any
replaced file, and see that it is too new for them.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from hsm_enroll.errors import StateTooNewError
from hsm_enroll.store.outbox import totals
from hsm_enroll.store.outbox.damage import FILES, DamagedError

_VERSION = 1
# No version will ever be greater; a greater number is damage.
_LAST_VERSION = 1000
# SQLite's header has a place for a program's own number: the letters "hsmo".
_APPLICATION = 0x68736D6F
# Only the last column may be large, so that reading the others does not read it. The ids come from `totals`, since they
# must go on when the table is empty; a table of SQLite's own for that (AUTOINCREMENT) would be one more page to write.
_COLUMNS = """
    id INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    size INTEGER NOT NULL,
    topic TEXT NOT NULL,
    retain INTEGER NOT NULL,
    expires_after REAL,
    queued_wall REAL NOT NULL,
    queued_running REAL NOT NULL,
    queued_boot TEXT NOT NULL,
    properties TEXT,"""
_TABLES = {
    "messages": f"CREATE TABLE messages ({_COLUMNS}\n    payload BLOB NOT NULL)",
    "refused": f"""CREATE TABLE refused ({_COLUMNS}
    reason TEXT NOT NULL,
    refused_wall REAL NOT NULL,
    payload BLOB NOT NULL)""",
    "totals": """CREATE TABLE totals (
    id INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    refused_bytes INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    expired INTEGER NOT NULL)""",
}


def create(file: Path) -> None:
    """Make an empty database. It is written under another name and renamed, so that it is whole or absent.

    Does *not* flush the folder to the disk.

    Raises:
        sqlite3.Error, OSError: it cannot be written.
    """
    temporary, *_ = parts = temporary_files(file)
    _remove(parts)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # possible only before the first table
            connection.execute("BEGIN")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            for table in _TABLES.values():
                connection.execute(table)
            totals.create(connection)
            connection.execute("COMMIT")
            # Not before: closing a database that has a log hides it if the log cannot be moved to the database.
            connection.execute("PRAGMA journal_mode = WAL")
        temporary.replace(file)
    finally:
        with suppress(OSError):
            _remove(parts)


def temporary_files(file: Path) -> list[Path]:
    """Return what :func:`create` leaves behind if it is killed: a database, its log and the like."""
    return [file.with_name(f"{file.name}.new{suffix}") for suffix in (*FILES, "-journal")]


def _remove(parts: list[Path]) -> None:
    for part in parts:
        part.unlink(missing_ok=True)


def check(connection: sqlite3.Connection, file: Path) -> None:
    """Refuse a database that this version cannot use.

    Raises:
        StateTooNewError: a newer version of the program wrote it.
        DamagedError: no version did.
        sqlite3.Error: it is damaged.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == _APPLICATION and _VERSION < version <= _LAST_VERSION:
        raise StateTooNewError(f"{file} has format {version}; this program reads formats up to {_VERSION}")
    found = dict(connection.execute("SELECT name, sql FROM sqlite_schema").fetchall())
    # There may be others: ANALYZE makes some, and so may whoever wants to look into it.
    tables = {name: found.get(name) for name in _TABLES}
    if (application, version, tables) != (_APPLICATION, _VERSION, _TABLES):
        raise DamagedError("its layout is not that of an outbox")
