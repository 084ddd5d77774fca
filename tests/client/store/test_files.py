"""The state folder: files are whole or absent, one writer at a time, and whatever a disk does has an error."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsm_enroll.errors import BusyError, StateCorruptError, StateError
from hsm_enroll.store import files
from tests.client.conftest import RunPython


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that holds ``old``, alone in its folder."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    (folder / "identity.json").write_text("old")
    return folder / "identity.json"


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Whatever the caller's umask is."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


# The folder and its lock


@pytest.mark.usefixtures("umask")
def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing state folder is made with its parents, 0700 from the first moment; its lock is 0600."""
    monkeypatch.delattr(Path, "chmod")
    folder = tmp_path / "var" / "lib" / "hsm-enroll"
    with files.locked(folder):
        assert (_mode(folder), _mode(folder / "lock")) == (0o700, 0o600)


@pytest.mark.parametrize("inside", [[], ["config.toml"], ["lock"], ["lock", "outbox.db", "tokens"]])
def test_a_folder_made_by_hand_is_closed(tmp_path: Path, inside: list[str]) -> None:
    """A folder that is empty, prepared or in use already is taken from group and others."""
    folder = tmp_path / "state"
    folder.mkdir()
    for name in inside:
        (folder / name).touch()
    folder.chmod(0o755)
    with files.locked(folder):
        assert _mode(folder) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o1777])
def test_a_folder_of_other_things_is_left_alone(tmp_path: Path, mode: int) -> None:
    """HSM_ENROLL_HOME=/etc closes nobody out of /etc: an open folder with files of others is refused, unchanged."""
    (tmp_path / "passwd").touch()
    tmp_path.chmod(mode)
    with pytest.raises(StateError, match=f"{tmp_path} is accessible to other users") as caught, files.locked(tmp_path):
        pass

    assert "HSM_ENROLL_HOME" in caught.value.hint
    assert (_mode(tmp_path), _names(tmp_path)) == (mode, {"passwd"})


def test_a_folder_of_another_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D11: a folder that belongs to someone else is refused, naming both users, and is not touched."""
    owner = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(StateError, match=f"belongs to user id {owner}, not to {owner + 1}") as caught:  # noqa: SIM117
        with files.locked(tmp_path):
            pass

    assert caught.value.hint
    assert _names(tmp_path) == set()


@pytest.mark.parametrize("where", ["state", "state/below"])
def test_a_file_where_the_folder_should_be_is_an_error(tmp_path: Path, where: str) -> None:
    """D11: a file in the folder's place, or in its parent's, is a StateError that names the folder."""
    (tmp_path / "state").touch()
    with pytest.raises(StateError, match=str(tmp_path / where)), files.locked(tmp_path / where):
        pass


def test_a_file_system_that_takes_no_folder_is_an_error() -> None:
    """D11: a file system that cannot be written to is a StateError, also for root."""
    with pytest.raises(StateError), files.locked(Path("/proc/hsm-enroll")):
        pass


_HOLD = """
import sys
from pathlib import Path
from hsm_enroll.store import files
with files.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

_TRY = """
import sys
from pathlib import Path
from hsm_enroll.store import files
from hsm_enroll.errors import HsmEnrollError
try:
    with files.locked(Path(sys.argv[1])):
        print("entered")
except HsmEnrollError as error:
    print(error.code)
    sys.exit(error.exit_status)
"""


def test_the_second_process_is_told_that_another_is_at_work(tmp_path: Path, run_python: RunPython) -> None:
    """D13: while one process holds the folder, a second one does not wait: it is busy, exit status 51."""
    with files.locked(tmp_path):
        second = run_python(_TRY, tmp_path)
        output, _ = second.communicate()

    assert (output, second.returncode) == ("busy\n", 51)


def test_a_killed_holder_leaves_the_folder_free(tmp_path: Path, run_python: RunPython) -> None:
    """D13: the lock is held by another process until SIGKILL, and is free right after."""
    holder = run_python(_HOLD, tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match=str(tmp_path)), files.locked(tmp_path):
        pass

    holder.kill()
    holder.wait()
    with files.locked(tmp_path):
        assert "lock" in _names(tmp_path)


def test_the_lock_is_free_after_the_block_and_after_an_error(tmp_path: Path, run_python: RunPython) -> None:
    """D13: however the block ends, the next process gets in."""
    with files.locked(tmp_path):
        pass
    with pytest.raises(KeyboardInterrupt), files.locked(tmp_path):
        raise KeyboardInterrupt
    second = run_python(_TRY, tmp_path)

    assert second.communicate()[0] == "entered\n"


def test_a_refused_second_run_does_not_free_the_lock(tmp_path: Path) -> None:
    """D13: being refused twice shows that the first refusal left the holder's lock in place."""
    with files.locked(tmp_path):
        for _ in range(2):
            with pytest.raises(BusyError), files.locked(tmp_path):
                pass


# Writing


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_gets_the_mode_that_was_asked_for(file: Path, mode: int) -> None:
    """The mode is exact, whatever the umask and whatever the old file had."""
    files.write(file, "new", mode=mode)
    assert (_mode(file), file.read_text()) == (mode, "new")


def test_a_file_is_for_its_owner_alone_unless_said(file: Path) -> None:
    """The default mode is 0600."""
    files.write(file, "new")
    assert _mode(file) == 0o600


def test_text_is_written_as_utf_8_and_newlines_as_they_are(file: Path) -> None:
    """What is read back is what was written, in bytes as well."""
    text = "Zürich\r\n中\n😀"
    files.write(file, text)
    assert (file.read_bytes(), files.read(file)) == (text.encode(), text)


def test_content_can_come_as_a_function(file: Path) -> None:
    """A secret is handed over as a function and its result is what is written."""
    files.write(file, lambda: "secret")
    assert file.read_text() == "secret"


def test_nothing_is_left_beside_the_file(file: Path) -> None:
    """A write that succeeds leaves the file and no temporary one."""
    files.write(file, "new")
    assert _names(file.parent) == {"identity.json"}


def test_content_is_on_disk_before_its_name_and_the_name_before_it_returns(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D10: the content is fsynced while the old file still stands, and the folder once the new one does."""
    synced: list[tuple[bool, str]] = []
    monkeypatch.setattr(
        "os.fsync",
        lambda descriptor: synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), file.read_text())),
    )
    files.write(file, "new")

    assert synced == [(False, "old"), (True, "new")]


_FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from hsm_enroll.store import files
from hsm_enroll.errors import HsmEnrollError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    files.write(Path(sys.argv[1]), "x" * 10_000)
except HsmEnrollError as error:
    print(error.message)
    sys.exit(error.exit_status)
"""


def test_a_short_write_leaves_the_old_content(file: Path, run_python: RunPython) -> None:
    """D11: when the kernel takes the first 4,096 bytes and no more, the old file stands and nothing lies beside it."""
    process = run_python(_FILL_THE_DISK, file)
    message, _ = process.communicate()

    assert (process.returncode, str(file) in message) == (50, True)
    assert (file.read_text(), _names(file.parent)) == ("old", {"identity.json"})


@pytest.mark.usefixtures("broken_disk")
def test_a_disk_that_cannot_keep_it_leaves_the_old_content(file: Path) -> None:
    """D11: when fsync fails, the old file stands and nothing lies beside it."""
    with pytest.raises(StateError, match=f"{file} cannot be written: Input/output error"):
        files.write(file, "new")
    assert (file.read_text(), _names(file.parent)) == ("old", {"identity.json"})


def test_a_name_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    """D11: when the rename fails, here onto a folder, no temporary file stays."""
    (tmp_path / "identity.json").mkdir()
    with pytest.raises(StateError):
        files.write(tmp_path / "identity.json", "new")
    assert _names(tmp_path) == {"identity.json"}


@pytest.mark.parametrize("folder", ["/proc/self", "/dev/full"])
def test_a_folder_that_takes_no_files_is_an_error(folder: str) -> None:
    """D11: a file system that takes no new files, and a thing that is no folder, are StateErrors, also for root."""
    with pytest.raises(StateError, match="cannot be written"):
        files.write(Path(folder) / "identity.json", "new")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """D11: writing does not make the folder, which somebody may have taken away for a reason."""
    with pytest.raises(StateError, match="cannot be written"):
        files.write(tmp_path / "gone" / "identity.json", "new")
    assert _names(tmp_path) == set()


def test_what_cannot_be_encoded_is_an_error(file: Path, shown_with_locals: Callable[[BaseException], str]) -> None:
    """Half a character, as a bad environment variable has, is refused whole; the error does not repeat it."""
    with pytest.raises(StateError, match="cannot be encoded as UTF-8") as caught:
        files.write(file, lambda: "493817\udcff")

    assert (file.read_text(), _names(file.parent)) == ("old", {"identity.json"})
    assert "dcff" not in shown_with_locals(caught.value)


def test_an_interrupted_write_leaves_nothing_behind(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D20: Ctrl-C in the middle leaves the old file and no temporary one."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(file, "new")
    assert (file.read_text(), _names(file.parent)) == ("old", {"identity.json"})


_DIE = """
import os, signal, stat, sys
from pathlib import Path
from hsm_enroll.store import files

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

at = sys.argv[2]
if at == "content":
    os.fchmod = die
elif at == "sync":
    os.fsync = die
elif at == "rename":
    Path.replace = die
else:
    sync = os.fsync
    os.fsync = lambda file: die() if stat.S_ISDIR(os.fstat(file).st_mode) else sync(file)
files.write(Path(sys.argv[1]), "new")
"""


@pytest.mark.parametrize(("at", "left"), [("content", "old"), ("sync", "old"), ("rename", "old"), ("folder", "new")])
def test_a_writer_killed_at_any_step_leaves_one_whole_content(
    file: Path, run_python: RunPython, at: str, left: str
) -> None:
    """D10: SIGKILL before the rename leaves the old content, after it the new one; the next write goes through."""
    writer = run_python(_DIE, file, at)
    writer.communicate()

    assert writer.returncode == -signal.SIGKILL
    assert file.read_text() == left
    files.write(file, "next")
    assert file.read_text() == "next"


_REPLACE = """
import os, sys
from pathlib import Path
from hsm_enroll.store import files
os.fsync = lambda _: None  # durability is not what is looked at, and 2,000 of them take their time
sys.stdin.readline()
for round in range(1000):
    files.write(Path(sys.argv[1]), chr(ord("a") + round % 26) * 50_000)
"""


def test_a_reader_sees_whole_contents_only(file: Path, run_python: RunPython) -> None:
    """D10: while a writer replaces the file 1,000 times, every read gives one whole content or the other."""
    file.write_text("a" * 50_000)
    writer = run_python(_REPLACE, file)
    assert writer.stdin is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()
    seen: set[str] = set()
    while writer.poll() is None:
        text = files.read(file)
        assert text is not None
        assert text == text[0] * 50_000
        seen.add(text[0])

    assert writer.returncode == 0
    assert len(seen) > 1


# Removing and reading


def test_a_file_is_removed_durably(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is gone when its folder is fsynced; removing it again is no error."""
    synced: list[bool] = []
    monkeypatch.setattr("os.fsync", lambda _: synced.append(file.exists()))
    files.remove(file)
    files.remove(file)

    assert synced == [False, False]


def test_what_cannot_be_removed_is_an_error(tmp_path: Path) -> None:
    """D11: a folder in the file's place is a StateError that names it."""
    (tmp_path / "journal.json").mkdir()
    with pytest.raises(StateError, match=str(tmp_path / "journal.json")):
        files.remove(tmp_path / "journal.json")


@pytest.mark.parametrize("name", ["missing", "missing/identity.json"])
def test_a_file_that_is_not_there_reads_as_none(file: Path, name: str) -> None:
    """Without the file, or without its folder, there is nothing to read."""
    assert files.read(file.parent / name) is None


def test_a_link_to_a_file_is_read(file: Path) -> None:
    """D29: a link that an administrator made is followed."""
    link = file.with_name("link.json")
    link.symlink_to(file)
    assert files.read(link) == "old"


_READ = """
import sys
from pathlib import Path
from hsm_enroll.store import files
from hsm_enroll.errors import HsmEnrollError
try:
    print(files.read(Path(sys.argv[1])))
except HsmEnrollError as error:
    print(error.code, error.message)
"""
_TIME_LIMIT = 30.0  # seconds; only a reader that hangs needs them


def _socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(file))  # a path of 108 bytes at the most


def _sparse_gigabyte(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(2**30)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(os.mkfifo, "not a regular file", id="FIFO"),
        pytest.param(Path.mkdir, "Is a directory", id="folder"),
        pytest.param(_socket, "No such device or address", id="socket"),
        pytest.param(lambda file: file.symlink_to("/dev/zero"), "not a regular file", id="device"),
        pytest.param(_sparse_gigabyte, "it has 1073741824 bytes", id="sparse gigabyte"),
        pytest.param(lambda file: file.symlink_to("nowhere"), "a link to a file that does not exist", id="dangling"),
        pytest.param(lambda file: file.symlink_to(file), "Too many levels of symbolic links", id="loop"),
    ],
)
def test_what_is_not_a_state_file_is_an_error_at_once(
    tmp_path: Path, run_python: RunPython, make: Callable[[Path], None], reason: str
) -> None:
    """D29: a FIFO, folder, socket, device, huge file or dangling link is a StateError with the reason, not a hang."""
    file = tmp_path / "identity.json"
    make(file)
    output, _ = run_python(_READ, file).communicate(timeout=_TIME_LIMIT)
    assert output.startswith(f"state-unusable {file} cannot be read: ")
    assert reason in output


def test_a_file_has_a_largest_size(file: Path) -> None:
    """D29: a file of MAX_SIZE bytes is read, and one with a byte more is refused."""
    file.write_bytes(b"x" * files.MAX_SIZE)
    assert files.read(file) == "x" * files.MAX_SIZE
    file.write_bytes(b"x" * (files.MAX_SIZE + 1))
    with pytest.raises(StateError, match=str(file)):
        files.read(file)


@pytest.mark.parametrize("name", [".", "\N{LATIN SMALL LETTER A}" * 300])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    """D11: what exists and cannot be read is told apart from what does not exist."""
    with pytest.raises(StateError, match="cannot be read"):
        files.read(tmp_path / name)


def test_bytes_that_are_no_text_are_corrupt(file: Path, shown_with_locals: Callable[[BaseException], str]) -> None:
    """D12: a file that is not UTF-8 is corrupt; no frame of the traceback holds its content."""
    file.write_bytes(b"493817\xff")
    with pytest.raises(StateCorruptError, match=str(file)) as caught:
        files.read(file)
    assert "493817" not in shown_with_locals(caught.value)
