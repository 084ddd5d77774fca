"""SQLite's log (WAL), and when what is in it is moved to the database: a checkpoint.

SQLite 3.7.0 to 3.51.2 may lose committed transactions where one connection commits while another one begins a second
checkpoint right after a first (https://sqlite.org/wal.html#walresetbug). So SQLite is told never to begin one by
itself, and the callers of :func:`move` keep everybody else's transactions out. SQLite's own when the last connection is
closed is harmless, since it locks the database against all others, also against those who only open it.

How large the log's file is tells when it is due, in every process and without a count: after a checkpoint the log is
written from its beginning again, and cut to the limit.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

# 256 pages, each with a header (fileformat2 §4.1). A larger log would be moved less often, but others wait meanwhile,
# and the reserve has to be larger.
LIMIT = 256 * (4096 + 24)
_SUFFIX = "-wal"


def prepare(connection: sqlite3.Connection) -> None:
    """Have SQLite leave the log to this module, and cut it when it is written from its beginning again."""
    # Debian builds SQLite with SECURE_DELETE: each page of a message that is removed would be written to the log, with
    # zeros, and there would be no room for that on a full disk.
    connection.execute("PRAGMA secure_delete = FAST").fetchone()
    connection.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
    connection.execute(f"PRAGMA journal_size_limit = {LIMIT}").fetchone()


def file_of(database: Path) -> Path:
    """Return the log's file."""
    return database.with_name(f"{database.name}{_SUFFIX}")


def size(file: Path) -> int:
    """Return the size of the log's file in bytes; 0 if there is none."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def move(connection: sqlite3.Connection) -> bool:
    """Move what is in the log to the database; return whether that was all of it. The caller keeps all others out.

    Other programs may be reading older pages, and then the rest has to wait.

    Raises:
        sqlite3.Error: the disk is full or broken, or the database is damaged. Nothing is lost.
    """
    is_busy, in_log, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return not is_busy and bool(in_log == moved)
