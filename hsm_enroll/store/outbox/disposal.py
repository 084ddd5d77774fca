"""The end of an outbox, with the device's identity: whatever waits in it is lost."""

from __future__ import annotations

from pathlib import Path

from hsm_enroll.errors import StateError
from hsm_enroll.store.outbox import damage, database, reserve, wakeup
from hsm_enroll.store.outbox.lock import Lock


def remove(folder: Path) -> None:
    """Remove the outbox of a folder, if there is one, with everything in it.

    Databases that were set aside stay, for whoever wants to look at them; so does the lock, which other processes may
    have opened.

    Raises:
        StateError: it cannot be removed, or others do not let go of it.
    """
    link = folder / database.NAME
    if not link.exists() and not link.is_symlink():
        return
    file = link.resolve()
    paths = [file.with_name(f"{file.name}{suffix}") for suffix in damage.FILES]
    lock = Lock(folder, database.PATIENCE)
    try:
        with lock.alone():
            for path in (*paths, link, folder / wakeup.NAME, folder / reserve.NAME):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"the outbox {file} cannot be removed: {error.strerror}") from error
    finally:
        lock.close()
