"""What a TPM says about a key, and every lie about it: each refused with its own code."""

from __future__ import annotations

import hashlib
from functools import cache

import pytest

from enrollment_backend.attestation.errors import AttestationRefusedError
from enrollment_backend.attestation.evidence import (
    Evidence,
    Statement,
    qualifying_data,
    read_attestation_key,
    verify,
)
from tests.support import software_tpm
from tests.support.csr_factory import der_of, ec_key, request, rsa_key, spki_of
from tests.support.software_tpm import (
    AK_ATTRIBUTES,
    ECDSA,
    EVIDENCE_LIES,
    FIXED_PARENT,
    KEY_ATTRIBUTES,
    REQUEST_LIES,
    RSAPSS,
    RSASSA,
    SENSITIVE_DATA_ORIGIN,
    SHA256,
    SHA384,
    SIGN,
    Certified,
    EvidenceLie,
    PrivateKey,
    RequestLie,
    SoftwareTpm,
    public_area,
    sized,
)

SECRET, NONCE = bytes(range(32)), bytes(range(32, 64))
AK_LIES: list[RequestLie] = [lie for lie in REQUEST_LIES if lie.startswith("ak-")]


@cache
def tpm() -> SoftwareTpm:
    """Provide one TPM for the whole run."""
    return SoftwareTpm("ec-p384")


def code_of(said: Certified, csr: bytes, spki: bytes, ak_public: bytes, secret: bytes = SECRET) -> str:
    """Return the code with which evidence is refused, or the firmware's version."""
    statement = Statement(NONCE, hashlib.sha256(SECRET).digest(), ak_public)
    try:
        return verify(Evidence(secret, *said), statement, csr, spki).firmware
    except AttestationRefusedError as error:
        return error.code


@pytest.mark.parametrize("lie", [lie for lie in EVIDENCE_LIES if lie != "secret-guessed"])
def test_s20_a_lie_is_refused_with_its_code(lie: EvidenceLie) -> None:
    """Evidence with one thing wrong is refused, and the code says which."""
    csr = der_of(request())
    said = tpm().certify(csr, NONCE, ec_key(), lie)
    assert code_of(said, csr, spki_of(ec_key()), tpm().ak_public()) == EVIDENCE_LIES[lie]


@pytest.mark.parametrize("secret", [b"", bytes(32), SECRET[:-1], SECRET + b"\0"])
def test_s20_another_secret_is_refused(secret: bytes) -> None:
    """Evidence that is right in all else is refused if the secret is not the one in the credential."""
    csr = der_of(request())
    said = tpm().certify(csr, NONCE, ec_key())
    assert code_of(said, csr, spki_of(ec_key()), tpm().ak_public(), secret) == EVIDENCE_LIES["secret-guessed"]


@pytest.mark.parametrize("key", [ec_key(), rsa_key()], ids=["ec", "rsa"])
def test_the_truth_is_believed(key: PrivateKey) -> None:
    """Evidence about the key of the request is accepted, and the firmware's version comes out of it."""
    csr = der_of(request(key))
    assert code_of(tpm().certify(csr, NONCE, key), csr, spki_of(key), tpm().ak_public()) == "7.85.4555.0"


@pytest.mark.parametrize(
    ("key", "scheme", "hash_"),
    [(ec_key(), ECDSA, SHA384), (rsa_key(), RSASSA, SHA256), (rsa_key(), RSAPSS, SHA256), (rsa_key(), RSAPSS, SHA384)],
)
def test_attestation_keys_of_other_types_are_believed(key: PrivateKey, scheme: int, hash_: int) -> None:
    """An attestation key may be RSA, with either padding, and its hash may be longer."""
    csr = der_of(request())
    honest = tpm().certify(csr, NONCE, ec_key())
    ak_public = sized(public_area(key, AK_ATTRIBUTES, scheme=scheme))
    read_attestation_key(ak_public)
    said = honest._replace(signature=software_tpm.signature(key, honest.certify_info, scheme, hash_))
    assert code_of(said, csr, spki_of(ec_key()), ak_public) == "7.85.4555.0"
    assert code_of(honest, csr, spki_of(ec_key()), ak_public) != "7.85.4555.0"


def test_a_signature_with_a_scheme_for_another_type_of_key_is_refused() -> None:
    """An RSA signature where the attestation key is EC is refused as an algorithm that does not fit."""
    csr = der_of(request())
    honest = tpm().certify(csr, NONCE, ec_key())
    said = honest._replace(signature=software_tpm.signature(rsa_key(), honest.certify_info))
    assert code_of(said, csr, spki_of(ec_key()), tpm().ak_public()) == "attestation-algorithm"


@pytest.mark.parametrize(
    ("cleared", "code"), [(FIXED_PARENT, "key-duplicable"), (SENSITIVE_DATA_ORIGIN, "key-imported")]
)
def test_s20_each_attribute_of_the_key_counts(cleared: int, code: str) -> None:
    """A TPM's honest word about a key that may leave it, or came into it, is not enough."""
    csr = der_of(request())
    public = public_area(ec_key(), KEY_ATTRIBUTES & ~cleared)
    said = software_tpm.attest(software_tpm.name_of(public), qualifying_data(NONCE, csr))
    certified = Certified(sized(public), said, software_tpm.signature(tpm().ak_key, said))
    assert code_of(certified, csr, spki_of(ec_key()), tpm().ak_public()) == code


@pytest.mark.parametrize("lie", AK_LIES)
def test_s20_an_unsuitable_attestation_key_is_refused(lie: RequestLie) -> None:
    """An attestation key that could sign a forged statement, or is not bound to its TPM, is refused by its code."""
    with pytest.raises(AttestationRefusedError) as refused:
        read_attestation_key(tpm().ak_public(lie))
    assert refused.value.code == REQUEST_LIES[lie]


@pytest.mark.parametrize("cleared", [FIXED_PARENT, SENSITIVE_DATA_ORIGIN, SIGN])
def test_s20_each_attribute_of_the_attestation_key_counts(cleared: int) -> None:
    """An attestation key that lacks one of the attributes is refused."""
    with pytest.raises(AttestationRefusedError) as refused:
        read_attestation_key(sized(public_area(ec_key(), AK_ATTRIBUTES & ~cleared, scheme=ECDSA)))
    assert refused.value.code == "ak-unsuitable"


def test_the_qualifying_data_are_those_of_the_protocol() -> None:
    """Device and backend hash the same: a value computed by hand is the same for ever."""
    digest = qualifying_data(b"\x01" * 32, b"csr")
    assert digest.hex() == "4f8f33c296e6e0ea210f35332e2888b3417b77e88ae9cffd6a1b168ac0c271c3"
