"""What SQLite's errors mean (https://www.sqlite.org/rescode.html)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hsm_enroll.errors import StateError
from hsm_enroll.store.outbox.damage import DamagedError
from hsm_enroll.store.outbox.reserve import FullError

# A constraint can only be violated by what something else has written: what this program writes keeps them all.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
_REASONS = {
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_BUSY: "another process has kept it locked for {patience:.0f} s",
}
BUSY_HINT = "See which process uses it (fuser FILE), and whether that process is stopped or its disk hangs."
# SQLite has no code of its own for EDQUOT.
_WRITE_HINT = "The disk is broken, or its owner's quota is used up (quota)."
_PRIMARY = 0xFF


def translated(
    error: sqlite3.Error | UnicodeDecodeError, file: Path, patience: float, *, of_file: bool
) -> StateError | DamagedError | FullError:
    """Return our error for one of SQLite's.

    Args:
        error: what was raised.
        file: the database.
        patience: how long SQLite was to wait for other processes, in seconds.
        of_file: whether the file was only being opened, so that an error without a reason is about its header or
            its schema. Later it would be a mistake of this program, for which no file must be set aside.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, UnicodeDecodeError) or code is None:
        return DamagedError(str(error)) if _is_undecodable(error) else StateError(f"{file} cannot be used: {error}")
    if code & _PRIMARY in _DAMAGE or (of_file and code == sqlite3.SQLITE_ERROR):
        return DamagedError(str(error))
    if code & _PRIMARY == sqlite3.SQLITE_FULL:
        return FullError("the disk is full", may_be_damage=True)
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # the index of the log could not be made larger
        return FullError("the disk is full")
    if code == sqlite3.SQLITE_IOERR_WRITE:
        return FullError(f"{error} ({error.sqlite_errorname})", _WRITE_HINT)
    reason = _REASONS.get(code & _PRIMARY, f"{error} ({error.sqlite_errorname})").format(patience=patience)
    return StateError(f"{file} cannot be used: {reason}", hint=BUSY_HINT if is_busy(error) else None)


def is_busy(error: Exception) -> bool:
    """Whether others have the database locked."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY == sqlite3.SQLITE_BUSY


def _is_undecodable(error: Exception) -> bool:
    """Whether Python cannot decode a text of the database, or what SQLite says about it.

    Python's other errors without a code, such as for a closed connection, are about how it is used.
    """
    return isinstance(error, UnicodeDecodeError) or (
        isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode")
    )
