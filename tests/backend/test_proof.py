"""S19: what a device signs with its key is accepted once; what is no compact JWS in its one form is refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from enrollment_backend.proof import read, use_once
from enrollment_backend.proof_errors import ClockSkewError, ProofInvalidError, ProofMalformedError, ProofReplayedError
from enrollment_backend.table import Table
from tests.support.csr_factory import KEY_TYPES, ec_key, key_of_type, spki_of
from tests.support.deployment import REGION, TABLE, Deployment
from tests.support.proofs import (
    NOW,
    URL,
    PrivateKey,
    accepted,
    base64url,
    header,
    kid_of,
    sign,
    signature_of,
    with_header,
)
from tests.support.stack import template

P256, P384 = ec_key(), ec_key(ec.SECP384R1)
GOOD = with_header(P256)
HEADER, PAYLOAD, SIGNATURE = GOOD.decode().split(".")


@pytest.fixture(params=KEY_TYPES)
def key(request: pytest.FixtureRequest) -> PrivateKey:
    """A key of each type, made only where a test has it."""
    return key_of_type(request.param)


def test_a_proof_of_each_type_of_key_is_accepted(key: PrivateKey) -> None:
    """The proof has what was signed, and which key it names."""
    proof = accepted(sign(key, header(key, URL, NOW, jti="0123456789abcdef_-ABCD"), b'{"csr": "text"}'), key)
    assert (proof.spki_sha256, proof.jti, proof.issued_at) == (kid_of(key), "0123456789abcdef_-ABCD", NOW)
    assert proof.fields() == {"csr": "text"}


def test_a_proof_that_another_program_made_is_accepted(key: PrivateKey) -> None:
    """joserfc writes the same form, with its own idea of JSON and of ECDSA's r and s."""
    members = header(key, URL, NOW, typ="JOSE")
    registry = jws.JWSRegistry(algorithms=["ES256", "ES384", "RS256"], strict_check_header=False)
    imported = ECKey.import_key(key) if isinstance(key, ec.EllipticCurvePrivateKey) else RSAKey.import_key(key)
    body = jws.serialize_compact(members, b'{"csr": "text"}', imported, registry=registry)
    assert accepted(body.encode("ascii"), key).fields() == {"csr": "text"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        b"..",
        b"." * 16_000,
        b'{"csr": "text"}',
        f"{HEADER}.{PAYLOAD}".encode(),
        f"{HEADER}.{PAYLOAD}.".encode(),
        f"{HEADER}.{PAYLOAD}.{SIGNATURE}.{SIGNATURE}".encode(),
        f"{HEADER}..{PAYLOAD}.{SIGNATURE}".encode(),
        f".{PAYLOAD}.{SIGNATURE}".encode(),
        GOOD + b"\n",
        b" " + GOOD,
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b".", b". "),
        GOOD.decode().encode("utf-16"),
        GOOD[:-1] + "\u00e9".encode(),
        # RFC 7515 §7.2, JSON serialization: flattened, and general
        json.dumps({"protected": HEADER, "payload": PAYLOAD, "signature": SIGNATURE}).encode(),
        json.dumps({"payload": PAYLOAD, "signatures": [{"protected": HEADER, "signature": SIGNATURE}]}).encode(),
        # RFC 7516 §7.1, an encrypted JWE
        f"{HEADER}.{PAYLOAD}.{PAYLOAD}.{PAYLOAD}.{SIGNATURE}".encode(),
    ],
    ids=[
        *("empty", "text", "two dots", "all dots", "JSON", "no signature", "empty signature", "two signatures"),
        *("empty part", "empty header", "line break", "blank", "byte order mark", "blanks", "UTF-16", "letter"),
        *("flattened", "general", "JWE"),
    ],
)
def test_what_is_no_compact_jws_is_refused(body: bytes) -> None:
    """Exactly three parts in ASCII, joined by dots, with nothing around them."""
    with pytest.raises(ProofMalformedError):
        read(body, URL, NOW)


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize(
    "change",
    [
        lambda part: part + "=" * (-len(part) % 4 or 4),
        lambda part: part + "A" * ((1 - len(part)) % 4),
        lambda part: part[:5] + "+" + part[6:],
        lambda part: part[:5] + "/" + part[6:],
        lambda part: part[:5] + "\n" + part[5:],
        lambda part: part[:5] + " " + part[5:],
        lambda part: part + "\x00",
        lambda part: "%2D" + part,
    ],
    ids=["padding", "one character too many", "plus", "slash", "line break", "blank", "null", "percent"],
)
def test_each_part_is_canonical_base64url(part: int, change: Callable[[str], str]) -> None:
    """RFC 7515 §2: the alphabet of RFC 4648 §5, without padding, line breaks, white space or anything else."""
    parts = GOOD.decode().split(".")
    parts[part] = change(parts[part])
    with pytest.raises(ProofMalformedError, match="base64url"):
        read(".".join(parts).encode(), URL, NOW)


@pytest.mark.parametrize("payload", [b"1", b"12"], ids=["four bits", "two bits"])
@pytest.mark.parametrize("bit", [1, 2, 4, 8])
def test_bits_that_encode_nothing_are_zero(payload: bytes, bit: int) -> None:
    """The last character of a part has up to four unused bits, with which one signature would have several forms."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    unused = {1: 4, 2: 2}[len(payload)]
    encoded = base64url(payload)
    other = encoded[:-1] + alphabet[alphabet.index(encoded[-1]) ^ bit]
    content = f"{HEADER}.{other}"
    body = f"{content}.{base64url(signature_of(P256, content.encode()))}".encode()
    if bit < 1 << unused:
        with pytest.raises(ProofMalformedError, match="base64url"):
            read(body, URL, NOW)
    else:
        assert accepted(body, P256).payload != payload


def test_what_is_checked_first_is_answered_first() -> None:
    """Form before URL, URL before time; the signature comes last, by who has found the key."""
    late = NOW + 86_400
    with pytest.raises(ProofMalformedError, match="alg"):
        read(with_header(P256, alg="none", url="https://other.example.com/"), URL, late)
    with pytest.raises(ProofMalformedError, match="url"):
        read(with_header(P256, url="https://other.example.com/"), URL, late)
    with pytest.raises(ClockSkewError):
        read(with_header(P256, kid="0" * 64), URL, late)
    with pytest.raises(ProofInvalidError):
        read(with_header(P256, kid="0" * 64), URL, NOW).check_signature(spki_of(P256))


@pytest.fixture
def table(backend: Deployment) -> Table:
    """The ledger's table."""
    assert backend.items("proof") == {}
    return Table(boto3.client("dynamodb", region_name=REGION), TABLE)


def test_a_proof_is_used_once(table: Table) -> None:
    """The second use is refused, at the same time or later, and so is another proof with the same jti."""
    proof = accepted(with_header(P256, jti="a" * 22), P256)
    use_once(table, proof, NOW)
    for again in (proof, accepted(with_header(P256, jti="a" * 22, iat=NOW + 1), P256)):
        with pytest.raises(ProofReplayedError):
            use_once(table, again, NOW + 299)


def test_a_jti_is_one_keys_own(table: Table) -> None:
    """Another key may use the same, and a key another one that differs in case: nobody uses up somebody else's."""
    use_once(table, accepted(with_header(P256, jti="a" * 22), P256), NOW)
    use_once(table, accepted(sign(P384, header(P384, URL, NOW, jti="a" * 22)), P384), NOW)
    use_once(table, accepted(with_header(P256, jti="A" * 22), P256), NOW)


def test_a_used_proof_is_remembered_for_longer_than_it_is_valid(backend: Deployment, table: Table) -> None:
    """One that is dated five minutes ahead is valid for ten; DynamoDB deletes it by the attribute that it looks at."""
    use_once(table, accepted(with_header(P256, iat=NOW + 300, jti="a" * 22), P256), NOW)
    (item,) = backend.items("proof").values()
    properties = template()["Resources"]["Ledger"]["Properties"]
    expiry = properties["TimeToLiveSpecification"]["AttributeName"]
    assert item["id"] == f"{kid_of(P256)}#{'a' * 22}"
    assert NOW + 600 < int(item[expiry]) <= NOW + 1800
    assert item.keys() == {"kind", "id", "use", expiry}


def test_a_lost_answer_of_the_ledger_does_not_use_a_proof_twice(
    backend: Deployment, table: Table, no_waiting: None
) -> None:
    """AWS's library repeats a write whose answer was lost; the second then finds what the first has written."""
    del no_waiting
    attempts: list[str] = []

    def lose_the_first(phase: str, operation: str) -> None:
        if phase == "after" and operation == "UpdateItem":
            attempts.append(operation)
            if len(attempts) == 1:
                raise ReadTimeoutError(endpoint_url="https://aws.example.com")

    backend.interrupt = lose_the_first
    proof = accepted(GOOD, P256)
    use_once(table, proof, NOW)
    assert len(attempts) == 2
    with pytest.raises(ProofReplayedError):
        use_once(table, proof, NOW)
