"""S6, S7: which keys get no certificate. Every case goes through the real handler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import pytest
from asn1crypto import core, keys
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enrollment_backend.csr_errors import CsrKeyError
from enrollment_backend.csr_policy import accept
from tests.support import csr_factory as make
from tests.support.csr_cases import NULL, P256, POINT, RSA_NUMBERS, cases, check
from tests.support.csr_factory import THING, pem, pem_of, request
from tests.support.deployment import Deployment

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


@pytest.mark.parametrize(
    ("modulus", "exponent", "said"),
    [
        (1 << 1023 | 1, 65537, "an RSA key of 1024 bits"),
        (GOOD_MODULUS >> 1 | 1, 65537, "an RSA key of 2047 bits"),
        (GOOD_MODULUS, 3, "an RSA key with an exponent other than 65537"),
        (-GOOD_MODULUS, 65537, "an invalid RSA key"),
    ],
    ids=["1024 bits", "2047 bits", "exponent 3", "negative"],
)
def test_s6_what_is_wrong_with_an_rsa_key_is_said(modulus: int, exponent: int, said: str) -> None:
    """S6: size and exponent are told apart."""
    with pytest.raises(CsrKeyError) as refused:
        accept(pem(make.forged(spki=make.rsa_spki(modulus, exponent))), THING)
    assert refused.value.detail.startswith(f"The CSR has {said}. The key must be")


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


def p521_spelled_out() -> bytes:
    """Return a request whose key's curve is P-521 spelled out."""
    prime = 2**521 - 1
    domain = keys.SpecifiedECDomain(
        {
            "version": "ecdpVer1",
            "field_id": {"field_type": "prime_field", "parameters": core.Integer(prime)},
            "curve": {
                "a": (prime - 3).to_bytes(66),
                "b": bytes.fromhex(
                    "0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf07"
                    "3573df883d2c34f1ef451fd46b503f00"
                ),
            },
            "base": bytes.fromhex(
                "0400c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8de"
                "3348b3c1856a429bf97e7e31c2e5bd66"
                "011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761"
                "353c7086a272c24088be94769fd16650"
            ),
            "order": 2**521 - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
            "cofactor": 1,
        }
    )
    key = make.ec_key(ec.SECP521R1).public_key()
    return make.forged(
        spki=make.ec_spki(domain.dump(), key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    )


def of_point(point: bytes) -> str:
    """Return a request whose P-256 key has any octets in the place of a point."""
    return pem(make.forged(spki=make.ec_spki(P256, point)))


def unreduced_point() -> bytes:
    """Return the point of P-256 with x = 0, its x written as p: the same number to who reduces it."""
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    return b"\x04" + prime.to_bytes(32) + pow(b, (prime + 1) // 4, prime).to_bytes(32)


# What the error says the CSR has.
KEYS: dict[str, tuple[Callable[[], str], str]] = {
    "p-224": (lambda: pem_of(request(make.ec_key(ec.SECP224R1))), "an EC key on P-224 (secp224r1)"),
    "p-521": (lambda: pem_of(request(make.ec_key(ec.SECP521R1))), "an EC key on P-521 (secp521r1)"),
    "secp256k1": (lambda: pem_of(request(make.ec_key(ec.SECP256K1))), "an EC key on secp256k1"),
    "brainpoolP256r1": (lambda: pem_of(request(make.ec_key(ec.BrainpoolP256R1))), "an EC key on brainpoolP256r1"),
    "brainpoolP384r1": (lambda: pem_of(request(make.ec_key(ec.BrainpoolP384R1))), "an EC key on brainpoolP384r1"),
    "unknown curve": (
        lambda: pem(make.forged(spki=make.ec_spki(core.ObjectIdentifier("1.2.3.4").dump(), POINT))),
        "an EC key on an unknown curve",
    ),
    "null parameters": (lambda: pem(make.forged(spki=make.ec_spki(NULL, POINT))), "an invalid EC key"),
    "p-521 with explicit parameters": (lambda: pem(p521_spelled_out()), "an EC key with explicit curve parameters"),
    **{
        name: (partial(of_point, point), "an invalid EC key")
        for name, point in {
            "off the curve": POINT[:-1] + bytes((POINT[-1] ^ 1,)),
            "infinity": b"\x00",
            "origin": b"\x04" + bytes(64),
            "another curve's point": make.ec_key(ec.SECP384R1)
            .public_key()
            .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
            "no point": b"",
            "a byte short": POINT[:-1],
            "a byte long": POINT + b"\x00",
            "x not reduced": unreduced_point(),
        }.items()
    },
    "an rsa key with a curve": (
        lambda: pem(make.forged(spki=make.spki("1.2.840.113549.1.1.1", P256, RSA_NUMBERS))),
        "an invalid RSA key",
    ),
    "ec for agreement only": (
        lambda: pem(make.forged(spki=make.spki("1.3.132.1.12", P256, POINT))),
        "an EC key for key agreement only (id-ecDH)",
    ),
    "unknown algorithm": (
        lambda: pem(make.forged(spki=make.spki("1.2.3.4", b"", POINT))),
        "a key of an unknown type",
    ),
    "x25519": (lambda: pem(make.forged(spki=make.spki_of(x25519.X25519PrivateKey.generate()))), "an X25519 key"),
    "ed448": (lambda: pem_of(request(ed448.Ed448PrivateKey.generate(), algorithm=None)), "an Ed448 key"),
    "ed25519": (lambda: pem_of(request(ed25519.Ed25519PrivateKey.generate(), algorithm=None)), "an Ed25519 key"),
    "dsa": (lambda: pem_of(request(dsa.generate_private_key(2048))), "a DSA key"),
    "rsa for pss only": (
        lambda: pem(make.forged(spki=make.spki("1.2.840.113549.1.1.10", b"", RSA_NUMBERS))),
        "an RSASSA-PSS key",
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_s7_any_other_kind_of_key_is_refused_by_its_name(backend: Deployment, name: str) -> None:
    """S7: P-256 and P-384 by name, with a point on them; no other curve, no other algorithm."""
    text_of, said = KEYS[name]
    text = text_of()
    answer = backend.enroll(text, THING)
    assert backend.refused(answer, 400, "csr-key-not-allowed", text)
    assert answer.json["detail"].startswith(f"The CSR has {said}. The key must be EC P-256 or P-384, or RSA with 2048")


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
