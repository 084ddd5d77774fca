"""D21: disks that are full, read-only, broken or far away: an error that says so, and nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.errors import StateError
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits, network
from tests.support.failing_calls import failing
from tests.support.mounts import with_own_mounts
from tests.support.nobody import as_nobody

_LIMITS = OutboxLimits(max_bytes=2**26)
_PROGRAM = """
import json, os, sys
from pathlib import Path
from hsm_enroll.errors import StateError
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
from hsm_enroll.store.outbox.reserve import Reserve

disk = Path(sys.argv[1])
folder = disk / "state"

def opened():
    return Outbox.open(folder, OutboxLimits(max_bytes=2**26))

def add(outbox, most):
    "Return the numbers that were added, and the error."
    added = []
    try:
        for number in range(most):
            outbox.add(NewMessage("t", b"%d" % number + bytes(1000)))
            added.append(number)
    except StateError as error:
        return added, error.message
    return added, None

def drain(outbox):
    taken = []
    while messages := outbox.next(0, 20):
        outbox.remove([message.id for message in messages])
        taken += [int(message.payload.rstrip(b"\\0")) for message in messages]
    return taken

def fill_disk():
    descriptor = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError:
        os.close(descriptor)
"""
# On a small disk in memory, which no other process sees.
_ON_A_SMALL_DISK = 'mount -t tmpfs -o size=10m tmpfs "$1" && shift && exec "$@"'
_READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def _run(program: str, disk: Path, *, mounting: str = "", environment: dict[str, str] | None = None) -> Any:
    """Run a program, with something mounted before; return what it prints as JSON."""
    command = [sys.executable, "-c", _PROGRAM + program, str(disk)]
    if mounting:
        command = with_own_mounts("sh", "-c", mounting, "sh", str(disk), *command)
    run = subprocess.run(
        command, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """A message that does not fit is an error; all before it can be sent and removed, and then there is room again."""
    program = """
with opened() as outbox:
    added, error = add(outbox, 100_000)
    fill_disk()
    again = add(outbox, 1)
    taken = drain(outbox)
    (disk / "ballast").unlink()
    later = add(outbox, 3)
    print(json.dumps([added, error, again, taken, later, outbox.state().messages]))
"""
    added, error, (refused, message), taken, later, left = _run(program, tmp_path, mounting=_ON_A_SMALL_DISK)
    assert len(added) > 1000
    assert error.endswith("the disk is full")
    assert refused == []
    assert message.endswith(("the disk is full", "No space left on device"))
    assert taken == added
    assert (later, left) == ([[0, 1, 2], None], 3)


def test_a_start_on_a_full_disk(tmp_path: Path) -> None:
    """Where there is not a block left, what is queued can be sent and removed by a process that only starts then."""
    program = """
with opened() as outbox:
    added = add(outbox, 2000)
fill_disk()
with opened() as outbox:
    before = outbox.state().messages
    taken = drain(outbox)
with opened() as outbox:
    print(json.dumps([added, before, taken, outbox.state().messages]))
"""
    added, before, taken, left = _run(program, tmp_path, mounting=_ON_A_SMALL_DISK)
    assert added == [list(range(2000)), None]
    assert (before, taken, left) == (2000, list(range(2000)), 0)


def test_a_full_disk_from_the_beginning(tmp_path: Path) -> None:
    """Where no outbox can be made, the error says why, and nothing is left that a later start would stumble over."""
    program = """
fill_disk()
try:
    opened()
except StateError as error:
    message = error.message
(disk / "ballast").unlink()
with opened() as outbox:
    print(json.dumps([message, add(outbox, 2), len(outbox.state().damaged_files)]))
"""
    message, added, damaged = _run(program, tmp_path, mounting=_ON_A_SMALL_DISK)
    assert message.endswith(("disk is full", "No space left on device"))
    assert (added, damaged) == ([[0, 1], None], 0)


def test_who_adds_leaves_the_reserve_to_who_removes(tmp_path: Path) -> None:
    """What was given up on a full disk is not taken back for new messages before there is clearly room."""
    program = """
reserve = folder / "outbox.reserve"
with opened() as outbox, opened() as other:
    add(outbox, 2000)
    fill_disk()
    given_up = Reserve(folder).release()
    refused = [add(other, 1)[0], reserve.stat().st_size]
    taken = drain(outbox)
    (disk / "ballast").unlink()
    print(json.dumps([given_up, refused, len(taken), add(other, 1)[0], reserve.stat().st_size > 0]))
"""
    given_up, refused, taken, added, is_back = _run(program, tmp_path, mounting=_ON_A_SMALL_DISK)
    assert given_up
    assert (refused, taken) == ([[], 0], 2000)
    assert (added, is_back) == ([0], True)


def test_a_quota(tmp_path: Path) -> None:
    """SQLite says of a quota only that it could not write: the reserve is given up, and messages can be removed."""
    program = """
with opened() as outbox:
    messages = outbox.next(0, 9)
    for message in messages:
        outbox.remove([message.id])
    print(json.dumps([len(messages), outbox.state().messages, (folder / "outbox.reserve").stat().st_size]))
"""
    for time in range(1, 16, 2):
        with Outbox.open(tmp_path / "state", _LIMITS) as outbox:
            outbox.add(NewMessage("t", b"1"), NewMessage("t", b"2"), NewMessage("t", b"3"))
        assert _run(program, tmp_path, environment=failing(pwrite=f"{errno.EDQUOT}:{time}")) == [3, 0, 0]


_SOME_ERRORS = """
added, errors = [], set()
for number in range(12):
    try:
        with opened() as outbox:
            outbox.add(NewMessage("t", b"%d" % number + bytes(3000)), NewMessage("t", b"%d" % number))
            added.append(number)
            outbox.remove([message.id for message in outbox.next(0, 1) if number % 3 == 2])
    except StateError as error:
        errors.add(error.message)
print(json.dumps([added, sorted(errors)]))
"""


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_each_access_to_the_disk_in_turn(tmp_path: Path, call: str) -> None:
    """Whichever write or flush fails, what add returned for is there, whole and in order, and nothing is damaged."""
    for time, number in zip(range(1, 60, 4), cycle((errno.ENOSPC, errno.EIO)), strict=False):
        disk = tmp_path / str(time)
        disk.mkdir(mode=0o700)
        added, errors = _run(_SOME_ERRORS, disk, environment=failing(**{call: f"{number}:{time}"}))
        assert len(added) >= 10, errors
        with Outbox.open(disk / "state", _LIMITS) as outbox:
            found = [int(message.payload.rstrip(b"\0")) for message in outbox.next(0, 99)]
            assert outbox.state().damaged_files == ()
        assert found == sorted(found)
        first = found[0]
        assert {one for one in added if one > first} <= set(found)
        assert all(found.count(one) == 2 for one in found if one > first)


def test_a_broken_disk(tmp_path: Path) -> None:
    """A disk that takes writes and cannot keep them is an error for each message, and none is said to be queued."""
    Outbox.open(tmp_path / "state", _LIMITS).close()
    program = "outbox = opened(); print(json.dumps([add(outbox, 3), add(outbox, 1), outbox.state().messages]))"
    first, second, left = _run(program, tmp_path, environment=failing(fdatasync=errno.EIO))
    for added, error in (first, second):
        assert added == []
        assert "disk I/O error (SQLITE_IOERR_FSYNC)" in error
    assert left == 0


@pytest.mark.parametrize("flush", [8, 10, 12])
def test_each_message_is_flushed(tmp_path: Path, flush: int) -> None:
    """There is a flush of the disk for each message: if one fails, so does adding one message, and only that."""
    Outbox.open(tmp_path / "state", _LIMITS).close()
    program = """
outbox = opened()
print(json.dumps([add(outbox, 1)[0] for _ in range(14)]))
"""
    results = _run(program, tmp_path, environment=failing(fdatasync=f"{errno.EIO}:{flush}"))
    assert results.count([]) == 1


def test_a_folder_that_cannot_be_flushed(tmp_path: Path) -> None:
    """A new database counts only once the folder has been flushed, too."""
    program = """
try:
    opened()
except StateError as error:
    print(json.dumps(error.message))
"""
    message = _run(program, tmp_path, environment=failing(fsync=errno.EIO))
    assert message.endswith("outbox.db cannot be created: Input/output error")


def test_a_read_only_folder(tmp_path: Path) -> None:
    """Where nothing can be written, the outbox cannot be opened, neither a new one nor one that is there."""
    program = """
try:
    opened()
except StateError as error:
    print(json.dumps(error.message))
"""
    assert "Read-only file system" in _run(program, tmp_path, mounting=_READ_ONLY)
    with Outbox.open(tmp_path / "state", _LIMITS) as outbox:
        outbox.add(NewMessage("t", b"1"))
    assert "Read-only file system" in _run(program, tmp_path, mounting=_READ_ONLY)
    assert not list(tmp_path.glob("state/*damaged*"))


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o600, "unable to open database file"), (0o644, "it is read-only")],
    ids=["unreadable", "readable"],
)
def test_a_file_of_another_user(mode: int, said: str) -> None:
    """A database that this user may not write to is an error that names it; it is not taken for a damaged one."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "state")
        with Outbox.open(state, _LIMITS) as outbox:
            outbox.add(NewMessage("t", b"1"))
        (state / "outbox.db").chmod(mode)
        for path in (Path(folder), state, state / "outbox.lock"):
            os.chown(path, 65534, 65534)
        with as_nobody(), pytest.raises(StateError, match=f"outbox.db cannot be used: {said}"):
            Outbox.open(state, _LIMITS).add(NewMessage("t", b"2"))
        assert not list(state.glob("*damaged*"))


def test_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D11: a folder that belongs to someone else is refused, naming both users."""
    owner = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(StateError, match=f"belongs to user id {owner}, not to {owner + 1}"):
        Outbox.open(tmp_path, _LIMITS)


# Locks


def test_a_file_system_without_locks(tmp_path: Path) -> None:
    """Where flock is not supported, the outbox is refused: a damaged file could not be replaced safely."""
    program = """
try:
    opened()
except StateError as error:
    print(json.dumps([error.message, error.hint]))
"""
    message, hint = _run(program, tmp_path, environment=failing(flock=errno.ENOLCK))
    assert "cannot be locked: No locks available" in message
    assert "local disk" in hint


def test_who_keeps_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped while it sets a damaged file aside is an error for the others, not a hang."""
    monkeypatch.setattr("hsm_enroll.store.outbox.database.PATIENCE", 0.2)
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        with (tmp_path / "outbox.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(StateError, match=r"another process has kept the outbox in .* locked"):
                outbox.add(NewMessage("t", b"1"))
        outbox.add(NewMessage("t", b"2"))


def test_no_thread_can_be_started(tmp_path: Path) -> None:
    """A program that does one thing after another needs no thread to add, so it works where there is none left."""
    program = "print(json.dumps(add(opened(), 2)))"
    assert _run(program, tmp_path, environment=failing(pthread_create=errno.EAGAIN)) == [[0, 1], None]


# Network file systems


_MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:46 / /mnt/share\\040one rw,relatime shared:9 master:1 - nfs4 server:/export rw,vers=4.2
41 22 0:47 / /mnt/b rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("device", "kind"), [((254, 0), "ext4"), ((0, 46), "nfs4"), ((0, 47), "tmpfs"), ((8, 1), None)], ids=str
)
def test_the_file_system_of_a_device(device: tuple[int, int], kind: str | None) -> None:
    """The type is that of the mount with the device's number, whatever optional fields its line has."""
    assert network.file_system(_MOUNTS, os.makedev(*device)) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "ext4"])
def test_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """SQLite's log does not work on one, so it is refused before anything is made there."""
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 {os.major(device)}:{os.minor(device)} / / rw - {kind} what rw\n")
    monkeypatch.setattr(network, "MOUNTS", mounts)
    if kind == "ext4":
        Outbox.open(tmp_path / "state", _LIMITS).close()
        return
    with pytest.raises(StateError, match=f"on a network file system \\({kind}\\)") as caught:
        Outbox.open(tmp_path / "state", _LIMITS)
    assert "local disk" in caught.value.hint
    assert list((tmp_path / "state").iterdir()) == []
