"""The public keys of certificates. Pure: PEM in, values out."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509 import load_pem_x509_certificates


def spki_of(certificate_pem: str) -> bytes | None:
    """Return a certificate's DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).

    None if the PEM is not exactly one certificate, or its key is of a type that `cryptography` does not support. Does
    not check issuer or dates.
    """
    key = _key_of(certificate_pem)
    return None if key is None else key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_type_of(certificate_pem: str) -> str | None:
    """Return the type of a certificate's key as devices call it, such as ``ec-p256``; None as `spki_of`."""
    return _type_of(_key_of(certificate_pem))


def key_type_of_spki(spki: bytes) -> str | None:
    """The same for a key as DER SubjectPublicKeyInfo that `csr_policy` has accepted."""
    return _type_of(load_der_public_key(spki))


def _type_of(key: object) -> str | None:
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa-{key.key_size}"
    return f"ec-p{key.key_size}" if isinstance(key, ec.EllipticCurvePublicKey) else None


def _key_of(certificate_pem: str) -> CertificatePublicKeyTypes | None:
    try:
        (parsed,) = load_pem_x509_certificates(certificate_pem.encode("utf-8"))
        return parsed.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
