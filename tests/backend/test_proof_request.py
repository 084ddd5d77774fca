"""A request with a proof: its media type, the URL that was called, and what is refused before anything is looked up."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from enrollment_backend import http
from tests.support.csr_factory import THING, ec_key, pem_of, request
from tests.support.deployment import Deployment, assert_problem, event
from tests.support.proofs import API, base64url, header, kid_of, prove, send, sign

PATH = "/v1/renewals"
PATHS = pytest.mark.parametrize("path", [PATH, "/v1/renewals/commit", "/v1/recoveries", "/v1/retirements"])
KEY = ec_key()


@pytest.mark.parametrize(
    "content_type", ["application/jose", "Application/JOSE", "application/jose; charset=utf-8", " application/jose ;x"]
)
def test_a_proof_comes_as_jose(content_type: str) -> None:
    """Parameters and case do not matter (RFC 9110 §8.3.1); the body is passed on byte by byte."""
    assert http.proof_body(event("POST", PATH, "YS5iLmM=", encoded=True, content_type=content_type)) == b"a.b.c"


@pytest.mark.parametrize(
    "content_type", [None, "", "application/json", "application/jose+json", "application/jwt", "text/plain", "jose"]
)
def test_anything_else_is_no_proof(content_type: str | None) -> None:
    """The answer says which media type is expected."""
    with pytest.raises(http.MediaTypeError) as caught:
        http.proof_body(event("POST", PATH, "a.b.c", content_type=content_type))
    assert caught.value.detail == "The Content-Type must be application/jose."


def test_a_proof_is_not_larger_than_other_bodies() -> None:
    """16 KiB, which is refused before anything is parsed."""
    assert http.proof_body(event("POST", PATH, "a" * 16_384, content_type="application/jose"))
    with pytest.raises(http.BodyTooLargeError):
        http.proof_body(event("POST", PATH, "a" * 16_385, content_type="application/jose"))


def test_the_url_is_what_api_gateway_says_was_called() -> None:
    """Its own domain name and the path under it: neither the header Host, nor the query."""
    made = event("POST", PATH)
    made["headers"]["host"] = "attacker.example.com"
    made["rawQueryString"] = "x=1"
    assert http.called_url(made) == "https://api.example.com/v1/renewals"


@pytest.mark.parametrize(
    "context",
    [None, {}, [], {"domainName": None}, {"domainName": "api.example.com"}, {"http": {"path": PATH}}, {"http": PATH}],
)
def test_without_api_gateway_no_url_was_called(context: Any) -> None:
    """Whoever may invoke the function can pass any event: one without a URL has none that a device would sign."""
    url = http.called_url({"requestContext": context, "rawPath": PATH, "headers": {"host": "api.example.com"}})
    assert url != "https://api.example.com/v1/renewals"


@PATHS
@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"alg": "none"}, 400, "proof-malformed"),
        ({"alg": "HS256"}, 400, "proof-malformed"),
        ({"alg": "ES384"}, 400, "proof-malformed"),
        ({"crit": ["exp"], "exp": 4_000_000_000}, 400, "proof-malformed"),
        ({"b64": False}, 400, "proof-malformed"),
        ({"kid": kid_of(KEY).upper()}, 400, "proof-malformed"),
        ({"url": f"{API}/v1/invite"}, 400, "proof-malformed"),
        ({"url": "https://other.example.com/v1/renewals"}, 400, "proof-malformed"),
        ({"iat": 0}, 401, "clock-skew"),
        ({"iat": 4_000_000_000}, 401, "clock-skew"),
    ],
)
def test_s19_what_needs_no_look_at_the_ledger_is_refused_without_one(
    backend: Deployment, path: str, changes: dict[str, Any], status: int, code: str
) -> None:
    """S19: the key has signed it, and AWS hears nothing of it; the answer and the log repeat nothing of it."""
    body = sign(KEY, header(KEY, f"{API}{path}", backend.clock.time(), **changes))
    assert backend.refused(send(backend, path, body), status, code, body.decode(), kid_of(KEY))


@PATHS
def test_s19_a_proof_that_nobody_signed_is_refused_without_a_look(backend: Deployment, path: str) -> None:
    """S19: the header of a good proof without a signature, and the unsecured JWS of RFC 7515, appendix A.5."""
    good, payload, _ = sign(KEY, header(KEY, f"{API}{path}", backend.clock.time())).decode().split(".")
    unsecured = base64url(b'{"alg":"none"}')
    for body in (f"{good}.{payload}.", f"{unsecured}.{payload}."):
        assert_problem(send(backend, path, body.encode()), 400, "proof-malformed")
    assert backend.calls == []


@PATHS
def test_s19_an_unknown_key_and_a_wrong_signature_get_the_same_answer(backend: Deployment, path: str) -> None:
    """S19: nobody learns which keys are enrolled; a wrong signature does not use up the owner's `jti`."""
    assert backend.enroll(pem_of(request(KEY)), THING).status == 201
    stranger = ec.generate_private_key(ec.SECP256R1())
    unknown = prove(backend, stranger, path)
    forged = prove(backend, stranger, path, kid=kid_of(KEY), jti="a" * 22)
    assert_problem(unknown, 401, "proof-invalid")
    assert (forged.status, forged.json) == (unknown.status, unknown.json)
    assert unknown.headers["www-authenticate"] == forged.headers["www-authenticate"] == "Proof"
    assert backend.items("proof") == {}
    outcomes = [line.get("reason") for line in backend.log_lines() if line.get("outcome") == "proof-invalid"]
    assert len(set(outcomes)) == 2
    assert prove(backend, KEY, path, jti="a" * 22).status in {200, 204, 400}  # 400 for a renewal without a CSR
    assert_problem(prove(backend, KEY, path, jti="a" * 22), 401, "proof-replayed")
