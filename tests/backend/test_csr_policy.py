"""S4, S5, S8: which CSRs get no certificate. Every case goes through the real handler."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from asn1crypto import core, csr
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enrollment_backend.csr_errors import (
    CsrRefusedError,
)
from enrollment_backend.csr_policy import accept
from tests.support import csr_factory as make
from tests.support.csr_cases import (
    ACCEPTED,
    EC_SHA256,
    GOOD_DER,
    NULL,
    P256,
    POINT,
    RSA_NUMBERS,
    cases,
    check,
    with_identifier,
    with_null,
    without_null,
)
from tests.support.csr_factory import THING, pem, pem_of, request
from tests.support.deployment import Deployment

RSA_SHA1 = core.ObjectIdentifier("1.2.840.113549.1.1.5").dump()


def compressed_point() -> bytes:
    """Return a request whose P-256 key is written as a compressed point: valid, and a second way to say the same."""
    point = make.ec_key().public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return make.forged(spki=make.ec_spki(core.ObjectIdentifier("1.2.840.10045.3.1.7").dump(), point))


def unused_bits() -> bytes:
    """Return a good request whose signature says that its last, unset bit does not count."""
    for units in ((size * "u",) for size in range(1, 64)):
        good = make.der_of(request(make.rsa_key(), units=units))
        if good[-1] & 1 == 0:
            return good[:-257] + b"\x01" + good[-256:]
    raise AssertionError("no signature ended in an unset bit")


def without_attributes_field() -> bytes:
    """Return a request that leaves out `attributes`, which RFC 2986 §4.1 does not make optional."""
    information = core.Sequence.load(request().tbs_certrequest_bytes).contents.removesuffix(b"\xa0\x00")
    body = make.tlv(0x30, information)
    signature = core.OctetBitString(make.ecdsa_sha256(body)).dump()
    return make.tlv(0x30, body + bytes.fromhex("300a06082a8648ce3d040302") + signature)


@cases(
    {
        "nothing between the labels": lambda: pem(b""),
        "one trailing byte": lambda: pem(GOOD_DER + b"\x00"),
        "twice": lambda: pem(GOOD_DER * 2),
        "indefinite length": lambda: pem(make.indefinite_length(GOOD_DER)),
        "length with a leading zero": lambda: pem(make.overlong_length(GOOD_DER)),
        "a certificate": lambda: pem(b"\x30\x03\x02\x01\x00"),
        "not asn.1": lambda: pem(b"hello, world"),
        "nothing": lambda: pem(b"\x00"),
        "version 2": lambda: pem(GOOD_DER.replace(b"\x02\x01\x00", b"\x02\x01\x01", 1)),
        "compressed point": lambda: pem(compressed_point()),
        "no attributes field": lambda: pem(without_attributes_field()),
        "two nulls after the ecdsa algorithm": lambda: pem(with_identifier(EC_SHA256 + NULL + NULL)),
        "a curve after the ecdsa algorithm": lambda: pem(with_identifier(EC_SHA256 + P256)),
        "a null with contents": lambda: pem(with_identifier(EC_SHA256 + b"\x05\x01\x00")),
        "an algorithm that is no object identifier": lambda: pem(with_identifier(b"\x04" + EC_SHA256[1:])),
        "an algorithm that is cut off": lambda: pem(with_identifier(b"\x06\x08" + EC_SHA256[2:-1] + b"\x82")),
        "an algorithm with a padded arc": lambda: pem(with_identifier(b"\x06\x09\x2a\x80" + EC_SHA256[3:])),
        "another algorithm that is no object identifier": lambda: pem(with_identifier(b"\x04" + RSA_SHA1[1:])),
        "no algorithm": lambda: pem(with_identifier(b"")),
        "an rsa key with two parameters": lambda: pem(
            make.forged(spki=make.spki("1.2.840.113549.1.1.1", NULL + NULL, RSA_NUMBERS))
        ),
        "a curve that is cut off": lambda: pem(make.forged(spki=make.ec_spki(b"\x06\x01\x80", POINT))),
        "a key that is no bit string": lambda: pem(
            make.forged(spki=make.spki_of(make.ec_key()).replace(b"\x03\x42", b"\x04\x42"))
        ),
        "an rsa key without parameters": lambda: pem(
            make.forged(spki=make.spki("1.2.840.113549.1.1.1", b"", RSA_NUMBERS))
        ),
        "a signature of broken octets": lambda: pem(unused_bits()),
        "a relative name that is a sequence": lambda: pem(GOOD_DER.replace(b"\x31\x11", b"\x30\x11", 1)),
        "an integer with a leading zero": lambda: pem(GOOD_DER.replace(b"\x02\x01\x00", b"\x02\x02\x00\x00", 1)),
    }
)
def test_s4_anything_but_canonical_der_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S4: trailing bytes, BER, and every second way of encoding the same request."""
    check(backend, text_of(), "csr-der-invalid")


@pytest.mark.parametrize("key", [make.ec_key(), make.rsa_key()], ids=["ec", "rsa"])
def test_s4_a_csr_cut_at_any_byte_is_refused(backend: Deployment, key: ec.EllipticCurvePrivateKey) -> None:
    """S4: no prefix of a good CSR is a good CSR."""
    der = make.der_of(request(key))
    for size in range(len(der)):
        answer = backend.enroll(pem(der[:size]), THING)
        assert (answer.status, answer.json["code"]) == (400, "csr-der-invalid"), size
    assert backend.calls == []


@pytest.mark.parametrize("der_of", ACCEPTED.values(), ids=ACCEPTED)
def test_s4_s5_a_csr_with_any_single_bit_flipped_is_refused(backend: Deployment, der_of: Callable[[], bytes]) -> None:
    """S4, S5: every bit of a CSR is either checked or covered by its signature, the signature's own bits included."""
    der = der_of()
    accept(pem(der), THING)
    for bit in range(len(der) * 8):
        changed = bytearray(der)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CsrRefusedError):
            accept(pem(bytes(changed)), THING)
    sample = random.Random(17).sample(range(len(der) * 8), 50)
    for bit in sample:
        changed = bytearray(der)
        changed[bit // 8] ^= 1 << bit % 8
        assert backend.enroll(pem(bytes(changed)), THING).status == 400
    assert backend.calls == []


@pytest.mark.parametrize(
    ("der", "canonical"),
    [
        pytest.param(with_null, lambda: GOOD_DER, id="ec"),
        pytest.param(without_null, lambda: make.der_of(request(make.rsa_key())), id="rsa"),
    ],
)
def test_s4_the_parameters_of_the_signature_algorithm_are_put_right(
    der: Callable[[], bytes], canonical: Callable[[], bytes]
) -> None:
    """S4: they are not signed, so ECDSA goes on without NULL (RFC 5758 §3.2), RSA with it (RFC 4055 §5)."""
    accepted = accept(pem(der()), THING)
    sent = x509.load_pem_x509_csr(accepted.pem.encode("ascii"))
    assert sent.is_signature_valid
    assert make.with_identifier(der(), b"") == make.with_identifier(make.der_of(sent), b"")
    assert algorithm_of(make.der_of(sent)) == algorithm_of(canonical())
    assert algorithm_of(der()) != algorithm_of(canonical())
    assert accept(accepted.pem, THING) == accepted


def algorithm_of(der: bytes) -> bytes:
    """Return a request's outer AlgorithmIdentifier."""
    identifier: bytes = csr.CertificationRequest.load(der)["signature_algorithm"].dump()
    return identifier


def name_changed_after_signing() -> bytes:
    """Return a request for `THING` that was signed for another name of the same length."""
    other = make.der_of(request(None, "press-18"))
    return other.replace(b"press-18", b"press-17")


def flipped_signature() -> bytes:
    """Return a good request whose last signature bit is flipped."""
    return GOOD_DER[:-1] + bytes((GOOD_DER[-1] ^ 1,))


def another_keys_signature() -> bytes:
    """Return a request that claims a key which did not sign it."""
    other = ec.generate_private_key(ec.SECP256R1())
    return make.forged(sign=lambda message: other.sign(message, ec.ECDSA(hashes.SHA256())))


@cases(
    {
        "signature bit flipped": lambda: pem(flipped_signature()),
        "common name changed after signing": lambda: pem(name_changed_after_signing()),
        "another key's signature": lambda: pem(another_keys_signature()),
        "empty signature": lambda: pem(make.forged(sign=lambda _: b"")),
        "another hash than it says": lambda: pem(make.forged(algorithm={"algorithm": "sha384_ecdsa"})),
        "signature over the same twice": lambda: pem(make.forged(sign=lambda message: make.ecdsa_sha256(message * 2))),
    }
)
def test_s5_a_signature_that_does_not_verify_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S5: the CSR must be signed by the very key it asks a certificate for (RFC 2986 §4.2)."""
    check(backend, text_of(), "csr-signature-invalid")


def rsa_signed(algorithm: dict[str, object], scheme: padding.AsymmetricPadding, digest: hashes.HashAlgorithm) -> bytes:
    """Return a request by an RSA key with any scheme and hash, the signature itself correct."""
    key = make.rsa_key()
    return make.forged(
        spki=make.spki_of(key), algorithm=algorithm, sign=lambda message: key.sign(message, scheme, digest)
    )


PKCS1 = padding.PKCS1v15()
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


ALGORITHMS: dict[str, tuple[Callable[[], str], str]] = {
    "rsa with md5": (
        lambda: pem(rsa_signed({"algorithm": "md5_rsa"}, PKCS1, hashes.MD5())),  # noqa: S303
        "md5WithRSAEncryption (MD5)",
    ),
    "rsa with sha-1": (
        lambda: pem(rsa_signed({"algorithm": "sha1_rsa"}, PKCS1, hashes.SHA1())),  # noqa: S303
        "sha1WithRSAEncryption (SHA-1)",
    ),
    "rsa with sha-1, without null": (
        lambda: pem(with_identifier(RSA_SHA1)),
        "sha1WithRSAEncryption (SHA-1)",
    ),
    "rsa with sha-224": (
        lambda: pem(rsa_signed({"algorithm": "sha224_rsa"}, PKCS1, hashes.SHA224())),
        "sha224WithRSAEncryption (SHA-224)",
    ),
    "rsa-pss": (lambda: pem(rsa_signed({"algorithm": "rsassa_pss"}, PSS, hashes.SHA256())), "RSASSA-PSS"),
    "ecdsa with sha-1": (
        lambda: pem(
            make.forged(
                algorithm={"algorithm": "sha1_ecdsa"},
                sign=lambda message: make.ec_key().sign(message, ec.ECDSA(hashes.SHA1())),  # noqa: S303
            )
        ),
        "ecdsa-with-SHA1 (SHA-1)",
    ),
    "ecdsa with sha3-256": (
        lambda: pem(make.forged(algorithm={"algorithm": "sha3_256_ecdsa"})),
        "ecdsa-with-sha3-256 (SHA3-256)",
    ),
    "rsa algorithm, ec key": (
        lambda: pem(make.forged(algorithm={"algorithm": "sha256_rsa"})),
        "sha256WithRSAEncryption, but its key is EC",
    ),
    "ecdsa algorithm, rsa key": (
        lambda: pem(rsa_signed({"algorithm": "sha256_ecdsa"}, PKCS1, hashes.SHA256())),
        "ecdsa-with-SHA256, but its key is RSA",
    ),
    "ed25519 algorithm, ec key": (lambda: pem(make.forged(algorithm={"algorithm": "ed25519"})), "Ed25519"),
    "unknown": (lambda: pem(with_identifier(core.ObjectIdentifier("1.2.3.4").dump())), "an unknown algorithm"),
    "unknown, with parameters": (
        lambda: pem(with_identifier(core.ObjectIdentifier("1.2.3.4").dump() + NULL)),
        "an unknown algorithm",
    ),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_s5_a_signature_algorithm_outside_the_list_is_refused_by_its_name(backend: Deployment, name: str) -> None:
    """S5: MD5, SHA-1, SHA-224, SHA-3 and RSA-PSS are out, and so is an algorithm that is not the key's."""
    text_of, said = ALGORITHMS[name]
    answer = backend.enroll(text_of(), THING)
    assert backend.refused(answer, 400, "csr-signature-algorithm-not-allowed", text_of())
    assert answer.json["detail"].startswith(f"The CSR is signed with {said}; it must be signed with SHA-256")


@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda digest: digest.name)
@pytest.mark.parametrize("key", [make.ec_key(), make.rsa_key()], ids=["ec", "rsa"])
def test_s5_each_sha_2_hash_is_taken_with_each_kind_of_key(
    digest: hashes.HashAlgorithm, key: ec.EllipticCurvePrivateKey
) -> None:
    """S5: the list is not narrower than it says; the accepted CSR is the text and the key that were sent."""
    text = pem_of(request(key, algorithm=digest))
    accepted = accept(text, THING)
    assert (accepted.pem + "\n", accepted.spki) == (text, make.spki_of(key))


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256: SP 800-186 §3.2.1.3


def resigned(write: Callable[[int, int], bytes]) -> str:
    """Return a CSR whose signature is a good one's r and s, written in some way."""
    return pem(make.forged(sign=lambda message: write(*decode_dss_signature(make.ecdsa_sha256(message)))))


def pair(*numbers: int) -> bytes:
    """Return an ECDSA-Sig-Value (RFC 3279 §2.2.3) with these numbers in it."""
    return make.tlv(0x30, b"".join(core.Integer(number).dump() for number in numbers))


@cases(
    {
        "r is 0": lambda: resigned(lambda _, s: pair(0, s)),
        "s is 0": lambda: resigned(lambda r, _: pair(r, 0)),
        "both are 0": lambda: resigned(lambda _r, _s: pair(0, 0)),
        "r is n": lambda: resigned(lambda _, s: pair(ORDER, s)),
        "s is n": lambda: resigned(lambda r, _: pair(r, ORDER)),
        "r plus n": lambda: resigned(lambda r, s: pair(r + ORDER, s)),
        "s plus n": lambda: resigned(lambda r, s: pair(r, s + ORDER)),
        "r negative": lambda: resigned(lambda r, s: pair(-r, s)),
        "s negative": lambda: resigned(lambda r, s: pair(r, -s)),
        "r minus n": lambda: resigned(lambda r, s: pair(r - ORDER, s)),
        "r padded": lambda: resigned(lambda r, s: make.tlv(
            0x30, make.tlv(2, b"\x00\x00" + r.to_bytes(32)) + core.Integer(s).dump()
        )),
        "s padded": lambda: resigned(lambda r, s: make.tlv(
            0x30, core.Integer(r).dump() + make.tlv(2, b"\x00\x00" + s.to_bytes(32))
        )),
        "length not the shortest": lambda: resigned(lambda r, s: make.overlong_length(pair(r, s))),
        "length indefinite": lambda: resigned(lambda r, s: make.indefinite_length(pair(r, s))),
        "a byte behind": lambda: resigned(lambda r, s: pair(r, s) + b"\x00"),
        "a third number": lambda: resigned(lambda r, s: pair(r, s, 1)),
        "one number": lambda: resigned(lambda r, _: pair(r)),
        "no numbers": lambda: resigned(lambda _r, _s: pair()),
        "a set": lambda: resigned(lambda r, s: b"\x31" + pair(r, s)[1:]),
        "swapped": lambda: resigned(lambda r, s: pair(s, r)),
        "raw, as in IEEE P1363": lambda: resigned(lambda r, s: r.to_bytes(32) + s.to_bytes(32)),
        "twice": lambda: resigned(lambda r, s: pair(r, s) * 2),
    }
)  # fmt: skip
def test_s8_an_ecdsa_signature_in_another_form_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S8: two numbers from 1 to n - 1, in DER; whatever libraries forgive elsewhere."""
    check(backend, text_of(), "csr-signature-invalid")


def test_s8_either_of_the_two_values_of_s_is_taken(backend: Deployment) -> None:
    """S8: with s, n - s verifies as well (SEC 1 §4.1.4); no rule says which a CSR has, and tokens give either."""
    assert backend.enroll(resigned(lambda r, s: pair(r, ORDER - s)), THING).status == 201
