"""Every return value of PKCS#11 v2.40 becomes one of our errors, which names it and says what to do (D7)."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute

from hsm_enroll.errors import HsmEnrollError, ModuleUnusableError, TokenRefusedError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.token import keypair, modules, session
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.under_test import KeyName

# In any operation: the PIN is wrong or locked, or the token is gone. All others are token-refused.
_OTHERS = {
    "CKR_PIN_INCORRECT": (12, "pin-wrong"),
    "CKR_PIN_INVALID": (12, "pin-wrong"),
    "CKR_PIN_LEN_RANGE": (12, "pin-wrong"),
    "CKR_PIN_LOCKED": (13, "pin-locked"),
    "CKR_DEVICE_REMOVED": (11, "token-not-found"),
    "CKR_SLOT_ID_INVALID": (11, "token-not-found"),
    "CKR_TOKEN_NOT_PRESENT": (11, "token-not-found"),
}
# python-pkcs11's own texts, which say nothing to the person in front of the token.
_JARGON = re.compile(r"Unmapped|Should never|Exception|\(\)")


@dataclass
class Faulty:
    """A token with one key behind a module that can be told to fail."""

    softhsm: SoftHsmUnderTest
    module: FaultModule
    name: TokenName
    key: KeyName

    def use(self) -> None:
        """Open a session, make a key, and sign with the one that was there."""
        with session.opened(self.name, self.softhsm.ask_pin, writable=True) as opened:
            keypair.find(opened, label=self.key.label, key_id=self.key.id).sign(b"a request")
            other = secrets.token_bytes(8)
            keypair.generate(opened, KeyType.EC_P256, label=other.hex(), key_id=other)
            keypair.destroy(opened, label=other.hex(), key_id=other)

    def keys(self) -> int:
        """Count the objects in the token: two for each key pair."""
        with session.opened(self.name, self.softhsm.ask_pin) as opened:
            return len(list(opened.get_objects()))


@pytest.fixture(scope="module")
def faulty(softhsm_of_module: SoftHsmUnderTest) -> Faulty:
    """Provide one for all tests, since each of them leaves it as it was."""
    module = FaultModule(softhsm_of_module.module, softhsm_of_module.folder)
    name = softhsm_of_module.name._replace(module=module.file)
    key = KeyName("device", b"\1")
    with session.opened(name, softhsm_of_module.ask_pin, writable=True) as opened:
        keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    return Faulty(softhsm_of_module, module, name, key)


@pytest.mark.parametrize("ckr", CKR)
def test_d7_a_return_value_is_one_of_our_errors(faulty: Faulty, ckr: str) -> None:
    """D7: each CKR is an error with its exit status, a message that names it as the standard does, and a hint."""
    faulty.module.plan(f"C_Sign 1+ fail {CKR[ckr]:x}")
    with pytest.raises(HsmEnrollError) as caught:
        faulty.use()
    faulty.module.plan()
    error = caught.value
    assert (error.exit_status, error.code) == _OTHERS.get(ckr, (15, "token-refused"))
    assert isinstance(error.__cause__, pkcs11.exceptions.PKCS11Error)
    assert error.message.startswith("token 'gateway' ")
    assert not _JARGON.search(error.message)
    number = " 0x80000000" if ckr == "CKR_VENDOR_DEFINED" else ""
    assert error.message.endswith(f" ({ckr}{number})")
    assert error.hint.endswith(".")


@pytest.mark.parametrize("function", ["C_OpenSession", "C_Login", "C_GenerateKeyPair", "C_SignInit"])
@pytest.mark.parametrize("ckr", ["CKR_PIN_INCORRECT", "CKR_PIN_LOCKED", "CKR_TOKEN_NOT_PRESENT", "CKR_DEVICE_MEMORY"])
def test_d7_a_return_value_means_the_same_wherever_it_comes(faulty: Faulty, ckr: str, function: str) -> None:
    """D7: one CKR of each kind of error, in each operation, is that error, and leaves the token as it was."""
    faulty.module.plan(f"{function} 1+ fail {CKR[ckr]:x}")
    with pytest.raises(HsmEnrollError, match=rf"\({ckr}\)$") as caught:
        faulty.use()
    faulty.module.plan()
    assert (caught.value.exit_status, caught.value.code) == _OTHERS.get(ckr, (15, "token-refused"))
    assert faulty.keys() == 2


@pytest.mark.parametrize(
    ("number", "shown", "hint"),
    [
        (0x80000123, "CKR_VENDOR_DEFINED 0x80000123", "documentation of the token's module"),
        (0xFFF, "CKR 0xfff", "cannot use this token"),
    ],
)
def test_an_unknown_return_value_is_shown_with_its_number(faulty: Faulty, number: int, shown: str, hint: str) -> None:
    """D7: a CKR that is a vendor's own, or that v2.40 does not define, is shown with its number."""
    faulty.module.plan(f"C_Sign 1+ fail {number:x}")
    with pytest.raises(TokenRefusedError, match=rf"\({shown}\)$") as caught:
        faulty.use()
    faulty.module.plan()
    assert hint in caught.value.hint


@pytest.mark.parametrize("ckr", ["CKR_GENERAL_ERROR", "CKR_CANT_LOCK"])
def test_a_module_that_cannot_be_initialised_names_the_return_value(
    softhsm: SoftHsmUnderTest, tmp_path: Path, ckr: str
) -> None:
    """D5: where C_Initialize fails the error names its CKR."""
    module = FaultModule(softhsm.module, tmp_path, f"C_Initialize 1+ fail {CKR[ckr]:x}")
    with pytest.raises(ModuleUnusableError, match=rf"\({ckr}\)$"):
        modules.load(module.file)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        ("C_DestroyObject", "destroy a key"),
        ("C_FindObjects", "look for keys"),
        ("C_FindObjectsFinal", "look for keys"),
        ("C_FindObjectsInit", "look for keys"),
        ("C_GenerateKeyPair", "generate a key of type ec-p256"),
        ("C_GetAttributeValue", "look for keys"),
        ("C_GetSlotInfo", "list its slots"),
        ("C_GetSlotList", "list its slots"),
        ("C_GetTokenInfo", "list its slots"),
        ("C_Login", "open a session"),
        ("C_OpenSession", "open a session"),
        ("C_Sign", "sign"),
        ("C_SignInit", "sign"),
    ],
)
def test_d7_a_fault_in_any_function_names_the_operation(
    faulty: Faulty, function: str, operation: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """D7: whichever function fails, our error says what was being done, and python-pkcs11 writes nothing to stderr."""
    faulty.module.plan(f"{function} 1+ fail {CKR['CKR_DEVICE_ERROR']:x}")
    # Where its slots are not told, it is the module that cannot be used.
    said = rf"failed to {operation}: .*hardware fault \(CKR_DEVICE_ERROR\)"
    with pytest.raises((ModuleUnusableError, TokenRefusedError), match=said):
        faulty.use()
    faulty.module.plan()
    assert capfd.readouterr() == ("", "")
    with session.opened(faulty.name, faulty.softhsm.ask_pin, writable=True) as opened:
        for left in opened.get_objects():
            if left[Attribute.LABEL] != faulty.key.label:
                left.destroy()
    assert faulty.keys() == 2
