"""What is really wrong where a module says no more than "general failure" (D5, D6): asked, and told on every path."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm_enroll.device import device_token
from hsm_enroll.errors import HsmEnrollError, ModuleUnusableError, TokenNotFoundError, TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.settings import Settings
from hsm_enroll.token import selection
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.tpm2 import diagnosis as of_tpm2
from tests.support import tpm2
from tests.support.nobody import as_nobody
from tests.support.processes import children, program, run, running, wait_until
from tests.support.tpm2 import Tpm2
from tests.support.under_test import KeyName

_DATABASE = "tpm2_pkcs11.sqlite3"
_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN " + sys.argv[2])
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tpm: Tpm2, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the TPM's store, where every user may look; the module reads it."""
    # In this process the module reads its environment when it is first used: it must not be the copy, which goes away.
    assert tpm.name.label
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    copy = folder / "store"
    shutil.copytree(tpm.home / "store", copy)
    monkeypatch.setenv("TPM2_PKCS11_STORE", str(copy))
    yield copy
    shutil.rmtree(folder)


def _told(tpm: Tpm2, state: Path) -> HsmEnrollError:
    """The error of a command that looks for its token."""
    with Tokens() as tokens, pytest.raises(HsmEnrollError) as caught:
        device_token.find(Settings(state=state, module=tpm.module), tokens)
    return caught.value


def _cut(store: Path) -> None:
    os.truncate(store / _DATABASE, 8192)


def _overwrite(store: Path) -> None:
    (store / _DATABASE).write_text("another program's\n" * 1000)


def _replace_by_a_folder(store: Path) -> None:
    (store / _DATABASE).unlink()
    (store / _DATABASE).mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut, f"{_DATABASE} is damaged: database disk image is malformed"),
        (_overwrite, f"{_DATABASE} is damaged: file is not a database"),
        (_replace_by_a_folder, f"{_DATABASE} is not a regular file"),
    ],
    ids=["cut", "foreign", "folder"],
)
def test_a_damaged_store_is_named_and_not_touched(
    tpm: Tpm2, store: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    """D5: a store that is cut off or not tpm2-pkcs11's is what is wrong, not tpm2-abrmd; nothing is written to it."""
    spoil(store)
    before = _content(store)
    error = _told(tpm, tmp_path)
    assert isinstance(error, ModuleUnusableError)
    assert error.message == f"tpm2-pkcs11's store {store}/{said}"
    assert "backup" in error.hint
    assert _content(store) == before


def test_a_locked_store_names_who_has_locked_it(tpm: Tpm2, store: Path, tmp_path: Path) -> None:
    """D5: where another process has locked the store, the error names it; once it is unlocked the token is there."""
    with _locked(store, "EXCLUSIVE") as process:
        error = _told(tpm, tmp_path)
    assert error.message == f"tpm2-pkcs11's store {store}/{_DATABASE} is locked by process {process} (python)"
    with Tokens() as tokens:
        assert device_token.find(Settings(state=tmp_path, module=tpm.module), tokens)


def test_a_store_that_is_locked_for_writing_is_named_in_mid_session(tpm: Tpm2, store: Path, key: KeyName) -> None:
    """D5: the store can be locked after the login too; then the key generation that fails names who has locked it."""
    with Tokens() as tokens, _locked(store, "IMMEDIATE") as process:
        token = selection.enrolled(tpm.name, tokens.listed)
        with (
            pytest.raises(TokenRefusedError, match=f"CKR_GENERAL_ERROR.*; .* is locked by process {process}"),
            tokens.session(token, lambda _: tpm.pin, lambda _: None, writable=True) as session,
        ):
            session.generate(KeyType.EC_P256, label=key.label, key_id=key.id)


@pytest.mark.parametrize("gone", [False, True], ids=["empty", "gone"])
def test_a_store_without_the_token_is_named(tpm: Tpm2, store: Path, tmp_path: Path, gone: bool) -> None:
    """D6: where the store is empty, or a new one was created in its place, the error names it, and where to set it."""
    name = tpm.name
    if gone:
        (store / _DATABASE).unlink()
    else:
        os.truncate(store / _DATABASE, 0)
    error = _told(tpm, tmp_path)
    assert error.message == f"this machine has no initialised token; tpm2-pkcs11's store {store} contains no token"
    assert "set TPM2_PKCS11_STORE to its folder" in error.hint
    with Tokens() as tokens, pytest.raises(TokenNotFoundError, match=f"was not found; .*{store} contains"):
        tokens.public_key(name, label="x", key_id=b"x")


def test_without_home_the_store_that_was_used_is_named(
    tpm: Tpm2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D6: a service without HOME reads a store in its current folder, or none at all; the error says so."""
    monkeypatch.delenv("TPM2_PKCS11_STORE")
    monkeypatch.delenv("HOME")
    monkeypatch.chdir(tmp_path)
    error = _told(tpm, tmp_path)
    assert "HOME is not set" in error.message
    assert error.hint == "Set HOME, or set TPM2_PKCS11_STORE to the store's folder."


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("modes", "what"), [((0o700, 0o600), "read"), ((0o755, 0o644), "write to")], ids=["closed", "read-only"]
)
def test_a_store_of_somebody_else_names_both_users(store: Path, modes: tuple[int, int], what: str) -> None:
    """D5: a store that this user may not read, or only read, is said to be its owner's."""
    store.chmod(modes[0])
    (store / _DATABASE).chmod(modes[1])
    with as_nobody():
        found = of_tpm2.find({**os.environ, "TPM2_PKCS11_TCTI": "device:/dev/null"})
    assert found is not None
    assert found.message == f"nobody has no permission to {what} tpm2-pkcs11's store {store}, which is root's"
    assert found.hint.startswith("Run the command as root; or set TPM2_PKCS11_STORE")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("is_link", [False, True], ids=["folder", "link"])
def test_what_is_below_a_closed_folder_is_told(is_link: bool) -> None:
    """Device and store may be below a folder that this user may not enter, as HOME=/root in a service: it is named."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as other:
        closed, home = Path(name), Path(other, "home") if is_link else Path(name, "home")
        (closed / "home").mkdir()
        Path(other).chmod(0o755)
        if is_link:
            home.symlink_to(closed / "home")
        with as_nobody():
            device = of_tpm2.find({"TPM2_PKCS11_TCTI": f"device:{home}/tpm"})
            environments = {"HOME": str(home)}, {"TPM2_PKCS11_STORE": str(home)}
            stores = [
                of_tpm2.find({**each, "TPM2_PKCS11_TCTI": "device:/dev/null"}, Path(other)) for each in environments
            ]
            stores += [of_tpm2.without_token(each, Path(other)) for each in environments]
    assert device is not None
    assert device.message == f"nobody has no permission to use the TPM ({home}/tpm): it may not enter {closed}"
    for found in stores:
        assert found is not None
        assert found.message.startswith(f"nobody has no permission to enter {closed}, where tpm2-pkcs11's store {home}")
        assert found.hint.startswith("Run the command as root; or set TPM2_PKCS11_STORE")


def test_a_current_folder_that_is_gone_is_named_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tpm2-pkcs11 would look in it, for want of HOME."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert f"in the current folder, {gone}" in of_tpm2.without_token({}, tmp_path).message


@pytest.mark.parametrize("look", ["listed", "describe", "public_key", "enrolled"])
def test_whatever_is_asked_of_the_module_the_damaged_store_is_named(tpm: Tpm2, store: Path, look: str) -> None:
    """No path to the module, as of ``tokens``, ``status``, ``publish`` and ``doctor``, says only "general failure"."""
    name = tpm.name
    _cut(store)
    with Tokens() as tokens:
        looks: dict[str, Callable[[], object]] = {
            "listed": lambda: tokens.listed(name.module),
            "describe": lambda: tokens.describe(name.module),
            "public_key": lambda: tokens.public_key(name, label="x", key_id=b"x"),
            "enrolled": lambda: selection.enrolled(name, tokens.listed),
        }
        with pytest.raises(ModuleUnusableError, match=f"{store}/{_DATABASE} is damaged"):
            looks[look]()


def test_a_store_that_is_in_order_is_not_blamed(store: Path) -> None:
    """Where TPM, tpm2-abrmd and store are in order, nothing is found, and nothing is written."""
    before = _content(store)
    assert of_tpm2.find(os.environ) is None
    assert _content(store) == before


def test_a_missing_store_is_named(tmp_path: Path) -> None:
    """tpm2-pkcs11 1.9.1 fails if it finds no store: the error says so, and what to do."""
    _make_device(tmp_path)
    for environment in ({"HOME": str(tmp_path)}, {"TPM2_PKCS11_STORE": f"{tmp_path}/none"}):
        found = of_tpm2.find(environment, tmp_path)
        assert found is not None
        assert "finds no token store in" in found.message
        assert "hsm-enroll token create" in found.hint
        assert "TPM2_PKCS11_STORE" in found.hint
    found = of_tpm2.find({}, tmp_path)
    assert found is not None
    assert found.message.endswith(", and HOME is not set")


# The way to the TPM


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TPM2_PKCS11_TCTI", "device:/none/tpmrm7", "there is no TPM: /none/tpmrm7 does not exist"),
        ("TPM2_PKCS11_TCTI", "nonsense", "TPM2_PKCS11_TCTI=nonsense names a TCTI that is not installed"),
        (
            "TPM2_PKCS11_TCTI",
            "swtpm:port=1",
            'the TPM does not respond: ERROR: Could not load tcti, got: "swtpm:port=1"',
        ),
        ("TPM2_PKCS11_BACKEND", "junk", "TPM2_PKCS11_BACKEND is 'junk', which tpm2-pkcs11 does not support"),
        (
            "DBUS_SESSION_BUS_ADDRESS",
            "unix:path=/none",
            (
                "tpm2-abrmd cannot be reached: the session bus at unix:path=/none cannot be used: "
                "No such file or directory"
            ),
        ),
        (
            "TPM2_PKCS11_TCTI",
            "tabrmd:bus_type=session,bus_name=com.example.None",
            "the TPM's resource manager tpm2-abrmd is not running on the session bus",
        ),
    ],
)
def test_what_is_wrong_on_the_way_to_the_tpm_is_said(
    tpm: Tpm2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    """D5: device, TCTI, bus and resource manager are each asked, and the one that is at fault is named."""
    monkeypatch.setenv(variable, value)
    error = _told(tpm, tmp_path)
    assert error.message == said
    assert error.hint


@pytest.mark.usefixtures("tpm")
def test_a_resource_manager_that_hangs_is_named() -> None:
    """D5: a tpm2-abrmd that is on the bus and does not answer is said not to respond."""
    [process] = [child for child in children(os.getpid()) if _name(child) == "tpm2-abrmd"]
    os.kill(process, signal.SIGSTOP)
    try:
        found = of_tpm2.find(os.environ)
    finally:
        os.kill(process, signal.SIGCONT)
    assert found is not None
    assert found.message == "the TPM's resource manager tpm2-abrmd does not respond within 3 s"
    assert of_tpm2.find(os.environ) is None


@pytest.mark.usefixtures("tpm")
def test_a_resource_manager_that_is_forbidden_is_not_called_dead(tmp_path: Path) -> None:
    """D5: where the bus's policy keeps a user from tpm2-abrmd, the group that may use it is named."""
    with _strict_bus(tmp_path) as address:
        found = of_tpm2.find({**os.environ, "DBUS_SESSION_BUS_ADDRESS": address})
    assert found is not None
    assert found.message == "root has no permission to use tpm2-abrmd on the session bus"
    assert "usermod --append --groups tss" in found.hint


def test_a_bare_device_alone_is_no_resource_manager(tmp_path: Path) -> None:
    """Where there is /dev/tpm0 and no /dev/tpmrm0, an old kernel or a TPM 1.2 is the reason."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/tpm0").touch()
    found = of_tpm2.find({}, tmp_path)
    assert found is not None
    assert "no resource manager" in found.message
    assert "1.2" in found.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_device_that_is_closed_to_the_user_names_its_group() -> None:
    """Who may not open the device is told which group to join."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _make_device(root)
        (root / "dev/tpmrm0").chmod(0o660)
        root.chmod(0o755)
        with as_nobody():
            found = of_tpm2.find({}, root)
    assert found is not None
    assert found.message == f"nobody has no permission to use the TPM ({root}/dev/tpmrm0)"
    assert "--groups root USER" in found.hint


# A TPM that was cleared


def test_a_cleared_tpm_is_told_from_a_failing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: KeyName
) -> None:
    """After ``tpm2_clear`` the login fails with what to do, also if the TPM has another key by then."""
    with tpm2.provided(tmp_path) as own:
        for name, value in own.environment.items():
            monkeypatch.setenv(name, value)
        assert of_tpm2.find(os.environ) is None
        run([program("tpm2_clear", package="tpm2-tools")])
        with Tokens() as tokens:
            token = selection.enrolled(own.name, tokens.listed)
            with (
                pytest.raises(
                    TokenRefusedError, match=r"; the TPM no longer has the key 0x81000001 .* cleared"
                ) as caught,
                tokens.session(token, lambda _: own.pin, lambda _: None, writable=True) as session,
            ):
                session.generate(KeyType.EC_P256, label=key.label, key_id=key.id)
        assert "lost for ever" in caught.value.hint
        assert f"mv {tmp_path}/store {tmp_path}/store.old" in caught.value.hint
        assert own.wrong_pins() == 0

        run([program("tpm2_createprimary", package="tpm2-tools"), "-C", "o", "-c", str(tmp_path / "primary")])
        run(
            [
                program("tpm2_evictcontrol", package="tpm2-tools"),
                "-C",
                "o",
                "-c",
                str(tmp_path / "primary"),
                "0x81000001",
            ]
        )
        found = of_tpm2.cleared(os.environ)
        assert found is not None
        assert "the TPM was cleared" in found.message


@pytest.mark.usefixtures("tpm")
def test_without_tpm2_tools_nothing_is_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the TPM cannot be asked, it is neither called dead nor cleared."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert of_tpm2.find(os.environ) is None


def _content(store: Path) -> dict[str, bytes | None]:
    return {path.name: path.read_bytes() if path.is_file() else None for path in store.iterdir()}


def _name(process: int) -> str:
    return Path(f"/proc/{process}/comm").read_text().strip()


def _make_device(root: Path) -> None:
    (root / "dev").mkdir()
    (root / "dev/tpmrm0").touch()


@contextmanager
def _locked(store: Path, how: str) -> Iterator[int]:
    """Lock a store as a program does that writes to it; give its process id."""
    command = [sys.executable, "-c", _LOCK, str(store / _DATABASE), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process.pid
        process.stdin.close()


@contextmanager
def _strict_bus(folder: Path) -> Iterator[str]:
    """Run a D-Bus that lets nobody send anything to anybody but the bus itself, and give its address."""
    configuration = folder / "strict.conf"
    configuration.write_text(
        f"<busconfig><type>session</type><listen>unix:path={folder}/strict</listen><auth>EXTERNAL</auth>"
        f"<servicedir>{folder}</servicedir>"
        '<policy context="default"><allow send_destination="org.freedesktop.DBus"/>'
        '<allow receive_sender="*"/><allow own="*"/></policy></busconfig>'
    )
    log = folder / "strict.log"
    daemon = program("dbus-daemon", package="dbus-daemon")
    # The bus could start it, so it is not unknown.
    (folder / "abrmd.service").write_text("[D-BUS Service]\nName=com.intel.tss2.Tabrmd\nExec=/bin/false\n")
    with running([daemon, f"--config-file={configuration}", "--nofork", "--nopidfile", "--print-address=1"], log):
        wait_until(lambda: "unix:path=" in log.read_text(), "a D-Bus's start", log)
        yield f"unix:path={folder}/strict"
