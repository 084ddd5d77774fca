"""The faults of a token, on tpm2-pkcs11 and an emulated TPM: as on SoftHSM, its errors are ours and nothing is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pkcs11 import Mechanism

from hsm_enroll.errors import HsmEnrollError, ModuleUnusableError, TokenNotFoundError, TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.token import keypair, session
from hsm_enroll.token.worker import Worker
from hsm_enroll.x509 import csr
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.tpm2 import Tpm2
from tests.support.under_test import KeyName

_SUBJECT = csr.subject("gateway-17")


@pytest.fixture
def behind(tpm: Tpm2, tmp_path: Path) -> FaultModule:
    """The TPM's module, failing on demand."""
    return FaultModule(tpm.module, tmp_path)


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("C_GenerateKeyPair 1 fail CKR_DEVICE_MEMORY", TokenRefusedError, "the token is full"),
        ("C_GenerateKeyPair 1 fail CKR_TOKEN_WRITE_PROTECTED", TokenRefusedError, "the token is write-protected"),
        ("C_GenerateKeyPair 1 fail CKR_DEVICE_REMOVED", TokenNotFoundError, "is no longer present"),
    ],
    ids=["full", "write-protected", "removed"],
)
def test_d7_a_tpm_that_cannot_make_a_key(
    tpm: Tpm2, behind: FaultModule, key: KeyName, fault: str, error: type[HsmEnrollError], said: str
) -> None:
    """D7: a TPM's token that is full, write-protected or gone while it makes a key says which; no key is left."""
    _plan(behind, fault)
    with (
        session.opened(tpm.name._replace(module=behind.file), tpm.ask_pin, writable=True) as opened,
        pytest.raises(error, match=said),
    ):
        keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    with tpm.opened() as opened:
        assert not keypair.is_there(opened, label=key.label, key_id=key.id)


@pytest.mark.parametrize(
    ("ckr", "error"),
    [
        ("CKR_DEVICE_REMOVED", TokenNotFoundError),
        ("CKR_SESSION_HANDLE_INVALID", TokenRefusedError),
        ("CKR_DEVICE_ERROR", TokenRefusedError),
    ],
)
def test_d7_a_tpm_that_fails_in_mid_signature(
    tpm: Tpm2, behind: FaultModule, key: KeyName, ckr: str, error: type[HsmEnrollError]
) -> None:
    """D7: a TPM's token that is gone, was reset or is broken when it should sign says so; its key outlives it."""
    name = tpm.name._replace(module=behind.file)
    with session.opened(name, tpm.ask_pin, writable=True) as opened:
        pair = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        _plan(behind, f"C_Sign 1+ dead {ckr}")
        with pytest.raises(error):
            pair.sign(b"a request")
    behind.plan()
    with session.opened(name, tpm.ask_pin) as opened:
        again = keypair.find(opened, label=key.label, key_id=key.id)
        assert again.public_key_info == pair.public_key_info
        assert csr.build(again, _SUBJECT)


def test_d9_a_tpm_without_the_combined_mechanism(tpm: Tpm2, behind: FaultModule, key: KeyName) -> None:
    """D9: a TPM's token without CKM_SHA256_RSA_PKCS signs a DigestInfo with CKM_RSA_PKCS, and the request verifies."""
    behind.plan(f"C_GetMechanismList 1+ without {int(Mechanism.SHA256_RSA_PKCS):x}")
    with session.opened(tpm.name._replace(module=behind.file), tpm.ask_pin, writable=True) as opened:
        assert Mechanism.SHA256_RSA_PKCS not in opened.token.slot.get_mechanisms()
        pair = keypair.generate(opened, KeyType.RSA_2048, label=key.label, key_id=key.id)
        assert csr.is_for(csr.build(pair, _SUBJECT), pair.public_key_info, _SUBJECT)


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.RSA_2048])
def test_d9_a_tpms_signature_that_does_not_verify(
    tpm: Tpm2, behind: FaultModule, key: KeyName, key_type: KeyType
) -> None:
    """D9: no request comes of a TPM's token whose signature is a bit off."""
    behind.plan("C_Sign 1+ flip 0")
    with session.opened(tpm.name._replace(module=behind.file), tpm.ask_pin, writable=True) as opened:
        pair = keypair.generate(opened, key_type, label=key.label, key_id=key.id)
        with pytest.raises(TokenRefusedError, match="does not verify"):
            csr.build(pair, _SUBJECT)


@pytest.mark.parametrize(
    ("what", "said"), [("hang 0", "does not respond"), ("crash 0", r"crashed \(SIGABRT\)")], ids=["hangs", "crashes"]
)
def test_d5_a_tpms_module_that_does_not_come_back(behind: FaultModule, what: str, said: str) -> None:
    """D5: a TPM's module that hangs or crashes is given up, named, and its process is gone."""
    behind.plan(f"C_GetTokenInfo 1+ {what}")
    with Worker(behind.file) as worker, pytest.raises(ModuleUnusableError, match=said) as caught:
        worker.request("tokens", limit=5)
    assert str(behind.file) in caught.value.message
    for process in {call.process for call in behind.calls("C_GetTokenInfo")}:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def _plan(module: FaultModule, fault: str) -> None:
    """Replace the plan by one fault, its return value by name."""
    done, _, ckr = fault.rpartition(" ")
    module.plan(f"{done} {CKR[ckr]:x}")
