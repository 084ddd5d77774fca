"""Lines for local programs, over a socket."""

from __future__ import annotations

import os
import resource
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsm_enroll.errors import BusyError, StateError, UsageError
from hsm_enroll.readers import CAPACITY, MOST, Readers
from tests.support.nobody import as_nobody

_TIME_LIMIT = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket is."""
    return tmp_path / "messages.sock"


@pytest.fixture
def connect(path: Path) -> Iterator[Callable[[], socket.socket]]:
    """Connect a program to the socket."""
    made = []

    def connected() -> socket.socket:
        made.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        made[-1].settimeout(_TIME_LIMIT)
        made[-1].connect(str(path))
        return made[-1]

    yield connected
    for connection in made:
        connection.close()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_every_reader_gets_every_line_from_its_connection_on(path: Path, connect: Callable[[], socket.socket]) -> None:
    """Also one that has connected just before; what it writes does not matter, nor that it says it writes no more."""
    with Readers(path) as readers:
        assert readers.deliver(b"1\n") == 0
        first = connect()
        first.sendall(b"hello")
        first.shutdown(socket.SHUT_WR)
        assert readers.deliver(b"2\n") == readers.deliver(b"3\n") == 1
        second = connect()
        readers.wait(0.0)
        assert readers.deliver(b"4\n") == 2
        assert first.recv(100) == b"2\n3\n4\n"
        assert second.recv(100) == b"4\n"


def test_a_reader_that_has_gone_is_forgotten(path: Path, connect: Callable[[], socket.socket]) -> None:
    """Whether that is noticed while waiting or when sending; its descriptor is free again."""
    with Readers(path) as readers:
        before = _descriptors()
        for waits in (False, True):
            reader = connect()
            assert readers.deliver(b"1\n") == 1
            reader.close()
            if waits:
                readers.wait(_TIME_LIMIT)
                assert _descriptors() == before
            assert readers.deliver(b"2\n") == 0
        assert _descriptors() == before


def test_a_reader_that_does_not_read_is_disconnected(path: Path, connect: Callable[[], socket.socket]) -> None:
    """Once more waits for it than is kept; another one gets everything, and nobody waits for the slow one."""
    line, told = b"x" * 131_071 + b"\n", list[str]()
    with Readers(path, told.append) as readers:
        slow, quick = connect(), connect()
        received = bytearray()
        rounds = 2 * CAPACITY // len(line)
        for number in range(1, rounds + 1):
            readers.deliver(line)
            while len(received) < number * len(line):
                received += quick.recv(2**20)
                readers.wait(0.0)
        assert bytes(received) == line * rounds
        assert told == ["a program does not read: 8 MiB are waiting for it"]
        rest = 0
        while some := slow.recv(2**20):
            rest += len(some)
        assert rest < CAPACITY


def test_many_lines_at_once_are_too_much_for_nobody_who_reads(path: Path, connect: Callable[[], socket.socket]) -> None:
    """A program that just has not had its turn is not taken for one that does not read."""
    line = b"z" * 99_999 + b"\n"
    count = 5 * CAPACITY // len(line)
    with Readers(path, lambda _: pytest.fail("it is dropped")) as readers:
        reader, received = connect(), bytearray()

        def read() -> None:
            while some := reader.recv(2**16):
                received.extend(some)

        reading = threading.Thread(target=read)
        reading.start()
        assert {readers.deliver(line) for _ in range(count)} == {1}
        while len(received) < count * len(line):
            readers.wait(0.01)
    reading.join()
    assert bytes(received) == line * count


def test_a_reader_that_falls_behind_for_a_while_gets_everything(
    path: Path, connect: Callable[[], socket.socket]
) -> None:
    """What its connection does not take at once is sent as it reads, while the server only waits."""
    line = b"y" * 99_999 + b"\n"
    with Readers(path, lambda _: pytest.fail("it is dropped")) as readers:
        reader = connect()
        for _ in range(40):
            readers.deliver(line)
        received, has_all = bytearray(), threading.Event()

        def read() -> None:
            while len(received) < 40 * len(line):
                received.extend(reader.recv(2**20))
            has_all.set()
            readers.interrupt()

        reading = threading.Thread(target=read)
        reading.start()
        while not has_all.is_set():
            readers.wait(_TIME_LIMIT)
        reading.join()
        assert bytes(received) == line * 40


def test_the_group_may_connect_and_nobody_else(path: Path) -> None:
    """The mode is 0660 whatever the umask is."""
    for umask in (0o077, 0o000):
        before = os.umask(umask)
        try:
            with Readers(path):
                found = path.lstat().st_mode
        finally:
            os.umask(before)
        assert stat.S_ISSOCK(found)
        assert stat.S_IMODE(found) == 0o660


def test_a_socket_that_was_left_behind_is_replaced(path: Path, connect: Callable[[], socket.socket]) -> None:
    """After a SIGKILL nobody has to tidy up; an orderly end leaves nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
        left.listen()
    with Readers(path) as readers:
        reader = connect()
        assert readers.deliver(b"1\n") == 1
        assert reader.recv(100) == b"1\n"
    assert list(path.parent.iterdir()) == []


def test_a_socket_that_is_used_is_left_alone(path: Path, connect: Callable[[], socket.socket]) -> None:
    """Somebody listens there, even if his queue is full; he keeps his socket, also when the other one ends."""
    with Readers(path) as readers:
        with pytest.raises(BusyError):
            Readers(path)
        connect()
        assert readers.deliver(b"1\n") == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as full:
        full.bind(str(path))
        full.listen(0)
        connect()
        with pytest.raises(BusyError):
            Readers(path)
        assert stat.S_ISSOCK(path.lstat().st_mode)


def test_a_socket_that_was_replaced_meanwhile_is_not_removed(path: Path) -> None:
    """It is another process's."""
    with Readers(path):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


@pytest.mark.parametrize("kind", ["file", "folder", "link", "far", "long", "long name"])
def test_what_is_no_socket_is_never_replaced(
    tmp_path: Path, path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped path costs nobody a file; a path that no program could connect to is refused as well."""
    if kind == "file":
        path.write_text("content")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "other")
    elif kind == "long name":
        monkeypatch.chdir(tmp_path)
        path = Path("x" * 107)
    else:
        path = tmp_path / "nowhere" / "x.sock" if kind == "far" else tmp_path / ("x" * 108)
    with pytest.raises(UsageError):
        Readers(path)
    assert kind != "file" or path.read_text() == "content"


def test_a_folder_that_cannot_be_written_to_is_an_error_of_the_state() -> None:
    """It says which socket."""
    with pytest.raises(StateError, match=r"the socket /proc/self/x\.sock cannot be created"):
        Readers(Path("/proc/self/x.sock"))


def test_the_longest_name_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of 80 bytes can be used."""
    monkeypatch.chdir(tmp_path)
    with Readers(Path("x" * 80)):
        assert [stat.S_ISSOCK(path.lstat().st_mode) for path in tmp_path.iterdir()] == [True]


def test_a_folder_that_cannot_be_entered_is_an_error_of_the_state() -> None:
    """It says which socket, also to a user without rights."""
    denied = pytest.raises(StateError, match="cannot be examined: Permission denied")
    with tempfile.TemporaryDirectory() as closed, as_nobody(), denied:
        Readers(Path(closed) / "folder" / "x.sock")


def test_there_is_a_limit_to_readers(path: Path, connect: Callable[[], socket.socket]) -> None:
    """A program that opens one connection after another is told by their end; those that were there go on."""
    told = list[str]()
    with Readers(path, told.append) as readers:
        first = connect()
        for _ in range(MOST - 1):
            connect()
            readers.wait(0.0)
        one_more = connect()
        assert readers.deliver(b"1\n") == MOST
        assert one_more.recv(100) == b""
        assert first.recv(100) == b"1\n"
    assert told == ["64 programs are connected already"]


def test_without_a_descriptor_a_program_waits(path: Path, connect: Callable[[], socket.socket]) -> None:
    """It is accepted when there is one again, and nobody else suffers meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Readers(path) as readers:
        first = connect()
        assert readers.deliver(b"1\n") == 1
        second = connect()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            assert readers.deliver(b"2\n") == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        while readers.deliver(b"3\n") == 1:
            readers.wait(_TIME_LIMIT)
        assert first.recv(100).startswith(b"1\n2\n3\n")
        assert second.recv(100) == b"3\n"


def test_interrupting_one_that_is_closed_does_nothing(path: Path) -> None:
    """A message may come at that moment."""
    readers = Readers(path)
    readers.close()
    readers.interrupt()
