"""Damaged databases: told by SQLite, by checksums or by their layout, and moved out of the way as they are."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

# A SQLite database in WAL mode: itself, its log, and the index of that, which is made anew when it is missing.
_LOG, _INDEX = "-wal", "-shm"
FILES = ("", _LOG, _INDEX)
_DAMAGED = ".damaged-"


class DamagedError(Exception):
    """The database is damaged. Never leaves this package: the database is set aside."""


def set_aside(file: Path) -> bool:
    """Rename the files of a database; nothing is deleted. The caller keeps all others from using it.

    The database comes first: a log without a database is set aside when a new one is made. Does *not* flush the
    folder to the disk.

    Returns:
        Whether there was anything to rename.

    Raises:
        OSError: a file cannot be renamed.
    """
    aside = _free_name(file)
    present = [suffix for suffix in FILES if file.with_name(f"{file.name}{suffix}").exists()]
    for suffix in present:
        file.with_name(f"{file.name}{suffix}").rename(aside.with_name(f"{aside.name}{suffix}"))
    return bool(present)


def damaged_files(file: Path) -> tuple[Path, ...]:
    """Return the databases, or logs without one, that were set aside; the oldest first."""
    names = {path.name for path in file.parent.glob(f"{file.name}{_DAMAGED}*") if not path.name.endswith(_INDEX)}
    return tuple(file.with_name(name) for name in sorted(names - {f"{name}{_LOG}" for name in names}))


def _free_name(file: Path) -> Path:
    """Return a name that none of the files has; the clock may show the same second twice."""
    time = datetime.now(UTC)
    taken = {path.name for path in file.parent.glob(f"{file.name}{_DAMAGED}*")}
    number = 1
    while True:
        name = f"{file.name}{_DAMAGED}{time:%Y%m%dT%H%M%SZ}" + (f"-{number}" if number > 1 else "")
        if not any(f"{name}{suffix}" in taken for suffix in FILES):
            return file.with_name(name)
        number += 1
