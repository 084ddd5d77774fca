"""A Signer whose keys are in memory: what a token does, without a token."""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ObjectIdentifier

from hsm_enroll.key import KeyType
from tests.support.csr_factory import rsa_key


@cache
def software_key(key_type: KeyType) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """Return this run's key of a type; RSA keys take their time, so the CSRs of the tests have the same ones."""
    if key_type.curve_oid is None:
        return rsa_key(key_type.bits)
    return ec.generate_private_key(ec.get_curve_for_oid(ObjectIdentifier(key_type.curve_oid))())


def public_key_info(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a key."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class SoftwareSigner:
    """Signs as a sound token would, and keeps what it was given to sign."""

    def __init__(self, key_type: KeyType = KeyType.EC_P256) -> None:
        self.key_type = key_type
        self.public_key_info = public_key_info(software_key(key_type))
        self.signed: list[bytes] = []

    def sign(self, message: bytes) -> bytes:
        """Sign with the scheme that AWS IoT takes for this type of key."""
        self.signed.append(message)
        key = software_key(self.key_type)
        digest: hashes.HashAlgorithm = getattr(hashes, self.key_type.digest.upper())()
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(message, padding.PKCS1v15(), digest)
        return key.sign(message, ec.ECDSA(digest))
