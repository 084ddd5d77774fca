"""tpm2-pkcs11's store: where the module looks for it, and what is wrong with it. Nothing here writes to it."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hsm_enroll.token.fault import Fault, barrier, is_closed, user_name

VARIABLE = "TPM2_PKCS11_STORE"
SYSTEM = Path("etc/tpm2_pkcs11")
_XDG = "tpm2-pkcs11"
OWN = ".tpm2_pkcs11"
DATABASE = "tpm2_pkcs11.sqlite3"
"""The store's file that tpm2-pkcs11 looks for."""

_CREATE = "hsm-enroll token create --label LABEL --backend tpm2"
# SQLite's locks are locks on these bytes of the file (SQLite, "The Pager Module", PENDING_BYTE).
_LOCK_BYTES = range(0x40000000, 0x40000000 + 512)
# A new key takes a few kilobytes, and as much again in SQLite's journal.
_ROOM_BYTES = 64 * 1024
_FLOCK = "hhqqi"  # fcntl(2), struct flock: l_type, l_whence, l_start, l_len, l_pid
_DAMAGED_HINT = (
    "Restore the file from a backup. Without one the keys in it are lost: move the file away, create a new token "
    f"({_CREATE}), and enroll again with a new invite: hsm-enroll init --new-key INVITE"
)


def folders(environment: Mapping[str, str], system: Path) -> list[Path]:
    """Return the folders where tpm2-pkcs11 looks for its store, in this order (1.9.1, src/lib/db.c, db_for_path).

    1.9.0 does not look in XDG's folder, and creates the last one if it finds no store; 1.9.1 fails.

    Args:
        environment: what the module will read; TPM2_PKCS11_STORE overrides all other places.
        system: the folder for the whole machine, normally ``/etc/tpm2_pkcs11``.
    """
    if VARIABLE in environment:
        return [Path(environment[VARIABLE])]
    home, data = environment.get("HOME"), environment.get("XDG_DATA_HOME")
    if data is None and home:
        data = f"{home}/.local/share"
    own = [Path(data) / _XDG] if data else []
    return [system, *own, *([Path(home) / OWN] if home else [])]


def existing(environment: Mapping[str, str], system: Path) -> Path | None:
    """Return the folder of the store that the module finds, or None; arguments as for :func:`folders`."""
    places = folders(environment, system)
    return next((folder for folder in places if os.access(folder / DATABASE, os.F_OK, effective_ids=True)), None)


def in_place(environment: Mapping[str, str], system: Path) -> Path | None:
    """Return the folder of the existing store, or else one that may have a store but is closed to this user."""
    closed = (folder for folder in folders(environment, system) if is_closed(barrier(folder)))
    return existing(environment, system) or next(closed, None)


def fault(environment: Mapping[str, str], system: Path) -> Fault | None:
    """Find out why tpm2-pkcs11 cannot use its store; asks the file system and SQLite, which only read."""
    folder = in_place(environment, system)
    return _missing(environment, system) if folder is None else _of_folder(folder)


def without_token(environment: Mapping[str, str], system: Path) -> Fault:
    """Say which store lacks a token, where the module itself has no complaint: it may have created an empty one."""
    hint = f"If the token's store was moved, set {VARIABLE} to its folder. To create a token: {_CREATE}"
    folder = existing(environment, system)
    if folder is not None and read(folder, "SELECT count(*) FROM tokens") not in ([], [(0,)]):
        return Fault(f"tpm2-pkcs11 looked in its store {folder}", hint)
    if folder is not None:
        return Fault(f"tpm2-pkcs11's store {folder} contains no token", hint)
    if not environment.get("HOME") and VARIABLE not in environment:
        here = Path("/proc/self/cwd").readlink()  # unlike Path.cwd(), it need not exist any more
        message = f"HOME is not set, so tpm2-pkcs11 looked for its store in the current folder, {here}"
        return Fault(message, f"Set HOME, or set {VARIABLE} to the store's folder.")
    return fault(environment, system) or _missing(environment, system)


def read(folder: Path, question: str) -> list[tuple[Any, ...]]:
    """Return what a store's database answers to a SELECT; nothing if it cannot be read."""
    import sqlite3

    try:
        return _ask(folder / DATABASE, question)
    except sqlite3.Error:
        return []


def _missing(environment: Mapping[str, str], system: Path) -> Fault:
    message = f"tpm2-pkcs11 finds no token store in {', '.join(map(str, folders(environment, system)))}"
    if not environment.get("HOME") and VARIABLE not in environment:
        return Fault(f"{message}, and HOME is not set", f"Set HOME, or set {VARIABLE} to the store's folder.")
    hint = f"Create a token, and with it the store: {_CREATE}. If a store exists already, set {VARIABLE} to its folder."
    return Fault(message, hint)


def _of_folder(folder: Path) -> Fault | None:
    file = folder / DATABASE
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            return Fault(f"tpm2-pkcs11's store {file} is not a regular file", _DAMAGED_HINT)
        with file.open("rb") as stream:
            stream.read(1)
    except PermissionError:
        return _closed(folder, "read")
    except OSError as error:
        return Fault(f"tpm2-pkcs11's store {file} cannot be read: {error.strerror}", "Check the disk that it is on.")
    damage = _damage(file)
    if damage is not None:
        return Fault(f"tpm2-pkcs11's store {file} is damaged: {damage}", _DAMAGED_HINT)
    if (holder := _holder(file)) is not None:
        hint = "Wait until that process has finished, or stop it; then run the same command again."
        return Fault(f"tpm2-pkcs11's store {file} is locked by {holder}", hint)
    if not os.access(file, os.W_OK, effective_ids=True) or not os.access(folder, os.W_OK, effective_ids=True):
        return _read_only(folder)
    system = os.statvfs(folder)
    free = system.f_frsize * (system.f_bfree if os.geteuid() == 0 else system.f_bavail)
    if free < _ROOM_BYTES:
        message = f"the disk with tpm2-pkcs11's store {folder} is full ({free} bytes are free)"
        return Fault(message, "Free at least 64 KiB on that disk, then run the same command again.")
    return None


def _read_only(folder: Path) -> Fault:
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        message = f"tpm2-pkcs11's store {folder} is on a file system that is mounted read-only"
        return Fault(message, f"Remount it (mount -o remount,rw), or move the store and set {VARIABLE} to its folder.")
    return _closed(folder, "write to")


def _closed(folder: Path, what: str) -> Fault:
    closed, user = barrier(folder), user_name(os.geteuid())
    owner = user_name(closed.stat().st_uid)
    message = f"{user} has no permission to {what} tpm2-pkcs11's store {folder}, which is {owner}'s"
    if closed != folder:
        message = f"{user} has no permission to enter {closed}, where tpm2-pkcs11's store {folder} may be"
    hint = (
        f"Run the command as {owner}; or set {VARIABLE} to a folder of this user's own, and create a token there: "
        f"{_CREATE}"
    )
    return Fault(message, hint)


def _damage(file: Path) -> str | None:
    """Return what SQLite finds wrong with a database; None if nothing, or if it cannot look."""
    import sqlite3

    try:
        [[first]] = _ask(file, "PRAGMA quick_check(1)")
    except sqlite3.Error as error:
        # A locked database is not a damaged one; nor is one that waits for its journal, which only a writer may apply.
        damaged = error.sqlite_errorname.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
        return str(error) if damaged else None
    return None if first == "ok" else str(first).splitlines()[-1]


def _ask(file: Path, question: str) -> list[tuple[Any, ...]]:
    import sqlite3

    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=0)) as connection:
        return connection.execute(question).fetchall()


def _holder(file: Path) -> str | None:
    """Return which process has locked a database for writing, or None; nothing is locked to find out."""
    question = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, _LOCK_BYTES.start, len(_LOCK_BYTES), 0)
    try:
        with file.open("rb") as stream:
            answer = fcntl.fcntl(stream, fcntl.F_GETLK, question)
    except OSError:
        return None  # a file system without locks
    kind, *_, process = struct.unpack(_FLOCK, answer)
    return None if kind == fcntl.F_UNLCK else f"process {process}{_program(process)}"


def _program(process: int) -> str:
    try:
        return f" ({Path(f'/proc/{process}/comm').read_text().strip()})"
    except OSError:
        return ""  # it belongs to another container
