"""Verifies that a TPM has certified the key of a request (TPM 2.0 Library, Part 3: TPM2_Certify)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from enrollment_backend.attestation.errors import (
    AkNotRestrictedError,
    AkUnsuitableError,
    AttestationAlgorithmError,
    AttestationOtherKeyError,
    AttestationOtherObjectError,
    AttestationOtherRequestError,
    AttestationSecretWrongError,
    AttestationSignatureWrongError,
    AttestationStatementWrongError,
    KeyDuplicableError,
    KeyImportedError,
    KeyRestrictedError,
)
from enrollment_backend.attestation.structures import (
    ATTEST_CERTIFY,
    DECRYPT,
    ECDSA,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    RSAPSS,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    Public,
    PublicKey,
    Signature,
    read_attest,
    read_public,
    read_signature,
)

_PROTOCOL = b"hsm-enroll-v1"
_GENERATED = 0xFF544347  # TPM_GENERATED_VALUE, "\xffTCG"
_BORN_IN_THE_TPM = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN


class AttestationKey(NamedTuple):
    """An attestation key that may be trusted once its TPM is.

    Attributes:
        public: TPM2B_PUBLIC, as the device sent it.
        name: its Name.
    """

    public: bytes
    name: bytes


@dataclass(frozen=True)
class Statement:
    """What a session knows about the evidence that will come.

    Attributes:
        nonce: what the device was given.
        secret_sha256: digest of the secret that was encrypted to the TPM.
        ak_public: the attestation key as TPM2B_PUBLIC, as `read_attestation_key` accepted it.
    """

    nonce: bytes
    secret_sha256: bytes
    ak_public: bytes


@dataclass(frozen=True)
class Evidence:
    """What the device says.

    Attributes:
        secret: what TPM2_ActivateCredential decrypted.
        key_public: the certified key as TPM2B_PUBLIC.
        certify_info: what the TPM said about it, as TPMS_ATTEST.
        signature: of that, by the attestation key, as TPMT_SIGNATURE.
    """

    secret: bytes
    key_public: bytes
    certify_info: bytes
    signature: bytes


class Certified(NamedTuple):
    """What else the TPM said.

    Attributes:
        firmware: its firmware version as four decimal numbers, such as ``7.85.4555.0``.
    """

    firmware: str


def read_attestation_key(ak_public: bytes) -> AttestationKey:
    """Read an attestation key, and check that it signs what its TPM says and nothing else.

    Args:
        ak_public: TPM2B_PUBLIC.

    Raises:
        AttestationMalformedError: it is not one.
        AkNotRestrictedError: it signs anything.
        AkUnsuitableError: it is no signing key, also decrypts, may leave the TPM, was not generated in one, or has an
            unsuitable type or nameAlg.

    Does not check that a TPM has it: that is what the secret is for, which the TPM decrypts for this Name alone.
    """
    try:
        key = read_public(ak_public)
    except AttestationAlgorithmError as error:
        raise AkUnsuitableError(error.facts["algorithm"]) from error
    if not key.has(RESTRICTED):
        raise AkNotRestrictedError
    if not key.has(SIGN) or key.has(DECRYPT):
        raise AkUnsuitableError("not a signing key alone")
    if not key.has(_BORN_IN_THE_TPM):
        raise AkUnsuitableError("not bound to the TPM")
    return AttestationKey(ak_public, key.name)


def qualifying_data(nonce: bytes, csr_der: bytes) -> bytes:
    """Return the extraData of a statement: the hash of the protocol's name, the session's nonce and the CSR's hash."""
    return hashlib.sha256(_PROTOCOL + nonce + hashlib.sha256(csr_der).digest()).digest()


def verify(evidence: Evidence, statement: Statement, csr_der: bytes, csr_spki: bytes) -> Certified:
    """Verify that the session's TPM holds the key of a request, and that the key cannot leave it.

    Args:
        evidence: from the device.
        statement: from the session.
        csr_der: the request, as the device sent it.
        csr_spki: its public key as DER SubjectPublicKeyInfo, in the canonical form that `csr_policy` insists on.

    Raises:
        AttestationRefusedError: one of its classes for each rule; the secret is compared first.

    Does not check who the TPM is (`endorsement`), nor that the session is fresh and unused.
    """
    if not hmac.compare_digest(hashlib.sha256(evidence.secret).digest(), statement.secret_sha256):
        raise AttestationSecretWrongError
    signature = read_signature(evidence.signature)
    _check_signature(read_public(statement.ak_public).key, signature, evidence.certify_info)
    said = read_attest(evidence.certify_info)
    if said.magic != _GENERATED or said.kind != ATTEST_CERTIFY:
        raise AttestationStatementWrongError
    if not hmac.compare_digest(said.extra_data, qualifying_data(statement.nonce, csr_der)):
        raise AttestationOtherRequestError
    key = read_public(evidence.key_public)
    if said.name != key.name:
        raise AttestationOtherObjectError
    if key.spki != csr_spki:
        raise AttestationOtherKeyError
    _check_attributes(key)
    return Certified(said.firmware)


def _check_attributes(key: Public) -> None:
    if not key.has(FIXED_TPM | FIXED_PARENT):
        raise KeyDuplicableError
    if not key.has(SENSITIVE_DATA_ORIGIN):
        raise KeyImportedError
    if key.has(RESTRICTED):
        raise KeyRestrictedError


def _check_signature(key: PublicKey, signature: Signature, message: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey) != (signature.scheme == ECDSA):
        raise AttestationAlgorithmError("a signature scheme that is not for the attestation key")
    try:
        if isinstance(key, rsa.RSAPublicKey):
            pss = padding.PSS(padding.MGF1(signature.hash), padding.PSS.AUTO)
            scheme = pss if signature.scheme == RSAPSS else padding.PKCS1v15()
            key.verify(signature.numbers[0], message, scheme, signature.hash)
        else:
            key.verify(_dss_signature(signature, key.key_size), message, ec.ECDSA(signature.hash))
    except InvalidSignature as error:
        raise AttestationSignatureWrongError from error


def _dss_signature(signature: Signature, bits: int) -> bytes:
    """Encode r and s in DER; some TPMs leave out their leading zeros, and none adds any."""
    if any(len(number) > (bits + 7) // 8 for number in signature.numbers):
        raise AttestationSignatureWrongError
    return encode_dss_signature(*(int.from_bytes(number) for number in signature.numbers))
