"""A development CA (RFC 5280), which issues certificates for devices, for the local servers and for the observer.

It replaces both AWS IoT's own CA and the public CA of AWS's endpoints. Only programs on this machine should trust it.
"""

from __future__ import annotations

import datetime as dt
import ipaddress

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.home import Home, Pair, write

_OBSERVER = "local.observer"
_SERVER_NAME = "localhost"
_SERVER_ADDRESS = "127.0.0.1"
_MIN_RSA_BITS = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

# The expiry date of the certificates that AWS IoT issues; the CA has to outlast them.
_DEVICE_NOT_AFTER = dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
_CA_NOT_AFTER = dt.datetime(2050, 12, 31, tzinfo=dt.UTC)
_PAIR_LIFETIME = dt.timedelta(days=365)
# The clock of a board without a battery may be slow.
_BACKDATED = dt.timedelta(days=1)


_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class CsrRefusedError(Exception):
    """AWS IoT would not issue a certificate for this CSR; the message says why."""


class Authority:
    """The CA of a local cloud; its key is in the cloud's home.

    Attributes:
        certificate: its self-signed certificate.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def of(cls, home: Home) -> Authority:
        """Load the CA from a home, or create one (EC P-256, key file with mode 0600) if there is none yet.

        Raises:
            LocalCloudError: the CA's files are damaged.
        """
        if not home.ca_certificate.exists():
            _create_ca(home)
        try:
            certificate = x509.load_pem_x509_certificate(home.ca_certificate.read_bytes())
            key = load_pem_private_key(home.ca_key.read_bytes(), password=None)
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise _damaged(home) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise _damaged(home)
        return cls(certificate, key)

    def issue_device(self, csr: str) -> x509.Certificate:
        """Issue a client certificate for a CSR's public key and subject.

        Args:
            csr: PKCS#10 in PEM.

        Returns:
            A certificate for TLS client authentication, valid until the end of 2049, as AWS IoT's are.

        Raises:
            CsrRefusedError: the CSR cannot be parsed, its signature does not verify, or AWS IoT does not accept such a
                key (it accepts RSA from 2,048 bits, P-256, P-384 and P-521).

        Does not check the caller or the subject. Ignores the extensions that the CSR requests.
        """
        subject, public_key = _accepted(csr)
        return self._issue(subject, public_key, _DEVICE_NOT_AFTER, ExtendedKeyUsageOID.CLIENT_AUTH)

    def issue_server(self) -> Pair:
        """Issue a server certificate for ``localhost`` and 127.0.0.1, with a new P-256 key."""
        names = [x509.DNSName(_SERVER_NAME), x509.IPAddress(ipaddress.ip_address(_SERVER_ADDRESS))]
        return self._issue_pair(_SERVER_NAME, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def issue_observer(self) -> Pair:
        """Issue the observer's client certificate, with a new P-256 key."""
        return self._issue_pair(_OBSERVER, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue_pair(
        self, common_name: str, purpose: x509.ObjectIdentifier, names: list[x509.GeneralName] | None = None
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(_name(common_name), key.public_key(), _now() + _PAIR_LIFETIME, purpose, names)
        return Pair(certificate.public_bytes(Encoding.PEM), _private_pem(key))

    def _issue(
        self,
        subject: x509.Name,
        public_key: _PublicKey,
        not_after: dt.datetime,
        purpose: x509.ObjectIdentifier,
        names: list[x509.GeneralName] | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() - _BACKDATED)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def _create_ca(home: Home) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # Each CA has its own name, so that programs do not mistake the CA of another home for this one.
    name = _name(f"hsm-enroll local CA {x509.random_serial_number() >> 128:08x}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _BACKDATED)
        .not_valid_after(_CA_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    # The certificate is written last: if it exists, the key exists too.
    write(home.ca_key, _private_pem(key))
    write(home.ca_certificate, certificate.public_bytes(Encoding.PEM))


def _accepted(csr: str) -> tuple[x509.Name, _PublicKey]:
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        subject, public_key, signed = request.subject, request.public_key(), request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CsrRefusedError("The CSR cannot be read.") from error
    if not signed:
        raise CsrRefusedError("The CSR's signature does not verify.")
    if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size >= _MIN_RSA_BITS:
        return subject, public_key
    if isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(public_key.curve, _CURVES):
        return subject, public_key
    raise CsrRefusedError("AWS IoT accepts RSA keys of 2,048 bits and more, P-256, P-384 and P-521.")


def _damaged(home: Home) -> LocalCloudError:
    return LocalCloudError(
        f"The development CA in {home.folder} is damaged.",
        hint=f"Remove the folder {home.folder}; devices that were enrolled with it have to be enrolled again.",
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
