"""The names that refusals give to algorithms and curves."""

from __future__ import annotations

import pytest
from asn1crypto import algos, keys
from cryptography import x509
from cryptography.x509.oid import PublicKeyAlgorithmOID, SignatureAlgorithmOID

from enrollment_backend import algorithms

NAMES = {**algorithms.REFUSED_SIGNATURES, **{oid: known.name for oid, known in algorithms.SIGNATURES.items()}}
NAMES_OF_OTHERS = {oid: algos.SignedDigestAlgorithmId(oid).native for oid in NAMES}
CURVE_NAMES = {**algorithms.REFUSED_CURVES, "1.2.840.10045.3.1.7": "secp256r1", "1.3.132.0.34": "secp384r1"}
CURVE_NAMES_OF_OTHERS = {oid: keys.NamedCurve(oid).native for oid in CURVE_NAMES if keys.NamedCurve.map(oid) != oid}


def numbers_in(table: type) -> set[str]:
    """Return the object identifiers of one of `cryptography`'s tables."""
    return {oid.dotted_string for oid in vars(table).values() if isinstance(oid, x509.ObjectIdentifier)}


@pytest.mark.parametrize(
    ("table", "taken", "refused"),
    [
        (SignatureAlgorithmOID, algorithms.SIGNATURES, algorithms.REFUSED_SIGNATURES),
        (PublicKeyAlgorithmOID, algorithms.KEYS, algorithms.REFUSED_KEYS),
    ],
)
def test_s5_s7_every_algorithm_that_others_know_has_its_name(
    table: type, taken: dict[str, object], refused: dict[str, str]
) -> None:
    """S5, S7: what `cryptography` has an object identifier for is taken, or named in the refusal; never both."""
    assert numbers_in(table) <= taken.keys() | refused.keys()
    assert not taken.keys() & refused.keys()
    assert not algorithms.CURVES.keys() & algorithms.REFUSED_CURVES.keys()


def letters_of(name: str) -> str:
    """Return a name's letters and digits, in lower case."""
    return "".join(filter(str.isalnum, name.lower()))


@pytest.mark.parametrize("oid", [oid for oid, name in NAMES_OF_OTHERS.items() if name != oid])
def test_s5_a_signature_algorithm_has_the_name_that_others_give_it(oid: str) -> None:
    """S5: hash and kind of key are those that another library knows under the same number."""
    hash_and_key = NAMES_OF_OTHERS[oid].replace("sha3_", "sha3").split("_")
    assert all(part in letters_of(NAMES[oid]) for part in hash_and_key)


@pytest.mark.parametrize("oid", CURVE_NAMES_OF_OTHERS)
def test_s7_a_curve_has_the_name_that_others_give_it(oid: str) -> None:
    """S7: likewise of curves."""
    assert CURVE_NAMES_OF_OTHERS[oid] in letters_of(CURVE_NAMES[oid])
