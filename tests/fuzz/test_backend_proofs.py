"""S19 by the ten thousand: whatever is sent as a proof, it is refused as one, with a code; nothing else is raised."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enrollment_backend.proof import Proof, read
from enrollment_backend.proof_errors import ClockSkewError, ProofInvalidError, ProofMalformedError
from tests.support.csr_factory import ec_key, rsa_key, spki_of
from tests.support.proofs import PrivateKey, base64url, header, sign

URL = "https://api.example.com/v1/renewals"
NOW = 1_800_000_000
KEYS: list[PrivateKey] = [ec_key(), ec_key(ec.SECP384R1), rsa_key()]
GOOD = [sign(key, header(key, URL, NOW), b'{"csr": "text"}') for key in KEYS]
FUZZ = settings(max_examples=150, deadline=None)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = st.sampled_from(["alg", "kid", "url", "iat", "jti", "typ", "crit", "b64", "jwk", "ALG"])
NUMBERS = st.integers(0, 2**256 - 1) | st.sampled_from([0, 1, 2**255, 2**256 - 1])


def refused(body: bytes, key: PrivateKey) -> bool:
    """Whether a proof is refused, by one of the errors that there are for that."""
    try:
        read(body, URL, NOW).check_signature(spki_of(key))
    except ProofMalformedError as error:
        return error.detail.endswith(".")
    except (ProofInvalidError, ClockSkewError):
        return True
    return False


@FUZZ
@given(body=st.binary(max_size=400) | st.text(alphabet="eyJ.-_=A", max_size=400).map(str.encode))
def test_s19_any_bytes_are_refused(body: bytes) -> None:
    """Bytes, and text of the characters that a proof consists of."""
    assert refused(body, KEYS[0])


@FUZZ
@given(which=st.sampled_from(range(3)), data=st.data())
def test_s19_a_proof_with_a_part_replaced_is_refused(which: int, data: st.DataObject) -> None:
    """A piece of any length taken out at any place, and any other bytes put there."""
    good = GOOD[which]
    begin = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(begin, min(len(good), begin + 8)))
    changed = good[:begin] + data.draw(st.binary(max_size=8)) + good[end:]
    assert refused(changed, KEYS[which]) == (changed != good)


@FUZZ
@given(which=st.sampled_from(range(3)), name=MEMBERS, value=JSON)
@example(which=0, name="typ", value="JOSE")
def test_s19_a_signed_header_with_another_member_is_refused(which: int, name: str, value: object) -> None:
    """Whoever signs what: one member set to any JSON value, where it is not one that the contract allows."""
    key = KEYS[which]
    body = sign(key, json.dumps(header(key, URL, NOW) | {name: value}).encode(), b"{}")
    assert refused(body, key) or is_allowed(name, value)


def is_allowed(name: str, value: Any) -> bool:
    """Whether the contract leaves it to the signer."""
    if name == "iat":
        return type(value) is int and abs(value - NOW) <= 300
    if name == "jti":
        return isinstance(value, str) and 16 <= len(value) <= 64
    return name == "typ" and value in ("JOSE", "jose")


@FUZZ
@given(protected=JSON.map(json.dumps).map(str.encode) | st.binary(max_size=60), payload=st.binary(max_size=60))
def test_s19_any_other_header_is_refused(protected: bytes, payload: bytes) -> None:
    """JSON of any type, and what is none, in a correctly signed JWS."""
    assert refused(sign(KEYS[0], protected, payload), KEYS[0])


@FUZZ
@given(r=NUMBERS, s=NUMBERS)
def test_s19_numbers_that_no_key_has_computed_are_refused(r: int, s: int) -> None:
    """Any r and s, each of its full length."""
    content = GOOD[0].rpartition(b".")[0].decode()
    signature = base64url(r.to_bytes(32) + s.to_bytes(32))
    assert refused(f"{content}.{signature}".encode(), KEYS[0])


@FUZZ
@given(
    payload=st.binary(max_size=300),
    skew=st.integers(-300, 300),
    jti=st.from_regex(r"[A-Za-z0-9_-]{16,64}", fullmatch=True),
)
def test_s19_what_the_contract_allows_is_accepted(payload: bytes, skew: int, jti: str) -> None:
    """Any payload, whose meaning is somebody else's to check, any time within five minutes, and any id."""
    for key in KEYS[:2]:
        proof: Proof = read(sign(key, header(key, URL, NOW + skew, jti=jti), payload), URL, NOW)
        proof.check_signature(spki_of(key))
        assert (proof.payload, proof.issued_at, proof.jti) == (payload, NOW + skew, jti)
