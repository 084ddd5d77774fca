"""Reads an endorsement key and its certificate: which TPM this is, and who vouches for it.

TCG EK Credential Profile for TPM Family 2.0.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from enrollment_backend import der
from enrollment_backend.attestation import certificates, chains
from enrollment_backend.attestation.certificates import KEY_AGREEMENT, KEY_ENCIPHERMENT, Certificate
from enrollment_backend.attestation.errors import (
    AttestationAlgorithmError,
    EkCertificateMalformedError,
    EkExpiredError,
    EkKeyMismatchError,
    EkUnsuitableError,
    EkUntrustedError,
)
from enrollment_backend.attestation.structures import (
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    Public,
    read_public,
)

_MOST_CERTIFICATES = 8
_STORAGE_KEY = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT
_EK_PURPOSE = "2.23.133.8.1"  # tcg-kp-EKCertificate
_MANUFACTURER = "2.23.133.2.1"
_MODEL = "2.23.133.2.2"
_VERSION = "2.23.133.2.3"
_RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
_RSAES_OAEP = "1.2.840.113549.1.1.7"  # as some vendors' certificates have it (RFC 4055 §4.1)
_VENDOR_ID = re.compile(r"id:([0-9A-Fa-f]{8})")  # four octets; TCG TPM Vendor ID Registry
_PRINTABLE = re.compile(r"[ -~]{1,64}")


@dataclass(frozen=True)
class Endorsement:
    """An endorsement key.

    Attributes:
        public: the key.
        ek_sha256: what names the TPM: hex SHA-256 of the key as DER SubjectPublicKeyInfo.
        certificate_sha256: hex SHA-256 of its certificate in DER; None without one.
        manufacturer: letters of the TPM vendor's id, such as ``IFX``, or its eight hexadecimal digits; like model and
            version it is what the certificate says, so it means nothing before the chain is checked.
        model: the part number.
        version: the firmware's version when the TPM was made.
        chain: the certificate, and what the device sent after it.
    """

    public: Public
    ek_sha256: str
    certificate_sha256: str | None
    manufacturer: str | None
    model: str | None
    version: str | None
    chain: tuple[Certificate, ...]

    def check_chain(self, authorities: Sequence[Certificate], now: dt.datetime) -> None:
        """Check that a TPM vendor whom the operator trusts vouches for the key.

        Args:
            authorities: roots and intermediates that the operator has configured; only roots anchor a chain.
            now: an aware time.

        Raises:
            EkUntrustedError: there is no certificate, or no chain to a root.
            EkExpiredError: there is a chain, but one of its certificates is not valid now.
            EkUnsuitableError: the certificate is not one of an endorsement key.

        Does not check revocation: vendors publish lists for few of their authorities.
        """
        if not self.chain:
            raise EkUntrustedError("no certificate")
        leaf, *supplied = self.chain
        if not chains.leads_to_anchor(leaf, supplied, authorities, now):
            if chains.leads_to_anchor(leaf, supplied, authorities, None):
                raise EkExpiredError("authority")
            raise EkUntrustedError("no chain to a configured root")
        if not leaf.is_valid_at(now):
            raise EkExpiredError("endorsement key")
        _check_profile(leaf)


def read_endorsement(ek_public: bytes, ek_certificate: str | None) -> Endorsement:
    """Read an endorsement key, and check that it and its certificate belong together.

    Args:
        ek_public: TPM2B_PUBLIC.
        ek_certificate: PEM of the certificate, and of those that lead to a root, if there are any.

    Raises:
        AttestationMalformedError: the key is not a TPM2B_PUBLIC.
        EkUnsuitableError: it is not a key that a TPM decrypts its own secrets with, or has an unsuitable algorithm.
        EkCertificateMalformedError: the PEM is not one to eight certificates.
        EkKeyMismatchError: the certificate is for another key.

    Does not check who issued the certificate, see `Endorsement.check_chain`.
    """
    try:
        public = read_public(ek_public)
    except AttestationAlgorithmError as error:
        raise EkUnsuitableError(error.facts["algorithm"]) from error
    if not public.has(_STORAGE_KEY) or public.has(SIGN) or public.aes_bits is None:
        raise EkUnsuitableError("attributes or symmetric algorithm")
    ek_sha256 = hashlib.sha256(public.spki).hexdigest()
    if ek_certificate is None:
        return Endorsement(public, ek_sha256, None, None, None, None, ())
    chain = _certificates(ek_certificate)
    if not _is_for(chain[0], public):
        raise EkKeyMismatchError
    names = chain[0].alternative_names()
    return Endorsement(
        public,
        ek_sha256,
        chain[0].sha256,
        _manufacturer(names.get(_MANUFACTURER)),
        _printable(names.get(_MODEL)),
        _printable(names.get(_VERSION)),
        chain,
    )


def _certificates(pem: str) -> tuple[Certificate, ...]:
    try:
        chain = certificates.read_pem(pem)
    except ValueError as error:
        raise EkCertificateMalformedError("not certificates in PEM") from error
    if len(chain) > _MOST_CERTIFICATES:
        raise EkCertificateMalformedError("more than eight certificates")
    return chain


def _is_for(certificate: Certificate, public: Public) -> bool:
    """Whether a certificate is for a key: the same type and, bit for bit, the same key."""
    if certificate.spki == public.spki:
        return True
    if certificate.key_type not in {_RSA_ENCRYPTION, _RSAES_OAEP}:
        return False
    return der.children(certificate.spki)[1] == der.children(public.spki)[1]


def _check_profile(certificate: Certificate) -> None:
    """Check that a certificate is one of an endorsement key (EK Credential Profile, "EK Certificate")."""
    if not chains.is_understood(certificate):
        raise EkUnsuitableError("an unknown critical extension")
    constraints, purposes = certificate.constraints(), certificate.purposes()
    if constraints is not None and constraints.is_ca:
        raise EkUnsuitableError("a CA's certificate")
    if not certificate.may(KEY_ENCIPHERMENT, KEY_AGREEMENT):
        raise EkUnsuitableError("keyUsage")
    if purposes is not None and _EK_PURPOSE not in purposes:
        raise EkUnsuitableError("extKeyUsage")
    # The profile demands the purpose, but certificates from before it do not have it.
    if purposes is None and _MANUFACTURER not in certificate.alternative_names():
        raise EkUnsuitableError("neither extKeyUsage nor a TPM's name")


def _manufacturer(value: str | None) -> str | None:
    found = _VENDOR_ID.fullmatch(value or "")
    if found is None:
        return None
    letters = bytes.fromhex(found[1]).rstrip(b"\0 ")
    return letters.decode("ascii") if letters.isalnum() else found[1].upper()


def _printable(value: str | None) -> str | None:
    return value if value is not None and _PRINTABLE.fullmatch(value) else None
