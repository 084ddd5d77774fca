"""X.509 certificates, parsed strictly."""

from __future__ import annotations

import base64
import re

from asn1crypto import x509

from hsm_enroll.errors import ForeignCertificateError

# RFC 7468 §3, with white space where it is harmless; no headers and no text inside.
_ONE_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----", re.ASCII)
# RFC 4514 §3.
_SHORT_NAMES = {
    "2.5.4.3": "CN",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.6": "C",
    "2.5.4.9": "STREET",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.1": "UID",
}
# RFC 4514 §2.4: characters that are escaped wherever they are.
_SPECIAL = re.compile(r'["+,;<>\\]')


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


def subject_text(name: x509.Name) -> str:
    """Return a distinguished name as a string (RFC 4514 §2), such as ``CN=gateway-17,O=Example``.

    Attribute types without a short name there (§3) are written as OIDs, and their values in hexadecimal (§2.4).
    """
    return ",".join("+".join(map(_attribute_text, relative)) for relative in reversed(list(name.chosen)))


def _attribute_text(attribute: x509.NameTypeAndValue) -> str:
    oid = attribute["type"].dotted
    short = _SHORT_NAMES.get(oid)
    if short is None:
        return f"{oid}=#{attribute['value'].dump().hex()}"
    value = _SPECIAL.sub(r"\\\g<0>", str(attribute["value"].native)).replace("\0", r"\00")
    if value.startswith((" ", "#")):
        value = f"\\{value}"
    return f"{short}={value[:-1]}\\ " if value.endswith(" ") and value != r"\ " else f"{short}={value}"
