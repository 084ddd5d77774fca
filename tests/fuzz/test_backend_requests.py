"""S1 to S5 by the thousand: whatever is sent, the answer is a 4xx with a code, and AWS hears nothing of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.backend.csr_factory import THING, der_of, pem, pem_of, request, rsa_key
from tests.backend.deployment import Answer, Deployment, deployed, event

PATHS = st.sampled_from(["/v1/certificates", "/getCertificate"])
CSRS = [der_of(request()), der_of(request(rsa_key()))]
CSR = pem_of(request())
FUZZ = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])

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


@settings(FUZZ, max_examples=3000)
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
