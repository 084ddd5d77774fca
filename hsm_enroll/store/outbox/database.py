"""The connection to the database: transactions, and what becomes of it when the file is damaged, replaced or gone.

SQLite in WAL mode with synchronous=FULL: when a COMMIT has returned, the log has been flushed to the disk, and so has
the folder if the log is new. If a power cut tears the end of the log, its checksums tell (https://sqlite.org/wal.html).

Nothing in this process may open ``outbox.db`` other than through SQLite: closing any descriptor of a file drops all
POSIX locks that the process has on it (https://sqlite.org/howtocorrupt.html §2.2). Renaming it is safe: SQLite does not
touch the log when it closes a database whose name leads to another file by then.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from hsm_enroll.errors import StateCorruptError, StateError
from hsm_enroll.store import files
from hsm_enroll.store.outbox import damage, log, network, schema
from hsm_enroll.store.outbox.damage import DamagedError
from hsm_enroll.store.outbox.failures import BUSY_HINT, is_busy, translated
from hsm_enroll.store.outbox.forks import Hold
from hsm_enroll.store.outbox.lock import Lock, pause
from hsm_enroll.store.outbox.reserve import FullError, Reserve

Result = TypeVar("Result")

NAME = "outbox.db"
PATIENCE = 10.0  # seconds
# How long to wait for others so that the log can be moved, for each time that it has its usual size, and at most. It
# grows where others are always in the middle of something, as on a slow disk.
_LOG_PATIENCE, _MOST_LOG_PATIENCE = 0.05, 1.0  # seconds
# How many rows to write until the log's size is looked at again. Linux notes the time of each write to a file at which
# somebody has looked since the last one, and the disk has to write that, too.
_LOOK_ROWS = 16
# A disk with more bytes free than this is hardly full.
_ROOM = 16 * 1024 * 1024
# Missing, then damaged, then without room twice, then usable.
_TRIES = 5
_LINK_HINT = (
    "Move the database back. To have it on another disk, put the whole state folder there, and leave a link to it."
)


class _MissingError(Exception):
    """There is no database."""


class _BusyError(Exception):
    """Others are writing to it."""


class Database:
    """One connection, for all threads of a process in turn.

    Attributes:
        generation: changes whenever the database is another one than before, with other messages.
    """

    def __init__(self, folder: Path, may_begin: Callable[[], None] = lambda: None) -> None:
        """Prepare the connection; it is opened for the first transaction.

        Args:
            folder: the state folder.
            may_begin: called before a new database is made, while nobody uses the outbox; raises to prevent it.

        Raises:
            StateError: the folder cannot be created, belongs to another user or is on a network file system.
        """
        files.own(folder)
        network.refuse(folder)
        self._file = folder / NAME
        self._log = log.file_of(self._file)
        self._may_begin = may_begin
        self._lock = Lock(folder, PATIENCE)
        self._mutex = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._ready = False
        self._closed = False
        self._log_is_due = log.LIMIT  # when its file is larger than this
        self._look_at = 0  # rows that this connection has written
        self.generation = 0

    @property
    def file(self) -> Path:
        """Where the database is."""
        return self._file

    @property
    def is_busy(self) -> bool:
        """Whether another thread is using it at the moment."""
        return self._mutex.locked()

    def run(
        self, operation: Callable[[sqlite3.Connection], Result], *, writing: bool, reserve: Reserve | None = None
    ) -> Result:
        """Run an operation in a transaction. A damaged database is set aside, and the operation is run on a new one.

        Args:
            operation: may be called several times.
            writing: whether it changes anything. If so, all of it is on the disk when this returns.
            reserve: what to give up if the disk is full.

        Raises:
            StateTooNewError: a newer version of the program wrote the database.
            StateCorruptError: the new database is damaged, too.
            StateError: the database cannot be used.
            ValueError: it was closed.
        """
        with self._mutex:
            if self._closed:
                raise ValueError("the outbox is closed")
            result = self._run(operation, reserve, writing=writing)
            if writing:
                self._watch_log()
            return result

    def checkpoint(self) -> None:
        """Move what is in the log to the database, if that is possible now; otherwise later."""
        with self._mutex:
            self._move_log(at_least=0)

    def close(self) -> None:
        """Close the connection for good."""
        with self._mutex:
            self._closed = True
            self._let_go()

    def before_fork(self, hold: Hold) -> None:
        """Close the connection until it is used again: SQLite's locks belong to one process, and it would not know."""
        hold(self._mutex)
        self._let_go()

    def _let_go(self) -> None:
        # The last one that closes it moves the log, for which it should have it alone. If others are in the middle of
        # something, it is not the last.
        if self._connection is not None:
            with suppress(StateError), self._lock.alone(patience=0.0):
                self._disconnect()
        if self._connection is not None:
            with suppress(StateError), self._lock.shared():
                self._disconnect()
        self._disconnect()
        self._lock.close()

    def _run(
        self, operation: Callable[[sqlite3.Connection], Result], reserve: Reserve | None, *, writing: bool
    ) -> Result:
        for _ in range(_TRIES):
            try:
                return self._patiently(operation, writing=writing)
            except FullError as error:
                failure: Exception = error
                if reserve is None or not reserve.release():
                    break
            except (_MissingError, DamagedError) as error:
                failure = error
                self._replace(None if isinstance(error, _MissingError) else self._identity)
        if isinstance(failure, FullError):
            raise StateError(f"{self._file} cannot be written: {failure}", hint=failure.hint) from failure
        raise StateCorruptError(f"{self._file} is damaged again as soon as it is new: {failure}") from failure

    def _patiently(self, operation: Callable[[sqlite3.Connection], Result], *, writing: bool) -> Result:
        """Run it, and wait for others that write; SQLite would keep our lock while it waits, and so hold up the log."""
        begin = time.monotonic()
        while True:
            try:
                with self._lock.shared():
                    return self._transaction(operation, writing=writing)
            except _BusyError as error:
                waited = time.monotonic() - begin
                if waited >= PATIENCE:
                    raise StateError(
                        f"{self._file} cannot be used: another process has kept it locked for {PATIENCE:.0f} s",
                        hint=BUSY_HINT,
                    ) from error
                pause(waited)

    def _watch_log(self) -> None:
        if self._connection is not None and self._connection.total_changes >= self._look_at:
            self._look_at = self._connection.total_changes + _LOOK_ROWS
            self._move_log(at_least=self._log_is_due)

    def _move_log(self, at_least: int) -> None:
        """Move what is in the log, if it is large enough. What was committed stays so, whatever becomes of this."""
        size = log.size(self._log)
        if size <= log.LIMIT:
            self._log_is_due = log.LIMIT
        if self._connection is None or size <= at_least:
            return
        self._log_is_due = size + log.LIMIT // 4
        patience = min(_LOG_PATIENCE * max(1, size // log.LIMIT), _MOST_LOG_PATIENCE)
        with suppress(StateError, sqlite3.Error), self._lock.alone(patience):
            if self._find() == self._identity and log.move(self._connection):
                self._log_is_due = log.LIMIT

    def _disconnect(self) -> None:
        # Before it is closed: a signal handler may raise an exception right after that.
        connection, self._connection, self._ready = self._connection, None, False
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _transaction(self, operation: Callable[[sqlite3.Connection], Result], *, writing: bool) -> Result:
        connection = self._connected()
        try:
            connection.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
            result = operation(connection)
            connection.execute("COMMIT")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._roll_back(connection)
            if is_busy(error):
                raise _BusyError from error
            raise self._failure(error) from error
        except BaseException:
            self._roll_back(connection)
            raise
        return result

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        with suppress(sqlite3.Error):
            connection.rollback()

    def _connected(self) -> sqlite3.Connection:
        """Return the connection to the file that now has the name."""
        identity = self._find()
        if identity is None:
            raise _MissingError(f"{self._file} does not exist")
        if self._connection is not None and self._ready and identity == self._identity:
            return self._connection
        self._disconnect()
        if identity != self._identity:
            self._identity = identity
            self.generation += 1
        self._connection = self._connect()
        self._look_at = 0
        try:
            self._prepare(self._connection)
            self._ready = True
        except DamagedError:
            raise
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._failure(error, of_file=True) from error
        except BaseException:
            self._disconnect()
            raise
        return self._connection

    def _find(self) -> tuple[int, int] | None:
        try:
            status = self._file.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self._file} cannot be used: {error.strerror}") from error
        if stat.S_ISLNK(status.st_mode):
            # SQLite would keep the log where the link leads to, and everything else would be here.
            raise StateError(f"{self._file} cannot be used: it is a symbolic link", hint=_LINK_HINT)
        if not stat.S_ISREG(status.st_mode):
            raise StateError(f"{self._file} cannot be used: it is not a regular file", hint="Move it away.")
        return status.st_dev, status.st_ino

    def _connect(self) -> sqlite3.Connection:
        try:
            return sqlite3.connect(
                f"{self._file.as_uri()}?mode=rw",  # SQLite never creates it
                uri=True,
                timeout=PATIENCE,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StateError(
                f"{self._file} cannot be used: its file system has no shared memory for SQLite's log",
                hint="Set HSM_ENROLL_HOME to a folder on a local disk.",
            )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cell_size_check = ON")
        log.prepare(connection)
        schema.check(connection, self._file)
        connection.execute("PRAGMA busy_timeout = 0").fetchone()  # see _patiently

    def _failure(self, error: sqlite3.Error | UnicodeDecodeError, *, of_file: bool = False) -> Exception:
        """Return our error for one of SQLite's; leave the connection to a damaged file open until that is set aside."""
        failure = translated(error, self._file, PATIENCE, of_file=of_file)
        is_suspect = isinstance(failure, FullError) and failure.may_be_damage
        if is_suspect and self._has_room() and not self._is_sound():
            failure = DamagedError(str(error))
        if not isinstance(failure, DamagedError):
            self._disconnect()
        return failure

    def _has_room(self) -> bool:
        with suppress(OSError):
            status = os.statvfs(self._file.parent)
            return status.f_bavail * status.f_frsize > _ROOM
        return False

    def _is_sound(self) -> bool:
        """Ask SQLite to look at all pages: some damage makes it say that the disk is full."""
        try:
            return self._connection is None or self._connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            return not isinstance(translated(error, self._file, PATIENCE, of_file=True), DamagedError)

    def _replace(self, seen: tuple[int, int] | None) -> None:
        """Set the database aside and make a new one, unless somebody else has.

        Args:
            seen: the file that is damaged; None if there was none.

        Raises:
            StateError: the folder cannot be written to, or others do not let go of the database.
            HsmEnrollError: what ``may_begin`` raises.
        """
        try:
            with self._lock.alone():
                if self._find() == seen:
                    self._may_begin()
                    if damage.set_aside(self._file):
                        # A power cut must not leave the new database with the old log.
                        files.sync_folder(self._file.parent)
                    schema.create(self._file)
                    files.sync_folder(self._file.parent)
                self._disconnect()  # not before: SQLite would move what is in the log, and remove the log
        except OSError as error:
            raise StateError(f"{self._file} cannot be created: {error.strerror}") from error
        except sqlite3.Error as error:
            raise StateError(f"{self._file} cannot be created: {error}") from error
        finally:
            self._disconnect()
