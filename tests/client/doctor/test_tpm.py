"""What the doctor sees of a TPM: its device, who shares it out, tpm2-pkcs11's other backend, its store, its version."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_enroll.doctor import Finding, Machine, Patient, Status, checks_token, checks_tpm
from hsm_enroll.settings import Settings
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.uri import Pkcs11Uri
from tests.support import tpm2
from tests.support.processes import program, run
from tests.support.tpm2 import Tpm2
from tests.support.under_test import LABEL

_VERSIONS = Path(__file__).with_name("versions.c")
_TPM_CHECKS = (checks_tpm.device, checks_tpm.resource_manager, checks_tpm.fapi, checks_tpm.store)
_NOBODY = 65534


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine of files, which every user may look into; it has a TPM and its resource manager, and nothing else."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    parts = Machine(folder / "tpmrm0", folder / "tpm0", folder / "store", folder / "fapi-config.json")
    for device in (parts.tpm, parts.bare_tpm):
        device.write_bytes(b"")
        device.chmod(0o660)
    yield parts
    shutil.rmtree(folder)


@pytest.fixture
def examined(tmp_path: Path, machine: Machine) -> Callable[..., Finding]:
    """Run a check of a machine whose settings name a tpm2-pkcs11 that cannot be loaded, as where its TPM is not there.

    Arguments: the check, the environment, the machine, and what the module's file holds.
    """

    def examine(
        check: Callable[[Patient], Finding],
        environment: dict[str, str] | None = None,
        machine: Machine = machine,
        module: bytes = b"",
    ) -> Finding:
        file = tmp_path / "libtpm2_pkcs11.so"
        file.write_bytes(module)
        with Tokens() as tokens:
            settings = Settings(state=tmp_path / "state", module=file)
            return check(Patient(settings, environment or {}, tokens, machine))

    return examine


@pytest.fixture(scope="module")
def provided_tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm2]:
    """A TPM with a token, for all tests of this module: making it takes seconds."""
    with tpm2.provided(tmp_path_factory.mktemp("tpm2")) as tpm:
        yield tpm


@pytest.fixture
def tpm(provided_tpm: Tpm2, monkeypatch: pytest.MonkeyPatch) -> Tpm2:
    """The TPM, in this process's environment."""
    for name, value in provided_tpm.environment.items():
        monkeypatch.setenv(name, value)
    return provided_tpm


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    """What the modules are asked through."""
    with Tokens() as tokens:
        yield tokens


def _patient(tpm: Tpm2, tmp_path: Path, tokens: Tokens, module: Path | None = None) -> Patient:
    settings = Settings(state=tmp_path / "state", module=module or tpm.module, token=Pkcs11Uri(token=LABEL))
    return Patient(settings, os.environ, tokens)


def _found(finding: Finding) -> tuple[str, Status]:
    return finding.id, finding.status


def test_where_no_tpm_is_in_use_its_checks_are_skipped(tmp_path: Path, machine: Machine, tokens: Tokens) -> None:
    """A device whose module is another one hears nothing of TPMs."""
    module = tmp_path / "libsofthsm2.so"
    module.write_bytes(b"")
    settings = Settings(state=tmp_path / "state", module=module)
    patient = Patient(settings, {"TPM2_PKCS11_TCTI": "swtpm"}, tokens, machine)
    assert {check(patient).status for check in _TPM_CHECKS} == {Status.SKIPPED}


def test_a_tpm_that_can_be_used_is_in_order(examined: Callable[..., Finding], machine: Machine) -> None:
    """With a device that this user may use, and the kernel's resource manager, both checks are ok and name it."""
    for check in (checks_tpm.device, checks_tpm.resource_manager):
        finding = examined(check)
        assert finding.status is Status.OK
        assert str(machine.tpm) in finding.message


def test_a_missing_tpm_is_told(examined: Callable[..., Finding], machine: Machine) -> None:
    """A machine without the device fails, with where to look; the resource manager's check refers to that."""
    machine.tpm.unlink()
    machine.bare_tpm.unlink()
    finding = examined(checks_tpm.device)
    assert _found(finding) == ("tpm.device", Status.FAILED)
    assert f"{machine.tpm} does not exist" in finding.message
    assert "firmware" in finding.hint
    assert _found(examined(checks_tpm.resource_manager)) == ("tpm.resource-manager", Status.SKIPPED)


def test_a_tpm_that_is_closed_to_this_user_names_its_group(examined: Callable[..., Finding], machine: Machine) -> None:
    """A device that belongs to others fails, with the group to join."""
    machine.tpm.chmod(0)
    user = os.geteuid()

    def as_somebody(patient: Patient) -> Finding:
        # Looked up before: as another user the token is not found for other reasons.
        assert patient.tpm_module
        os.seteuid(user or _NOBODY)
        try:
            return checks_tpm.device(patient)
        finally:
            os.seteuid(user)

    finding = examined(as_somebody)
    assert _found(finding) == ("tpm.device", Status.FAILED)
    assert f"--groups {machine.tpm.group()} USER" in finding.hint


@pytest.mark.parametrize("connection", ["tabrmd:bus_type=session", "swtpm:port=2321", "cmd:ssh other"])
def test_a_tpm_behind_another_program_is_no_device_of_this_user(
    connection: str, examined: Callable[..., Finding], machine: Machine
) -> None:
    """Where TPM2_PKCS11_TCTI leads elsewhere, the device is not this user's matter."""
    machine.tpm.unlink()
    assert _found(examined(checks_tpm.device, {"TPM2_PKCS11_TCTI": connection})) == ("tpm.device", Status.SKIPPED)


@pytest.mark.parametrize(
    ("connection", "status"),
    [
        ("", Status.OK),
        ("device", Status.OK),
        ("device:{managed}", Status.OK),
        ("device:{bare}", Status.WARNING),
        ("libtss2-tcti-device.so.0:{bare}", Status.WARNING),
        ("swtpm", Status.WARNING),
        ("swtpm:host=127.0.0.1,port=2321", Status.WARNING),
        ("mssim", Status.WARNING),
        ("/usr/lib/libtss2-tcti-mssim.so:port=1", Status.WARNING),
        ("spi-helper", Status.WARNING),
        ("cmd:ssh other", Status.SKIPPED),
    ],
)
def test_a_tpm_without_a_resource_manager_is_told(
    connection: str, status: Status, examined: Callable[..., Finding], machine: Machine
) -> None:
    """A bare device, or an emulator without tpm2-abrmd, is a warning that says what to use instead."""
    connection = connection.format(managed=machine.tpm, bare=machine.bare_tpm)
    finding = examined(checks_tpm.resource_manager, {"TPM2_PKCS11_TCTI": connection})
    assert _found(finding) == ("tpm.resource-manager", status)
    assert (f"device:{machine.tpm}" in finding.hint) is (status is Status.WARNING)


def test_tpm2_abrmd_is_asked(tpm: Tpm2, tmp_path: Path, tokens: Tokens) -> None:
    """tpm2-abrmd is in order if it answers, and fails if it does not; the configured TCTI alone proves nothing."""
    patient = _patient(tpm, tmp_path, tokens)
    assert checks_tpm.resource_manager(patient).message == "tpm2-abrmd responds"
    assert _found(checks_tpm.resource_manager(patient)) == ("tpm.resource-manager", Status.OK)
    nobody = "tabrmd:bus_type=session,bus_name=com.example.None"
    finding = checks_tpm.resource_manager(replace(patient, environment={**os.environ, "TPM2_PKCS11_TCTI": nobody}))
    assert _found(finding) == ("tpm.resource-manager", Status.FAILED)
    assert "tpm2-abrmd is not running" in finding.message
    assert "systemctl start tpm2-abrmd" in finding.hint


def test_a_tcti_that_is_not_installed_is_told(examined: Callable[..., Finding]) -> None:
    """A misspelt TPM2_PKCS11_TCTI fails, with its value."""
    finding = examined(checks_tpm.device, {"TPM2_PKCS11_TCTI": "tabrm:bus_type=session"})
    assert _found(finding) == ("tpm.device", Status.FAILED)
    assert finding.message == "TPM2_PKCS11_TCTI=tabrm:bus_type=session names a TCTI that is not installed"


def test_a_store_that_cannot_be_used_is_told(
    tpm: Tpm2, tmp_path: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is cut off, or lost its tokens, fails with its path, even though it is private to its owner."""
    store = tmp_path / "store"
    shutil.copytree(tpm.home / "store", store)
    store.chmod(0o700)
    monkeypatch.setenv("TPM2_PKCS11_STORE", str(store))
    os.truncate(store / "tpm2_pkcs11.sqlite3", 4096)
    patient = _patient(tpm, tmp_path, tokens)
    for finding in (checks_token.token(patient), checks_tpm.store(patient)):
        assert finding.status is Status.FAILED
        assert f"{store}/tpm2_pkcs11.sqlite3 is damaged" in finding.message
    os.truncate(store / "tpm2_pkcs11.sqlite3", 0)
    with Tokens() as others:
        patient = _patient(tpm, tmp_path, others)
        finding = checks_tpm.store(patient)
    assert _found(finding) == ("token.store", Status.FAILED)
    assert finding.message == f"tpm2-pkcs11's store {store} contains no token"


def test_a_tpm_that_was_cleared_is_told(tmp_path: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``tpm2_clear`` the token still shows its public data; the doctor fails, and says that the keys are lost."""
    with tpm2.provided(tmp_path) as own:
        for name, value in own.environment.items():
            monkeypatch.setenv(name, value)
        run([program("tpm2_clear", package="tpm2-tools")])
        patient = _patient(own, tmp_path, tokens)
        assert _found(checks_token.token(patient)) == ("token", Status.OK)
        finding = checks_tpm.store(patient)
    assert _found(finding) == ("token.store", Status.FAILED)
    assert "the TPM was cleared" in finding.message
    assert "lost for ever" in finding.hint


def test_a_kernel_without_a_resource_manager_is_told(examined: Callable[..., Finding], machine: Machine) -> None:
    """A machine that has the bare device alone gets the warning without any setting."""
    machine.tpm.unlink()
    finding = examined(checks_tpm.resource_manager)
    assert _found(finding) == ("tpm.resource-manager", Status.WARNING)
    assert str(machine.bare_tpm) in finding.message


@pytest.mark.parametrize(
    ("backend", "built", "provisioned", "status"),
    [
        (None, False, False, Status.OK),
        (None, True, True, Status.OK),
        (None, True, False, Status.WARNING),
        ("esysdb", True, False, Status.WARNING),
        ("ESYSDB", False, False, Status.OK),
        ("fapi", True, True, Status.OK),
        ("fapi", True, False, Status.FAILED),
        ("fapi", False, True, Status.FAILED),
        ("esys", False, False, Status.FAILED),
        ("", False, False, Status.FAILED),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_a_fapi_in_the_way_is_told(
    backend: str | None,
    built: bool,
    provisioned: bool,
    status: Status,
    named: bool,
    examined: Callable[..., Finding],
    machine: Machine,
) -> None:
    """FAPI without a keystore is a warning where it merely makes noise, and fails where it is chosen or misspelt."""
    keystore = machine.fapi_configuration.parent / "keystore"
    if provisioned:
        (keystore / "P_ECC" / "HS" / "SRK").mkdir(parents=True)
    file = machine.fapi_configuration.with_name("other.json") if named else machine.fapi_configuration
    file.write_text(json.dumps({"profile_name": "P_ECC", "system_dir": str(keystore), "user_dir": "~/none"}))
    environment = {} if backend is None else {"TPM2_PKCS11_BACKEND": backend}
    environment |= {"TSS2_FAPICONF": str(file)} if named else {}
    finding = examined(checks_tpm.fapi, environment, module=b"\0libtss2-fapi.so.1\0" if built else b"")
    assert _found(finding) == ("tpm.fapi", status)
    assert bool(finding.hint) is (status is not Status.OK)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"profile_name": 1, "system_dir": 2, "user_dir": 3}'])
def test_a_fapi_configuration_that_is_none_counts_as_not_set_up(
    content: str | None, examined: Callable[..., Finding], machine: Machine
) -> None:
    """A configuration that is missing or damaged is no keystore, and no traceback."""
    if content is not None:
        machine.fapi_configuration.write_text(content)
    finding = examined(checks_tpm.fapi, module=b"libtss2-fapi")
    assert _found(finding) == ("tpm.fapi", Status.WARNING)


@pytest.mark.parametrize("backend", ["junk", ""])
def test_the_module_really_ends_at_an_unknown_backend(
    backend: str, tpm: Tpm2, tmp_path: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``tpm.fapi`` calls a failure is one: tpm2-pkcs11 cannot be initialised with it, and the reason is found."""
    monkeypatch.setenv("TPM2_PKCS11_BACKEND", backend)
    patient = _patient(tpm, tmp_path, tokens)
    assert _found(checks_token.token(patient)) == ("token", Status.FAILED)
    assert _found(checks_tpm.fapi(patient)) == ("tpm.fapi", Status.FAILED)


def test_a_tpm_with_its_manager_is_in_order(tpm: Tpm2, tmp_path: Path, tokens: Tokens) -> None:
    """On a real tpm2-pkcs11 behind tpm2-abrmd nothing is wrong, and the module tells its version."""
    patient = _patient(tpm, tmp_path, tokens)
    statuses = {
        check(patient).status
        for check in (
            checks_token.token,
            checks_token.module,
            checks_tpm.resource_manager,
            checks_tpm.fapi,
            checks_token.duplicates,
            checks_token.mqtt,
        )
    }
    assert statuses == {Status.OK}
    told = run([program("pkcs11-tool", package="opensc"), "--module", str(tpm.module), "--show-info"])
    version = told.partition("(ver ")[2].partition(")")[0]
    assert f" {version}, Cryptoki" in checks_token.module(patient).message


def test_a_real_tpm_without_its_manager_is_told(
    tpm: Tpm2,
    tmp_path: Path,
    tokens: Tokens,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tpm2-pkcs11 that talks to swtpm itself works, and the doctor warns of it."""
    with tpm2.cloned_without_resource_manager(tpm, tmp_path_factory.mktemp("clone")) as clone:
        for name, value in clone.environment.items():
            monkeypatch.setenv(name, value)
        patient = _patient(clone, tmp_path, tokens)
        assert _found(checks_token.token(patient)) == ("token", Status.OK)
        assert _found(checks_tpm.resource_manager(patient)) == ("tpm.resource-manager", Status.WARNING)


def test_an_open_store_is_a_warning_with_what_closes_it(tpm: Tpm2, tmp_path: Path, tokens: Tokens) -> None:
    """The store as tpm2_ptool makes it is readable by others; what the hint says closes it."""
    store = tpm.home / "store"
    for path in store.iterdir():
        path.chmod(0o644)
    finding = checks_tpm.store(_patient(tpm, tmp_path, tokens))
    assert _found(finding) == ("token.store", Status.WARNING)
    run(["sh", "-c", finding.hint.removeprefix("Make it private: ")])
    assert _found(checks_tpm.store(_patient(tpm, tmp_path, tokens))) == ("token.store", Status.OK)
    store.chmod(0o750)
    assert f"{store} is accessible" in checks_tpm.store(_patient(tpm, tmp_path, tokens)).message
    store.chmod(0o700)


@pytest.mark.parametrize("place", ["named", "system", "xdg", "own"])
def test_the_store_is_the_one_that_the_module_takes(
    place: str, tmp_path: Path, examined: Callable[..., Finding], machine: Machine
) -> None:
    """TPM2_PKCS11_STORE names the store, or else it is the machine's or the user's own; a missing one is not judged."""
    environment = {"HOME": str(tmp_path)}
    assert _found(examined(checks_tpm.store, environment)) == ("token.store", Status.SKIPPED)
    folders = {
        "named": tmp_path / "named",
        "system": machine.tpm_store,
        "xdg": tmp_path / ".local/share/tpm2-pkcs11",
        "own": tmp_path / ".tpm2_pkcs11",
    }
    folders[place].mkdir(mode=0o700, parents=True)
    (folders[place] / "tpm2_pkcs11.sqlite3").touch(mode=0o600)
    environment |= {"TPM2_PKCS11_STORE": str(folders["named"])} if place == "named" else {}
    finding = examined(checks_tpm.store, environment)
    assert (*_found(finding), str(folders[place]) in finding.message) == ("token.store", Status.OK, True)


def test_a_token_that_is_in_no_store_is_in_fapis_keystore(
    tpm: Tpm2, tmp_path: Path, tokens: Tokens, machine: Machine
) -> None:
    """Where tpm2-pkcs11 finds the token although it has no store of its own, nothing is wrong with the store."""
    settings = Settings(state=tmp_path / "state", module=tpm.module, token=Pkcs11Uri(token=LABEL))
    finding = checks_tpm.store(Patient(settings, {"HOME": str(tmp_path)}, tokens, machine))
    assert _found(finding) == ("token.store", Status.SKIPPED)
    assert "FAPI" in finding.message


@pytest.mark.parametrize(
    ("version", "status"), [((1, 3), Status.WARNING), ((1, 4), Status.OK), ((0, 9), Status.WARNING)]
)
def test_a_version_that_is_known_to_be_bad_is_told(
    version: tuple[int, int], status: Status, tpm: Tpm2, tmp_path: Path, tokens: Tokens
) -> None:
    """A tpm2-pkcs11 older than 1.4 is a warning that names its version."""
    module = _claiming(version, tpm.module_copy(tmp_path), tmp_path)
    finding = checks_token.module(_patient(tpm, tmp_path, tokens, module))
    assert _found(finding) == ("token.module", status)
    assert "{}.{}".format(*version) in finding.message


def test_a_module_that_mqtt_cannot_use_is_told(tpm: Tpm2, tmp_path: Path, tokens: Tokens) -> None:
    """A module of a Cryptoki that the MQTT library does not take fails, with the version; the token itself is there."""
    module = _claiming((1, 9), tpm.module_copy(tmp_path), tmp_path, "-DCRYPTOKI_MINOR=11")
    patient = _patient(tpm, tmp_path, tokens, module)
    finding = checks_token.mqtt(patient)
    assert _found(finding) == ("token.mqtt", Status.FAILED)
    assert "2.11" in finding.message
    assert finding.hint
    assert _found(checks_token.token(patient)) == ("token", Status.OK)


def _claiming(version: tuple[int, int], target: Path, folder: Path, *more: str) -> Path:
    module = folder / "libtpm2_pkcs11-old.so"
    macros = [f'-DTARGET="{target}"', f"-DMAJOR={version[0]}", f"-DMINOR={version[1]}", *more]
    compiler = program("gcc", package="gcc")
    run([compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *macros, "-o", str(module), str(_VERSIONS)])
    return module


def test_machines_have_their_parts_where_linux_has_them(tmp_path: Path, tokens: Tokens) -> None:
    """Without anything said, a patient's machine is this one."""
    machine = Patient(Settings(state=tmp_path), {}, tokens).machine
    assert machine == replace(machine, tpm=Path("/dev/tpmrm0"), bare_tpm=Path("/dev/tpm0"))
