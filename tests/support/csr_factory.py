"""CSRs for the tests: good ones from `cryptography`, bad ones put together byte by byte."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any

from asn1crypto import algos, core, csr, keys
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

THING = "press-17"

Sign = Callable[[bytes], bytes]


KEY_TYPES = ("ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "rsa-4096")  # the last ones take their time to make


@cache
def ec_key(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    """Return one key per curve for the whole run."""
    return ec.generate_private_key(curve())


@cache
def rsa_key(bits: int = 2048, exponent: int = 65537) -> rsa.RSAPrivateKey:
    """Return one key per size and exponent for the whole run."""
    return rsa.generate_private_key(exponent if exponent == 3 else 65537, bits)


def key_of_type(key_type: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """Return the run's key of a type that a device may have."""
    curves = {"ec-p256": ec.SECP256R1, "ec-p384": ec.SECP384R1}
    return ec_key(curves[key_type]) if key_type in curves else rsa_key(int(key_type.removeprefix("rsa-")))


def rsa_key_of(p: int, q: int) -> rsa.RSAPrivateKey:
    """Return the key of two numbers that need be no more than coprime to 65537, however weak it is."""
    d = pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), rsa.rsa_crt_iqmp(p, q), public)
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def spki_of(key: Any) -> bytes:
    """Return a private key's public half as DER SubjectPublicKeyInfo."""
    spki: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki


def request(
    key: CertificateIssuerPrivateKeyTypes | None = None,
    *common_names: str,
    algorithm: hashes.HashAlgorithm | None = hashes.SHA256(),  # noqa: B008 - immutable
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    units: tuple[str, ...] = (),
) -> x509.CertificateSigningRequest:
    """Build an honest request; without arguments it is one the policy accepts for `THING`."""
    names = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
    names += [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names or (THING,)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key or ec_key(), algorithm)  # type: ignore[arg-type]


def der_of(csr: x509.CertificateSigningRequest) -> bytes:
    """Return the request in DER."""
    return csr.public_bytes(Encoding.DER)


def pem_of(csr: x509.CertificateSigningRequest) -> str:
    """Return the request in PEM with a final newline, as OpenSSL writes it."""
    return csr.public_bytes(Encoding.PEM).decode("ascii")


def pem(der: bytes, label: str = "CERTIFICATE REQUEST") -> str:
    """Wrap any bytes into one PEM block."""
    lines = textwrap.wrap(base64.b64encode(der).decode("ascii"), 64)
    return "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""))


def forged(
    *,
    spki: bytes | None = None,
    algorithm: dict[str, Any] | None = None,
    sign: Sign | None = None,
    common_name: core.Asn1Value | None = None,
    subject: bytes | None = None,
    attributes: bytes = b"",
) -> bytes:
    """Put a request together from parts that need not fit each other.

    Args:
        spki: DER of the key it claims; a good P-256 key by default.
        algorithm: the AlgorithmIdentifier's fields; ECDSA with SHA-256 by default.
        sign: makes the signature from the bytes to be signed; that of the default key by default.
        common_name: an ASN.1 string of any kind; `THING` by default.
        subject: DER of the whole subject; one with nothing but the common name by default.
        attributes: DER of PKCS#10 attributes, one after the other; none by default.
    """
    name = core.UTF8String(THING) if common_name is None else common_name
    rdn = core.Sequence.load(tlv(0x30, core.ObjectIdentifier("2.5.4.3").dump() + name.dump()))
    name_der = tlv(0x30, tlv(0x31, rdn.dump())) if subject is None else subject
    information = tlv(0x30, core.Integer(0).dump() + name_der + (spki or spki_of(ec_key())) + tlv(0xA0, attributes))
    identifier = algos.SignedDigestAlgorithm(algorithm or {"algorithm": "sha256_ecdsa"})
    signature = (sign or ecdsa_sha256)(information)
    return tlv(0x30, information + identifier.dump() + core.OctetBitString(signature).dump())


def ecdsa_sha256(message: bytes) -> bytes:
    """Sign with the default key, as DER ECDSA-Sig-Value."""
    return ec_key().sign(message, ec.ECDSA(hashes.SHA256()))


def rsa_spki(modulus: int, exponent: int) -> bytes:
    """Return an RSA SubjectPublicKeyInfo with any numbers in it."""
    info = keys.PublicKeyInfo.wrap(keys.RSAPublicKey({"modulus": modulus, "public_exponent": exponent}), "rsa")
    spki: bytes = info.dump()
    return spki


def spki(algorithm: str, parameters: bytes, key: bytes) -> bytes:
    """Return a SubjectPublicKeyInfo of any algorithm (an OID), parameters (DER or nothing) and key."""
    identifier = tlv(0x30, core.ObjectIdentifier(algorithm).dump() + parameters)
    return tlv(0x30, identifier + core.OctetBitString(key).dump())


def ec_spki(parameters: bytes, point: bytes) -> bytes:
    """Return an EC SubjectPublicKeyInfo with any parameters (DER) and any point."""
    return spki("1.2.840.10045.2.1", parameters, point)


def indefinite_length(der: bytes) -> bytes:
    """Turn the outermost SEQUENCE into BER of indefinite length (X.690 §8.1.3.6)."""
    header = 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
    return der[:1] + b"\x80" + der[header:] + b"\x00\x00"


def overlong_length(der: bytes) -> bytes:
    """Write the outermost length with a leading zero octet: BER, not DER (X.690 §10.1)."""
    header = 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
    size = len(der) - header
    return der[:1] + b"\x83" + size.to_bytes(3) + der[header:]


def of_length(characters: int) -> str:
    """Return the shortest CSR of at least that many characters, at least 1,200, that is acceptable but for its size.

    Units in the subject bring it near, the length of the last one brings it there. Lengths go in steps of 4 or 5.
    """
    units: tuple[str, ...] = ()
    while len(pem_of(request(rsa_key(), units=(*units, "u")))) < characters:
        units = (*units, "u")
    texts = (pem_of(request(rsa_key(), units=(*units[:-1], "u" * size))) for size in range(1, 64))
    return next(text for text in texts if len(text) >= characters)


def attribute(oid: str, *values: bytes) -> bytes:
    """Return a PKCS#10 attribute (RFC 2986 §4.1) with any values."""
    return tlv(0x30, core.ObjectIdentifier(oid).dump() + tlv(0x31, b"".join(values)))


def tlv(tag: int, content: bytes) -> bytes:
    """Return a value in DER."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + content


def extension(oid: str, value: bytes, critical: bytes = b"") -> bytes:
    """Return an Extension (RFC 5280 §4.1) with any value; `critical` is the DER of its BOOLEAN."""
    return tlv(0x30, core.ObjectIdentifier(oid).dump() + critical + core.OctetString(value).dump())


def extension_request(*extensions: bytes) -> bytes:
    """Return the attribute that asks for these (RFC 2985 §5.4.2), in this order, repetitions included."""
    return attribute("1.2.840.113549.1.9.14", tlv(0x30, b"".join(extensions)))


def with_identifier(der: bytes, identifier: bytes) -> bytes:
    """Return a request with another AlgorithmIdentifier, which no signature covers."""
    parts = csr.CertificationRequest.load(der)
    information, signature = parts["certification_request_info"].dump(), parts["signature"].dump()
    return tlv(0x30, information + identifier + signature)
