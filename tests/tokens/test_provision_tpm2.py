"""Making tokens in a TPM: the token itself, tpm2-pkcs11's store, and what may stand between it and the TPM."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from hsm_enroll.errors import (
    ModuleUnusableError,
    PinFinalTryError,
    PinWrongError,
    StateError,
    TokenAmbiguousError,
    TokenRefusedError,
    UsageError,
)
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token import inventory, keypair, provision, session
from hsm_enroll.token.provision import complete_token, create_tpm2_token
from hsm_enroll.token.reports import TokenKind
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.tpm2.provision import prepare_store, refuse_unmanaged_tpm
from tests.support.tpm2 import Tpm2
from tests.support.under_test import KeyName
from tests.tokens.test_provision import watched

_PIN = Secret("user-Straße-5678")
_SO_PIN = Secret("officer-5678")
_DATABASE = "tpm2_pkcs11.sqlite3"
_NOBODY = 65534


@pytest.fixture
def module(tpm: Tpm2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tpm2-pkcs11 of the test's own, whose store is new."""
    monkeypatch.setenv("TPM2_PKCS11_STORE", str(tmp_path / "store"))
    prepare_store(os.environ)
    return tpm.module_copy(tmp_path)


def test_a_new_token_takes_its_pin(module: Path, key: KeyName) -> None:
    """A token is made in the TPM with its label and user PIN, UTF-8 included, and holds a key at once."""
    made = create_tpm2_token(module, "Halle Süd", so_pin=_SO_PIN, user_pin=_PIN)
    assert (made.name.label, made.initialized, made.public_keys) == ("Halle Süd", True, ())
    with session.opened(made.name, lambda: _PIN, writable=True) as opened:
        assert keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id).origin.is_hardware_born


def test_a_token_is_made_beside_the_one_that_is_there(module: Path) -> None:
    """Each token keeps its own label and PIN; a label that is taken makes no second one."""
    first = create_tpm2_token(module, "first", so_pin=_SO_PIN, user_pin=_PIN)
    second = create_tpm2_token(module, "second", so_pin=_SO_PIN, user_pin=Secret("another-5678"))
    with pytest.raises(TokenAmbiguousError, match="'second' already exists"):
        create_tpm2_token(module, "second", so_pin=_SO_PIN, user_pin=_PIN)
    with session.opened(first.name, lambda: _PIN):
        pass
    with session.opened(second.name, lambda: Secret("another-5678")):
        pass
    assert [token.name.label for token in inventory.list_tokens(module) if token.initialized] == ["first", "second"]


@pytest.mark.parametrize("length", [0, 3, 129])
@pytest.mark.parametrize("which", ["so_pin", "user_pin"])
def test_a_pin_that_cannot_be_set_makes_no_token(module: Path, which: str, length: int) -> None:
    """A PIN that is too short or too long for tpm2-pkcs11 leaves no token behind that has a label and no PIN."""
    pins = {"so_pin": _SO_PIN, "user_pin": _PIN, which: Secret("7" * length)}
    with pytest.raises(UsageError, match="4 to 128 bytes"):
        create_tpm2_token(module, "new", **pins)
    assert [token for token in inventory.list_tokens(module) if token.initialized] == []


@pytest.mark.parametrize("length", [4, 128])
def test_the_shortest_and_the_longest_pin_work(module: Path, length: int) -> None:
    """PINs of four and of 128 bytes open the token."""
    pin = Secret("7" * length)
    made = create_tpm2_token(module, "new", so_pin=pin, user_pin=pin)
    with session.opened(made.name, lambda: pin):
        pass


def test_d4_pins_are_in_no_command_line(module: Path) -> None:
    """D4: making a token in a TPM starts the module's process and nothing else, with neither PIN in its argv."""
    with watched() as started:
        with Tokens() as tokens:
            tokens.create(module, TokenKind.TPM2, "new", so_pin=_SO_PIN, user_pin=_PIN)
        [argv] = started
    assert not {_SO_PIN.reveal(), _PIN.reveal()} & set(argv)


def test_a_token_without_a_pin_is_completed(module: Path, tpm: Tpm2, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token whose making died before its PIN was set takes the PIN afterwards, and no failed try is counted."""
    half = _half_made(module, monkeypatch)
    complete_token(half, so_pin=_PIN, user_pin=_PIN)
    with session.opened(half, lambda: _PIN):
        pass
    complete_token(half, so_pin=_PIN, user_pin=_PIN)
    assert tpm.wrong_pins() == 0


def test_d1_a_token_is_not_completed_with_the_last_try(
    module: Path, tpm: Tpm2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: one failed try short of the TPM's lockout no PIN is set, with 13 and none counted; after it heals one is."""
    other = create_tpm2_token(module, "other", so_pin=_SO_PIN, user_pin=_PIN)
    half = _half_made(module, monkeypatch)
    with tpm.locking_after(3, seconds_to_forget_one=1000):
        for _ in range(2):
            with pytest.raises(PinWrongError), session.opened(other.name, lambda: Secret("wrong-5678")):
                pass
        with pytest.raises(PinFinalTryError, match="2 of the 3 failed tries") as caught:
            complete_token(half, so_pin=_PIN, user_pin=_PIN)
        assert caught.value.exit_status == 13
        assert tpm.wrong_pins() == 2
        tpm.forget_wrong_pins()
        complete_token(half, so_pin=_PIN, user_pin=_PIN)
        with session.opened(half, lambda: _PIN):
            pass
        assert tpm.wrong_pins() == 0


def test_a_complete_token_is_not_given_another_pin(module: Path, tpm: Tpm2) -> None:
    """Completing a token that has a PIN already, another one, fails and leaves that PIN."""
    made = create_tpm2_token(module, "new", so_pin=_SO_PIN, user_pin=_PIN)
    try:
        with pytest.raises(PinWrongError):
            complete_token(made.name, so_pin=_SO_PIN, user_pin=Secret("wrong-" + secrets.token_hex(4)))
        with session.opened(made.name, lambda: _PIN):
            pass
    finally:
        tpm.forget_wrong_pins()


def test_a_tpm_that_makes_no_token_says_what_it_may_want(module: Path) -> None:
    """Where C_InitToken fails, for the store is damaged under it, the hint names the owner's password."""
    inventory.list_tokens(module)
    database = Path(os.environ["TPM2_PKCS11_STORE"]) / _DATABASE
    database.write_bytes(b"no database")
    with pytest.raises(TokenRefusedError, match=r"\(CKR_[A-Z_]+\)$") as caught:
        create_tpm2_token(module, "new", so_pin=_SO_PIN, user_pin=_PIN)
    assert "TPM2_PKCS11_OWNER_AUTH" in caught.value.hint


def _half_made(module: Path, monkeypatch: pytest.MonkeyPatch) -> TokenName:
    """Make a token as a process does that dies before the user's PIN is set."""
    with monkeypatch.context() as patched:
        patched.setattr(provision, "set_user_pin", _died)
        with pytest.raises(KeyboardInterrupt):
            create_tpm2_token(module, "half", so_pin=_PIN, user_pin=_PIN)
    (half,) = [token.name for token in inventory.list_tokens(module) if token.name.label == "half"]
    return half


def _died(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("system", "own", "chosen"),
    [
        ("no folder", "no folder", "own"),
        ("no folder", "store", "own"),
        ("folder", "no folder", "system"),
        ("folder", "store", "own"),
        ("store", "store", "system"),
    ],
)
def test_the_store_is_where_the_module_looks_first(tmp_path: Path, system: str, own: str, chosen: str) -> None:
    """A store that exists counts before a folder that could hold one, the system's before the user's own."""
    folders = {"system": tmp_path / "etc/tpm2_pkcs11", "own": tmp_path / "home/.tpm2_pkcs11"}
    for name, state in (("system", system), ("own", own)):
        if state != "no folder":
            folders[name].mkdir(parents=True)
        if state == "store":
            (folders[name] / _DATABASE).touch()
    found = prepare_store({"HOME": str(tmp_path / "home")}, tmp_path)
    assert found == folders[chosen]
    assert _modes(found) == (0o700, {_DATABASE: 0o600})


@pytest.mark.parametrize("variable", [False, True], ids=["default", "XDG_DATA_HOME"])
def test_a_store_in_xdgs_folder_counts_before_the_one_in_the_home_folder(tmp_path: Path, variable: bool) -> None:
    """A store that tpm2_ptool 1.9.1 made, in XDG's folder for data, is the one; where there is none, none is made."""
    environment = {"HOME": str(tmp_path)} | ({"XDG_DATA_HOME": str(tmp_path / "data")} if variable else {})
    assert prepare_store(environment, tmp_path) == tmp_path / ".tpm2_pkcs11"
    folder = tmp_path / ("data" if variable else ".local/share") / "tpm2-pkcs11"
    folder.mkdir(parents=True)
    (folder / _DATABASE).touch(mode=0o644)
    assert prepare_store(environment, tmp_path) == folder
    assert _modes(folder) == (0o700, {_DATABASE: 0o600})


def test_the_modules_own_choice_is_the_prepared_store(
    tpm: Tpm2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable tpm2-pkcs11 itself writes the token into the store that was prepared, and keeps its mode."""
    monkeypatch.delenv("TPM2_PKCS11_STORE")
    monkeypatch.setenv("HOME", str(tmp_path))
    store = prepare_store(os.environ)
    create_tpm2_token(tpm.module_copy(tmp_path), "new", so_pin=_SO_PIN, user_pin=_PIN)
    assert (store / _DATABASE).stat().st_size > 0
    assert _modes(store) == (0o700, {_DATABASE: 0o600})


def test_an_open_store_is_closed_with_all_that_is_in_it(tmp_path: Path) -> None:
    """A store that others may read, its backup and journal too, is closed to them."""
    for name in (_DATABASE, f"{_DATABASE}.old", f"{_DATABASE}-journal"):
        (tmp_path / name).touch(mode=0o644)
    tmp_path.chmod(0o755)
    prepare_store({"TPM2_PKCS11_STORE": str(tmp_path)})
    modes = dict.fromkeys((_DATABASE, f"{_DATABASE}.old", f"{_DATABASE}-journal"), 0o600)
    assert _modes(tmp_path) == (0o700, modes)


@pytest.mark.parametrize("foreign", ["file", "link"])
def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path, foreign: str) -> None:
    """A folder that holds something else, or a link in the store's place, is refused and keeps its mode."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    (tmp_path / "target").touch(mode=0o644)
    if foreign == "file":
        (folder / "hosts").touch(mode=0o644)
    else:
        (folder / _DATABASE).symlink_to(tmp_path / "target")
    before = _modes(folder)
    with pytest.raises(StateError, match="not tpm2-pkcs11's"):
        prepare_store({"TPM2_PKCS11_STORE": str(folder)})
    assert _modes(folder) == before
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_store_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Another user's store is not used: that user could open it again."""
    os.chown(tmp_path, _NOBODY, _NOBODY)
    with pytest.raises(StateError, match=f"belongs to user id {_NOBODY}"):
        prepare_store({"TPM2_PKCS11_STORE": str(tmp_path)})


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TPM2_PKCS11_STORE": ""},
        {"TPM2_PKCS11_STORE": "store"},
        {"TPM2_PKCS11_STORE": "/store", "TPM2_PKCS11_BACKEND": "fapi"},
    ],
    ids=["no home", "empty", "relative", "fapi"],
)
def test_an_environment_without_a_place_for_the_store_is_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    """Where a later run would not find the store again, or it is not a file at all, nothing is made."""
    with pytest.raises(UsageError, match="TPM") as caught:
        prepare_store(environment, tmp_path)
    assert "TPM2_PKCS11" in caught.value.message + caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A store below a file is an error of ours, with the system's reason."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="Not a directory"):
        prepare_store({"TPM2_PKCS11_STORE": str(tmp_path / "file" / "store")})


@pytest.mark.parametrize(
    "connection",
    [
        "swtpm",
        "swtpm:port=2321",
        "mssim:host=a",
        "libtpms",
        "spi-helper:libtss2-tcti-a.so",
        "/usr/lib/libtss2-tcti-swtpm.so.0:port=2321",
        "device:/dev/tpm0",
        "device:/dev/tpm1",
    ],
)
def test_a_tpm_without_a_resource_manager_is_refused(connection: str) -> None:
    """A connection that leads to the TPM itself is refused before the module is asked."""
    with pytest.raises(ModuleUnusableError, match="bypasses the TPM's resource manager") as caught:
        refuse_unmanaged_tpm({"TPM2_PKCS11_TCTI": connection})
    assert "/dev/tpmrm0" in caught.value.hint


@pytest.mark.parametrize(
    "connection", [None, "", "device", "device:/dev/tpmrm0", "tabrmd", "tabrmd:bus_type=session", "cmd:tpm2_send"]
)
def test_a_managed_or_unknown_connection_is_not_refused(connection: str | None, tmp_path: Path) -> None:
    """The kernel's resource manager, tpm2-abrmd, the default and what cannot be judged pass."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/tpmrm0").touch()
    refuse_unmanaged_tpm({} if connection is None else {"TPM2_PKCS11_TCTI": connection}, tmp_path)


@pytest.mark.parametrize("connection", [None, "", "device"])
def test_without_the_kernels_tpm_no_other_one_is_taken(connection: str | None, tmp_path: Path) -> None:
    """Where no TPM is named, and the kernel has none, whoever listens at an emulator's port does not become one."""
    with pytest.raises(ModuleUnusableError, match="there is no TPM"):
        refuse_unmanaged_tpm({} if connection is None else {"TPM2_PKCS11_TCTI": connection}, tmp_path)


def _modes(folder: Path) -> tuple[int, dict[str, int]]:
    """The permission bits of a folder, and of each file in it."""
    files = {entry.name: entry.stat().st_mode & 0o777 for entry in folder.iterdir()}
    return folder.stat().st_mode & 0o777, files
