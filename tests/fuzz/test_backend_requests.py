"""S1 to S12 by the ten thousand: whatever is sent, the answer is a 4xx with a code, and AWS hears nothing of it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from asn1crypto import core, csr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enrollment_backend import invites
from enrollment_backend.csr_policy import accept
from enrollment_backend.errors import CsrRefusedError
from tests.backend import csr_factory as make
from tests.backend.csr_factory import THING, der_of, pem, pem_of, request, rsa_key
from tests.backend.deployment import Answer, Deployment, deployed, event

PATHS = st.sampled_from(["/v1/certificates", "/getCertificate"])
CSRS = [der_of(request()), der_of(request(rsa_key()))]
CSR = pem_of(request())
FUZZ = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])

P256 = core.ObjectIdentifier("1.2.840.10045.3.1.7").dump()
POINTS = st.binary(max_size=70) | st.binary(min_size=64, max_size=64).map(lambda octets: b"\x04" + octets)

SYMBOLS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ- "
READ_AS = str.maketrans({"I": "1", "L": "1", "O": "0", "-": None, " ": None})
OPERATOR_ROUTES = st.sampled_from(
    [
        *[(method, "/v1/operator/invites") for method in ("GET", "POST", "DELETE")],
        *[(method, "/v1/operator/fleet") for method in ("GET", "DELETE")],
        ("POST", "/v1/operator/sweep"),
    ]
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(CSR) | st.just(THING),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def backend() -> Iterator[Deployment]:
    """One open deployment for all examples."""
    with deployed() as deployment:
        yield deployment


def assert_refused(backend: Deployment, answer: Answer) -> None:
    """Assert a 4xx problem with a code, and no AWS call since the deployment began."""
    assert 400 <= answer.status < 500, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["code"] not in {"", "internal"}
    assert backend.calls == []


@FUZZ
@given(path=PATHS, body=st.binary(max_size=400))
@example(path="/v1/certificates", body=b"\x00")
def test_s1_arbitrary_bytes_are_refused(backend: Deployment, path: str, body: bytes) -> None:
    """S1: no sequence of bytes brings the handler down."""
    assert_refused(backend, backend.post_bytes(path, body))


@FUZZ
@given(path=PATHS, body=st.text(st.characters(exclude_categories=())), encoded=st.booleans())
def test_s2_arbitrary_text_is_refused(backend: Deployment, path: str, body: str, encoded: bool) -> None:
    """S2: nor does any text, lone surrogates included, be it declared as base64 or not."""
    assert_refused(backend, backend.send(event("POST", path, body, encoded=encoded)))


@FUZZ
@given(path=PATHS, document=JSON_VALUES)
def test_s1_arbitrary_json_is_refused(backend: Deployment, path: str, document: Any) -> None:
    """S1: nor does any JSON document, in Python's reading of JSON, which has NaN and lone surrogates."""
    assert_refused(backend, backend.post(path, document))


@FUZZ
@given(path=PATHS, csr=JSON_VALUES, thing_name=JSON_VALUES, surplus=st.none() | JSON_VALUES)
def test_s1_s11_arbitrary_fields_are_refused(
    backend: Deployment, path: str, csr: Any, thing_name: Any, surplus: Any
) -> None:
    """S1, S11: the right names of fields with anything in them; only the one good pair would be another matter."""
    document = {"csr": csr, "thingName": thing_name} | ({} if surplus is None else {"evidence": surplus})
    if document == {"csr": CSR, "thingName": THING}:
        document["csr"] = ""
    assert_refused(backend, backend.post(path, document))


@FUZZ
@given(data=st.data())
def test_s1_a_good_body_changed_at_any_byte_is_refused(backend: Deployment, data: st.DataObject) -> None:
    """S1, S4: cut, doubled or overwritten somewhere; the name stays another than the CSR's, so nothing can pass."""
    body = bytearray(json.dumps({"csr": CSR, "thingName": "no-such-device"}).encode("ascii"))
    at = data.draw(st.integers(0, len(body) - 1))
    until = data.draw(st.integers(at, min(at + 8, len(body))))
    body[at:until] = data.draw(st.binary(max_size=8))
    assert_refused(backend, backend.post_bytes("/v1/certificates", bytes(body)))


@settings(FUZZ, max_examples=1500)
@given(data=st.data(), original=st.sampled_from(CSRS))
def test_s4_s5_a_changed_csr_is_refused(backend: Deployment, data: st.DataObject, original: bytes) -> None:
    """S4, S5: octets flipped, cut out or put in anywhere in the DER."""
    der = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(der) - 1))
        until = data.draw(st.integers(at, min(at + 3, len(der))))
        der[at:until] = data.draw(st.binary(max_size=3))
    if bytes(der) in CSRS:
        der[-1] ^= 1
    assert_refused(backend, backend.enroll(pem(bytes(der)), THING))


def spoilt(der: bytes, random_: random.Random) -> bytes:
    """Return the bytes with a run of them flipped, cut out, doubled, moved, or put in from another request."""
    at = random_.randrange(len(der))
    until = min(len(der), at + random_.choice((1, 1, 1, 2, 4, 16, 64)))
    other = random_.choice(CSRS)
    to = random_.randrange(len(other))
    replacement = random_.choice(
        (
            bytes((der[at] ^ 1 << random_.randrange(8),)) + der[at + 1 : until],
            random_.randbytes(until - at),
            b"",
            der[at:until] * 2,
            other[to : to + until - at],
            der[at:until][::-1],
        )
    )
    return der[:at] + replacement + der[until:]


def test_s4_s5_twenty_thousand_spoilt_csrs_are_refused(backend: Deployment) -> None:
    """S4, S5: the same twenty thousand each time, spoilt once to three times over."""
    random_ = random.Random(10)
    for _ in range(12_000):
        der = random_.choice(CSRS)
        for _ in range(random_.randint(1, 3)):
            der = spoilt(der, random_) or b"\x00"
        if der not in CSRS:
            assert_refused(backend, backend.enroll(pem(der), THING))


@FUZZ
@given(data=st.data())
def test_s4_s9_s10_a_changed_and_signed_again_csr_says_what_it_said(data: st.DataObject) -> None:
    """S4, S9, S10: with the signature out of the way, what passes still is the Thing's, the key's, and asks nothing."""
    changed = bytearray(request().tbs_certrequest_bytes)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        until = data.draw(st.integers(at, min(at + 2, len(changed))))
        changed[at:until] = data.draw(st.binary(max_size=2))
    signature = core.OctetBitString(make.ecdsa_sha256(bytes(changed))).dump()
    der = make.tlv(0x30, bytes(changed) + bytes.fromhex("300a06082a8648ce3d040302") + signature)
    try:
        accepted = accept(pem(der), THING)
    except CsrRefusedError:
        return
    assert (accepted.common_name, accepted.spki) == (THING, make.spki_of(make.ec_key()))
    assert len(csr.CertificationRequest.load(der)["certification_request_info"]["attributes"]) == 0


@FUZZ
@given(modulus=st.integers() | st.integers(1 << 2047, (1 << 2048) - 1), exponent=st.just(65537) | st.integers())
def test_s6_arbitrary_rsa_numbers_are_refused(backend: Deployment, modulus: int, exponent: int) -> None:
    """S6: no numbers bring the arithmetic down, and none get a certificate without their signature."""
    assert_refused(backend, backend.enroll(pem(make.forged(spki=make.rsa_spki(modulus, exponent))), THING))


@FUZZ
@given(parameters=st.just(P256) | st.binary(max_size=12), point=POINTS)
def test_s7_arbitrary_points_are_refused(backend: Deployment, parameters: bytes, point: bytes) -> None:
    """S7: nor do any octets in the place of a curve and a point."""
    assert_refused(backend, backend.enroll(pem(make.forged(spki=make.ec_spki(parameters, point))), THING))


@FUZZ
@given(numbers=st.lists(st.integers() | st.integers(1, 1 << 256), max_size=3), rest=st.binary(max_size=2))
def test_s8_arbitrary_signature_numbers_are_refused(backend: Deployment, numbers: list[int], rest: bytes) -> None:
    """S8: nor do any numbers, of any sign, size and count, in the place of a signature's two."""
    signature = make.tlv(0x30, b"".join(core.Integer(number).dump() for number in numbers)) + rest
    assert_refused(backend, backend.enroll(pem(make.forged(sign=lambda _: signature)), THING))


@FUZZ
@given(attributes=st.binary(min_size=1, max_size=40), oid=st.none() | st.just("1.2.840.113549.1.9.14"))
def test_s9_arbitrary_attributes_are_refused(backend: Deployment, attributes: bytes, oid: str | None) -> None:
    """S9: nor do any octets where a request for extensions goes, correctly signed."""
    content = attributes if oid is None else make.attribute(oid, attributes)
    assert_refused(backend, backend.enroll(pem(make.forged(attributes=content)), THING))


@FUZZ
@given(name=st.text(max_size=80).filter(lambda name: name != THING))
def test_s10_arbitrary_names_are_refused(backend: Deployment, name: str) -> None:
    """S10: no text but the Thing's name is the Thing's name."""
    assert_refused(backend, backend.enroll(pem(make.forged(common_name=core.UTF8String(name))), THING))


@FUZZ
@given(data=st.data())
def test_s4_a_changed_pem_is_refused(backend: Deployment, data: st.DataObject) -> None:
    """S4: characters changed, cut out or put in anywhere in the PEM, but for what only changes the line ends."""
    at = data.draw(st.integers(0, len(CSR) - 1))
    until = data.draw(st.integers(at, min(at + 3, len(CSR))))
    changed = CSR[:at] + data.draw(st.text(max_size=3)) + CSR[until:]
    if changed.replace("\r\n", "\n").removesuffix("\n") == CSR.removesuffix("\n"):
        changed += "x"
    assert_refused(backend, backend.enroll(changed, THING))


@FUZZ
@given(path=st.text(), method=st.text(), content_type=st.none() | st.text())
def test_s2_arbitrary_paths_methods_and_types_are_refused(
    backend: Deployment, path: str, method: str, content_type: str | None
) -> None:
    """S2: what is not a route is 404, whatever it looks like."""
    assert_refused(backend, backend.send(event(method, path, "{}", content_type=content_type)))


def miswritten(code: str, random_: random.Random) -> str:
    """Return a code with one character put in, left out, exchanged, or changed in place with its neighbour."""
    at = random_.randrange(len(code) - 1)
    other = random_.choice(SYMBOLS)
    return random_.choice(
        (
            code[:at] + other + code[at:],
            code[:at] + code[at + 1 :],
            code[:at] + other + code[at + 1 :],
            code[:at] + code[at + 1] + code[at] + code[at + 2 :],
        )
    )


def test_s12_ten_thousand_miswritten_codes_are_refused(backend: Deployment) -> None:
    """S12: no slip of the pen makes another code, so that none of them is looked up."""
    random_ = random.Random(12)
    for _ in range(10_000):
        code = invites.make_code()
        wrong = miswritten(code.replace("-", ""), random_)
        if wrong.upper().translate(READ_AS) != code.replace("-", ""):
            answer = backend.enroll(CSR, THING, wrong)
            assert (answer.status, answer.json["code"]) == (401, "invite-invalid")
            assert backend.calls == []


@FUZZ
@given(path=PATHS, value=st.text() | st.text(SYMBOLS).map(lambda text: f"Bearer {text}"))
def test_s12_arbitrary_authorization_is_refused(backend: Deployment, path: str, value: str) -> None:
    """S12: a header that is no code is refused even where none is needed."""
    made = event("POST", path, json.dumps({"csr": CSR, "thingName": THING}))
    made["headers"]["authorization"] = value
    answer = backend.send(made)
    assert_refused(backend, answer)
    assert answer.json["code"] == "invite-invalid"


@FUZZ
@given(route=OPERATOR_ROUTES, body=JSON_VALUES, authorizer=JSON_VALUES)
def test_arbitrary_requests_of_no_operator_are_refused(
    backend: Deployment, route: tuple[str, str], body: Any, authorizer: Any
) -> None:
    """Nothing in the place of an identity that API Gateway has verified is one."""
    made = event(*route, json.dumps(body))
    made["requestContext"]["authorizer"] = authorizer
    assert_refused(backend, backend.send(made))


@FUZZ
@given(
    thing=st.just(THING) | JSON_VALUES,
    uses=st.just(1) | JSON_VALUES,
    ttl=st.just(60) | JSON_VALUES,
    existing=st.booleans() | JSON_VALUES,
    surplus=st.none() | JSON_VALUES,
)
def test_arbitrary_invites_are_refused(
    backend: Deployment, thing: Any, uses: Any, ttl: Any, existing: Any, surplus: Any
) -> None:
    """No value of an invite's fields brings an operator's route down; the text "?" is no fingerprint in any case."""
    invite = {"thing": thing, "uses": uses, "ttlSeconds": ttl, "existingThing": existing, "ekSha256": "?"}
    body = {"invites": [invite]} | ({} if surplus is None else {"more": surplus})
    assert_refused(backend, backend.operate("POST", "invites", body))
