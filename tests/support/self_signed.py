"""Certificates made by ``cryptography``, so that what reads them is tested against another library."""

from __future__ import annotations

import base64
import ipaddress
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from hsm_enroll.key import KeyType
from tests.support.software_signer import software_key

_BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
_END = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)


def self_signed(key_type: KeyType = KeyType.EC_P256, *, with_extensions: bool = False) -> x509.Certificate:
    """Make a certificate; with extensions it holds one of each shape that a parser has to walk."""
    key = software_key(key_type)
    name = x509.Name(
        [x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"), x509.NameAttribute(NameOID.COMMON_NAME, "gateway-7")]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
    )
    if with_extensions:
        names = [
            x509.DNSName("gateway.example"),
            x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
            x509.DirectoryName(name),
        ]
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
    return builder.sign(key, hashes.SHA256())


def der(certificate: x509.Certificate) -> bytes:
    """Return a certificate in DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def pem(certificate: x509.Certificate) -> str:
    """Return a certificate in PEM, as ``cryptography`` writes it."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def armoured(content: bytes, label: str = "CERTIFICATE") -> str:
    """Write any bytes as if they were a PEM block (RFC 7468 §3)."""
    body = base64.encodebytes(content).decode("ascii")
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"
