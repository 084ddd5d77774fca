"""The readers of a TPM's structures: exactly one structure, and of the kinds that are accepted."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from itertools import count

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from enrollment_backend.attestation.errors import AttestationAlgorithmError, AttestationMalformedError
from enrollment_backend.attestation.structures import read_attest, read_public, read_signature
from tests.support import software_tpm
from tests.support.csr_factory import ec_key, rsa_key, spki_of
from tests.support.software_tpm import (
    AK_ATTRIBUTES,
    ECDSA,
    KEY_ATTRIBUTES,
    QUOTE,
    RSASSA,
    SHA1,
    SHA256,
    SHA384,
    SHA512,
    PrivateKey,
    attest,
    name_of,
    public_area,
    signature,
    sized,
)

EC_PUBLIC = public_area(ec_key(), AK_ATTRIBUTES, scheme=ECDSA)
RSA_PUBLIC = public_area(rsa_key(), KEY_ATTRIBUTES)
STATEMENT = attest(name_of(EC_PUBLIC), bytes(32))
READERS: list[tuple[Callable[[bytes], object], bytes]] = [
    (read_public, sized(EC_PUBLIC)),
    (read_public, sized(RSA_PUBLIC)),
    (read_attest, STATEMENT),
    (read_signature, signature(ec_key(), b"message")),
    (read_signature, signature(rsa_key(), b"message")),
]
NULL = struct.pack(">H", software_tpm.NULL)


@pytest.mark.parametrize(("read", "good"), READERS, ids=count())
def test_s20_leftovers_and_cuts_are_refused(read: Callable[[bytes], object], good: bytes) -> None:
    """A structure is refused at every length but its own."""
    assert read(good)
    for changed in (*(good[:size] for size in range(len(good))), good + b"\0", good + good, b"\0" + good):
        with pytest.raises((AttestationMalformedError, AttestationAlgorithmError)):
            read(changed)


@pytest.mark.parametrize("area", [EC_PUBLIC, RSA_PUBLIC], ids=count())
def test_s20_leftovers_inside_a_sized_structure_are_refused(area: bytes) -> None:
    """What is left over where the outer size says that it belongs there is refused too."""
    for changed in (area + b"\0", area[:-1]):
        with pytest.raises(AttestationMalformedError):
            read_public(sized(changed))


@pytest.mark.parametrize(
    "make_key",
    [ec_key, partial(ec_key, ec.SECP384R1), partial(ec_key, ec.SECP521R1), rsa_key, partial(rsa_key, 3072)],
    ids=["ec-p256", "ec-p384", "ec-p521", "rsa-2048", "rsa-3072"],
)
def test_a_public_key_is_read(make_key: Callable[[], PrivateKey]) -> None:
    """The key, its attributes and its Name are those of the structure."""
    key = make_key()
    area = public_area(key, KEY_ATTRIBUTES, name_hash=SHA384)
    public = read_public(sized(area))
    assert (public.spki, public.attributes, public.name) == (spki_of(key), KEY_ATTRIBUTES, name_of(area))
    assert (public.aes_bits, public.encoding) == (None, area)


def test_a_public_key_may_have_an_explicit_exponent() -> None:
    """The exponent is 65537 where the structure says 0, and what it says otherwise."""
    key = rsa_key()
    area = public_area(key, KEY_ATTRIBUTES)
    at = area.index(struct.pack(">HI", 2048, 0)) + 2
    for exponent in (65537, 3):
        public = read_public(sized(area[:at] + struct.pack(">I", exponent) + area[at + 4 :]))
        assert isinstance(public.key, rsa.RSAPublicKey)
        assert public.key.public_numbers().e == exponent


def test_a_public_key_may_lack_leading_zeros() -> None:
    """Some TPMs leave out a coordinate's leading zeros."""
    key = next(
        key for number in range(1, 5000) if (key := ec.derive_private_key(number, ec.SECP256R1())) and _short(key)
    )
    numbers = key.public_key().public_numbers()
    whole = software_tpm.point(key.public_key())
    short = b"".join(sized(number.to_bytes((number.bit_length() + 7) // 8)) for number in (numbers.x, numbers.y))
    area = public_area(key, KEY_ATTRIBUTES).replace(whole, short)
    assert len(short) < len(whole)
    assert read_public(sized(area)).spki == spki_of(key)


def _short(key: ec.EllipticCurvePrivateKey) -> bool:
    return key.public_key().public_numbers().x.bit_length() <= 248


def test_the_optional_parts_of_a_public_key_are_read() -> None:
    """A scheme with details of its own, and a key derivation function, are passed over as long as they are whole."""
    area = public_area(ec_key(), KEY_ATTRIBUTES)
    plain = NULL + NULL + struct.pack(">H", 3) + NULL
    assert plain in area
    ecdaa = NULL + struct.pack(">HHH", 0x001A, 0x000B, 0) + struct.pack(">H", 3) + NULL
    rsaes = NULL + struct.pack(">H", 0x0015) + struct.pack(">H", 3) + NULL
    kdf = NULL + NULL + struct.pack(">HHH", 3, 0x0020, 0x000B)
    for parameters in (ecdaa, rsaes, kdf):
        assert read_public(sized(area.replace(plain, parameters))).spki == spki_of(ec_key())


@pytest.mark.parametrize(
    ("area", "named"),
    [
        (struct.pack(">H", 0x0008) + EC_PUBLIC[2:], "an object that is no RSA or EC key"),
        (public_area(ec_key(), AK_ATTRIBUTES, name_hash=SHA1), "the hash SHA-1"),
        (EC_PUBLIC[:2] + b"\x00\x27" + EC_PUBLIC[4:], "an unknown hash"),
        (public_area(rsa_key(1024), KEY_ATTRIBUTES), "an RSA key of 1024 bits"),
        (RSA_PUBLIC[:-1] + bytes([RSA_PUBLIC[-1] ^ 1]), "an RSA key whose private key can be computed"),
        (RSA_PUBLIC.replace(NULL * 2, struct.pack(">HHHH", 0x0006, 128, 0x0042, 0x0010)), "a symmetric algorithm"),
        (RSA_PUBLIC.replace(NULL * 2, struct.pack(">HHHH", 0x0026, 128, 0x0043, 0x0010)), "a symmetric algorithm"),
        (
            EC_PUBLIC.replace(struct.pack(">HH", 3, 0x10), struct.pack(">HH", 0x10, 0x10)),
            "an EC key on an unknown curve",
        ),
    ],
    ids=count(),  # the values are random, and each process of a run makes its own
)
def test_s20_other_algorithms_are_refused(area: bytes, named: str) -> None:
    """A key or a hash that is not accepted is refused, and the message names it."""
    with pytest.raises(AttestationAlgorithmError) as refused:
        read_public(sized(area))
    assert named in refused.value.detail


@pytest.mark.parametrize(
    "area",
    [
        EC_PUBLIC[:-1] + bytes([EC_PUBLIC[-1] ^ 1]),  # not on the curve
        EC_PUBLIC[:-68] + sized(b"") + EC_PUBLIC[-34:],
        EC_PUBLIC[:-68] + sized(b"\0" + EC_PUBLIC[-66:-34]) + EC_PUBLIC[-34:],
        RSA_PUBLIC[:-258] + sized(b"\0" + RSA_PUBLIC[-256:-1]),
        RSA_PUBLIC[:-258] + sized(RSA_PUBLIC[-256:] + b"\1"),
        RSA_PUBLIC.replace(struct.pack(">HI", 2048, 0), struct.pack(">HI", 2048, 2)),
    ],
    ids=count(),  # the values are random, and each process of a run makes its own
)
def test_s20_impossible_keys_are_refused(area: bytes) -> None:
    """A point off its curve, a coordinate or a modulus of another size, and an even exponent are no keys."""
    with pytest.raises(AttestationMalformedError):
        read_public(sized(area))


def test_a_statement_is_read() -> None:
    """What it repeats, what it is about, and the firmware's version as four numbers."""
    said = read_attest(attest(b"the name", b"the data", firmware=0x0001_0002_0003_FFFF))
    assert (said.name, said.extra_data, said.firmware) == (b"the name", b"the data", "1.2.3.65535")


def test_a_statement_of_another_type_is_not_about_an_object() -> None:
    """Of a quote, whose end is another structure, only the beginning is read."""
    certify = attest(b"", b"the data", kind=QUOTE)
    said = read_attest(certify[:-4] + struct.pack(">IHB", 1, SHA256, 3) + bytes(3) + sized(bytes(32)))
    assert (said.kind, said.extra_data, said.name) == (QUOTE, b"the data", b"")


@pytest.mark.parametrize(
    ("octets", "named"),
    [
        (struct.pack(">HH", RSASSA, SHA1) + sized(bytes(256)), "the hash SHA-1"),
        (struct.pack(">HH", 0x0005, SHA512) + bytes(64), "an unknown signature scheme"),
    ],
)
def test_s20_other_signatures_are_refused(octets: bytes, named: str) -> None:
    """A scheme or a hash that is not on the list is refused, and the message names it."""
    with pytest.raises(AttestationAlgorithmError) as refused:
        read_signature(octets)
    assert named in refused.value.detail
