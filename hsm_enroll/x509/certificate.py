"""X.509 certificates, parsed strictly."""

from __future__ import annotations

import base64
import re

from asn1crypto import x509

from hsm_enroll.errors import ForeignCertificateError

# RFC 7468 §3, with white space where it is harmless; no headers and no text inside.
_ONE_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----", re.ASCII)


def read_certificate(text: str) -> x509.Certificate:
    """Parse exactly one PEM certificate (RFC 7468 §5) with nothing but white space around it.

    Does *not* check its signature, its dates or whose key it contains.

    Raises:
        ForeignCertificateError: the text is anything else.
    """
    block = _ONE_BLOCK.fullmatch(text.strip())
    if block is None:
        raise ForeignCertificateError("the certificate is not exactly one PEM block")
    try:
        der = base64.b64decode("".join(block[1].split()), validate=True)
        certificate = x509.Certificate.load(der, strict=True)
        # asn1crypto parses lazily: damage inside shows only when it is read.
        certificate.native  # noqa: B018
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # asn1crypto raises the last two for an unknown key algorithm and for a type without a value.
        raise ForeignCertificateError("the certificate is not valid X.509") from error
    return certificate
