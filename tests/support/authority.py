"""A development CA: certificates for keys that live elsewhere, and a revocation list."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = dt.timedelta(days=1)
# Python 3.13 verifies strictly (VERIFY_X509_STRICT): a CA says what its key is for, and a certificate whose it is.
_ISSUING = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass(frozen=True)
class Pair:
    """A certificate and its software key as files, for programs that are not the device."""

    certificate: Path
    key: Path


@dataclass
class Authority:
    """Issues certificates that are valid some days around now; ``certificate`` is its trust anchor as a PEM file."""

    folder: Path
    name: str = "development CA"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    days: int = 1

    def __post_init__(self) -> None:
        self.folder.mkdir()
        builder = (
            self._builder(self.name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_ISSUING, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        )
        self.certificate = self.folder / "ca.pem"
        self.certificate.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue_client(self, spki: bytes, common_name: str) -> x509.Certificate:
        """Certify a device's public key, given as DER SubjectPublicKeyInfo."""
        public_key = serialization.load_der_public_key(spki)
        builder = self._builder(common_name, public_key).add_extension(  # type: ignore[arg-type]
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        return builder.sign(self.key, hashes.SHA256())

    def issue_pair(self, common_name: str, names: Sequence[str] = (), *, shift: dt.timedelta = _DAY * 0) -> Pair:
        """Make a software key and its certificate, as a server's where ``names`` are given."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(common_name, key.public_key(), shift)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), False)
        pair = Pair(self.folder / f"{common_name}.pem", self.folder / f"{common_name}.key")
        certificate = builder.sign(self.key, hashes.SHA256())
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def revoke(self, *certificates: x509.Certificate) -> Path:
        """Write a revocation list that names the certificates (RFC 5280 §5)."""
        builder = x509.CertificateRevocationListBuilder(_name(self.name), self.now - _DAY, self.now + _DAY)
        for certificate in certificates:
            entry = x509.RevokedCertificateBuilder(certificate.serial_number, self.now)
            builder = builder.add_revoked_certificate(entry.build())
        file = self.folder / "crl.pem"
        file.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return file

    def _builder(
        self, common_name: str, public_key: ec.EllipticCurvePublicKey, shift: dt.timedelta = _DAY * 0
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(
            _name(self.name),
            _name(common_name),
            public_key,
            x509.random_serial_number(),
            self.now - _DAY * self.days + shift,
            self.now + _DAY * self.days + shift,
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return builder.add_extension(issuer, critical=False)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
