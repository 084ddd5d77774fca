"""One login at the most, and a PIN that shows nowhere (D1, D2, D4)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_enroll.errors import PinFinalTryError, PinLockedError, PinMissingError, PinWrongError, TokenRefusedError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token import inventory, keypair, login, provision, selection, session
from hsm_enroll.token.login import Origin, Pin
from hsm_enroll.token.tokens import Tokens
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tokens import listed
from tests.support.tpm2 import Tpm2
from tests.support.under_test import KeyName, OwnToken
from tests.tokens.handshake import TLS_1_2, shake

# PKCS#11 v2.40 section 3.2, CK_TOKEN_INFO.
_CKF_LOGIN_REQUIRED = 0x4
_CKF_USER_PIN_FINAL_TRY = 0x20000
_CKF_USER_PIN_LOCKED = 0x40000


@pytest.mark.own_token
def test_d1_a_wrong_pin_is_tried_once(
    token: OwnToken, wrong_pin: Secret, spied: Callable[[], list[str]], tmp_path: Path
) -> None:
    """D1: a wrong PIN is one C_Login and then an error with exit status 12; after it the right PIN still works."""
    name = token.name._replace(module=tmp_path / "pkcs11-spy.so")
    with (
        pytest.raises(PinWrongError, match="'gateway' refused the PIN") as caught,
        session.opened(name, lambda: wrong_pin),
    ):
        pass
    assert caught.value.exit_status == 12
    assert spied() == ["CKR_PIN_INCORRECT"]
    with session.opened(name, token.ask_pin):
        pass
    assert spied() == ["CKR_PIN_INCORRECT", "CKR_OK"]


@pytest.mark.own_token
def test_d1_the_right_pin_is_given_once(token: OwnToken, spied: Callable[[], list[str]], tmp_path: Path) -> None:
    """D1: a session takes one C_Login, and listing the tokens takes none."""
    module = tmp_path / "pkcs11-spy.so"
    inventory.list_tokens(module)
    assert spied() == []
    with session.opened(token.name._replace(module=module), token.ask_pin, writable=True):
        pass
    assert spied() == ["CKR_OK"]


def test_d1_the_tpm_counts_one_try(tpm: Tpm2) -> None:
    """D1: by the TPM's own count a wrong PIN is one failed authorisation, and the right one is none."""
    assert tpm.wrong_pins() == 0
    with tpm.opened():
        pass
    assert tpm.wrong_pins() == 0
    try:
        with pytest.raises(PinWrongError), session.opened(tpm.name, lambda: Secret("wrong-1234")):
            pass
        assert tpm.wrong_pins() == 1
        with tpm.opened():
            pass
    finally:
        tpm.forget_wrong_pins()


def test_d2_a_locked_tpm_says_that_it_may_heal(tpm: Tpm2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: a TPM that is locked, its count out of reach, says that power cuts lock it too, and that time heals it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        for _ in range(3):
            with pytest.raises(PinWrongError), session.opened(tpm.name, lambda: Secret("wrong-1234")):
                pass
        with pytest.raises(PinLockedError) as caught, tpm.opened():
            pass
        assert caught.value.exit_status == 13
        assert "power cuts" in caught.value.hint
        assert "unlocks after some time" in caught.value.hint
    finally:
        tpm.forget_wrong_pins()
    with tpm.opened():
        pass


@pytest.mark.parametrize(
    ("flag", "error", "member"),
    [
        (_CKF_USER_PIN_FINAL_TRY, PinFinalTryError, "pin_final_try"),
        (_CKF_USER_PIN_LOCKED, PinLockedError, "pin_locked"),
        (_CKF_USER_PIN_FINAL_TRY | _CKF_USER_PIN_LOCKED, PinLockedError, "pin_locked"),
    ],
    ids=["final-try", "locked", "both"],
)
def test_d1_a_warning_token_is_not_logged_in_to(
    softhsm: SoftHsmUnderTest, tmp_path: Path, flag: int, error: type[PinFinalTryError | PinLockedError], member: str
) -> None:
    """D1: a token that says its next try is the last, or that it is locked, gets no C_Login, not even a right one."""
    log = tmp_path / "logins"
    module = softhsm.faulty_module(SET_FLAGS=hex(flag), LOGIN_LOG=f'"{log}"')
    [report] = [report for report in listed(module) if report.initialized]
    assert getattr(report, member)
    asked: list[TokenName] = []

    def pin() -> Secret:
        asked.append(report.name)
        return softhsm.pin

    with pytest.raises(error) as caught, session.opened(report.name, pin):
        pass
    assert caught.value.exit_status == 13
    # What MQTT asks before awscrt logs in, which looks at no flag itself.
    with pytest.raises(error):
        login.credentials(report, lambda _: pin(), lambda _: None)
    assert not log.exists()
    assert asked == []


def test_the_shim_counts_logins(softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """The counter that the test above trusts does count: without the flags there is one C_Login."""
    log = tmp_path / "logins"
    name = softhsm.name._replace(module=softhsm.faulty_module(LOGIN_LOG=f'"{log}"'))
    with session.opened(name, softhsm.ask_pin):
        pass
    assert len(log.read_text().splitlines()) == 1


def test_a_token_that_wants_no_login_gets_none(softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """A token without CKF_LOGIN_REQUIRED is opened without a C_Login, and nobody is asked for a PIN."""
    log = tmp_path / "logins"
    module = softhsm.faulty_module(CLEAR_FLAGS=hex(_CKF_LOGIN_REQUIRED), LOGIN_LOG=f'"{log}"')
    name = softhsm.name._replace(module=module)

    def pin() -> Secret:
        pytest.fail("a PIN was asked for")

    with session.opened(name, pin) as opened:
        assert opened.token.label == "gateway"
    assert not log.exists()


@pytest.fixture
def without_pin(tpm: Tpm2, key: KeyName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenName:
    """A token of tpm2-pkcs11 with an empty PIN, alone in a store of its own."""
    own = Tpm2(tmp_path, tpm.environment)
    own.create_token_without_pin(key)
    monkeypatch.setenv("TPM2_PKCS11_STORE", own.environment["TPM2_PKCS11_STORE"])
    [name] = [report.name for report in listed(own.module) if report.initialized]
    return name


def test_a_tpms_token_without_a_pin_is_used_as_it_is(without_pin: TokenName, key: KeyName, tmp_path: Path) -> None:
    """tpm2-pkcs11's token with an empty PIN signs without a login, and in awscrt's handshake after an empty one."""

    def pin(_: object = None) -> Secret:
        pytest.fail("a PIN was asked for")

    with session.opened(without_pin, pin) as opened:
        pair = keypair.find(opened, label=key.label, key_id=None)
        assert pair.sign(b"a message")
    given = login.credentials(selection.enrolled(without_pin, listed), pin, lambda _: None)
    assert shake(without_pin, given, pair, TLS_1_2, tmp_path) == TLS_1_2


def test_a_login_that_was_not_announced_is_told(without_pin: TokenName) -> None:
    """tpm2-pkcs11 makes no key without a login, though its token says that it wants none; the hint says so."""
    with (
        session.opened(without_pin, lambda: Secret(""), writable=True) as opened,
        pytest.raises(TokenRefusedError, match="requires a login") as caught,
    ):
        keypair.generate(opened, KeyType.EC_P256, label="new", key_id=b"new")
    assert "no PIN, set one" in caught.value.hint


def test_d1_a_warning_shows_before_the_login(softhsm: SoftHsmUnderTest) -> None:
    """D1: after a wrong PIN, SoftHSM's warning is in the report, and the right PIN takes it away."""
    with pytest.raises(PinWrongError), session.opened(softhsm.name, lambda: Secret("wrong-1234")):
        pass
    assert [report.pin_count_low for report in listed(softhsm.module)] == [True, False]
    with softhsm.opened():
        pass
    assert [report.pin_count_low for report in listed(softhsm.module)] == [False, False]


@pytest.mark.parametrize(
    ("pin", "source"),
    [
        (Pin("wrong-1234", Origin("the PIN in HSM_ENROLL_PIN")), ": it was the PIN in HSM_ENROLL_PIN"),
        (Secret("wrong-1234"), ""),
    ],
    ids=["known", "unknown"],
)
def test_d1_a_wrong_pin_names_its_source_and_what_it_means(
    softhsm: SoftHsmUnderTest, tpm: Tpm2, pin: Secret, source: str
) -> None:
    """D1: a wrong PIN's error says where the PIN came from; of a lockout it speaks for a TPM only, with its count."""
    hint = "It was tried only once. Correct it, then run the command again."
    with tpm.locking_after(3, seconds_to_forget_one=1000), Tokens() as tokens:
        for name, more in ((softhsm.name, ""), (tpm.name, " The TPM counts 1 of the 3 failed tries that lock it.")):
            token = selection.enrolled(name, tokens.listed)
            with pytest.raises(PinWrongError) as caught, tokens.session(token, lambda _: pin, lambda _: None):
                pass
            assert caught.value.message == f"token 'gateway' refused the PIN (CKR_PIN_INCORRECT){source}"
            assert caught.value.hint == hint + more
            assert caught.value.exit_status == 12


@pytest.mark.own_token
def test_d4_a_pin_that_cannot_be_had_is_no_login(token: OwnToken) -> None:
    """D4: where the PIN's source fails, its error comes through unchanged, and the token is usable afterwards."""

    def no_pin() -> Secret:
        raise PinMissingError("there is none")

    with pytest.raises(PinMissingError, match="there is none"), session.opened(token.name, no_pin):
        pass
    with token.opened():
        pass


@pytest.mark.own_token
def test_d4_a_wrong_pin_shows_nowhere(token: OwnToken, wrong_pin: Secret) -> None:
    """D4: the error of a wrong PIN holds it neither in its text nor in a traceback that shows local variables."""
    try:
        with session.opened(token.name, lambda: wrong_pin):
            pytest.fail("a wrong PIN was taken")
    except PinWrongError as error:
        shown = _everything_that_shows(error)
    assert "refused the PIN" in shown
    assert wrong_pin.reveal() not in shown


def test_d4_pins_show_nowhere_when_a_token_cannot_be_made(empty_softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """D4: where SoftHSM refuses to initialise a token, neither PIN is in the error or the locals of its traceback."""
    so_pin, user_pin = Secret("officer-secret"), Secret("user-secret")
    module = FaultModule(empty_softhsm.module, tmp_path, f"C_InitToken 1+ fail {CKR['CKR_FUNCTION_FAILED']:x}").file
    try:
        provision.create_softhsm_token(module, "new", so_pin=so_pin, user_pin=user_pin)
        pytest.fail("a token was made")
    except TokenRefusedError as error:
        shown = _everything_that_shows(error)
    assert "failed to initialise a token" in shown
    assert so_pin.reveal() not in shown
    assert user_pin.reveal() not in shown


def _everything_that_shows(error: BaseException) -> str:
    """Format an exception as crash reporters do, with its causes and the local variables of every frame."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(trace.format()) + "".join(traceback.format_exception(error)) + repr(error)
