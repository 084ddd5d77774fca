"""The end of an outbox, with the device's identity: whatever waits in it is lost."""

from __future__ import annotations

import os
from pathlib import Path

from hsm_enroll.errors import StateError
from hsm_enroll.store import files
from hsm_enroll.store.outbox import damage, database, reserve, schema, wakeup
from hsm_enroll.store.outbox.lock import Lock


def remove(folder: Path) -> None:
    """Remove the outbox of a folder, if there is one, with everything in it, or what an interrupted removal has left.

    Databases that were set aside stay, for whoever wants to look at them; so does the lock, which other processes may
    have opened.

    Raises:
        StateError: it cannot be removed, or others do not let go of it.
    """
    file = folder / database.NAME
    # The database first: a log without one is never used again, and a database without its log may be.
    parts = [
        *(file.with_name(f"{file.name}{suffix}") for suffix in damage.FILES),
        *schema.temporary_files(file),
        folder / wakeup.NAME,
        folder / reserve.NAME,
    ]
    if not any(os.path.lexists(part) for part in parts):
        return
    lock = Lock(folder, database.PATIENCE)
    try:
        with lock.alone():
            for part in parts:
                part.unlink(missing_ok=True)
            files.sync_folder(folder)
    except OSError as error:
        raise StateError(f"the outbox {file} cannot be removed: {error.strerror}") from error
    finally:
        lock.close()
