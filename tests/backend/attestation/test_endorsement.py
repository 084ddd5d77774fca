"""Which TPM this is and who vouches for it: endorsement keys, their certificates, and the chains to a vendor's root."""

from __future__ import annotations

import datetime as dt
import hashlib
from functools import cache

import pytest
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from enrollment_backend.attestation import certificates
from enrollment_backend.attestation.endorsement import Endorsement, read_endorsement
from enrollment_backend.attestation.errors import AttestationRefusedError
from tests.support.csr_factory import rsa_key, spki_of
from tests.support.ek_authority import EkAuthority, Issuer, ca, ek_certificate, pem, tpm_name
from tests.support.software_tpm import (
    ADMIN_WITH_POLICY,
    BORN_HERE,
    DECRYPT,
    EK_ATTRIBUTES,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SHA1,
    SIGN,
    EkType,
    SoftwareTpm,
    public_area,
    sized,
)

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def tpm(ek: EkType = "ec-p384") -> SoftwareTpm:
    """Provide one TPM with an endorsement key of each type for the whole run."""
    return made(ek)


@cache
def made(ek: EkType) -> SoftwareTpm:
    """Make it."""
    return SoftwareTpm(ek, authority())


@cache
def authority() -> EkAuthority:
    """Provide the authority of them all."""
    return EkAuthority()


def read(*chain: x509.Certificate, ek: EkType = "ec-p384") -> Endorsement:
    """Read the TPM's endorsement key with a chain of certificates."""
    return read_endorsement(tpm(ek).ek_public, pem(*chain))


def judged(endorsement: Endorsement, *authorities: x509.Certificate, now: dt.datetime = NOW) -> str:
    """Return the code with which a chain is refused, or ``trusted``."""
    try:
        endorsement.check_chain(certificates.read_pem(pem(*authorities)) if authorities else [], now)
    except AttestationRefusedError as error:
        return error.code
    return "trusted"


def code_of(ek_public: bytes, ek_certificate: str | None) -> str:
    """Return the code with which an endorsement key is refused."""
    with pytest.raises(AttestationRefusedError) as refused:
        read_endorsement(ek_public, ek_certificate)
    return refused.value.code


@pytest.mark.parametrize("ek", ["rsa-2048", "ec-p256", "ec-p384"])
def test_an_endorsement_key_is_read(ek: EkType) -> None:
    """Its fingerprint is that of its SubjectPublicKeyInfo; the certificate says who made the TPM."""
    certificate = tpm(ek).ek_certificate
    endorsement = read(certificate, authority().intermediate, ek=ek)
    assert endorsement.ek_sha256 == hashlib.sha256(spki_of(tpm(ek).ek_key)).hexdigest()
    assert endorsement.certificate_sha256 == certificate.fingerprint(hashes.SHA256()).hex()
    assert (endorsement.manufacturer, endorsement.model, endorsement.version) == ("IFX", "SLB9672", "id:000F0017")
    assert endorsement.public.aes_bits == (256 if ek == "ec-p384" else 128)
    assert judged(endorsement, authority().root) == "trusted"


def test_an_endorsement_key_without_a_certificate_is_read_but_not_trusted() -> None:
    """It has a fingerprint, which an operator may have listed, but nobody vouches for it."""
    endorsement = read_endorsement(tpm().ek_public, None)
    assert endorsement.ek_sha256 == read(tpm().ek_certificate).ek_sha256
    assert (endorsement.certificate_sha256, endorsement.manufacturer) == (None, None)
    assert judged(endorsement, authority().root) == "ek-untrusted"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("id:53544D20", "STM"),
        ("id:414D4400", "AMD"),
        ("id:00001014", "00001014"),
        ("id:2c0a2d2d", "2C0A2D2D"),
        ("IFX", None),
        ("id:4946", None),
    ],
)
def test_the_manufacturer_is_shown_by_its_letters(value: str, shown: str | None) -> None:
    """The vendor's id is shown as letters where it has them, else as digits; anything else is left out."""
    certificate = ek_certificate(tpm().ek_key.public_key(), authority().issuer, name=tpm_name(value))
    assert read(certificate).manufacturer == shown


def test_what_cannot_be_printed_is_left_out() -> None:
    """A model or version that could not be shown in a log or on a screen is not passed on."""
    name = tpm_name(model="SLB\u202e9672", version="x" * 65)
    endorsement = read(ek_certificate(tpm().ek_key.public_key(), authority().issuer, name=name))
    assert (endorsement.model, endorsement.version) == (None, None)


@pytest.mark.parametrize(
    "attributes",
    [EK_ATTRIBUTES & ~bit for bit in (FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN, RESTRICTED, DECRYPT)]
    + [EK_ATTRIBUTES | SIGN],
)
def test_s20_a_key_that_is_no_endorsement_key_is_refused(attributes: int) -> None:
    """A key with another key's attributes is refused, whoever has certified it."""
    ek_public = sized(public_area(tpm().ek_key, attributes, storage=128))
    assert code_of(ek_public, pem(tpm().ek_certificate)) == "ek-unsuitable"


@pytest.mark.parametrize(
    "area",
    [
        public_area(rsa_key(), BORN_HERE | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT),  # no symmetric algorithm
        public_area(rsa_key(), EK_ATTRIBUTES, name_hash=SHA1, storage=128),
    ],
)
def test_s20_an_endorsement_key_with_other_algorithms_is_refused(area: bytes) -> None:
    """It has to protect what is sent to it with AES, and its nameAlg has to be SHA-256 or better."""
    assert code_of(sized(area), None) == "ek-unsuitable"


@pytest.mark.parametrize("ek", ["rsa-2048", "ec-p384"])
def test_s20_a_certificate_of_another_key_is_refused(ek: EkType) -> None:
    """The certificate of another TPM does not go with this one's key."""
    assert code_of(tpm(ek).ek_public, pem(SoftwareTpm(ek).ek_certificate)) == "ek-key-mismatch"
    assert code_of(tpm(ek).ek_public, pem(tpm("ec-p256").ek_certificate)) == "ek-key-mismatch"


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\u00fc", "\0"])
def test_s20_what_is_no_certificate_is_refused(text: str) -> None:
    """Text without PEM, and PEM without a certificate."""
    assert code_of(tpm().ek_public, text) == "ek-certificate-malformed"


def test_s20_more_certificates_than_a_chain_has_are_refused() -> None:
    """Nine certificates are too many; eight are read."""
    assert len(read(*[tpm().ek_certificate] * 8).chain) == 8
    assert code_of(tpm().ek_public, pem(*[tpm().ek_certificate] * 9)) == "ek-certificate-malformed"


# --- chains -----------------------------------------------------------------------------------------------------------


def test_intermediates_may_be_sent_or_configured() -> None:
    """A chain is complete whichever of the two has the intermediate, or both; a root alone anchors it."""
    vendor, certificate = authority(), tpm().ek_certificate
    alone, together = read(certificate), read(certificate, vendor.intermediate, vendor.root)
    assert judged(alone, vendor.root, vendor.intermediate) == "trusted"
    assert judged(together, vendor.root) == "trusted"
    assert judged(together, vendor.intermediate, vendor.root, EkAuthority().root) == "trusted"
    assert judged(alone, vendor.root) == "ek-untrusted"
    assert judged(together, vendor.intermediate) == "ek-untrusted"
    assert judged(together) == "ek-untrusted"


def test_a_root_may_certify_the_endorsement_key_itself() -> None:
    """A chain needs no intermediate."""
    certificate = ek_certificate(tpm().ek_key.public_key(), authority().root_issuer)
    assert judged(read(certificate), authority().root) == "trusted"


def test_s20_an_authority_of_the_same_name_is_not_trusted() -> None:
    """What counts is the signature, and the configured certificate, not the name."""
    foreign = EkAuthority()
    chain = read(foreign.issue(tpm().ek_key.public_key()), foreign.intermediate, foreign.root)
    assert judged(chain, authority().root, authority().intermediate) == "ek-untrusted"
    mixed = read(foreign.issue(tpm().ek_key.public_key()), authority().intermediate)
    assert judged(mixed, authority().root, authority().intermediate) == "ek-untrusted"


def test_s20_a_certificate_has_to_be_signed_by_the_issuer_that_it_names() -> None:
    """The signature of another authority of the same chain does not count, nor that of another RSA key."""
    vendor, key = authority(), tpm().ek_key.public_key()
    by_root = ek_certificate(key, (vendor.intermediate, vendor.root_issuer[1]))
    assert judged(read(by_root, vendor.intermediate), vendor.root) == "ek-untrusted"
    root = ca("root", rsa_key())
    assert judged(read(ek_certificate(key, (root, rsa_key()))), root) == "trusted"
    assert judged(read(ek_certificate(key, (root, rsa_key(3072)))), root) == "ek-untrusted"


def test_s20_dates_count_for_every_certificate_of_the_chain() -> None:
    """Outside the dates of the endorsement key's certificate, or of any authority's, the chain is refused."""
    key, vendor = tpm().ek_key, authority()
    ended = vendor.issue(key.public_key(), ends=NOW - DAY)
    assert judged(read(ended, vendor.intermediate), vendor.root) == "ek-expired"
    not_begun = ek_certificate(key.public_key(), vendor.issuer, begins=NOW + DAY)
    assert judged(read(not_begun, vendor.intermediate), vendor.root) == "ek-expired"
    old = vendor.intermediate_until(NOW - DAY)
    assert judged(read(tpm().ek_certificate, old), vendor.root) == "ek-expired"
    assert judged(read(tpm().ek_certificate, vendor.intermediate), vendor.root, now=NOW + 9000 * DAY) == "ek-expired"
    # A renewed certificate of the same authority is enough.
    assert judged(read(tpm().ek_certificate, old, vendor.intermediate), vendor.root) == "trusted"
    # What is not trusted has not merely expired.
    assert judged(read(ended, vendor.intermediate), EkAuthority().root) == "ek-untrusted"


@pytest.mark.parametrize(
    "bad",
    [
        {"is_ca": False},
        {"key_usage": "digital_signature"},
        {"begins": NOW + DAY},
    ],
    ids=["no CA", "no keyCertSign", "not begun"],
)
def test_s20_an_intermediate_has_to_be_an_authority(bad: dict[str, object]) -> None:
    """A certificate that a trusted root has signed is not for that reason an authority's."""
    key = ec.generate_private_key(ec.SECP256R1())
    between = ca("between", key, authority().root_issuer, **bad)  # type: ignore[arg-type]
    certificate = ek_certificate(tpm().ek_key.public_key(), (between, key))
    assert judged(read(certificate, between), authority().root) in {"ek-untrusted", "ek-expired"}


def test_s20_a_path_length_is_kept() -> None:
    """An authority that may have none below it cannot make another one."""
    key, vendor = ec.generate_private_key(ec.SECP256R1()), authority()
    below = ca("below", key, vendor.issuer)
    certificate = ek_certificate(tpm().ek_key.public_key(), (below, key))
    assert judged(read(certificate, below, vendor.intermediate), vendor.root) == "ek-untrusted"


def test_a_chain_has_an_end() -> None:
    """Five authorities may be above an endorsement key, and no more; a circle of them leads nowhere."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(6)]
    issuer: Issuer = (ca("0", keys[0]), keys[0])
    line = [issuer]
    for number in range(1, 6):
        line.append((ca(str(number), keys[number], line[-1]), keys[number]))
    trusted = [
        judged(
            read(ek_certificate(tpm().ek_key.public_key(), line[last]), *[each for each, _ in line[1 : last + 1]]),
            line[0][0],
        )
        for last in range(6)
    ]
    assert trusted == ["trusted"] * 5 + ["ek-untrusted"]
    circle = [ca("a", keys[0], (ca("b", keys[1]), keys[1])), ca("b", keys[1], (ca("a", keys[0]), keys[0]))]
    certificate = ek_certificate(tpm().ek_key.public_key(), (circle[0], keys[0]))
    assert judged(read(certificate, *circle), authority().root) == "ek-untrusted"
    assert judged(read(certificate, *circle), *circle) == "ek-untrusted"


def test_s20_a_short_rsa_key_signs_nothing() -> None:
    """An authority with RSA of 1024 bits is not accepted, one with 2048 is."""
    trusted = []
    for bits in (1024, 2048):
        root = ca("root", rsa_key(bits))
        certificate = ek_certificate(tpm().ek_key.public_key(), (root, rsa_key(bits)))
        trusted.append(judged(read(certificate), root))
    assert trusted == ["ek-untrusted", "trusted"]


def resigned(certificate: asn1.Certificate, algorithm: str, hash_: hashes.HashAlgorithm) -> x509.Certificate:
    """Sign a certificate anew with the intermediate's key, as the library does not make them."""
    key = authority().issuer[1]
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate["tbs_certificate"]["signature"] = {"algorithm": algorithm}
    certificate["signature_algorithm"] = {"algorithm": algorithm}
    certificate["signature_value"] = key.sign(certificate["tbs_certificate"].dump(force=True), ec.ECDSA(hash_))
    return x509.load_der_x509_certificate(certificate.dump(force=True))


@pytest.mark.parametrize(
    ("algorithm", "hash_", "judgement"),
    [
        ("sha1_ecdsa", hashes.SHA1(), "ek-untrusted"),  # noqa: S303 - that is the point
        ("sha224_ecdsa", hashes.SHA224(), "ek-untrusted"),
        ("sha512_ecdsa", hashes.SHA512(), "trusted"),
    ],
)
def test_s20_a_weak_hash_signs_nothing(algorithm: str, hash_: hashes.HashAlgorithm, judgement: str) -> None:
    """A certificate whose signature is over a SHA-1 or SHA-224 is not accepted; the same with SHA-512 is."""
    encoding = tpm().ek_certificate.public_bytes(Encoding.DER)
    certificate = resigned(asn1.Certificate.load(encoding), algorithm, hash_)
    assert judged(read(certificate, authority().intermediate), authority().root) == judgement


def with_key_type(kind: str) -> x509.Certificate:
    """Return the RSA key's certificate with another object identifier as the key's type."""
    certificate = asn1.Certificate.load(tpm("rsa-2048").ek_certificate.public_bytes(Encoding.DER))
    certificate["tbs_certificate"]["subject_public_key_info"]["algorithm"] = {"algorithm": kind, "parameters": None}
    return resigned(certificate, "sha256_ecdsa", hashes.SHA256())


def test_a_certificate_may_say_that_its_key_is_for_oaep() -> None:
    """Some vendors' certificates have the key's type as rsaesOaep; it is the same key."""
    endorsement = read(with_key_type("1.2.840.113549.1.1.7"), authority().intermediate, ek="rsa-2048")
    assert endorsement.ek_sha256 == read(tpm("rsa-2048").ek_certificate, ek="rsa-2048").ek_sha256
    assert judged(endorsement, authority().root) == "trusted"


def test_s20_a_certificate_must_not_say_that_its_key_is_for_signatures() -> None:
    """The same numbers as a key for RSASSA-PSS are another key."""
    assert code_of(tpm("rsa-2048").ek_public, pem(with_key_type("1.2.840.113549.1.1.10"))) == "ek-key-mismatch"


# --- what the certificate is for -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"purpose": ExtendedKeyUsageOID.CLIENT_AUTH},
        {"purpose": ObjectIdentifier("2.23.133.8.3")},  # tcg-kp-AIKCertificate
        {"purpose": None, "name": x509.Name([])},
        {"is_ca": True},
        {"key_usage": "digital_signature"},
        {"unknown_critical": True},
    ],
    ids=["TLS", "attestation key", "nothing", "CA", "signatures", "unknown"],
)
def test_s20_a_certificate_for_another_purpose_is_refused(bad: dict[str, object]) -> None:
    """A trusted vendor's certificate has to be one of an endorsement key."""
    certificate = ek_certificate(tpm().ek_key.public_key(), authority().issuer, **bad)  # type: ignore[arg-type]
    assert judged(read(certificate, authority().intermediate), authority().root) == "ek-unsuitable"


def test_a_certificate_without_a_purpose_may_name_the_tpm_instead() -> None:
    """Certificates from before the profile demanded the purpose are recognized by the TPM's name in them."""
    certificate = ek_certificate(tpm().ek_key.public_key(), authority().issuer, purpose=None)
    assert judged(read(certificate, authority().intermediate), authority().root) == "trusted"
