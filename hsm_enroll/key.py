"""Keys and tokens as values: key types, where a key was generated, which token holds it. Knows no PKCS#11 library."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from hsm_enroll.uri import Pkcs11Uri


def _ec(curve: str, curve_oid: str, *, bits: int, digest: str) -> dict[str, Any]:
    return {
        "bits": bits,
        "digest": digest,
        "curve": curve,
        "curve_oid": curve_oid,
        "signature_algorithm": f"{digest}_ecdsa",
        "generation_mechanism": "CKM_EC_KEY_PAIR_GEN",
        "signing_mechanisms": ("CKM_ECDSA",),
        "tls_mechanism": "CKM_ECDSA",
    }


def _rsa(*, bits: int) -> dict[str, Any]:
    return {
        "bits": bits,
        "digest": "sha256",
        "curve": None,
        "curve_oid": None,
        "signature_algorithm": "sha256_rsa",
        "generation_mechanism": "CKM_RSA_PKCS_KEY_PAIR_GEN",
        "signing_mechanisms": ("CKM_SHA256_RSA_PKCS", "CKM_RSA_PKCS"),
        "tls_mechanism": "CKM_RSA_PKCS",
    }


class KeyType(StrEnum):
    """A key type that AWS IoT issues certificates for and awscrt can use, with all that the program knows about it.

    The value is its name in options, configuration and JSON. Mechanisms are named as in PKCS#11 v2.40 (Current
    Mechanisms, §2.1 and §2.3).

    Attributes:
        bits: size of the modulus, or of the curve's field.
        digest: ``hashlib`` name of the hash that matches the key's strength (NIST SP 800-57 Part 1 §5.6).
        curve: the curve's name in SEC 2, which asn1crypto and cryptography use too; None for RSA.
        curve_oid: the curve's object identifier (RFC 5480 §2.1.1.1); None for RSA.
        signature_algorithm: asn1crypto's name of the algorithm that signs a request.
        generation_mechanism: the mechanism that generates a key pair.
        signing_mechanisms: the mechanisms that can sign a request, the preferred one first.
        tls_mechanism: the mechanism that awscrt signs a TLS handshake with; one of `signing_mechanisms`.
    """

    bits: int
    digest: str
    curve: str | None
    curve_oid: str | None
    signature_algorithm: str
    generation_mechanism: str
    signing_mechanisms: tuple[str, ...]
    tls_mechanism: str

    EC_P256 = "ec-p256", _ec("secp256r1", "1.2.840.10045.3.1.7", bits=256, digest="sha256")
    EC_P384 = "ec-p384", _ec("secp384r1", "1.3.132.0.34", bits=384, digest="sha384")
    RSA_2048 = "rsa-2048", _rsa(bits=2048)
    RSA_3072 = "rsa-3072", _rsa(bits=3072)
    RSA_4096 = "rsa-4096", _rsa(bits=4096)

    # `row` is variadic for type checkers: KeyType("ec-p256"), a look-up, passes none.
    def __new__(cls, name: str, *row: dict[str, Any]) -> KeyType:
        """Make a member from its row."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.__dict__.update(*row)
        return member

    @property
    def is_rsa(self) -> bool:
        """Whether this is an RSA key; the others are elliptic-curve keys."""
        return self.curve is None


DEFAULT_KEY_TYPE = KeyType.EC_P256


def key_type_help() -> str:
    """Return the key types as a help text lists them: ``ec-p256 (default), ec-p384, … or rsa-4096``."""
    *most, last = (f"{name} (default)" if name is DEFAULT_KEY_TYPE else name.value for name in KeyType)
    return f"{', '.join(most)} or {last}"


KEY_ID_BYTES = 8
"""The length of the random CKA_ID that a new key gets."""


def key_label(key_id: bytes) -> str:
    """Return the CKA_LABEL that this program gives to a key with this CKA_ID."""
    return f"hsm-enroll-{key_id.hex()}"


class TokenName(NamedTuple):
    """Which token, by what its module says of it.

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
    """Where a private key was generated, by its attributes in the token (PKCS#11 v2.40 §4.7, §4.9), one a member."""

    local: bool
    sensitive: bool
    extractable: bool
    never_extractable: bool
    always_sensitive: bool

    @property
    def is_hardware_born(self) -> bool:
        """Whether the key was generated in the token and could never be taken out of it."""
        return (
            self.local and self.sensitive and not self.extractable and self.never_extractable and self.always_sensitive
        )
