"""Each call that a session makes fails once, and each time all ends well (D7, D20)."""

from __future__ import annotations

import secrets
from collections import Counter
from contextlib import suppress

import pytest

from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.token import keypair, session
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.softhsm_under_test import SoftHsmUnderTest


@pytest.fixture
def softhsm(softhsm_of_module: SoftHsmUnderTest) -> SoftHsmUnderTest:
    """Provide the same SoftHSM to all of these tests."""
    return softhsm_of_module


def _use(softhsm: SoftHsmUnderTest, name: TokenName, key_type: KeyType) -> None:
    """What ``init`` does with a token: open, make a key, sign, and close."""
    key_id = secrets.token_bytes(8)
    with session.opened(name, softhsm.ask_pin, writable=True) as opened:
        keypair.generate(opened, key_type, label=key_id.hex(), key_id=key_id).sign(b"a request")


def _empty(softhsm: SoftHsmUnderTest) -> None:
    with softhsm.opened() as opened:
        for left in list(opened.get_objects()):
            left.destroy()


@pytest.mark.parametrize(
    ("function", "ckr"),
    [
        ("C_FindObjectsInit", "CKR_DEVICE_ERROR"),
        ("C_FindObjects", "CKR_DEVICE_ERROR"),
        ("C_GetAttributeValue", "CKR_DEVICE_ERROR"),
        ("C_GetAttributeValue", "CKR_ATTRIBUTE_TYPE_INVALID"),  # as it answers where it has no such attribute
        ("C_Sign", "CKR_DEVICE_ERROR"),
    ],
)
def test_d7_each_call_may_fail(softhsm: SoftHsmUnderTest, function: str, ckr: str) -> None:
    """D7: whichever of its calls a function fails at, the outcome is a key that signs or one of our errors."""
    module = FaultModule(softhsm.module, softhsm.module.parent)
    name = softhsm.name._replace(module=module.file)
    _use(softhsm, name, KeyType.EC_P256)
    calls = Counter(call.function for call in module.calls())[function]
    assert calls
    for number in range(1, calls + 1):
        module.plan(f"{function} {number} fail {CKR[ckr]:x}")
        with suppress(HsmEnrollError):
            _use(softhsm, name, KeyType.EC_P256)
        module.plan()
        _use(softhsm, name, KeyType.EC_P256)
    _empty(softhsm)


@pytest.mark.parametrize(
    "function",
    ["C_OpenSession", "C_Login", "C_FindObjectsInit", "C_FindObjects", "C_GenerateKeyPair", "C_SignInit", "C_Sign"],
)
def test_d20_no_session_stays_open_after_a_fault(softhsm: SoftHsmUnderTest, function: str) -> None:
    """D20: whichever function fails, no session stays open, and the next one works."""
    _assert_over_after_a_fault(softhsm, f"{function} 1 fail")


@pytest.mark.parametrize("function", ["C_OpenSession", "C_GenerateKeyPair", "C_Sign"])
def test_d7_a_module_that_answers_nothing_any_more_is_initialized_anew(
    softhsm: SoftHsmUnderTest, function: str
) -> None:
    """D7: after a transport error, which a module does not get over by itself, the same process can use it again."""
    _assert_over_after_a_fault(softhsm, f"{function} 1 dead")


def _assert_over_after_a_fault(softhsm: SoftHsmUnderTest, fault: str) -> None:
    module = FaultModule(softhsm.module, softhsm.module.parent)
    name = softhsm.name._replace(module=module.file)
    module.plan(f"{fault} {CKR['CKR_DEVICE_ERROR']:x}")
    with pytest.raises(HsmEnrollError, match="the token reported a hardware fault"):
        _use(softhsm, name, KeyType.EC_P256)
    assert module.sessions_left_open() == 0
    module.plan()
    _use(softhsm, name, KeyType.EC_P256)
    assert module.sessions_left_open() == 0
    _empty(softhsm)


@pytest.mark.parametrize("function", ["C_Logout", "C_CloseSession"])
def test_d20_a_session_that_cannot_be_closed_does_not_stay(softhsm: SoftHsmUnderTest, function: str) -> None:
    """D20: where a session cannot be ended the work done in it counts all the same, and the next login works."""
    module = FaultModule(softhsm.module, softhsm.module.parent)
    name = softhsm.name._replace(module=module.file)
    module.plan(f"{function} 1 fail {CKR['CKR_DEVICE_ERROR']:x}")
    _use(softhsm, name, KeyType.EC_P256)
    module.plan()
    _use(softhsm, name, KeyType.EC_P256)
    assert module.sessions_left_open() == 0
    _empty(softhsm)
