"""The certificates of the CAs that devices have to trust, for EST's cacerts."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509 import load_pem_x509_certificates

from enrollment_backend.errors import ConfigurationError

_AMAZON = Path(__file__).with_name("amazon_roots.pem")


def certs_only(file: str | None) -> bytes:
    """Return the certificates in a PEM file as DER CMS, a SignedData without a signature (RFC 7030 §4.1.3).

    Args:
        file: its path; None for those of Amazon Trust Services, which AWS IoT's and API Gateway's servers have theirs
            from.

    Raises:
        ConfigurationError: the file cannot be read, or is not such a file.
    """
    try:
        certificates = load_pem_x509_certificates((Path(file) if file else _AMAZON).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(variable="TRUST_ANCHORS_FILE", reason="not a file of certificates in PEM") from error
    return pkcs7.serialize_certificates(certificates, Encoding.DER)
