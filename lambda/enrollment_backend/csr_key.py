"""Checks the public key of a CSR. Pure: bytes in, the key's type or an error out."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from enrollment_backend import algorithms, der, weak_keys
from enrollment_backend.csr_errors import CsrDerError, CsrKeyError, CsrKeyWeakError

_RSA_BITS = frozenset({2048, 3072, 4096})
_RSA_EXPONENT = 65537
_CURVES = (ec.SECP256R1, ec.SECP384R1)


def check(spki: bytes) -> str:
    """Check that a public key is acceptable.

    Args:
        spki: DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).

    Returns:
        The key's type, as the object identifier `algorithms.RSA_KEY` or `algorithms.EC_KEY`.

    Raises:
        CsrKeyError: the key's type, curve, size or exponent is not accepted, or its numbers are not a valid key.
        CsrKeyWeakError: the private key can be computed from the public key, see `weak_keys.weakness_of`.
        CsrDerError: it is not DER, or not the canonical encoding of such a key.
    """
    kind, parameters = _algorithm(spki)
    if kind not in algorithms.KEYS:
        raise CsrKeyError(algorithms.REFUSED_KEYS.get(kind, "a key of an unknown type"))
    if not parameters:
        raise CsrDerError  # both types must have parameters: RFC 3279 §2.3.1 and RFC 5480 §2.1.1
    if kind == algorithms.EC_KEY:
        _check_curve(parameters)
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CsrKeyError(f"an invalid {algorithms.KEYS[kind]} key") from error
    if isinstance(key, rsa.RSAPublicKey):
        _check_rsa(key)
    elif not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise CsrKeyError("an EC key with explicit curve parameters")
    if spki != key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise CsrDerError  # such as a compressed point, or P-256 with explicit parameters
    return kind


def _algorithm(spki: bytes) -> tuple[str, bytes]:
    try:
        algorithm, key = der.children(spki)
        _, kind, parameters = algorithms.identifier(algorithm.encoding)
    except ValueError as error:
        raise CsrDerError from error
    if key.tag != der.BIT_STRING:
        raise CsrDerError
    return kind, parameters


def _check_curve(parameters: bytes) -> None:
    """Check a named curve; anything else in place of the name is left to `cryptography`."""
    (curve,) = der.elements(parameters)
    if curve.tag != der.OBJECT_IDENTIFIER:
        return
    try:
        oid = der.object_identifier(curve.content)
    except ValueError as error:
        raise CsrDerError from error
    if oid not in algorithms.CURVES:
        raise CsrKeyError(f"an EC key on {algorithms.REFUSED_CURVES.get(oid, 'an unknown curve')}")


def _check_rsa(key: rsa.RSAPublicKey) -> None:
    numbers = key.public_numbers()
    if key.key_size not in _RSA_BITS:
        raise CsrKeyError(f"an RSA key of {key.key_size} bits")
    if numbers.e != _RSA_EXPONENT:
        raise CsrKeyError("an RSA key with an exponent other than 65537")
    if weakness := weak_keys.weakness_of(numbers.n):
        raise CsrKeyWeakError(weakness=weakness)
