"""Tokens that fail in the middle (D7)."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Session

from hsm_enroll.errors import HsmEnrollError, KeyMissingError, TokenNotFoundError, TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.token import keypair, session
from tests.support import tpm2
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tpm2 import Tpm2
from tests.support.under_test import KeyName

_KINDS = pytest.mark.parametrize(
    ("ckr", "error", "said"),
    [
        ("CKR_DEVICE_MEMORY", TokenRefusedError, "the token is full"),
        ("CKR_DEVICE_REMOVED", TokenNotFoundError, "is no longer present"),
    ],
)


@_KINDS
def test_d7_a_token_that_cannot_make_a_key(
    softhsm: SoftHsmUnderTest, key: KeyName, tmp_path: Path, ckr: str, error: type[HsmEnrollError], said: str
) -> None:
    """D7: a token that is full, or pulled out, while it makes a key says which; no key is left."""
    with _failing(softhsm, tmp_path, "C_GenerateKeyPair", ckr) as opened:
        with pytest.raises(error, match=said):
            keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        assert list(opened.get_objects()) == []


@_KINDS
def test_d7_a_token_that_fails_in_mid_signature(
    softhsm: SoftHsmUnderTest, key: KeyName, tmp_path: Path, ckr: str, error: type[HsmEnrollError], said: str
) -> None:
    """D7: a token that fails, or is gone, when it should sign says so; its key outlives it."""
    with _failing(softhsm, tmp_path, "C_Sign", ckr) as opened:
        pair = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        with pytest.raises(error, match=said):
            pair.sign(b"a request")
    with softhsm.opened() as opened:
        again = keypair.find(opened, label=key.label, key_id=key.id)
        assert again.public_key_info == pair.public_key_info
        assert again.sign(b"a request")


@contextmanager
def _failing(softhsm: SoftHsmUnderTest, folder: Path, function: str, ckr: str) -> Iterator[Session]:
    """Open a session with the token behind a module one of whose functions fails."""
    module = FaultModule(softhsm.module, folder, f"{function} 1+ fail {CKR[ckr]:x}")
    with session.opened(softhsm.name._replace(module=module.file), softhsm.ask_pin, writable=True) as opened:
        yield opened


def test_d7_a_disk_that_is_full(softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """D7: where SoftHSM's folder takes no byte more, no key is made; with room again the same name works."""
    with softhsm.opened() as opened:
        with _no_file_may_grow(), pytest.raises(TokenRefusedError):
            keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        with pytest.raises(KeyMissingError):
            keypair.find(opened, label=key.label, key_id=key.id)
        assert keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id).origin.is_hardware_born


def test_d7_a_tpm_that_is_full(shared_tpm: Tpm2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D7: a TPM without a resource manager runs out of room for keys: an error each time, and no key is lost."""
    with tpm2.cloned_without_resource_manager(shared_tpm, tmp_path) as tpm:
        for name, value in tpm.environment.items():
            monkeypatch.setenv(name, value)
        made: dict[bytes, bytes] = {}
        with tpm.opened() as opened, pytest.raises(TokenRefusedError, match="failed to"):
            _fill(opened, made)
        assert made
        with tpm.opened() as opened:
            for key_id, info in made.items():
                assert keypair.find(opened, label=None, key_id=key_id).public_key_info == info
        pkcs11.unload(str(tpm.module))


def _fill(opened: Session, made: dict[bytes, bytes]) -> None:
    """Make keys, more than a TPM has slots for, and use each, so that it is loaded; note each public key by its id."""
    for number in range(1, 8):
        pair = keypair.generate(opened, KeyType.EC_P256, label=f"device-{number}", key_id=bytes([number]))
        made[pair.id] = pair.public_key_info
        pair.sign(b"a request")


@contextmanager
def _no_file_may_grow() -> Iterator[None]:
    """Let every write to a file fail in the block, as on a full disk (setrlimit(2), RLIMIT_FSIZE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
