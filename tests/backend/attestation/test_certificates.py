"""Certificates as TPM vendors issue them: not always in DER to the letter, and never believed for being readable."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from enrollment_backend.attestation.certificates import Constraints, read, read_pem
from enrollment_backend.attestation.chains import leads_to_anchor
from enrollment_backend.der import sequence
from tests.support.csr_factory import ec_key, spki_of
from tests.support.ek_authority import EkAuthority, pem, usage

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def der(tag: int, *contents: bytes) -> bytes:
    """Encode a value."""
    content = b"".join(contents)
    return bytes([tag]) + sequence(content)[1:]


def name(*parts: bytes) -> bytes:
    """Encode a Name."""
    return der(0x30, *parts)


def part(*attributes: tuple[str, str]) -> bytes:
    """Encode a part of a Name whose attributes stand in the given order."""
    return der(
        0x31, *(der(0x30, der(0x06, bytes.fromhex(kind)), der(0x0C, text.encode())) for kind, text in attributes)
    )


COMMON_NAME, ORGANIZATION, COUNTRY = "550403", "55040a", "550406"
# Three attributes in one set, not in the order that DER demands (X.690 §11.6), as Nuvoton's authorities have it.
DISORDERED = name(
    part((COMMON_NAME, "Example TPM Root CA 1111"), (ORGANIZATION, "Example Corporation"), (COUNTRY, "TW"))
)
SHA256_ECDSA = der(0x30, der(0x06, bytes.fromhex("2a8648ce3d040302")))
CA = der(0x30, der(0x01, b"\xff"), der(0x02, b"\0"))


def extension(oid: str, value: bytes, *, critical: bool = True) -> bytes:
    """Encode an Extension."""
    return der(0x30, der(0x06, bytes.fromhex(oid)), der(0x01, b"\xff") if critical else b"", der(0x04, value))


BASIC_CONSTRAINTS = extension("551d13", CA)


def certificate(
    key: ec.EllipticCurvePrivateKey,
    *extensions: bytes,
    subject: bytes = DISORDERED,
    issuer: bytes = DISORDERED,
    begins: bytes = der(0x17, b"200101000000Z"),
    ends: bytes = der(0x18, b"99991231235959Z"),
    algorithm: bytes = SHA256_ECDSA,
) -> bytes:
    """Encode a certificate of a key, signed by `ec_key()`."""
    signed = der(
        0x30,
        der(0xA0, der(0x02, b"\2")),
        der(0x02, b"\1"),
        SHA256_ECDSA,
        issuer,
        der(0x30, begins, ends),
        subject,
        spki_of(key),
        der(0xA3, der(0x30, *extensions)) if extensions else b"",
    )
    return der(0x30, signed, algorithm, der(0x03, b"\0" + ec_key().sign(signed, ec.ECDSA(hashes.SHA256()))))


def trusted(leaf: bytes, root: bytes) -> bool:
    """Whether a root that is configured vouches for a certificate."""
    return leads_to_anchor(read(leaf), [], [read(root)], NOW)


def test_a_name_in_disorder_is_read_and_compared_octet_by_octet() -> None:
    """Certificates that `cryptography` cannot load lead to their root, and not to one whose name is in order."""
    root = certificate(ec_key(), BASIC_CONSTRAINTS)
    leaf = certificate(ec.generate_private_key(ec.SECP256R1()), subject=name())
    with pytest.raises(ValueError, match="InvalidSetOrdering"):
        x509.load_der_x509_certificate(root)
    assert read(root).subject_text == "CN=Example TPM Root CA 1111+O=Example Corporation+C=TW"
    assert read(root).is_self_issued
    assert trusted(leaf, root)
    ordered = name(
        part((COUNTRY, "TW"), (ORGANIZATION, "Example Corporation"), (COMMON_NAME, "Example TPM Root CA 1111"))
    )
    assert not trusted(leaf, certificate(ec_key(), BASIC_CONSTRAINTS, subject=ordered))
    assert not trusted(leaf, certificate(ec.generate_private_key(ec.SECP256R1()), BASIC_CONSTRAINTS))


def test_a_default_that_is_written_out_is_read() -> None:
    """basicConstraints that say FALSE where DER leaves it out say that it is no CA."""
    written_out = extension("551d13", der(0x30, der(0x01, b"\0")))
    leaf = certificate(ec_key(), written_out, subject=name())
    with pytest.raises(ValueError, match="EncodedDefault"):
        _ = x509.load_der_x509_certificate(certificate(ec_key(), written_out, subject=name(), issuer=name())).extensions
    assert read(leaf).constraints() == Constraints(is_ca=False, path_length=None)
    assert not trusted(leaf, certificate(ec_key(), written_out))


def test_what_a_good_certificate_says_is_what_cryptography_reads() -> None:
    """Of certificates that both can read, both read the same."""
    authority = EkAuthority('Vendor, "TPM" + \u00fc <1>')
    for theirs in (authority.root, authority.intermediate, authority.issue(ec_key().public_key())):
        (ours,) = read_pem("text before\n" + pem(theirs) + "text after")
        assert ours == read(theirs.public_bytes(Encoding.DER))
        assert (ours.encoding, ours.pem) == (theirs.public_bytes(Encoding.DER), pem(theirs))
        assert ours.sha256 == theirs.fingerprint(hashes.SHA256()).hex()
        assert (ours.signed, ours.signature) == (theirs.tbs_certificate_bytes, theirs.signature)
        assert (ours.begins, ours.ends) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
        assert (ours.issuer, ours.subject) == (theirs.issuer.public_bytes(), theirs.subject.public_bytes())
        assert ours.subject_text == theirs.subject.rfc4514_string()
        assert ours.signature_type == theirs.signature_algorithm_oid.dotted_string
        assert {each.oid.dotted_string: each.critical for each in theirs.extensions} == {
            kind: each.critical for kind, each in ours.extensions.items()
        }
        constraints = theirs.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert ours.constraints() == (constraints.ca, constraints.path_length)


@pytest.mark.parametrize("bit", range(9))
def test_each_bit_of_the_key_usage_is_read(bit: int) -> None:
    """The bits have the numbers of RFC 5280; none of the first eight is set where only the ninth is."""
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    wanted = (names[bit], "key_agreement") if bit > 6 else (names[bit],)
    value = usage(*wanted).public_bytes()
    found = read(certificate(ec_key(), extension("551d0f", value)))
    assert [number for number in range(8) if found.may(number)] == sorted({names.index(each) for each in wanted} - {8})


@pytest.mark.parametrize(
    ("moment", "year"),
    [
        (der(0x17, b"500101000000Z"), 1950),
        (der(0x17, b"491231235959Z"), 2049),
        (der(0x18, b"20500101000000Z"), 2050),
    ],
)
def test_years_of_two_digits_are_those_from_1950_to_2049(moment: bytes, year: int) -> None:
    """Both forms of a time are read, UTCTime as RFC 5280 reads it."""
    assert read(certificate(ec_key(), begins=moment)).begins.year == year


@pytest.mark.parametrize(
    "bad",
    [
        certificate(ec_key(), begins=der(0x17, b"2001010000Z")),
        certificate(ec_key(), begins=der(0x17, b"200101000000+0100")),
        certificate(ec_key(), begins=der(0x17, b"201301000000Z")),
        certificate(ec_key(), begins=der(0x16, b"20200101000000Z")),
        certificate(ec_key(), algorithm=der(0x30, der(0x06, bytes.fromhex("2a8648ce3d040303")))),
        certificate(ec_key(), BASIC_CONSTRAINTS, BASIC_CONSTRAINTS),
        certificate(ec_key(), extension("551d13", b"\x30")),
        certificate(ec_key(), der(0x30, der(0x06, bytes.fromhex("551d13")), der(0x03, CA))),
        certificate(ec_key()) + b"\0",
        certificate(ec_key())[:-1],
        der(0x30, der(0x30), der(0x30), der(0x03)),
    ],
    ids=["short", "zone", "month", "type", "algorithms", "twice", "cut extension", "bits", "leftover", "cut", "empty"],
)
def test_s20_what_is_malformed_is_refused(bad: bytes) -> None:
    """It is found when the certificate is read, not when something is asked of it."""
    with pytest.raises(ValueError, match=r"."):
        read(bad)


@pytest.mark.parametrize("text", ["", "text", pem(EkAuthority().root).replace("\nMII", "\n!MII")])
def test_s20_what_is_not_pem_is_refused(text: str) -> None:
    """There has to be a block, and it has to be base64."""
    with pytest.raises(ValueError, match=r"."):
        read_pem(text)


def test_text_that_cannot_be_shown_is_left_out() -> None:
    """An attribute whose characters are not those of its type is no reason to refuse a certificate."""
    odd = der(0x31, der(0x30, der(0x06, bytes.fromhex(COMMON_NAME)), der(0x13, b"\xff")))
    assert read(certificate(ec_key(), subject=name(odd, part((ORGANIZATION, "Example"))))).subject_text == "O=Example"


def test_an_authority_with_an_unknown_critical_extension_is_not_trusted() -> None:
    """What is critical and not known here might forbid the certificate; what says that it is not may be unknown."""
    leaf = certificate(ec.generate_private_key(ec.SECP256R1()), subject=name())
    constraint = der(0x30)  # nameConstraints, RFC 5280 §4.2.1.10
    not_critical = der(0x30, der(0x06, bytes.fromhex("551d1e")), der(0x01, b"\0"), der(0x04, constraint))
    assert not trusted(leaf, certificate(ec_key(), BASIC_CONSTRAINTS, extension("551d1e", constraint)))
    assert trusted(leaf, certificate(ec_key(), BASIC_CONSTRAINTS, not_critical))


def test_alternative_names_of_other_kinds_are_passed_over() -> None:
    """The TPM's name is found beside a host name."""
    alternative_names = der(0x30, der(0x82, b"tpm.example.com"), der(0xA4, name(part((COUNTRY, "TW")))))
    read_back = read(certificate(ec_key(), extension("551d11", alternative_names)))
    assert read_back.alternative_names() == {"2.5.4.6": "TW"}
