"""Certificates as this device sees them: parsed strictly, compared by their public key."""

from __future__ import annotations

import base64
import hashlib

from asn1crypto import pem, x509

from hsm_enroll.errors import ForeignCertificateError

_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"


def read_certificate(text: str) -> x509.Certificate:
    """Parse exactly one PEM certificate (RFC 7468 §5) with nothing but blanks around it.

    Does *not* check its signature, its dates or whose key it holds.

    Raises:
        ForeignCertificateError: it is something else.
    """
    body = text.strip()
    if body.count("-----BEGIN") != 1 or not body.startswith(_BEGIN) or not body.endswith(_END):
        raise ForeignCertificateError("what was given as a certificate is not exactly one PEM certificate")
    try:
        _, _, der = pem.unarmor(body.encode("ascii"))
        certificate = x509.Certificate.load(der, strict=True)
        # asn1crypto parses lazily: what is damaged inside shows only when it is read.
        certificate.native  # noqa: B018
    except (ValueError, TypeError) as error:
        raise ForeignCertificateError("what was given as a certificate is not one PEM certificate") from error
    return certificate


def spki_sha256(public_key_info: bytes) -> str:
    """Return the SHA-256 of a DER SubjectPublicKeyInfo in base64, the form that names a key in this project."""
    return base64.b64encode(hashlib.sha256(public_key_info).digest()).decode("ascii")
