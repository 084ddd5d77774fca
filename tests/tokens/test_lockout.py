"""A TPM that counts failed tries is not driven into its lockout (D1, D2)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pkcs11.exceptions import PinIncorrect

from hsm_enroll import doctor
from hsm_enroll.errors import PinFinalTryError, PinLockedError, PinWrongError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.token import inventory, login, modules, selection, session
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.tpm2 import is_tpm2, lockout
from hsm_enroll.uri import Pkcs11Uri
from tests.support import documents
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tokens import listed
from tests.support.tpm2 import Tpm2

_ON_A_TPM = pytest.mark.parametrize("token", ["tpm2-pkcs11"], indirect=True)
_WRONG = Secret("wrong-1234")


@pytest.fixture
def counting(tpm: Tpm2) -> Iterator[Tpm2]:
    """Provide the TPM, locking after three failed tries, none of which it has counted; it forgets the test's own."""
    with tpm.locking_after(3, seconds_to_forget_one=1000):
        yield tpm


@pytest.fixture
def no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take tpm2-tools away."""
    (tmp_path / "no-programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))


@pytest.fixture
def own_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Provide a function that puts a shell script in the place of tpm2_getcap."""

    def place(script: str) -> None:
        programs = tmp_path / "programs"
        programs.mkdir()
        tool = programs / "tpm2_getcap"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))

    return place


def _spend_a_try(name: TokenName) -> None:
    """Log in with a wrong PIN as a program does that asks for no count."""
    [token] = [token for token in modules.tokens(name.module) if token.label == name.label]
    with pytest.raises(PinIncorrect), token.open(user_pin=_WRONG.reveal()):
        pytest.fail("a wrong PIN was taken")


def _prepare(name: TokenName) -> None:
    """Look before awscrt logs in, which asks about nothing itself."""
    login.credentials(selection.enrolled(name, listed), lambda _: _WRONG, lambda _: None)


def _in_minutes(seconds: int) -> str:
    return f"{-(-seconds // 60)} min"


@_ON_A_TPM
@pytest.mark.usefixtures("token")
def test_d1_the_last_try_is_not_used(counting: Tpm2, spied: Callable[[], list[str]], tmp_path: Path) -> None:
    """D1: after two wrong PINs of three a TPM gets no C_Login, not even a right one, until it has forgotten them."""
    name = counting.name._replace(module=tmp_path / "pkcs11-spy.so")
    for _ in range(2):
        _prepare(name)
        with pytest.raises(PinWrongError), session.opened(name, lambda: _WRONG):
            pass
    asked: list[Secret] = []
    for pin in (_WRONG, counting.pin):

        def ask(pin: Secret = pin) -> Secret:
            asked.append(pin)
            return pin

        with pytest.raises(PinFinalTryError) as caught, session.opened(name, ask):
            pass
        assert caught.value.exit_status == 13
        assert "2 of the 3 failed tries" in caught.value.message
        # Two are remembered, and with one less there are two tries to the lockout again.
        assert f"Try again in {_in_minutes(counting.seconds_to_forget_one())}" in caught.value.hint
    with pytest.raises(PinFinalTryError):
        _prepare(name)
    with session.opened(name, None):
        pass
    assert asked == []
    assert spied() == ["CKR_PIN_INCORRECT"] * 2
    assert counting.wrong_pins() == 2
    counting.forget_wrong_pins()
    _prepare(name)
    with session.opened(name, counting.ask_pin):
        pass
    assert spied() == ["CKR_PIN_INCORRECT"] * 2 + ["CKR_OK"]


def test_d1_the_last_try_is_used_for_a_pin_that_is_certain(counting: Tpm2) -> None:
    """D1: the PIN that ``token create`` saved is tried one failed try short of the lockout, and not in a locked TPM."""
    certain = login.Pin(counting.pin.reveal(), login.Origin("the PIN", lambda: None))
    guessed = login.Pin(counting.pin.reveal(), login.Origin("the PIN"))
    for _ in range(2):
        _spend_a_try(counting.name)
    with Tokens() as tokens:
        token = selection.enrolled(counting.name, tokens.listed)
        with pytest.raises(PinFinalTryError), tokens.session(token, lambda _: guessed, lambda _: None):
            pass
        with tokens.session(token, lambda _: certain, lambda _: None):
            pass
        _spend_a_try(counting.name)
        with pytest.raises(PinLockedError), tokens.session(token, _nobody_is_asked, lambda _: None):
            pass
    assert counting.wrong_pins() == 3


def _nobody_is_asked(_: TokenName) -> Secret:
    raise AssertionError("the PIN of a locked token was asked for")


@_ON_A_TPM
@pytest.mark.usefixtures("token")
def test_d2_a_locked_tpm_says_when_it_heals(counting: Tpm2, spied: Callable[[], list[str]], tmp_path: Path) -> None:
    """D2: a TPM that is locked gets no C_Login, and the error tells when a PIN Try again."""
    for _ in range(counting.wrong_pins_that_lock()):
        _spend_a_try(counting.name)
    name = counting.name._replace(module=tmp_path / "pkcs11-spy.so")
    inventory.list_tokens(name.module)
    with pytest.raises(PinLockedError) as caught, session.opened(name, counting.ask_pin):
        pass
    assert caught.value.exit_status == 13
    assert "3 of the 3 failed tries" in caught.value.message
    assert "forgets one failed try" in caught.value.hint
    assert f"Try again in {_in_minutes(2 * counting.seconds_to_forget_one())}" in caught.value.hint
    with pytest.raises(PinLockedError) as caught:
        _prepare(name)
    assert f"forgets one failed try every {_in_minutes(counting.seconds_to_forget_one())}" in caught.value.hint
    assert spied() == []
    assert counting.wrong_pins() == counting.wrong_pins_that_lock()


def test_d1_d2_the_command_line_stops_before_the_last_try(counting: Tpm2, tmp_path: Path) -> None:
    """D1, D2: two runs with a wrong PIN end with 12, the third with 13, and once the TPM has forgotten with 0."""
    pin_file = tmp_path / "pin-file"
    pin_file.touch(mode=0o600)

    def csr(pin: Secret) -> tuple[int, str]:
        pin_file.write_text(pin.reveal())
        command = [sys.executable, "-m", "hsm_enroll", "csr", "--module", str(counting.module), "--json"]
        told = {"HSM_ENROLL_HOME": str(tmp_path / "state"), "HSM_ENROLL_PIN_FILE": str(pin_file)}
        run = subprocess.run(command, env={**os.environ, **told}, capture_output=True, timeout=60, check=False)
        return run.returncode, documents.read(["csr"], run.stdout.decode()).get("error", {}).get("code", "")

    assert csr(_WRONG) == (12, "pin-wrong")
    assert csr(_WRONG) == (12, "pin-wrong")
    assert csr(counting.pin) == (13, "pin-final-try")
    assert counting.wrong_pins() == 2
    counting.forget_wrong_pins()
    assert csr(counting.pin) == (0, "")


@_ON_A_TPM
@pytest.mark.usefixtures("token", "no_tool")
def test_d1_without_the_tool_a_pin_is_tried_once(
    counting: Tpm2, spied: Callable[[], list[str]], tmp_path: Path
) -> None:
    """D1: where tpm2-tools is not installed nothing is refused: each login is one C_Login, as without a count."""
    name = counting.name._replace(module=tmp_path / "pkcs11-spy.so")
    for _ in range(2):
        with pytest.raises(PinWrongError), session.opened(name, lambda: _WRONG):
            pass
    assert lockout.read(name) is None
    _prepare(name)
    with session.opened(name, counting.ask_pin):
        pass
    assert spied() == ["CKR_PIN_INCORRECT"] * 2 + ["CKR_OK"]


def test_d1_a_tool_that_hangs_is_ended(tpm: Tpm2, own_tool: Callable[[str], None], tmp_path: Path) -> None:
    """D1: a tool that does not answer is given up at the time limit, as good as none, and its process is gone."""
    mark = tmp_path / "hanging"
    own_tool(f'echo $$ > "{mark}"; exec sleep 1000')
    assert lockout.read(tpm.name, time_limit=2) is None
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "kill -9 $$", "tpm2_getcap_that_is_not_there"])
def test_d1_a_tool_that_fails_refuses_nothing(tpm: Tpm2, own_tool: Callable[[str], None], script: str) -> None:
    """D1: a tool that fails, crashes or says something else is as good as none."""
    own_tool(script)
    assert lockout.read(tpm.name) is None
    lockout.refuse_last_try(tpm.name)


def test_d1_the_modules_own_tpm_is_asked(counting: Tpm2, monkeypatch: pytest.MonkeyPatch) -> None:
    """D1: the TPM that tpm2-pkcs11 is told is asked, whichever tpm2-tools is told; where there is none, none is."""
    monkeypatch.setenv("TPM2TOOLS_TCTI", "device:/dev/null")
    _spend_a_try(counting.name)
    assert lockout.read(counting.name) == lockout.FailedTries(
        counting.wrong_pins(), counting.wrong_pins_that_lock(), counting.seconds_to_forget_one()
    )
    name = counting.name
    monkeypatch.setenv("TPM2TOOLS_TCTI", os.environ["TPM2_PKCS11_TCTI"])
    monkeypatch.setenv("TPM2_PKCS11_TCTI", "device:/dev/null")
    assert lockout.read(name) is None


def test_d4_the_tool_is_not_given_the_pin(
    tpm: Tpm2, own_tool: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4: the environment of the tool does not hold the PIN, nor do its arguments."""
    monkeypatch.setenv("HSM_ENROLL_PIN", "493817")
    dump = tmp_path / "dump"
    own_tool(f'{{ echo "$@"; env; }} > "{dump}"')
    lockout.read(tpm.name)
    assert dump.read_text().startswith("properties-variable\n")
    assert "493817" not in dump.read_text()


def test_d1_a_limit_of_one_is_not_refused_for_ever(tpm: Tpm2) -> None:
    """D1: a TPM that locks after one failed try is tried while it has counted none, and after one is locked."""
    with tpm.locking_after(1, seconds_to_forget_one=7200):
        with tpm.opened():
            pass
        _spend_a_try(tpm.name)
        with pytest.raises(PinLockedError) as caught, tpm.opened():
            pass
        assert "Try again in 2 h" in caught.value.hint


def test_d1_a_tpm_that_does_not_count_is_not_refused(tpm: Tpm2) -> None:
    """D1: an interval of nought turns a TPM's protection off: wrong PINs lock nothing, and nothing is refused."""
    with tpm.locking_after(1, seconds_to_forget_one=0):
        for _ in range(2):
            with pytest.raises(PinWrongError), session.opened(tpm.name, lambda: _WRONG):
                pass
        assert lockout.read(tpm.name) is None
        with tpm.opened():
            pass


def test_a_tpm2_pkcs11_token_is_known_by_its_name(
    tpm: Tpm2, softhsm: SoftHsmUnderTest, tmp_path: Path, own_tool: Callable[[str], None]
) -> None:
    """D1: a renamed module's token is still one of tpm2-pkcs11, and SoftHSM's is none, not even of the same serial."""
    renamed = tpm.module.rename(tpm.module.with_name("vendor.so"))
    try:
        assert [is_tpm2(report.name) for report in listed(renamed)] == [True, True]
    finally:
        renamed.rename(tpm.module)
    [report] = [report for report in listed(softhsm.faulty_module(SAME_NAME=1)) if report.initialized]
    assert report.name.serial == tpm.name.serial
    own_tool(f'touch "{tmp_path}/asked"')
    lockout.refuse_last_try(report.name)
    assert not (tmp_path / "asked").exists()


def _pin_tries(tpm: Tpm2, state: Path) -> doctor.Finding:
    settings = Settings(state=state, module=tpm.module, token=Pkcs11Uri(token="gateway"))
    with Tokens() as tokens:
        findings = doctor.examine(doctor.Patient(settings, os.environ, tokens), online=False)
        [finding] = [finding for finding in findings if finding.id == "token.pin-tries"]
    return finding


def test_d1_d2_the_doctor_knows_the_tpms_count(counting: Tpm2, tmp_path: Path) -> None:
    """D1, D2: the doctor tells a TPM's count, what raises it and how it heals, and fails from the last try on."""
    assert _pin_tries(counting, tmp_path) == doctor.Finding(
        "token.pin-tries", doctor.Status.OK, "the TPM counts no failed tries"
    )
    pace = f"forgets one failed try every {_in_minutes(counting.seconds_to_forget_one())}"
    for count, status, said in (
        (1, doctor.Status.WARNING, "the TPM counts 1 of the 3 failed tries that lock it"),
        (2, doctor.Status.FAILED, "one more wrong PIN will lock the token"),
        (3, doctor.Status.FAILED, "the PIN is locked"),
    ):
        _spend_a_try(counting.name)
        finding = _pin_tries(counting, tmp_path)
        assert finding.status is status
        assert said in finding.message
        assert "Power cuts count as failed tries too" in finding.hint
        assert pace in finding.hint
        assert ("Try again" in finding.hint) is (count > 1)
        assert counting.wrong_pins() == count


def test_d1_without_a_choice_of_the_modules_the_tool_has_none(
    tpm: Tpm2, own_tool: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: where tpm2-pkcs11 is told of no TPM and takes the machine's, the tool is told of none either."""
    name = tpm.name
    monkeypatch.setenv("TPM2TOOLS_TCTI", "device:/dev/null")
    monkeypatch.delenv("TPM2_PKCS11_TCTI")
    dump = tmp_path / "dump"
    own_tool(f'env > "{dump}"')
    lockout.read(name)
    assert "PATH=" in dump.read_text()
    assert "TCTI" not in dump.read_text()


@pytest.mark.usefixtures("no_tool")
def test_the_doctor_does_without_the_count(tpm: Tpm2, tmp_path: Path) -> None:
    """D1: without tpm2-tools the doctor says that the count is not known, and what would tell it."""
    finding = _pin_tries(tpm, tmp_path)
    assert finding.status is doctor.Status.WARNING
    assert "tpm2-tools" in finding.hint


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(1, "1 s"), (119, "119 s"), (120, "2 min"), (1000, "17 min"), (7199, "120 min"), (7200, "2 h"), (7201, "3 h")],
)
def test_d2_a_time_is_told_in_the_unit_that_reads_best(seconds: int, said: str) -> None:
    """D2: the interval is told in seconds, minutes or hours, rounded up: never sooner than it is."""
    assert lockout.FailedTries(1, 3, seconds).recovery.endswith(f"one failed try every {said}.")
