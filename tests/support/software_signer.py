"""A Signer whose keys are in memory: what a token does, without a token."""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from hsm_enroll.key import KeyType

_CURVES = {KeyType.EC_P256: ec.SECP256R1(), KeyType.EC_P384: ec.SECP384R1()}


@cache
def software_key(key_type: KeyType) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """Return this run's key of a type; RSA keys take their time, so there is one of each."""
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type])
    return rsa.generate_private_key(public_exponent=65537, key_size=key_type.bits)


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
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        digest = hashes.SHA384() if self.key_type is KeyType.EC_P384 else hashes.SHA256()
        return key.sign(message, ec.ECDSA(digest))
