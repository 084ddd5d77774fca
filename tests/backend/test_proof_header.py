"""S19: the header of a proof: its members and their forms, the URL that it is for, and how long it is valid."""

from __future__ import annotations

import json

import pytest

from enrollment_backend.proof import read
from enrollment_backend.proof_errors import ClockSkewError, ProofMalformedError
from tests.support.csr_factory import ec_key
from tests.support.proofs import (
    NOW,
    URL,
    accepted,
    header,
    sign,
    with_header,
)

P256 = ec_key()
GOOD = with_header(P256)


def with_text(*replacements: tuple[str, str]) -> bytes:
    """Return a proof, correctly signed, in whose header the JSON text was changed."""
    text = json.dumps(header(P256, URL, NOW))
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return sign(P256, text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("typ", ["JOSE", "jose"])
def test_a_header_may_say_that_it_is_jose(typ: str) -> None:
    """`typ` is the only member that a header may lack."""
    accepted(with_header(P256, typ=typ), P256)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: ...} for name in ("alg", "kid", "url", "iat", "jti")),
        {"crit": []},
        {"crit": ["url"]},
        {"crit": ["exp"], "exp": NOW + 60},
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"b64": True},
        {"jwk": {"kty": "EC"}},
        {"jku": "https://example.com/keys"},
        {"x5c": ["MIIB"]},
        {"x5u": "https://example.com/certificate"},
        {"x5t#S256": "text"},
        {"cty": "json"},
        {"enc": "A256GCM"},
        {"zip": "DEF"},
        {"nonce": "text"},
        {"exp": NOW + 60},
        {"Alg": "none"},
        {"": ""},
    ],
)
def test_a_header_has_exactly_its_members(changes: dict[str, object]) -> None:
    """A missing member, or one more: critical or not, with a key in it, or the address of one."""
    with pytest.raises(ProofMalformedError, match="members"):
        read(with_header(P256, **changes), URL, NOW)


KID = "0123456789abcdef" * 4
KIDS: list[object] = [
    *("", KID.upper(), KID[:-1], KID + "0", KID[:-1] + "g", f"{KID}\n", f" {KID}", f"0x{KID[2:]}", KID[:-1] + "\u0660"),
    *(None, 0, True, [KID], {KID: KID}),
]
TIMES: list[object] = [float(NOW), NOW + 0.5, True, False, None, str(NOW), [NOW], {}]
IDS: list[object] = [
    *("", "a" * 15, "a" * 65, "a" * 15 + "=", "a" * 15 + "#", "a" * 16 + "\n", "a" * 15 + "\u00e9", "a" * 15 + "."),
    *(None, 10**14, True, ["a" * 16], {}),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("kid", value) for value in KIDS],
        *[("iat", value) for value in TIMES],
        *[("jti", value) for value in IDS],
        *[("url", value) for value in (None, 1, True, [URL], {URL: URL})],
        *[("typ", value) for value in ("JWT", "JOSE+JSON", "Jose", "", None, 1, ["JOSE"], {"JOSE": 1})],
    ],
)
def test_each_member_has_its_own_form(name: str, value: object) -> None:
    """Another type or form is refused, and the answer names the member without repeating its value."""
    with pytest.raises(ProofMalformedError, match=f"its {name} must be ") as caught:
        read(with_header(P256, **{name: value}), URL, NOW)
    assert len(str(value)) < 5 or str(value) not in caught.value.detail


@pytest.mark.parametrize("jti", ["a" * 16, "A" * 64, "-_-_-_-_-_-_-_-_-_-_-_"])
def test_a_jti_has_16_to_64_characters(jti: str) -> None:
    """Whatever makes it, it is base64url and long enough to be random."""
    assert accepted(with_header(P256, jti=jti), P256).jti == jti


@pytest.mark.parametrize(
    "replacements",
    [
        [('{"alg"', '{"alg": "none", "alg"')],
        [('{"alg"', '{"\\u0061lg": "none", "alg"')],
        [('"iat": 1800000000', '"iat": 1800000000, "iat": 1800000000')],
        [('"iat": 1800000000', '"iat": 9999999999999999')],
        [('"iat": 1800000000', '"iat": -9999999999999999')],
        [('"iat": 1800000000', '"iat": 1.8e9')],
        [('"iat": 1800000000', '"iat": 18000000e2')],
        [('"iat": 1800000000', '"iat": 1800000000.0')],
        [('"iat": 1800000000', '"iat": 01800000000')],
        [('"iat": 1800000000', '"iat": NaN')],
        [('"iat": 1800000000', '"iat": Infinity')],
        [('"iat": 1800000000', '"iat": 1e999')],
        [('"iat": 1800000000', '"iat": ' + "[" * 5000 + "]" * 5000)],
        [('"iat": 1800000000', '"iat": ' + '{"a":' * 40 + "1" + "}" * 40)],
        [('"iat": 1800000000', '"iat": "\\ud800"')],
        [("}", ",}")],
        [("}", "} {}")],
        [("}", "")],
        [('"', "'")],
        [("{", "["), ("}", "]")],
        [("{", "/**/{")],
        [("{", "\ufeff{")],
        [(URL, "\ud800")],
    ],
)
def test_a_header_is_strict_json(replacements: list[tuple[str, str]]) -> None:
    """Names that stand twice, numbers that others read otherwise, nesting, halves of surrogate pairs: all refused."""
    with pytest.raises(ProofMalformedError):
        read(with_text(*replacements), URL, NOW)


@pytest.mark.parametrize("protected", [b"", b"null", b"[]", b'"text"', b"1", b"\xff\xfe", b"{}"])
def test_a_header_is_an_object(protected: bytes) -> None:
    """Anything else is refused, and so is an empty one."""
    with pytest.raises(ProofMalformedError):
        read(sign(P256, protected), URL, NOW)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1/renewals/commit",
        "https://api.example.com/v1/retirements",
        "https://api.example.com/v1/renewals/",
        "https://api.example.com//v1/renewals",
        "https://api.example.com/v1/./renewals",
        "https://api.example.com/v1/%72enewals",
        "https://api.example.com/edge/v1/renewals",
        "https://api.example.com/v1/renewals?x=1",
        "https://api.example.com/v1/renewals?",
        "https://api.example.com/v1/renewals#x",
        "https://api.example.com:443/v1/renewals",
        "https://api.example.com./v1/renewals",
        "https://API.example.com/v1/renewals",
        "HTTPS://api.example.com/v1/renewals",
        "http://api.example.com/v1/renewals",
        "https://user@api.example.com/v1/renewals",
        "https://other.example.com/v1/renewals",
        "https://api.example.com.attacker.example/v1/renewals",
        "/v1/renewals",
        "https://api.example.com/v1/renewals ",
        "https://api.example.com/v1/renewal\u017f",
        "",
    ],
)
def test_a_proof_for_another_url_is_refused(url: str) -> None:
    """Another API, another path, a query, another way to write the same: the URL is compared character by character."""
    with pytest.raises(ProofMalformedError, match="url"):
        read(with_header(P256, url=url), URL, NOW)
    with pytest.raises(ProofMalformedError, match="url"):
        read(GOOD, url, NOW)


@pytest.mark.parametrize("seconds", [-300, -299.5, -1, 0, 1, 299.5, 300])
def test_a_proof_is_accepted_for_five_minutes(seconds: float) -> None:
    """The two clocks may differ by that much, either way."""
    accepted(GOOD, P256, now=NOW + seconds)


@pytest.mark.parametrize("seconds", [-301, -300.5, 300.5, 301, 86_400, -86_400])
def test_a_proof_is_refused_after_five_minutes(seconds: float) -> None:
    """From then on, and as long before, it says that one of the clocks is wrong."""
    with pytest.raises(ClockSkewError):
        read(GOOD, URL, NOW + seconds)


@pytest.mark.parametrize("issued", [0, -1, -NOW, NOW - 301, NOW + 301, 10**14, -(10**14)])
def test_any_integer_is_a_time(issued: int) -> None:
    """A device whose clock starts in 1970, or beyond what a computer's time has, is told so."""
    with pytest.raises(ClockSkewError):
        read(with_header(P256, iat=issued), URL, NOW)
