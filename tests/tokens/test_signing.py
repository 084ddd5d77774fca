"""Signatures of a token, as certification requests and proofs that others accept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_csr
from cryptography.x509.oid import NameOID
from pkcs11 import Mechanism, ObjectClass
from pkcs11.exceptions import MechanismInvalid

from enrollment_backend import proof as backend
from hsm_enroll.errors import TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.token import keypair, session
from hsm_enroll.x509 import csr, jws
from tests.support.processes import program, run
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.under_test import KeyName, TokenUnderTest

_SUBJECT = csr.subject("pumpe-7_Süd", "OU=Straße 3,O=Größenwahn & Söhne 水,C=CH")


def test_a_request_of_every_key_type_is_accepted(
    token: TokenUnderTest, key: KeyName, key_type: KeyType, tmp_path: Path
) -> None:
    """A request signed in the token verifies with cryptography and with OpenSSL, its UTF-8 subject intact.

    The backend accepts a proof that the same key signed.
    """
    with token.opened() as opened:
        pair = keypair.generate(opened, key_type, label=key.label, key_id=key.id)
        request = csr.build(pair, _SUBJECT)
        proof = jws.build(pair, "https://api.example.com/v1/renewals", b"{}", 1_800_000_000, "0123456789abcdef")
    _assert_accepted(request, pair.public_key_info, tmp_path)
    read = backend.read(proof.encode("ascii"), "https://api.example.com/v1/renewals", 1_800_000_000)
    read.check_signature(pair.public_key_info)
    subject = load_pem_x509_csr(request.encode()).subject
    assert [(name.oid, name.value) for name in subject] == [
        (NameOID.COUNTRY_NAME, "CH"),
        (NameOID.ORGANIZATION_NAME, "Größenwahn & Söhne 水"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "Straße 3"),
        (NameOID.COMMON_NAME, "pumpe-7_Süd"),
    ]


def test_d9_rsa_without_the_combined_mechanism(
    softhsm_with: Callable[[str], SoftHsmUnderTest], key: KeyName, tmp_path: Path
) -> None:
    """D9: a token without CKM_SHA256_RSA_PKCS signs a DigestInfo with CKM_RSA_PKCS; the request is accepted."""
    # SoftHSM's setting is about the list and no more; the shim refuses the mechanism when it is used, too.
    softhsm = softhsm_with("CKM_RSA_PKCS_KEY_PAIR_GEN,CKM_RSA_PKCS")
    combined = Mechanism.SHA256_RSA_PKCS
    name = softhsm.name._replace(module=softhsm.faulty_module(REFUSED_MECHANISM=int(combined)))
    with session.opened(name, softhsm.ask_pin, writable=True) as opened:
        assert combined not in opened.token.slot.get_mechanisms()
        pair = keypair.generate(opened, KeyType.RSA_2048, label=key.label, key_id=key.id)
        private: Any = opened.get_key(ObjectClass.PRIVATE_KEY, id=key.id)
        with pytest.raises(MechanismInvalid):
            private.sign(b"", mechanism=combined)
        request = csr.build(pair, _SUBJECT)
    _assert_accepted(request, pair.public_key_info, tmp_path)


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384])
def test_d9_ec_with_ckm_ecdsa_alone(
    softhsm_with: Callable[[str], SoftHsmUnderTest], key: KeyName, key_type: KeyType, tmp_path: Path
) -> None:
    """D9: a token that has no hash and no mechanism but CKM_ECDSA signs requests that are accepted."""
    token = softhsm_with("CKM_EC_KEY_PAIR_GEN,CKM_ECDSA")
    with token.opened() as opened:
        assert opened.token.slot.get_mechanisms() == {Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA}
        pair = keypair.generate(opened, key_type, label=key.label, key_id=key.id)
        request = csr.build(pair, _SUBJECT)
    _assert_accepted(request, pair.public_key_info, tmp_path)


def test_d9_a_key_type_the_token_does_not_have(softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """D9: a token without RSA refuses an RSA key, names the reason, and holds no half of one."""
    module = softhsm.faulty_module(REFUSED_MECHANISM=int(Mechanism.RSA_PKCS_KEY_PAIR_GEN))
    with session.opened(softhsm.name._replace(module=module), softhsm.ask_pin, writable=True) as opened:
        with pytest.raises(TokenRefusedError, match="rsa-2048: the token does not support the mechanism"):
            keypair.generate(opened, KeyType.RSA_2048, label=key.label, key_id=key.id)
        assert list(opened.get_objects()) == []


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.RSA_2048])
def test_d9_a_signature_that_does_not_verify(softhsm: SoftHsmUnderTest, key: KeyName, key_type: KeyType) -> None:
    """D9: no request comes of a token whose signature is a bit off; the key's own token is blamed."""
    name = softhsm.name._replace(module=softhsm.faulty_module(SPOILT_SIGNATURE=1))
    with session.opened(name, softhsm.ask_pin, writable=True) as opened:
        pair = keypair.generate(opened, key_type, label=key.label, key_id=key.id)
        with pytest.raises(TokenRefusedError, match="does not verify"):
            csr.build(pair, _SUBJECT)


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384])
def test_a_public_point_without_its_octet_string(
    softhsm: SoftHsmUnderTest, key: KeyName, key_type: KeyType, tmp_path: Path
) -> None:
    """A token that gives CKA_EC_POINT bare, as some do, yields the same public key and requests that are accepted."""
    with softhsm.opened() as opened:
        made = keypair.generate(opened, key_type, label=key.label, key_id=key.id)
    name = softhsm.name._replace(module=softhsm.faulty_module(BARE_EC_POINT=1))
    with session.opened(name, softhsm.ask_pin) as opened:
        found = keypair.find(opened, label=key.label, key_id=key.id)
        request = csr.build(found, _SUBJECT)
    assert found.public_key_info == made.public_key_info
    _assert_accepted(request, made.public_key_info, tmp_path)


def _assert_accepted(request: str, public_key_info: bytes, folder: Path) -> None:
    """Assert that two other implementations verify a request, and that it is for this key."""
    loaded = load_pem_x509_csr(request.encode())
    assert loaded.is_signature_valid
    assert loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == public_key_info
    file = folder / "request.pem"
    file.write_text(request)
    command = [program("openssl", package="openssl"), "req", "-verify", "-noout", "-in", str(file)]
    assert "verify OK" in run(command)
