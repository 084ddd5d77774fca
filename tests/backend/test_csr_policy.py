"""S4 to S10: which CSRs get no certificate. Every case goes through the real handler."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from math import prod

import pytest
from asn1crypto import core, keys
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from enrollment_backend.csr_policy import accept
from enrollment_backend.errors import CsrRefusedError
from tests.backend import csr_factory as make
from tests.backend.csr_factory import THING, pem, pem_of, request
from tests.backend.deployment import Deployment

GOOD = pem_of(request())
GOOD_DER = make.der_of(request())
BODY = GOOD.splitlines()[1:-1]
P256 = core.ObjectIdentifier("1.2.840.10045.3.1.7").dump()
POINT = make.ec_key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def cases(table: dict[str, Callable[[], str]]) -> pytest.MarkDecorator:
    """Turn a table of makers into parameters; nothing is made before its test runs."""
    return pytest.mark.parametrize("text_of", [pytest.param(maker, id=name) for name, maker in table.items()])


def check(backend: Deployment, text: str, code: str) -> None:
    """Assert that the CSR is refused with that code."""
    assert backend.refused(backend.enroll(text, THING), 400, code, text)


def lines(*body: str, label: str = "CERTIFICATE REQUEST") -> str:
    """Return a PEM block of these lines."""
    return "\n".join((f"-----BEGIN {label}-----", *body, f"-----END {label}-----", ""))


def with_padding_bits() -> str:
    """Return a good CSR whose last base64 character has bits set that encode nothing (RFC 4648 §3.5)."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for text in (pem_of(request(None, THING, units=("u" * size,))) for size in range(1, 4)):
        body = "".join(text.splitlines()[1:-1])
        if body.endswith("="):
            at = len(body.rstrip("=")) - 1
            changed = body[:at] + alphabet[alphabet.index(body[at]) | 1] + body[at + 1 :]
            assert base64.b64decode(changed) == base64.b64decode(body)
            return lines(*(changed[start : start + 64] for start in range(0, len(changed), 64)))
    raise AssertionError("no CSR needed padding")


@cases(
    {
        "empty": lambda: "",
        "no pem": lambda: "".join(BODY),
        "der in latin-1": lambda: GOOD_DER.decode("latin-1"),
        "label of a certificate": lambda: pem(GOOD_DER, "CERTIFICATE"),
        "label of old": lambda: pem(GOOD_DER, "NEW CERTIFICATE REQUEST"),
        "label in lower case": lambda: pem(GOOD_DER, "certificate request"),
        "labels differ": lambda: GOOD.replace("END CERTIFICATE REQUEST", "END NEW CERTIFICATE REQUEST"),
        "no end": lambda: GOOD.partition("-----END")[0],
        "no begin": lambda: GOOD.partition("REQUEST-----\n")[2],
        "two blocks": lambda: GOOD + GOOD,
        "a block of another kind behind": lambda: GOOD + pem(b"\x00", "CERTIFICATE"),
        "text before": lambda: "Certificate Request:\n" + GOOD,
        "text behind": lambda: GOOD + "x",
        "a blank before": lambda: " " + GOOD,
        "a blank behind": lambda: GOOD + " ",
        "an empty line before": lambda: "\n" + GOOD,
        "an empty line behind": lambda: GOOD + "\n",
        "an empty line within": lambda: lines(BODY[0], "", *BODY[1:]),
        "a blank within": lambda: lines(BODY[0] + " ", *BODY[1:]),
        "a tab at a line's start": lambda: lines("\t" + BODY[0], *BODY[1:]),
        "a byte order mark": lambda: "\ufeff" + GOOD,
        "NUL within": lambda: GOOD[:60] + "\x00" + GOOD[60:],
        "CR as line end": lambda: GOOD.replace("\n", "\r"),
        "all in one line": lambda: lines("".join(BODY)),
        "no line ends at all": lambda: GOOD.replace("\n", ""),
        "line ends as backslash n": lambda: GOOD.replace("\n", "\\n"),
        "headers of RFC 1421": lambda: lines("Proc-Type: 4,ENCRYPTED", "", *BODY),
        "a bad character": lambda: lines(BODY[0].replace(BODY[0][7], "!"), *BODY[1:]),
        "the url alphabet": lambda: lines("-_" + BODY[0][2:], *BODY[1:]),
        "a letter outside ascii": lambda: lines("\u0410" + BODY[0][1:], *BODY[1:]),
        "padding in the middle": lambda: lines(BODY[0][:-1] + "=", *BODY[1:]),
        "padding too much": lambda: lines(*BODY[:-1], BODY[-1] + "="),
        "a character short": lambda: lines(*BODY[:-1], BODY[-1].rstrip("=")[:-1]),
        "bits in the padding": with_padding_bits,
    }
)
def test_s4_anything_but_one_strict_pem_block_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S4: one block of the right label, strict base64, nothing around it."""
    check(backend, text_of(), "csr-pem-invalid")


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
        "nothing between the labels": lambda: lines(),
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
        "null after the ecdsa algorithm": lambda: pem(
            make.forged(algorithm={"algorithm": "sha256_ecdsa", "parameters": core.Null()})
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


@pytest.mark.parametrize("key", [make.ec_key(), make.rsa_key()], ids=["ec", "rsa"])
def test_s4_s5_a_csr_with_any_single_bit_flipped_is_refused(
    backend: Deployment, key: ec.EllipticCurvePrivateKey
) -> None:
    """S4, S5: every bit of a CSR is either checked or covered by its signature, the signature's own bits included."""
    der = make.der_of(request(key))
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


@cases(
    {
        "rsa with md5": lambda: pem(rsa_signed({"algorithm": "md5_rsa"}, PKCS1, hashes.MD5())),  # noqa: S303
        "rsa with sha-1": lambda: pem(rsa_signed({"algorithm": "sha1_rsa"}, PKCS1, hashes.SHA1())),  # noqa: S303
        "rsa with sha-224": lambda: pem(rsa_signed({"algorithm": "sha224_rsa"}, PKCS1, hashes.SHA224())),
        "rsa-pss": lambda: pem(rsa_signed({"algorithm": "rsassa_pss"}, PSS, hashes.SHA256())),
        "ecdsa with sha-1": lambda: pem(
            make.forged(
                algorithm={"algorithm": "sha1_ecdsa"},
                sign=lambda message: make.ec_key().sign(message, ec.ECDSA(hashes.SHA1())),  # noqa: S303
            )
        ),
        "ecdsa with sha3-256": lambda: pem(make.forged(algorithm={"algorithm": "sha3_256_ecdsa"})),
        "rsa algorithm, ec key": lambda: pem(make.forged(algorithm={"algorithm": "sha256_rsa"})),
        "ecdsa algorithm, rsa key": lambda: pem(rsa_signed({"algorithm": "sha256_ecdsa"}, PKCS1, hashes.SHA256())),
        "ed25519 algorithm, ec key": lambda: pem(make.forged(algorithm={"algorithm": "ed25519"})),
    }
)
def test_s5_a_signature_algorithm_outside_the_list_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S5: MD5, SHA-1, SHA-224, SHA-3 and RSA-PSS are out, and so is an algorithm that is not the key's."""
    check(backend, text_of(), "csr-signature-algorithm-not-allowed")


@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda digest: digest.name)
@pytest.mark.parametrize("key", [make.ec_key(), make.rsa_key()], ids=["ec", "rsa"])
def test_s5_each_sha_2_hash_is_taken_with_each_kind_of_key(
    digest: hashes.HashAlgorithm, key: ec.EllipticCurvePrivateKey
) -> None:
    """S5: the list is not narrower than it says; the accepted CSR is the text and the key that were sent."""
    text = pem_of(request(key, algorithm=digest))
    accepted = accept(text, THING)
    assert (accepted.pem + "\n", accepted.spki) == (text, make.spki_of(key))


GOOD_MODULUS = make.rsa_key().public_key().public_numbers().n


@cases(
    {
        "1024 bits": lambda: pem_of(request(make.rsa_key(1024))),
        "2047 bits": lambda: pem(make.forged(spki=make.rsa_spki(GOOD_MODULUS >> 1 | 1, 65537))),
        "2056 bits": lambda: pem_of(request(make.rsa_key(2056))),
        "8192 bits": lambda: pem(make.forged(spki=make.rsa_spki(1 << 8191 | 1, 65537))),
        "exponent 1": lambda: pem(make.forged(spki=make.rsa_spki(GOOD_MODULUS, 1))),
        "exponent 3": lambda: pem_of(request(make.rsa_key(2048, exponent=3))),
        "exponent 2": lambda: pem(make.forged(spki=make.rsa_spki(GOOD_MODULUS, 2))),
        "exponent 0": lambda: pem(make.forged(spki=make.rsa_spki(GOOD_MODULUS, 0))),
        "exponent 65539": lambda: pem(make.forged(spki=make.rsa_spki(GOOD_MODULUS, 65539))),
        "exponent as large as the modulus": lambda: pem(make.forged(spki=make.rsa_spki(GOOD_MODULUS, GOOD_MODULUS))),
        "exponent even": lambda: pem(make.forged(spki=make.rsa_spki(GOOD_MODULUS, 65536))),
        "exponent huge": lambda: pem(make.forged(spki=make.rsa_spki(GOOD_MODULUS, 2**256 + 1))),
        "exponent negative": lambda: pem(make.forged(spki=make.rsa_spki(GOOD_MODULUS, -65537))),
        "modulus zero": lambda: pem(make.forged(spki=make.rsa_spki(0, 65537))),
        "modulus negative": lambda: pem(make.forged(spki=make.rsa_spki(-GOOD_MODULUS, 65537))),
    }
)
def test_s6_an_rsa_key_of_another_size_or_exponent_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S6: 2048, 3072 or 4096 bits with e = 65537, and nothing else."""
    check(backend, text_of(), "csr-key-not-allowed")


SMALL_FACTOR = (3, (1 << 2048) // 3 - (1 << 2036) + 2050)
LAST_SMALL_FACTOR = (751, (1 << 2048) // 751 - (1 << 2036) + 1556)
CLOSE_PRIMES = ((3 << 1022) + 1037, (3 << 1022) + 1697)


def roca_primes() -> tuple[int, int]:
    """Return two primes as RSALib made them for 2048 bits: k*M + (65537^a mod M), M the product of 126 primes."""
    product = prod(number for number in range(2, 702) if all(number % divisor for divisor in range(2, number)))
    return (
        8408526390557360 * product + pow(65537, 11481595129689428283, product),
        8590944234681743 * product + pow(65537, 15865903013163565114, product),
    )


@pytest.mark.parametrize(
    ("primes", "weakness"),
    [
        pytest.param(lambda: SMALL_FACTOR, "small-factor", id="divisible by 3"),
        pytest.param(lambda: LAST_SMALL_FACTOR, "small-factor", id="divisible by 751"),
        pytest.param(lambda: CLOSE_PRIMES, "close-primes", id="close primes"),
        pytest.param(roca_primes, "roca", id="roca"),
    ],
)
def test_s6_a_weak_rsa_key_is_refused(
    backend: Deployment, primes: Callable[[], tuple[int, int]], weakness: str
) -> None:
    """S6: the key is of the right size, it signs its CSR, and it is anybody's. The log says why."""
    key = make.rsa_key_of(*primes())
    csr = request(key)
    assert (key.key_size, csr.is_signature_valid) == (2048, True)
    check(backend, pem_of(csr), "csr-key-weak")
    assert backend.log_lines()[0]["weakness"] == weakness


def test_s6_an_even_modulus_is_refused(backend: Deployment) -> None:
    """S6: the smallest factor there is; no signature goes with it."""
    check(backend, pem(make.forged(spki=make.rsa_spki(GOOD_MODULUS - 1, 65537))), "csr-key-weak")


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_s6_an_honest_rsa_key_is_taken(backend: Deployment, bits: int) -> None:
    """S6: each size on the list gets its certificate."""
    answer = backend.enroll(pem_of(request(make.rsa_key(bits))), THING)
    assert answer.status == 201, backend.log.getvalue()


def test_s6_an_rsa_key_of_16384_bits_does_not_fit(backend: Deployment) -> None:
    """S6: the CSR's length refuses it before any arithmetic."""
    check(
        backend,
        pem(make.forged(spki=make.rsa_spki(1 << 16383 | 1, 65537), sign=lambda _: bytes(2048))),
        "csr-too-large",
    )


def explicit_parameters() -> bytes:
    """Return P-256 spelled out instead of named (X9.62 ECParameters)."""
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    domain = keys.SpecifiedECDomain(
        {
            "version": "ecdpVer1",
            "field_id": {"field_type": "prime_field", "parameters": core.Integer(prime)},
            "curve": {
                "a": (prime - 3).to_bytes(32),
                "b": bytes.fromhex("5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b"),
            },
            "base": bytes.fromhex(
                "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
                "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
            ),
            "order": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
            "cofactor": 1,
        }
    )
    parameters: bytes = domain.dump()
    return parameters


def unreduced_point() -> bytes:
    """Return the point of P-256 with x = 0, its x written as p: the same number to who reduces it."""
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    return b"\x04" + prime.to_bytes(32) + pow(b, (prime + 1) // 4, prime).to_bytes(32)


@cases(
    {
        "p-224": lambda: pem_of(request(make.ec_key(ec.SECP224R1))),
        "p-521": lambda: pem_of(request(make.ec_key(ec.SECP521R1))),
        "secp256k1": lambda: pem_of(request(make.ec_key(ec.SECP256K1))),
        "brainpoolP256r1": lambda: pem_of(request(make.ec_key(ec.BrainpoolP256R1))),
        "brainpoolP384r1": lambda: pem_of(request(make.ec_key(ec.BrainpoolP384R1))),
        "null parameters": lambda: pem(make.forged(spki=make.ec_spki(b"\x05\x00", POINT))),
        "off the curve": lambda: pem(
            make.forged(spki=make.ec_spki(P256, POINT[:-1] + bytes((POINT[-1] ^ 1,))))
        ),
        "infinity": lambda: pem(make.forged(spki=make.ec_spki(P256, b"\x00"))),
        "origin": lambda: pem(make.forged(spki=make.ec_spki(P256, b"\x04" + bytes(64)))),
        "another curve's point": lambda: pem(make.forged(spki=make.ec_spki(
            P256, make.ec_key(ec.SECP384R1).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        ))),
        "no point": lambda: pem(make.forged(spki=make.ec_spki(P256, b""))),
        "a byte short": lambda: pem(make.forged(spki=make.ec_spki(P256, POINT[:-1]))),
        "a byte long": lambda: pem(make.forged(spki=make.ec_spki(P256, POINT + b"\x00"))),
        "x not reduced": lambda: pem(make.forged(spki=make.ec_spki(P256, unreduced_point()))),
        "ec for agreement only": lambda: pem(make.forged(spki=make.spki("1.3.132.1.12", P256, POINT))),
        "unknown algorithm": lambda: pem(make.forged(spki=make.spki("1.2.3.4", b"", POINT))),
        "x25519": lambda: pem(make.forged(spki=make.spki_of(x25519.X25519PrivateKey.generate()))),
        "ed448": lambda: pem_of(request(ed448.Ed448PrivateKey.generate(), algorithm=None)),
        "ed25519": lambda: pem_of(request(ed25519.Ed25519PrivateKey.generate(), algorithm=None)),
        "dsa": lambda: pem_of(request(dsa.generate_private_key(2048))),
    }
)  # fmt: skip
def test_s7_any_other_kind_of_key_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S7: P-256 and P-384 by name, with a point on them; no other curve, no other algorithm."""
    check(backend, text_of(), "csr-key-not-allowed")


@cases(
    {
        "explicit parameters": lambda: pem(make.forged(spki=make.ec_spki(explicit_parameters(), POINT))),
        "no parameters": lambda: pem(make.forged(spki=make.ec_spki(b"", POINT))),
        "hybrid point": lambda: pem(make.forged(spki=make.ec_spki(P256, bytes((6 | POINT[-1] & 1,)) + POINT[1:]))),
    }
)
def test_s7_a_curve_or_point_written_in_another_way_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S7: a curve goes by its name (RFC 5480 §2.1.1), a point by its two coordinates (§2.2)."""
    check(backend, text_of(), "csr-der-invalid")


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


def asking(*extensions: tuple[x509.ExtensionType, bool]) -> str:
    """Return a good CSR that asks for extensions."""
    return pem_of(request(extensions=extensions))


EXTENSION_REQUEST = "1.2.840.113549.1.9.14"  # RFC 2985 §5.4.2
CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # RFC 2985 §5.4.1


def raw_extensions(*oids: str) -> str:
    """Return a CSR whose extension request holds these, in this order, repetitions included."""
    extensions = (
        make.tlv(0x30, core.ObjectIdentifier(oid).dump() + b"\x01\x01\xff" + core.OctetString(b"\x05\x00").dump())
        for oid in oids
    )
    return pem(make.forged(attributes=make.attribute(EXTENSION_REQUEST, make.tlv(0x30, b"".join(extensions)))))


KEY_CERT_SIGN = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


@cases(
    {
        "CA:TRUE": lambda: asking((x509.BasicConstraints(ca=True, path_length=None), True)),
        "CA:FALSE": lambda: asking((x509.BasicConstraints(ca=False, path_length=None), True)),
        "keyCertSign": lambda: asking((KEY_CERT_SIGN, True)),
        "extended key usage": lambda: asking((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)),
        "subject alternative name": lambda: asking((x509.SubjectAlternativeName([x509.DNSName("x.example")]), False)),
        "in microsoft's attribute": lambda: pem(
            make.forged(attributes=make.attribute("1.3.6.1.4.1.311.2.1.14", b"\x30\x00"))
        ),
        "unknown critical": lambda: raw_extensions("1.2.3.4"),
        "the same twice": lambda: raw_extensions("2.5.29.19", "2.5.29.19"),
        "none at all": lambda: raw_extensions(),
        "two requests": lambda: pem(make.forged(attributes=make.attribute(EXTENSION_REQUEST, b"\x30\x00") * 2)),
        "two values": lambda: pem(make.forged(attributes=make.attribute(EXTENSION_REQUEST, b"\x30\x00", b"\x30\x00"))),
        "no value": lambda: pem(make.forged(attributes=make.attribute(EXTENSION_REQUEST))),
        "junk": lambda: pem(make.forged(attributes=b"junk")),
        "challenge password": lambda: pem(
            make.forged(attributes=make.attribute(CHALLENGE_PASSWORD, core.UTF8String("secret").dump()))
        ),
    }
)
def test_s9_a_csr_that_asks_for_extensions_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S9: AWS IoT decides what the certificate may do; nothing is asked for, nothing is ignored."""
    check(backend, text_of(), "csr-attributes-not-allowed")


def named(value: core.Asn1Value) -> str:
    """Return a CSR whose common name is that ASN.1 string."""
    return pem(make.forged(common_name=value))


@cases(
    {
        "missing": lambda: pem_of(
            x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(make.ec_key(), hashes.SHA256())
        ),
        "twice": lambda: pem_of(request(None, THING, THING)),
        "twice, the right one last": lambda: pem_of(request(None, "other", THING)),
        "another name": lambda: pem_of(request(None, "press-18")),
        "another case": lambda: pem_of(request(None, THING.upper())),
        "65 characters": lambda: named(core.UTF8String("x" * 65)),
        "blank behind": lambda: pem_of(request(None, THING + " ")),
        "NUL behind": lambda: named(core.UTF8String(THING + "\x00.evil")),
        "newline behind": lambda: named(core.UTF8String(THING + "\n")),
        "look-alike letters": lambda: pem_of(request(None, "pr\u0435ss-17")),
        "wide letters": lambda: pem_of(request(None, "\uff50ress-17")),
        "letters composed": lambda: pem_of(request(None, "pre\u0301ss-17")),
        "a hyphen that is none": lambda: pem_of(request(None, "press\u201117")),
        "a digit of another script": lambda: pem_of(request(None, "press-1\u0667")),
        "a blank without width": lambda: pem_of(request(None, THING + "\u200b")),
        "an override of direction": lambda: pem_of(request(None, "\u202e" + THING)),
        "empty": lambda: named(core.UTF8String("")),
        "only a part": lambda: pem_of(request(None, THING[:-1])),
        "only in another attribute": lambda: pem_of(request(None, "other", units=(THING,))),
    }
)
def test_s10_a_subject_that_does_not_name_the_thing_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S10: one common name, the Thing's, character for character."""
    check(backend, text_of(), "csr-common-name-mismatch")


def test_s10_a_common_name_of_65_characters_is_refused_even_if_it_is_the_things(backend: Deployment) -> None:
    """S10: a Thing may have 128 characters, a common name 64 (ub-common-name)."""
    name = "x" * 65
    text = named(core.UTF8String(name))
    assert backend.refused(backend.enroll(text, name), 400, "csr-common-name-too-long", text)


@cases(
    {
        "broken UTF-8": lambda: named(core.UTF8String(contents=b"press-1\xff")),
        "BMPString": lambda: named(core.BMPString(THING)),
        "TeletexString": lambda: named(core.TeletexString(THING)),
        "UniversalString": lambda: named(core.UniversalString(THING)),
        "NumericString": lambda: named(core.NumericString("17")),
        "VisibleString": lambda: named(core.VisibleString(THING)),
        "BIT STRING": lambda: named(core.OctetBitString(THING.encode("ascii"))),
        "INTEGER": lambda: named(core.Integer(17)),
        "SEQUENCE": lambda: named(core.Sequence.load(b"\x30\x00")),
    }
)
def test_s10_a_subject_of_anything_but_plain_text_is_refused(backend: Deployment, text_of: Callable[[], str]) -> None:
    """S10: strings that need a guess at their meaning, and values that are no strings at all."""
    check(backend, text_of(), "csr-subject-invalid")


def test_s10_a_common_name_may_be_a_printable_string_too(backend: Deployment) -> None:
    """S10: some devices write PrintableString; the value counts (RFC 5280 §4.1.2.4)."""
    assert backend.enroll(named(core.PrintableString(THING)), THING).status == 201
