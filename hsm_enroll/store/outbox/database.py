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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from hsm_enroll.errors import StateCorruptError, StateError
from hsm_enroll.store import files
from hsm_enroll.store.outbox import damage, network, schema
from hsm_enroll.store.outbox.damage import DamagedError
from hsm_enroll.store.outbox.failures import translated
from hsm_enroll.store.outbox.lock import Lock
from hsm_enroll.store.outbox.reserve import FullError, Reserve

Result = TypeVar("Result")

NAME = "outbox.db"
PATIENCE = 10.0  # seconds
# A log that grew beyond this, since a reader kept it or for a large transaction, is cut again.
_LOG_BYTES = 4 * 1024 * 1024
# When the log has this many pages they are moved to the database. It is less than SQLite's default of 1000, so that
# there is room for them when the disk is full, see Reserve.
_LOG_PAGES = 256
# A disk with more bytes free than this is hardly full.
_ROOM = 16 * 1024 * 1024
# Missing, then damaged, then without room, then usable.
_TRIES = 4


class _MissingError(Exception):
    """There is no database."""


class Database:
    """One connection, for all threads of a process in turn.

    Attributes:
        generation: changes whenever the database is another one than before, with other messages.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare the connection; it is opened for the first transaction.

        Raises:
            StateError: the folder cannot be created, belongs to another user or is on a network file system.
        """
        files.own(folder)
        network.refuse(folder)
        link = folder / NAME
        self._file = link.resolve()  # somebody may have moved it to a larger disk and left a link
        if link.is_symlink() and not self._file.exists():
            raise StateError(
                f"{link} is a link to a file that does not exist", hint="Mount what it leads to, or remove the link."
            )
        self._lock = Lock(folder, PATIENCE)
        self._mutex = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._ready = False
        self._closed = False
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
            tries = _TRIES
            while True:
                try:
                    with self._lock.shared():
                        return self._transaction(operation, writing=writing)
                except (_MissingError, DamagedError, FullError) as error:
                    self._mend(error, reserve)
                    tries -= 1
                    if not tries:
                        raise StateCorruptError(
                            f"{self._file} is damaged again as soon as it is new: {error}"
                        ) from error

    def checkpoint(self) -> None:
        """Move what is in the log to the database, as far as nobody reads older pages; otherwise later.

        Raises:
            StateError: the disk is full or broken.
        """
        with self._mutex, self._lock.shared():
            if self._connection is not None and self._find() == self._identity:
                try:
                    self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                except sqlite3.Error as error:
                    raise StateError(f"{self._file} cannot be written: {error}") from error

    def close(self) -> None:
        """Close the connection for good."""
        with self._mutex:
            self._closed = True
            self._let_go()

    def before_fork(self) -> None:
        """Close the connection until it is used again: SQLite's locks belong to one process, and it would not know."""
        self._mutex.acquire()
        self._let_go()

    def after_fork(self) -> None:
        """Open it again when it is used, in either process."""
        self._mutex.release()

    def _let_go(self) -> None:
        if self._connection is not None:
            with suppress(StateError), self._lock.shared():
                self._disconnect()
            self._disconnect()
        self._lock.close()

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
            status = self._file.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self._file} cannot be used: {error.strerror}") from error
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
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}").fetchone()
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}").fetchone()
        schema.check(connection, self._file)

    def _failure(self, error: sqlite3.Error | UnicodeDecodeError, *, of_file: bool = False) -> Exception:
        """Return our error for one of SQLite's; leave the connection to a damaged file open until that is set aside."""
        failure = translated(error, self._file, PATIENCE, of_file=of_file)
        if isinstance(failure, FullError) and self._has_room() and not self._is_sound():
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

    def _mend(self, error: Exception, reserve: Reserve | None) -> None:
        """Do what makes another try worthwhile.

        Raises:
            StateError: nothing does.
        """
        if isinstance(error, FullError):
            if reserve is None or not reserve.release():
                raise StateError(f"{self._file} cannot be written: the disk is full") from error
        else:
            self._replace(None if isinstance(error, _MissingError) else self._identity)

    def _replace(self, seen: tuple[int, int] | None) -> None:
        """Set the database aside and make a new one, unless somebody else has.

        Args:
            seen: the file that is damaged; None if there was none.

        Raises:
            StateError: the folder cannot be written to, or others do not let go of the database.
        """
        try:
            with self._lock.alone():
                if self._find() == seen:
                    damage.set_aside(self._file)
                    schema.create(self._file)
                    files.sync_folder(self._file.parent)
                self._disconnect()  # not before: SQLite would move what is in the log, and remove the log
        except OSError as error:
            raise StateError(f"{self._file} cannot be created: {error.strerror}") from error
        except sqlite3.Error as error:
            raise StateError(f"{self._file} cannot be created: {error}") from error
        finally:
            self._disconnect()
