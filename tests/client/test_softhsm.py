"""SoftHSM's folder of tokens, looked at without SoftHSM."""

from __future__ import annotations

import fcntl
import itertools
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from hsm_enroll import softhsm

_UUIDS = ["0e1d2c3b-4a59-6877-8695-a4b3c2d1e0ff", "1e1d2c3b-4a59-6877-8695-a4b3c2d1e0f0"]
_TAKES_TURNS = """
import sys
from hsm_enroll import softhsm
print("ready", flush=True)
sys.stdin.read()
for _ in range(1000):
    with softhsm.login(softhsm.MANUFACTURER), softhsm.alone(softhsm.MANUFACTURER) as held:
        for word in ("in", "out"):
            with open(sys.argv[1], "a") as log:
                log.write(f"{word} {held}\\n")
"""


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a folder of tokens that a configuration names."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"# a comment\nlog.level = ERROR\n directories.tokendir = {folder} # here\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    return folder


def test_the_folder_is_the_configurations(tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is the one that the user's configuration names, unless SOFTHSM2_CONF names another configuration."""
    assert softhsm.tokens_folder() == tokens
    own = tmp_path / ".config" / "softhsm2"
    own.mkdir(parents=True)
    (own / "softhsm2.conf").write_text(f"directories.tokendir={tmp_path}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert softhsm.tokens_folder() == tokens
    monkeypatch.delenv("SOFTHSM2_CONF")
    assert softhsm.tokens_folder() == tmp_path


@pytest.mark.parametrize(
    ("content", "folder"),
    [
        ("directories.tokendir = /a\ndirectories.tokendir = /b\n", "/b"),
        ("directories.tokendir = /a\ndirectories.tokendir =\n/c\n", "/a"),
        ("  directories.tokendir=/a\r\n", "/a"),
        ("directories.tokendir = /a = b # c\n", "/a"),
        ("", "/var/lib/softhsm/tokens"),
        ("#directories.tokendir = /a\nlog.level = ERROR\n", "/var/lib/softhsm/tokens"),
    ],
)
def test_a_configuration_is_read_as_softhsm_reads_it(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, content: str, folder: str
) -> None:
    """The last folder that a configuration names counts; one that names none means the folder that is built in."""
    configuration = tokens.parent / "other.conf"
    configuration.write_text(content)
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    assert softhsm.named_folder() == Path(folder)


def test_what_names_the_configuration(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty SOFTHSM2_CONF names no file; a folder counts as an empty file; without HOME, the user's home counts."""
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    assert (softhsm.configuration(), softhsm.named_folder()) == (None, None)
    monkeypatch.setenv("SOFTHSM2_CONF", str(tokens))
    assert softhsm.named_folder() == Path("/var/lib/softhsm/tokens")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tokens / "missing"))
    assert softhsm.named_folder() is None
    monkeypatch.delenv("SOFTHSM2_CONF")
    own = tokens.parent / ".config" / "softhsm2" / "softhsm2.conf"
    own.parent.mkdir(parents=True)
    own.touch()
    user = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd((*user[:5], str(tokens.parent), user[6])))
    for home in (None, ""):
        monkeypatch.delenv("HOME", raising=False) if home is None else monkeypatch.setenv("HOME", home)
        assert softhsm.configuration() == own


def test_without_a_folder_nothing_is_held_and_nothing_lost(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that names a folder that does not exist keeps nobody from a login."""
    configuration = tokens.parent / "other.conf"
    configuration.write_text("directories.tokendir = /no\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    with softhsm.login(softhsm.MANUFACTURER), softhsm.alone(softhsm.MANUFACTURER) as held:
        assert not held
    assert softhsm.missing([]) == []


def test_one_process_at_a_time(tokens: Path) -> None:
    """Of processes that log in at once, each waits until the one before has finished; nothing is left in the folder."""
    log = tokens.parent / "log"
    command = [sys.executable, "-c", _TAKES_TURNS, str(log)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    assert [child.wait(timeout=60) for child in children] == [0] * 4
    for child in children:
        assert child.stdout is not None
        child.stdout.close()
    assert log.read_text().splitlines() == ["in True", "out True"] * (4 * 1000)
    assert list(tokens.iterdir()) == []


def test_who_holds_the_lock_for_ever_is_not_waited_for(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs with the lock delays a login, and does not prevent it."""

    class Clock:
        monotonic = itertools.count(step=4).__next__

        @staticmethod
        def sleep(_: float) -> None:
            pass

    descriptor = os.open(tokens, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    monkeypatch.setattr(softhsm, "time", Clock)
    with softhsm.alone(softhsm.MANUFACTURER) as held:
        assert not held
    os.close(descriptor)
    with softhsm.alone(softhsm.MANUFACTURER) as held:
        assert held


def test_another_tokens_login_takes_no_lock(tokens: Path) -> None:
    """A login to a token that is not SoftHSM's does not wait for those that are."""
    descriptor = os.open(tokens, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with softhsm.login("IBM"), softhsm.alone("IBM") as held:
        assert not held
    os.close(descriptor)


@pytest.mark.parametrize(
    ("name", "manufacturer"),
    [
        ("libsofthsm2.so", softhsm.MANUFACTURER),
        ("p11-kit-proxy.so", softhsm.MANUFACTURER),
        ("libtpm2_pkcs11.so", ""),
    ],
)
def test_a_module_is_known_by_its_name(name: str, manufacturer: str) -> None:
    """Before a module is loaded its name says whether it may use SoftHSM's tokens."""
    assert softhsm.maker_of(Path("/usr/lib") / name) == manufacturer


def test_a_token_that_softhsm_does_not_list_is_lost(tokens: Path) -> None:
    """A token's folder is lost if its serial number is not listed; other files and folders are no tokens."""
    for name in [*_UUIDS, "backup", f"{_UUIDS[0]}.old"]:
        (tokens / name).mkdir()
        (tokens / name / "token.object").write_bytes(b"")
    lost = tokens / _UUIDS[0]
    assert softhsm.missing(["8695a4b3c2d1e0f0"]) == [lost]
    assert softhsm.missing(["8695a4b3c2d1e0f0", "8695a4b3c2d1e0ff"]) == []
    assert softhsm.told(lost).endswith("its file token.object is empty")
    (lost / "token.object").write_bytes(b"\0")
    assert softhsm.told(lost).endswith("is damaged")
    (lost / "token.object").unlink()
    assert softhsm.told(lost).endswith("is missing")


_NUMBER = (2).to_bytes(8)
_WHOLE = _NUMBER + b"".join(
    number.to_bytes(8) + kind.to_bytes(8) + value
    for number, kind, value in [
        (0x80005349, 3, _NUMBER + b"ab"),
        (0x8000534A, 3, _NUMBER + b"cd"),
        (0x8000534B, 2, _NUMBER),
        (0x8000534C, 3, _NUMBER + b"ef"),
        (0x8000534E, 1, b"\1"),
    ]
)
_WITHOUT_THE_LAST = len(_WHOLE) - 17


@pytest.mark.parametrize("size", range(len(_WHOLE) + 1))
def test_a_file_that_is_cut_is_lost(tokens: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A token is called lost only if its file lacks what every token has: one that is complete is away for a moment."""
    monkeypatch.setattr(softhsm, "time", _Hurried)
    (tokens / "token.object").write_bytes(_WHOLE[:size])
    assert softhsm.is_lost(tokens) is (size not in {_WITHOUT_THE_LAST, len(_WHOLE)})


class _Hurried:
    @staticmethod
    def sleep(_: float) -> None:
        pass
