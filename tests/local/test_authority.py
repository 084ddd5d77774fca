"""The development CA, and what it issues."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.authority import Authority, CsrRefusedError
from hsm_enroll.local.home import Home

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
SUBJECT = x509.Name(
    [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bäckerei"), x509.NameAttribute(NameOID.COMMON_NAME, "gateway-7")]
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A prepared home."""
    made = Home(tmp_path / "home")
    made.prepare()
    return made


@pytest.fixture
def authority(home: Home) -> Authority:
    """A CA of its own."""
    return Authority.of(home)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())]
    + [rsa.generate_private_key(65537, 2048)],
    ids=["p-256", "p-384", "p-521", "rsa-2048"],
)
def test_a_certificate_is_for_the_csrs_key_and_subject(authority: Authority, key: _Key) -> None:
    """Key and subject are the CSR's, the issuer is the CA, and it is good for TLS client authentication until 2049."""
    certificate = authority.issue_device(_csr(key))
    assert certificate.public_key() == key.public_key()
    assert certificate.subject == SUBJECT
    certificate.verify_directly_issued_by(authority.certificate)
    assert certificate.not_valid_after_utc == dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_serial_numbers_are_random(authority: Authority) -> None:
    """The same CSR twice gives two certificates with nothing in common but the key."""
    csr = _csr(ec.generate_private_key(ec.SECP256R1()))
    one, other = authority.issue_device(csr), authority.issue_device(csr)
    assert one.serial_number != other.serial_number


def test_the_server_certificate_passes_a_strict_verifier(authority: Authority) -> None:
    """It holds for localhost and 127.0.0.1 by RFC 5280's rules and those of the web PKI."""
    server = x509.load_pem_x509_certificate(authority.issue_server().certificate)
    for subject in (x509.DNSName("localhost"), x509.IPAddress(_loopback())):
        verifier = PolicyBuilder().store(Store([authority.certificate])).build_server_verifier(subject)
        assert verifier.verify(server, [])[-1] == authority.certificate


@pytest.mark.parametrize(
    "csr",
    ["", "junk", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"],
    ids=["empty", "junk", "not DER"],
)
def test_what_is_no_csr_is_refused(authority: Authority, csr: str) -> None:
    """Nothing is issued for text that is no CSR."""
    with pytest.raises(CsrRefusedError):
        authority.issue_device(csr)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - that is the point
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa-1024", "secp256k1", "ed25519"],
)
def test_keys_that_aws_iot_does_not_take_are_refused(authority: Authority, key: _Key) -> None:
    """A weak or unknown kind of key gets no certificate."""
    with pytest.raises(CsrRefusedError, match="AWS IoT accepts"):
        authority.issue_device(_csr(key))


def test_a_csr_signed_by_another_key_is_refused(authority: Authority) -> None:
    """Whoever asks has to hold the key: one flipped bit of the signature is enough."""
    request = x509.load_pem_x509_csr(_csr(ec.generate_private_key(ec.SECP256R1())).encode())
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()
    with pytest.raises(CsrRefusedError, match="signature"):
        authority.issue_device(broken)


def test_the_ca_outlives_a_run(home: Home, authority: Authority) -> None:
    """Opened again, a home gives the same CA."""
    assert Authority.of(home).certificate == authority.certificate


def test_keys_are_for_their_owner_alone(home: Home, authority: Authority) -> None:
    """The CA's key has mode 0600, in a folder of mode 0700."""
    assert home.ca_key.stat().st_mode & 0o777 == 0o600
    assert home.folder.stat().st_mode & 0o777 == 0o700
    assert authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("damage", ["key missing", "key empty", "another key"])
def test_a_damaged_ca_is_not_replaced(home: Home, authority: Authority, tmp_path: Path, damage: str) -> None:
    """Files that do not belong together are an error that names the folder; a new CA would break every client."""
    if damage == "key missing":
        home.ca_key.unlink()
    elif damage == "key empty":
        home.ca_key.write_bytes(b"")
    else:
        other = Home(tmp_path / "other")
        other.prepare()
        Authority.of(other)
        home.ca_key.write_bytes(other.ca_key.read_bytes())
    with pytest.raises(LocalCloudError, match="damaged") as caught:
        Authority.of(home)
    assert str(home.folder) in caught.value.hint
    assert x509.load_pem_x509_certificate(home.ca_certificate.read_bytes()) == authority.certificate


def _csr(key: _Key) -> str:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return x509.CertificateSigningRequestBuilder(SUBJECT).sign(key, algorithm).public_bytes(Encoding.PEM).decode()


def _loopback() -> x509.general_name._IPAddressTypes:
    import ipaddress

    return ipaddress.ip_address("127.0.0.1")
