"""SQLite's log: moved to the database while nobody else uses it, at a bound, and never at the cost of a message."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
from hsm_enroll.store.outbox.log import LIMIT

_LIMITS = OutboxLimits(max_bytes=2**26)
_EACH = LIMIT // 10  # the bytes of one call, which are a little more in the log


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Be in the middle of a transaction, as another process may be."""
    with (folder / "outbox.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _add(outbox: Outbox, calls: int) -> None:
    for _ in range(calls):
        outbox.add(NewMessage("t", bytes(_EACH)))


def _size(folder: Path) -> int:
    return (folder / "outbox.db").stat().st_size


def _log_size(folder: Path) -> int:
    return (folder / "outbox.db-wal").stat().st_size


def test_it_is_moved_only_while_nobody_else_is_at_work(tmp_path: Path) -> None:
    """SQLite may lose messages where one process moves the log and another commits: it grows until nobody does."""
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        before = _size(tmp_path)
        with _in_use(tmp_path):
            _add(outbox, 20)
            assert _size(tmp_path) == before
            assert _log_size(tmp_path) > 2 * LIMIT
        _add(outbox, 10)  # its size is looked at now and then
        assert _size(tmp_path) > 20 * _EACH
        assert _log_size(tmp_path) < 2 * LIMIT + _EACH
        assert len(outbox.next(0, 100)) == 30


def test_it_is_moved_by_whoever_adds_next(tmp_path: Path) -> None:
    """Programs that add one message each keep it small, although none of them has added much."""
    with Outbox.open(tmp_path, _LIMITS) as idle:
        _add(idle, 1)
        for _ in range(20):
            with Outbox.open(tmp_path, _LIMITS) as outbox:
                _add(outbox, 1)
        assert _size(tmp_path) > 10 * _EACH
        assert _log_size(tmp_path) < 2 * LIMIT + _EACH


def test_removing_moves_it_too(tmp_path: Path) -> None:
    """Who only removes messages keeps the log small."""
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        outbox.add(*[NewMessage("t", bytes(2000))] * 2000)
        while messages := outbox.next(0, 20):
            outbox.remove([message.id for message in messages])
        assert _log_size(tmp_path) < LIMIT + 2 * _EACH


def test_a_log_that_cannot_be_moved_costs_no_message(tmp_path: Path) -> None:
    """Where the database cannot grow, messages are added, and kept, as long as the log can."""
    program = """
import json, resource, sys
from pathlib import Path
from hsm_enroll.errors import StateError
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits

limit = int(sys.argv[2])
with Outbox.open(Path(sys.argv[1]), OutboxLimits(max_bytes=2**26)) as outbox:
    outbox.add(*[NewMessage("t", bytes(10_000))] * (limit // 10_000))
    outbox.add(NewMessage("t", b""))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    added = 0
    try:
        while True:
            outbox.add(NewMessage("t", bytes(10_000)))
            added += 1
    except StateError as error:
        size = Path(sys.argv[1], "outbox.db-wal").stat().st_size
        print(json.dumps([added, size, error.message, error.hint, len(outbox.next(0, 10_000))]))
"""
    limit = 2 * LIMIT
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path), str(limit)], capture_output=True, check=True)
    added, log_size, message, hint, left = json.loads(run.stdout)
    assert log_size > limit - 10 * 4096
    assert "SQLITE_IOERR_WRITE" in message
    assert "quota" in hint
    assert left == limit // 10_000 + 1 + added
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        assert len(outbox.next(0, 10_000)) == left
        assert outbox.state().damaged_files == ()
