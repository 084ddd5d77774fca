"""A TPM vendor's certificate authority for tests: a root, an intermediate, and certificates of endorsement keys.

The certificates are as TCG's EK Credential Profile for TPM 2.0 has them: no subject, the TPM's manufacturer, model and
version in a critical subjectAltName, and the purpose tcg-kp-EKCertificate.
"""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

EK_PURPOSE = ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate
_MANUFACTURER = ObjectIdentifier("2.23.133.2.1")
_MODEL = ObjectIdentifier("2.23.133.2.2")
_VERSION = ObjectIdentifier("2.23.133.2.3")
_YEAR = dt.timedelta(days=365)
_LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_FAR_AHEAD = dt.datetime(2049, 12, 31, tzinfo=dt.UTC)

IssuerKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Issuer = tuple[x509.Certificate, IssuerKey]


def pem(*certificates: x509.Certificate) -> str:
    """Return certificates in PEM, one block after the other."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


def usage(*names: str) -> x509.KeyUsage:
    """Return a KeyUsage extension with the bits of these names alone."""
    bits = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**{bit: bit in names for bit in bits.split()})


def tpm_name(manufacturer: str = "id:49465800", model: str = "SLB9672", version: str = "id:000F0017") -> x509.Name:
    """Return the directoryName that an EK certificate has as its subjectAltName; 49465800 is ``IFX`` in ASCII."""
    values = {_MANUFACTURER: manufacturer, _MODEL: model, _VERSION: version}
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in values.items()])


class EkAuthority:
    """Issues EK certificates through an intermediate.

    Args:
        name: begins the common names of root and intermediate.
    """

    def __init__(self, name: str = "Example TPM vendor") -> None:
        self._name = name
        root_key, self._key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
        self.root = ca(f"{name} root", root_key)
        self.root_issuer: Issuer = (self.root, root_key)
        self.intermediate = self.intermediate_until(_FAR_AHEAD)
        self.issuer: Issuer = (self.intermediate, self._key)

    def intermediate_until(self, ends: dt.datetime) -> x509.Certificate:
        """Make a certificate of the intermediate that ends at a time; its key and its name are always the same."""
        return ca(f"{self._name} intermediate", self._key, self.root_issuer, path_length=0, ends=ends)

    def issue(
        self, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, *, ends: dt.datetime = _FAR_AHEAD
    ) -> x509.Certificate:
        """Certify an endorsement key until a time."""
        return ek_certificate(key, self.issuer, ends=ends)


def ca(
    name: str,
    key: IssuerKey,
    issuer: Issuer | None = None,
    *,
    path_length: int | None = None,
    is_ca: bool = True,
    key_usage: str = "key_cert_sign",
    begins: dt.datetime = _LONG_AGO,
    ends: dt.datetime = _FAR_AHEAD,
) -> x509.Certificate:
    """Make the certificate of an authority, self-signed without an issuer; its last arguments allow a bad one."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = (issuer[0].subject, issuer[1]) if issuer else (subject, key)
    builder = (
        _builder(subject, issuer_name, begins, ends)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length if is_ca else None), critical=True)
        .add_extension(usage(key_usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA384())


def ek_certificate(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    issuer: Issuer,
    *,
    name: x509.Name | None = None,
    purpose: ObjectIdentifier | None = EK_PURPOSE,
    key_usage: str = "",
    is_ca: bool = False,
    begins: dt.datetime = _LONG_AGO,
    ends: dt.datetime = _FAR_AHEAD,
    unknown_critical: bool = False,
) -> x509.Certificate:
    """Make the certificate of an endorsement key; what is not given is as the profile has it."""
    used = key_usage or ("key_encipherment" if isinstance(key, rsa.RSAPublicKey) else "key_agreement")
    certificate, issuer_key = issuer
    builder = (
        _builder(x509.Name([]), certificate.subject, begins, ends)
        .public_key(key)
        .add_extension(
            x509.SubjectAlternativeName([x509.DirectoryName(tpm_name() if name is None else name)]), critical=True
        )
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage(used), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if unknown_critical:
        unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def _builder(subject: x509.Name, issuer: x509.Name, begins: dt.datetime, ends: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
