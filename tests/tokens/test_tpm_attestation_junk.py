"""Hostile challenges and damaged stores: what tpm2-tss itself refuses, before any TPM sees it, is an error of ours."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_enroll.errors import ModuleUnusableError, TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.tpm2 import attestation
from hsm_enroll.token.tpm2.attestation.attestor import Attestor
from tests.support.tpm2 import Tpm2
from tests.support.under_test import KeyName

_SIZED = b"\x00\x04abcd"


@pytest.fixture
def attestor(tpm: Tpm2) -> Iterator[Attestor]:
    """Provide what talks to the TPM."""
    del tpm
    with Attestor() as one:
        yield one


@pytest.mark.parametrize(
    "blobs",
    [(b"junk", _SIZED), (_SIZED, b"\xff" * 4000), (_SIZED, _SIZED), (b"\0\0", b"\0\0")],
    ids=["no size", "huge", "no credential", "empty"],
)
def test_d17_a_challenge_that_makes_no_sense_is_an_error_that_says_so(
    attestor: Attestor, blobs: tuple[bytes, bytes]
) -> None:
    """D17: exit status 15, whoever refuses it; the TPM can be used on, and has nothing of ours."""
    attestor.endorsement()
    with pytest.raises(TokenRefusedError, match=r"^the TPM cannot answer the API's challenge: ") as raised:
        attestor.activate(*blobs)
    assert raised.value.exit_status == 15
    assert "tell the operator" in raised.value.hint
    assert attestor.endorsement().ek_type == "ec-p384"


@pytest.mark.parametrize(
    "statement",
    [
        'UPDATE tobjects SET attrs = replace(attrs, \'"2399141891"\n  : !!str "00\', \'"2399141891"\n  : !!str "f\')',
        'UPDATE tobjects SET attrs = replace(attrs, \'"2399141891"\n  : !!str "00\', \'"2399141891"\n  : !!str "ff\')',
        "UPDATE sealobjects SET userpub = x'ffff'",
        "UPDATE pobjects SET config = '{esys-tr: abc}'",
        "UPDATE pobjects SET config = '{esys-tr: abcd}'",
    ],
    ids=["odd digits", "key", "seal", "parent's digits", "parent"],
)
def test_d12_a_damaged_store_is_an_error_of_ours(
    tpm: Tpm2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: KeyName, statement: str
) -> None:
    """D12: what is no structure of TPM 2.0 is said to be the store's fault, and no unexpected error."""
    with Tokens() as tokens:
        [token] = [one for one in tokens.listed(tpm.module) if one.initialized]
        with tokens.session(token, lambda _: tpm.pin, lambda _: None, writable=True) as opened:
            opened.generate(KeyType.EC_P256, label=key.label, key_id=key.id)
    store = Path(shutil.copytree(tpm.environment["TPM2_PKCS11_STORE"], tmp_path / "store"))
    monkeypatch.setenv("TPM2_PKCS11_STORE", str(store))
    connection = sqlite3.connect(store / "tpm2_pkcs11.sqlite3")
    with connection:
        connection.execute(statement)
    assert connection.total_changes
    connection.close()
    with Attestor() as attestor, pytest.raises(ModuleUnusableError, match="tpm2-pkcs11's store"):
        attestor.certify(token.name, key_label=key.label, key_id=key.id, pin=tpm.pin, qualifying_data=bytes(32))


def test_a_library_that_does_not_load_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases of tpm2-pytss raise anything where they do not suit other packages: the error says what to install."""
    package = tmp_path / "tpm2_pytss"
    package.mkdir()
    (package / "__init__.py").write_text("raise TypeError('not an acceptable base type')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tpm2_pytss"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("certifying", "describing", "attestation_key", "endorsement_key", "tpm"):
        monkeypatch.delitem(sys.modules, f"{attestation.__name__}.{name}", raising=False)
    with Attestor() as attestor, pytest.raises(ModuleUnusableError, match="not an acceptable base type") as raised:
        attestor.info()
    assert "tpm2-pytss 3.0 or newer" in raised.value.hint
    assert "pip install" in raised.value.hint
