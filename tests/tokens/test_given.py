"""The conformance suite against a token that is named on pytest's command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pkcs11 import Attribute

from hsm_enroll.key import KeyType
from hsm_enroll.token import keypair, session
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.under_test import KeyName

_ROOT = Path(__file__).parents[2]
_LABEL = "line 3"
_TIME_LIMIT = 300


@pytest.fixture
def somebodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsmUnderTest:
    """Provide a token that has EC keys alone."""
    softhsm = SoftHsmUnderTest(tmp_path, mechanisms="CKM_EC_KEY_PAIR_GEN,CKM_ECDSA")
    for name, value in softhsm.environment.items():
        monkeypatch.setenv(name, value)
    softhsm.add_token(_LABEL)
    softhsm.label = _LABEL
    return softhsm


def _pytest(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plugins = [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:schemathesis",
    ]  # slow to load, and no part of it
    command = [sys.executable, "-m", "pytest", *plugins, "--color=no", *arguments]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HSM_ENROLL_", "PYTEST_"))}
    return subprocess.run(
        command, cwd=_ROOT, env=own | environment, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False
    )


def test_the_suite_runs_on_a_given_token_and_takes_its_keys_away(
    somebodys: SoftHsmUnderTest, key: KeyName, tmp_path: Path
) -> None:
    """The suite passes with the key types that the token has, prints its table, and leaves the keys that were there."""
    with somebodys.opened() as opened:
        before = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    pin_file = tmp_path / "pin"
    pin_file.write_text(somebodys.pin.reveal())
    pin_file.chmod(0o600)
    named = ["--module", str(somebodys.module), "--token-label", _LABEL, "--token-serial", somebodys.name.serial]
    # As scripts/test would: several processes, which one token does not get.
    spread = ["--numprocesses", "2", "--dist", "loadfile"]
    run = _pytest("tests/tokens", *spread, *named, "-v", HSM_ENROLL_PIN_FILE=str(pin_file))
    assert run.returncode == 0, run.stdout + run.stderr
    assert somebodys.pin.reveal() not in run.stdout + run.stderr
    ran = re.findall(r"^(\S+?)::(\S+?)\[given(\S*)\] PASSED", run.stdout, re.MULTILINE)
    parts = ("generation", "keys", "selection", "signing", "table")
    assert {Path(file).stem for file, _, _ in ran} >= {f"test_{part}" for part in parts}
    assert {variant for _, name, variant in ran if name.startswith("test_a_request_of")} == {"-ec-p256", "-ec-p384"}
    assert not [name for _, name, _ in ran if "wrong_pin" in name or "imported" in name]
    assert re.search(r"^\| SoftHSM .*\| ec-p384 \|.*\| yes \| yes \|$", run.stdout, re.MULTILINE)
    assert re.search(r"^\| SoftHSM .*\| rsa-2048 \| - \| - \|", run.stdout, re.MULTILINE)
    with somebodys.opened() as opened:
        assert {found[Attribute.LABEL] for found in opened.get_objects()} == {key.label}
        assert keypair.find(opened, label=key.label, key_id=key.id).public_key_info == before.public_key_info


def test_the_suite_runs_on_a_token_with_rsa_keys_alone(softhsm: SoftHsmUnderTest) -> None:
    """No test of the suite takes EC keys for granted; those about EC keys are left out."""
    ckm_ec_key_pair_gen, ckm_ecdsa = 0x1040, 0x1041
    without = [f"C_GetMechanismList 1+ without {mechanism:x}" for mechanism in (ckm_ec_key_pair_gen, ckm_ecdsa)]
    module = FaultModule(softhsm.module, softhsm.folder, *without)
    files = [f"tests/tokens/test_{part}.py" for part in ("keys", "selection", "signing")]
    named = ["--module", str(module.file), "--token-label", softhsm.label]
    quick = ["-k", "not rsa-3072 and not rsa-4096"]  # long keys take long to make
    run = _pytest(*files, *named, *quick, "-v", HSM_ENROLL_PIN=softhsm.pin.reveal())
    assert run.returncode == 0, run.stdout + run.stderr
    ran = re.findall(r"^(\S+?)::(\S+?)\[given(\S*)\] PASSED", run.stdout, re.MULTILINE)
    assert {Path(file).name for file, _, _ in ran} == {Path(file).name for file in files}
    key_types = {variant for _, _, variant in ran if variant.startswith(("-ec-", "-rsa-"))}
    assert key_types == {"-rsa-2048"}


def test_a_test_that_fails_leaves_no_key_in_a_given_token(somebodys: SoftHsmUnderTest) -> None:
    """Also a test that fails has its key taken away: here the token refuses to sign, and the run says so."""
    module = FaultModule(somebodys.module, somebodys.folder, f"C_Sign 1+ fail {CKR['CKR_DEVICE_ERROR']:x}")
    named = ["--module", str(module.file), "--token-label", _LABEL]
    selection = "tests/tokens/test_signing.py::test_a_request_of_every_key_type_is_accepted"
    run = _pytest(selection, *named, HSM_ENROLL_PIN=somebodys.pin.reveal())
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    assert "2 failed" in run.stdout
    assert "failed to sign: the token reported a hardware fault" in run.stdout
    assert somebodys.pin.reveal() not in run.stdout + run.stderr
    with session.opened(somebodys.name, somebodys.ask_pin) as opened:
        assert list(opened.get_objects()) == []


def test_d1_a_wrong_pin_is_tried_once_in_the_whole_run(somebodys: SoftHsmUnderTest, tmp_path: Path) -> None:
    """D1: with a wrong PIN, or none, every test fails after one C_Login at the most, however many tests there are."""
    log = tmp_path / "logins"
    module = somebodys.faulty_module(LOGIN_LOG=f'"{log}"')
    named = ["tests/tokens/test_keys.py", "--module", str(module), "--token-label", _LABEL]
    run = _pytest(*named)
    assert "none was given" in run.stdout + run.stderr
    assert not log.exists()
    run = _pytest(*named, HSM_ENROLL_PIN="wrong-1234")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    errors = re.search(r" (\d+) errors in ", run.stdout)
    assert errors
    assert int(errors[1]) > 1
    assert "refused the PIN" in run.stdout + run.stderr
    assert "wrong-1234" not in run.stdout + run.stderr
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--module", "/nowhere.so"], "go together"),
        (["--token-label", "x"], "go together"),
        (["--token-serial", "1"], "goes with --module"),
        (["--module", "/nowhere.so", "--token-label", "x"], "there is no PKCS#11 module /nowhere.so"),
    ],
)
def test_a_token_that_is_not_named_well_runs_nothing(arguments: list[str], said: str) -> None:
    """Half a name, or a module that is not there, ends the run before the first test."""
    run = _pytest("tests/tokens/test_signing.py", *arguments)
    assert run.returncode not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
    assert said in run.stdout + run.stderr
    assert "passed" not in run.stdout
