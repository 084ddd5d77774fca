"""What the tests of the rules for CSRs share: tables of cases, and the requests of every form that is taken."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support import csr_factory as make
from tests.support.csr_factory import THING, pem, request
from tests.support.deployment import Deployment

GOOD_DER = make.der_of(request())
GOOD = pem(GOOD_DER)
P256 = core.ObjectIdentifier("1.2.840.10045.3.1.7").dump()
EC_SHA256 = core.ObjectIdentifier("1.2.840.10045.4.3.2").dump()
RSA_SHA256 = core.ObjectIdentifier("1.2.840.113549.1.1.11").dump()
NULL = core.Null().dump()
POINT = make.ec_key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
RSA_NUMBERS = make.rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)


def cases(table: dict[str, Callable[[], str]]) -> pytest.MarkDecorator:
    """Turn a table of makers into parameters; nothing is made before its test runs."""
    return pytest.mark.parametrize("text_of", [pytest.param(maker, id=name) for name, maker in table.items()])


def check(backend: Deployment, text: str, code: str) -> None:
    """Assert that the CSR is refused with that code."""
    assert backend.refused(backend.enroll(text, THING), 400, code, text)


def with_identifier(content: bytes) -> bytes:
    """Return a good request whose outer AlgorithmIdentifier has other contents: no signature covers it."""
    return make.with_identifier(GOOD_DER, make.tlv(0x30, content))


def key_usage(**usages: bool) -> x509.KeyUsage:
    """Return a request for these usages alone."""
    none = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        False,
    )  # fmt: skip
    return x509.KeyUsage(**none | usages)


CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # RFC 2985 §5.4.1
UNSTRUCTURED_NAME = "1.2.840.113549.1.9.2"  # RFC 2985 §5.2.2
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"  # RFC 2985 §5.4.2
CHALLENGE = make.attribute(CHALLENGE_PASSWORD, core.UTF8String("not a secret").dump())
UNSTRUCTURED = make.attribute(UNSTRUCTURED_NAME, core.IA5String("line 3").dump())
UNKNOWN = "1.2.3.4"
CRITICAL = b"\x01\x01\xff"
ALL_NAMES = x509.SubjectAlternativeName(
    [
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), core.UTF8String("gw-1@example").dump()),
        x509.RFC822Name("gw-1@example.com"),
        x509.DNSName("gw-1.example.com"),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, THING)])),
        x509.UniformResourceIdentifier("urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        x509.IPAddress(IPv4Address("192.0.2.1")),
        x509.IPAddress(IPv6Address("2001:db8::1")),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
    ]
)


def asked(extension: x509.ExtensionType, *, critical: bool = False) -> bytes:
    """Return an Extension as `cryptography` encodes it."""
    return make.extension(extension.oid.dotted_string, extension.public_bytes(), CRITICAL if critical else b"")


HARMLESS = {
    "CA:FALSE": asked(x509.BasicConstraints(ca=False, path_length=None), critical=True),
    "key usage": asked(key_usage(digital_signature=True, key_agreement=True, decipher_only=True), critical=True),
    "extended key usage": asked(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True),
    "subject alternative name": asked(ALL_NAMES, critical=True),
    "subject key identifier": asked(x509.SubjectKeyIdentifier(bytes(20))),
    "unknown, not critical": make.extension(UNKNOWN, b"anything"),
    "known, not critical": asked(x509.TLSFeature([x509.TLSFeatureType.status_request])),
}


def with_null() -> bytes:
    """Return a request as mbedTLS 2.28 and tpm2-openssl 1.1 write it: NULL after the ECDSA algorithm."""
    return with_identifier(EC_SHA256 + NULL)


def without_null() -> bytes:
    """Return a request by an RSA key with nothing after the algorithm, as RFC 4055 §5 has receivers accept it."""
    return make.with_identifier(make.der_of(request(make.rsa_key())), make.tlv(0x30, RSA_SHA256))


def with_attributes() -> bytes:
    """Return a request with every attribute and extension that is taken."""
    return make.forged(
        attributes=b"".join(sorted((CHALLENGE, UNSTRUCTURED, make.extension_request(*HARMLESS.values()))))
    )


ACCEPTED: dict[str, Callable[[], bytes]] = {
    "ec": lambda: GOOD_DER,
    "rsa": lambda: make.der_of(request(make.rsa_key())),
    "ec with null": with_null,
    "rsa without null": without_null,
    "attributes": with_attributes,
}
