"""A damaged database is set aside as it is, said, and never stops new messages; nothing is lost in silence."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.errors import StateError, StateTooNewError
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits, QueuedMessage, WhenFull, age
from hsm_enroll.store.outbox.database import Database
from tests.client.conftest import RunPython

_LIMITS = OutboxLimits(max_bytes=2**26)
_PAGE = 4096
_TEXTS = [f"{number:04}" * 20 for number in range(600)]
# Where SQLite's header has the version of the layout: a changed number is that of a newer program, not damage.
_VERSION = range(60, 64)


def _filled(folder: Path) -> Path:
    """Make an outbox with many messages, small and large, and return its file."""
    with Outbox.open(folder, _LIMITS) as outbox:
        outbox.add(*(NewMessage("t", text.encode()) for text in _TEXTS), NewMessage("t", bytes(20_000)))
    return folder / "outbox.db"


@cache
def _content() -> bytes:
    """Return the bytes of an outbox with many messages: always the same ones, so that a failure can be repeated."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as clock:
        clock.setattr(age, "now", lambda: age.Moment(1.8e9 + 0.5, 100.5, "00000000-0000-4000-8000-000000000000"))
        return _filled(Path(folder)).read_bytes()


@pytest.fixture
def content() -> bytes:
    """The bytes of an outbox with many messages."""
    return _content()


def _expected() -> list[bytes]:
    return [*(text.encode() for text in _TEXTS), bytes(20_000)]


def _drain(outbox: Outbox) -> list[bytes]:
    taken: list[QueuedMessage] = []
    while messages := outbox.next(0, 100):
        outbox.remove([message.id for message in messages])
        taken += messages
    return [message.payload for message in taken]


def _use(folder: Path) -> tuple[list[bytes], tuple[Path, ...]]:
    """Add a message, take all out; return what came, and the files that were set aside."""
    with Outbox.open(folder, _LIMITS) as outbox:
        outbox.add(NewMessage("t", b"new"))
        outbox.state()
        taken = _drain(outbox)
        if taken[-1:] != [b"new"]:  # the file was damaged where it is read last
            outbox.add(NewMessage("t", b"new"))
            taken += _drain(outbox)
        assert taken.pop() == b"new"
        state = outbox.state()
    assert state.messages == 0
    return taken, state.damaged_files


def _overwrite(content: bytes, start: int, new: bytes) -> bytes:
    return content[:start] + new + content[start + len(new) :]


_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda content: content[:1],
    "half a page": lambda content: content[: _PAGE // 2],
    "one page": lambda content: content[:_PAGE],
    "cut in the middle": lambda content: content[: len(content) // _PAGE // 2 * _PAGE],
    "cut in a page": lambda content: content[: len(content) // 2 + 77],
    "zeroed header": lambda content: _overwrite(content, 0, bytes(100)),
    "zeroed first page": lambda content: _overwrite(content, 0, bytes(_PAGE)),
    "zeroed page of the middle": lambda content: _overwrite(content, len(content) // 2 // _PAGE * _PAGE, bytes(_PAGE)),
    "zeros": lambda content: bytes(len(content)),
    "text": lambda _: b"not a database\n" * 1000,
    "another layout": lambda content: content.replace(b"CREATE TABLE totals", b"CREATE TABLE totalz"),
    "names that are not text": lambda content: content.replace(b"CREATE TABLE totals", b"CREATE \xff\xff\xffLE totals"),
    "a changed payload": lambda content: content.replace(_TEXTS[99].encode(), _TEXTS[98].encode()),
    "a changed topic": lambda content: (
        content.replace(b"t" + _TEXTS[99][:8].encode(), b"u" + _TEXTS[99][:8].encode())
        if b"t" + _TEXTS[99][:8].encode() in content
        else content.replace(_TEXTS[99][-8:].encode(), b"\xff" * 8)
    ),
    "a version of no program": lambda content: _overwrite(content, _VERSION.start, b"\0\1\0\0"),
    "of another program": lambda content: _overwrite(content, 68, b"grav"),
}


@pytest.mark.parametrize("damage", _DAMAGES.values(), ids=_DAMAGES)
def test_a_damaged_file_is_set_aside(tmp_path: Path, content: bytes, damage: Callable[[bytes], bytes]) -> None:
    """It is kept whole, under a name of its own, and named by the state; messages before it were as they were added."""
    (tmp_path / "outbox.db").write_bytes(damage(content))
    taken, (aside,) = _use(tmp_path)
    assert taken == _expected()[: len(taken)]
    assert aside.name.startswith("outbox.db.damaged-20")
    assert len(aside.read_bytes()) >= len(damage(content)) - _PAGE
    _, again = _use(tmp_path)
    assert again == (aside,)


def _leaf(content: bytes) -> int:
    """Return where the page begins that has one of the messages (fileformat2 §1.6: type, cells, their addresses)."""
    start = content.index(_TEXTS[200].encode()) // _PAGE * _PAGE
    assert content[start] == 0x0D
    return start


def _repeat_row(content: bytes) -> bytes:
    leaf = _leaf(content)
    return _overwrite(content, leaf + 10, content[leaf + 8 : leaf + 10])


def _lose_row(content: bytes) -> bytes:
    leaf = _leaf(content)
    return _overwrite(content, leaf + 4, bytes([content[leaf + 4] - 1]))


@pytest.mark.parametrize("damage", [_repeat_row, _lose_row], ids=["repeated", "missing"])
def test_rows_that_sqlite_does_not_miss(tmp_path: Path, content: bytes, damage: Callable[[bytes], bytes]) -> None:
    """A row that is there twice, or not any more, is noticed, although SQLite finds nothing wrong with its page."""
    (tmp_path / "outbox.db").write_bytes(damage(content))
    taken, aside = _use(tmp_path)
    assert len(taken) == len(set(taken))
    assert len(aside) == 1


def _keys(content: bytes) -> list[int]:
    """Return where the inner page of the messages' tree has the second byte of its keys (fileformat2 §1.6)."""
    page = next(start for start in range(_PAGE, len(content), _PAGE) if content[start] == 0x05)
    cells = range(page + 12, page + 12 + 2 * int.from_bytes(content[page + 3 : page + 5]), 2)
    return [page + int.from_bytes(content[cell : cell + 2]) + 5 for cell in cells]


@pytest.mark.parametrize("which", range(0, 21, 2))
def test_keys_that_lead_astray(tmp_path: Path, content: bytes, which: int) -> None:
    """Where a wrong key makes SQLite skip messages, or not find those to be removed, none comes late or twice."""
    for place, new in ((-1, b"\0\0"), (-1, b"\x7f"), (0, b"\0")):
        folder = tmp_path / f"{place}{new.hex()}"
        folder.mkdir(mode=0o700)
        (folder / "outbox.db").write_bytes(_overwrite(content, _keys(content)[which] + place, new))
        taken, aside = _use(folder)
        assert taken == _expected()[: len(taken)]
        assert aside or taken == _expected()


@pytest.mark.parametrize("which", range(1, 21, 3))
def test_keys_that_lead_a_removal_astray(tmp_path: Path, which: int) -> None:
    """Where a wrong key makes SQLite miss a message that is to be removed, the message does not come again."""
    content = _content()
    for place, new in ((-1, b"\0\0"), (-1, b"\x7f"), (0, b"\0")):
        folder = tmp_path / f"{place}{new.hex()}"
        folder.mkdir(mode=0o700)
        (folder / "outbox.db").write_bytes(_overwrite(content, _keys(content)[which] + place, new))
        with Outbox.open(folder, _LIMITS) as outbox:
            ids = [message.id for message in outbox.next(0, 1000)]
            outbox.remove(ids[::2])
            outbox.remove(ids[1::2])
            assert outbox.next(0, 1000) == []


def test_what_somebody_else_removed(tmp_path: Path) -> None:
    """Messages that are not there any more, in the middle too, are no sign of damage."""
    file = _filled(tmp_path)
    with Outbox.open(tmp_path, _LIMITS) as one, Outbox.open(tmp_path, _LIMITS) as other:
        ids = [message.id for message in one.next(0, 300)]
        other.remove(ids[100:200])
        one.remove(ids[50:])
        assert [message.id for message in other.next(0, 51)] == [*ids[:50], ids[-1] + 1]
        assert other.state().damaged_files == ()
        assert file.exists()


def test_it_is_kept_byte_for_byte(tmp_path: Path) -> None:
    """What is damaged when it is opened is kept as it is, its log too."""
    for name in ("outbox.db", "outbox.db-wal", "outbox.db-shm"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    Outbox.open(tmp_path, _LIMITS).close()
    kept = {path.name.partition("Z")[2]: path.read_bytes() for path in tmp_path.glob("*.damaged-*")}
    assert kept[""] == b"outbox.db" * 1000
    assert kept["-wal"] == b"outbox.db-wal" * 1000


@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True) | st.floats(0, 0.1), st.binary(min_size=1, max_size=64)),
        min_size=1,
        max_size=4,
    )
)
def test_random_damage(changes: list[tuple[float, bytes]]) -> None:
    """Whatever bytes are changed: only what was added comes out, in its order, and what is missing is said."""
    with tempfile.TemporaryDirectory() as folder:
        damaged = content = _content()
        for where, new in changes:
            start = int(where * len(content))
            damaged = _overwrite(damaged, start, new)[: len(content)]
        damaged = _overwrite(damaged, _VERSION.start, content[_VERSION.start : _VERSION.stop])
        Path(folder, "outbox.db").write_bytes(damaged)
        taken, aside = _use(Path(folder))
        expected = iter(_expected())
        assert all(payload in expected for payload in taken)
        assert aside or taken == _expected()


def test_a_log_that_was_cut(tmp_path: Path, run_python: RunPython) -> None:
    """A power cut that tore the log's end costs what was not flushed, and no more: nothing is damaged."""
    program = """
import os, sys
from pathlib import Path
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
outbox = Outbox.open(Path(sys.argv[1]), OutboxLimits(max_bytes=2**26))
for number in range(20):
    outbox.add(NewMessage("t", str(number).encode()))
    print(os.stat(Path(sys.argv[1]) / "outbox.db-wal").st_size, flush=True)
os.kill(os.getpid(), 9)
"""
    process = run_python(program, tmp_path)
    assert process.stdout is not None
    sizes = [int(line) for line in process.stdout]
    process.wait()
    with (tmp_path / "outbox.db-wal").open("r+b") as log:
        log.truncate(sizes[12] - 100)
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        assert [message.payload.decode() for message in outbox.next(0, 99)] == [*map(str, range(12))]
        assert outbox.state().messages == 12
        assert outbox.state().damaged_files == ()


# Others have it open


def _damage_from_outside(file: Path) -> None:
    """Zero all but the first page; not in this process, where closing the file would drop SQLite's locks on it."""
    program = "import sys; f = open(sys.argv[1], 'r+b'); n = f.seek(0, 2); f.seek(4096); f.write(bytes(n - 4096))"
    subprocess.run([sys.executable, "-c", program, str(file)], check=True)


def test_others_go_on_with_the_new_file(tmp_path: Path) -> None:
    """Who had the damaged file open writes to the new one from then on, and closing the old one harms nobody."""
    file = _filled(tmp_path)
    with Outbox.open(tmp_path, _LIMITS) as writer, Outbox.open(tmp_path, _LIMITS) as idle:
        idle.state()
        writer.state()
        _damage_from_outside(file)
        with Outbox.open(tmp_path, _LIMITS) as finder:
            assert finder.next(0, 9) == []
            finder.add(NewMessage("t", b"1"))
            writer.add(NewMessage("t", b"2"))
        idle.close()
        with Outbox.open(tmp_path, _LIMITS) as reader:
            assert [message.payload for message in reader.next(0, 9)] == [b"1", b"2"]
        assert len(writer.state().damaged_files) == 1


def test_ids_go_on_after_a_replacement(tmp_path: Path) -> None:
    """Who drains sees what is in the new file after what it had already, and may still report on the old messages."""
    file = _filled(tmp_path)
    with Outbox.open(tmp_path, _LIMITS) as drainer:
        old = drainer.next(0, 50)
        _damage_from_outside(file)
        assert drainer.next(old[-1].id + 200, 9) == []
        drainer.add(NewMessage("t", b"1"), NewMessage("t", b"2"))
        new = drainer.next(old[-1].id, 9)
        assert [message.payload for message in new] == [b"1", b"2"]
        assert new[0].id > old[-1].id
        drainer.remove([message.id for message in old])
        drainer.set_aside(old[0].id, "late")
        assert (drainer.state().messages, drainer.state().refused) == (2, 0)
        drainer.remove([new[0].id])
        drainer.set_aside(new[1].id, "not authorized")
        assert (drainer.state().messages, drainer.state().refused) == (0, 1)


def test_busy_writers_make_way(tmp_path: Path) -> None:
    """A damaged file is set aside although others write to it without a pause, and none of them is disturbed."""
    file = _filled(tmp_path)
    stop = threading.Event()
    errors: list[Exception] = []

    def write() -> None:
        try:
            with Outbox.open(tmp_path, _LIMITS) as outbox:
                while not stop.is_set():
                    outbox.add(NewMessage("t", b"x"))
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    with Outbox.open(tmp_path, _LIMITS) as drainer:
        drainer.next(0, 1)
        _damage_from_outside(file)
        while not drainer.state().damaged_files:
            drainer.remove([message.id for message in drainer.next(0, 100)])
        stop.set()
        for writer in writers:
            writer.join()
        assert errors == []
        assert len(drainer.state().damaged_files) == 1


# Between two steps


def test_a_log_that_was_left_behind(tmp_path: Path, run_python: RunPython) -> None:
    """If setting aside was interrupted when the database had its new name and its log had not, the log is kept."""
    program = """
import os, sys
from pathlib import Path
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
outbox = Outbox.open(Path(sys.argv[1]), OutboxLimits(max_bytes=2**26))
outbox.add(NewMessage("t", b"old"))
os.kill(os.getpid(), 9)
"""
    run_python(program, tmp_path).wait()
    log = (tmp_path / "outbox.db-wal").read_bytes()
    (tmp_path / "outbox.db").rename(tmp_path / "outbox.db.damaged-20260101T000000Z")
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        outbox.add(NewMessage("t", b"new"))
        assert [message.payload for message in outbox.next(0, 9)] == [b"new"]
        first, second = outbox.state().damaged_files
    assert first.name == "outbox.db.damaged-20260101T000000Z"
    assert second.read_bytes() == log


def test_what_a_killed_creation_left(tmp_path: Path) -> None:
    """What is left of an outbox that was not created to its end does not matter."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f"outbox.db.new{suffix}").write_bytes(b"left over" * 1000)
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        assert outbox.state().damaged_files == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outbox.db", "outbox.lock"]


def test_several_damaged_files(tmp_path: Path) -> None:
    """Files that are set aside within a second have names of their own, and are told in their order."""
    contents = [b"first" * 1000, b"second" * 1000, b"third" * 1000]
    for content in contents:
        (tmp_path / "outbox.db").write_bytes(content)
        Outbox.open(tmp_path, _LIMITS).close()
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        assert [path.read_bytes() for path in outbox.state().damaged_files] == contents


# What is not damage


def _set_version(file: Path, version: int) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


def test_a_newer_version(tmp_path: Path) -> None:
    """An outbox of a newer version of the program is refused and left alone."""
    file = _filled(tmp_path)
    _set_version(file, 2)
    content = file.read_bytes()
    with pytest.raises(StateTooNewError, match=f"{file} has format 2; this program reads formats up to 1"):
        Outbox.open(tmp_path, _LIMITS)
    assert file.read_bytes() == content
    assert list(tmp_path.glob("*damaged*")) == []


def test_tables_of_others(tmp_path: Path) -> None:
    """What ANALYZE makes, or somebody who looks into the database, is no damage."""
    file = _filled(tmp_path)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("ANALYZE")
        connection.execute("CREATE TABLE notes (text)")
        connection.execute("CREATE INDEX by_topic ON messages (topic)")
    assert _use(tmp_path) == (_expected(), ())


def test_a_newer_version_takes_over(tmp_path: Path) -> None:
    """A program of this version that has the outbox open sees that a newer one has replaced the file by its own."""
    file = _filled(tmp_path)
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        program = "import shutil, sqlite3, sys; shutil.copy(*sys.argv[1:]); c = sqlite3.connect(sys.argv[2]); "
        program += "c.execute('PRAGMA user_version = 2'); c.close()"
        subprocess.run([sys.executable, "-c", program, str(file), str(tmp_path / "new")], check=True)
        (tmp_path / "new").replace(file)
        with pytest.raises(StateTooNewError):
            outbox.add(NewMessage("t", b"1"))


def test_an_exception_right_after_the_connection_was_closed(tmp_path: Path) -> None:
    """A signal handler that raises one there costs the operation, but not the database, which is sound."""

    def interrupt(_frame: FrameType, event: str, function: Any) -> None:
        is_closed = event == "c_return" and function.__name__ == "close"
        if is_closed and isinstance(function.__self__, sqlite3.Connection):
            sys.setprofile(None)
            raise KeyboardInterrupt

    _filled(tmp_path)
    database = Database(tmp_path)
    database.run(lambda _: None, writing=False)
    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            database.run(lambda connection: connection.execute("SELECT nothing"), writing=False)
    finally:
        sys.setprofile(None)
    rows = database.run(lambda connection: connection.execute("SELECT id FROM messages").fetchall(), writing=False)
    database.close()
    assert len(rows) == len(_TEXTS) + 1
    assert list(tmp_path.glob("*damaged*")) == []


def test_a_mistake_in_the_use_of_a_connection(tmp_path: Path) -> None:
    """SQLite's module for Python gives its own errors no code either; they say nothing about the file."""

    def close(connection: sqlite3.Connection) -> None:
        connection.close()
        connection.execute("SELECT 1")

    _filled(tmp_path)
    database = Database(tmp_path)
    with pytest.raises(StateError, match="cannot be used: Cannot operate on a closed database"):
        database.run(close, writing=False)
    assert database.run(lambda connection: connection.execute("SELECT 1").fetchone(), writing=False) == (1,)
    database.close()
    assert list(tmp_path.glob("*damaged*")) == []


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_something_else_in_its_place(tmp_path: Path, kind: str) -> None:
    """What is not a file is neither opened nor moved."""
    import os

    (tmp_path / "outbox.db").mkdir() if kind == "folder" else os.mkfifo(tmp_path / "outbox.db")
    with pytest.raises(StateError, match="is not a regular file"):
        Outbox.open(tmp_path, _LIMITS)


def test_a_removed_file(tmp_path: Path) -> None:
    """Somebody deletes the database while it is open: the next message begins a new one, whose log is its own."""
    with Outbox.open(tmp_path, OutboxLimits(max_bytes=2**20, when_full=WhenFull.DROP_OLDEST)) as outbox:
        outbox.add(NewMessage("t", b"1"))
        (tmp_path / "outbox.db").unlink()
        outbox.add(NewMessage("t", b"2"))
        with Outbox.open(tmp_path, _LIMITS) as other:
            assert [message.payload for message in other.next(0, 9)] == [b"2"]
