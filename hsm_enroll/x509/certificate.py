"""Certificates as this device sees them: parsed strictly."""

from __future__ import annotations

import base64
import re

from asn1crypto import x509

from hsm_enroll.errors import ForeignCertificateError

# RFC 7468 §3, with blanks where they do no harm, and no headers or text inside.
_ONE_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----", re.ASCII)


def read_certificate(text: str) -> x509.Certificate:
    """Parse exactly one PEM certificate (RFC 7468 §5) with nothing but blanks around it.

    Does *not* check its signature, its dates or whose key it holds.

    Raises:
        ForeignCertificateError: it is something else.
    """
    block = _ONE_BLOCK.fullmatch(text.strip())
    if block is None:
        raise ForeignCertificateError("what was given as a certificate is not exactly one PEM certificate")
    try:
        der = base64.b64decode("".join(block[1].split()), validate=True)
        certificate = x509.Certificate.load(der, strict=True)
        # asn1crypto parses lazily: what is damaged inside shows only when it is read.
        certificate.native  # noqa: B018
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # The last two are what asn1crypto makes of an unknown key algorithm and of a type without a value.
        raise ForeignCertificateError("what was given as a certificate is not one PEM certificate") from error
    return certificate
