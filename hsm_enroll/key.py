"""Keys and tokens as values: what a key is, how it was born, which token holds it. Knows no PKCS#11 library."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from hsm_enroll.uri import Pkcs11Uri


class KeyType(StrEnum):
    """A key type that AWS IoT issues for and awscrt can use; its name in options, configuration and JSON."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"

    @property
    def is_rsa(self) -> bool:
        """Whether this is an RSA key; the others are elliptic-curve keys."""
        return self in {KeyType.RSA_2048, KeyType.RSA_3072, KeyType.RSA_4096}

    @property
    def bits(self) -> int:
        """Size of the modulus or of the curve's field, in bits."""
        return _BITS[self]

    @property
    def digest(self) -> str:
        """``hashlib`` name of the hash that matches the key's strength (NIST SP 800-57 Part 1 §5.6)."""
        return "sha384" if self is KeyType.EC_P384 else "sha256"


_BITS = {
    KeyType.EC_P256: 256,
    KeyType.EC_P384: 384,
    KeyType.RSA_2048: 2048,
    KeyType.RSA_3072: 3072,
    KeyType.RSA_4096: 4096,
}


class TokenName(NamedTuple):
    """Which token, as its module calls it.

    Attributes:
        module: file of the PKCS#11 module.
        label: CK_TOKEN_INFO.label, trailing blanks removed.
        serial: CK_TOKEN_INFO.serialNumber, trailing blanks removed; not a hardware identity on every token.
        manufacturer: CK_TOKEN_INFO.manufacturerID.
        model: CK_TOKEN_INFO.model.
    """

    module: Path
    label: str
    serial: str
    manufacturer: str
    model: str

    @property
    def uri(self) -> Pkcs11Uri:
        """The token's URI, without the module's path."""
        return Pkcs11Uri(token=self.label, serial=self.serial or None, manufacturer=self.manufacturer, model=self.model)


class KeyOrigin(NamedTuple):
    """What a token says of a private key's birth (PKCS#11 v2.40 §4.7, §4.9): each member is one attribute."""

    local: bool
    sensitive: bool
    extractable: bool
    never_extractable: bool
    always_sensitive: bool

    @property
    def is_hardware_born(self) -> bool:
        """Whether the key was generated in the token and could at no time be taken out of it."""
        return (
            self.local and self.sensitive and not self.extractable and self.never_extractable and self.always_sensitive
        )
