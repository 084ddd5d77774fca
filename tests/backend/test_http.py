"""S1, S2, S3, S11: what is refused before any CSR is looked at, and with which words."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography import x509

from tests.support.csr_factory import THING, of_length, pem_of, request
from tests.support.deployment import Answer, Deployment, deployed, event

V1 = "/v1/certificates"
BOTH = pytest.mark.parametrize("path", [V1, "/getCertificate"])
CSR = pem_of(request())
NO_STRINGS: list[object] = [None, 0, 1.5, True, [], [CSR], {}]


def body_of(**changes: object) -> str:
    """Return a good body with some fields changed, or removed with `...`."""
    fields: dict[str, object] = {"csr": CSR, "thingName": THING} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


@BOTH
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "body-empty"),
        (b" \r\n\t", "body-empty"),
        (b"null", "json-not-object"),
        (b"[]", "json-not-object"),
        (b'"text"', "json-not-object"),
        (b"1", "json-not-object"),
        (b"true", "json-not-object"),
        (b'{"csr": "\xff\xfe"}', "body-not-utf8"),
        (b'{"csr": "\xed\xa0\x80"}', "body-not-utf8"),
        (b'{"csr": "\xc0\x80"}', "body-not-utf8"),
        (b'\xef\xbb\xbf{"csr": ""}', "json-malformed"),
        ('{"csr": ""}'.encode("utf-16"), "body-not-utf8"),
        (b'{"csr": "\\ud800", "thingName": "x"}', "json-lone-surrogate"),
        (b'{"csr": {"deep": ["\\udfff"]}, "thingName": "x"}', "json-lone-surrogate"),
        (b'{"\\ud800": "x"}', "json-lone-surrogate"),
        (b'{"csr": "a", "csr": "a", "thingName": "x"}', "json-duplicate-key"),
        (b'{"csr": {"a": 1, "\\u0061": 2}, "thingName": "x"}', "json-duplicate-key"),
        (b'{"csr": ' + b"[" * 8000, "json-too-deep"),
        (b'{"a":' * 3000, "json-too-deep"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "json-too-deep"),
        (b'{"\\"": ' + b"[" * 32 + b"]" * 32 + b"}", "json-too-deep"),
        (b"]" * 40 + b"[" * 40, "json-malformed"),
        (b'{"csr": ' + b"9" * 5000 + b', "thingName": "x"}', "json-number-invalid"),
        (b'{"csr": -' + b"9" * 16 + b', "thingName": "x"}', "json-number-invalid"),
        (b'{"csr": 1e999999, "thingName": "x"}', "json-number-invalid"),
        (b'{"csr": NaN, "thingName": "x"}', "json-number-invalid"),
        (b'{"csr": Infinity, "thingName": "x"}', "json-number-invalid"),
        (b'{"csr": -Infinity, "thingName": "x"}', "json-number-invalid"),
        (b'{"csr": "a", "thingName": "x"', "json-malformed"),
        (b'{"csr": "a", "thingName": "x"} {}', "json-malformed"),
        (b"{'csr': 'a'}", "json-malformed"),
        (b'{"csr": "line\nbreak", "thingName": "x"}', "json-malformed"),
        (b'{"csr": "a", "thingName": "x",}', "json-malformed"),
        (b'{"csr": 01, "thingName": "x"}', "json-malformed"),
        (b"csr=a&thingName=x", "json-malformed"),
    ],
)
def test_s1_a_body_that_is_no_json_object_is_refused(path: str, body: bytes, code: str) -> None:
    """S1: each way of not being one strict JSON object has its own code, as bytes and, where it can be, as text."""
    with deployed() as backend:
        assert backend.refused(backend.post_bytes(path, body), 400, code)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return
    with deployed() as backend:
        assert backend.refused(backend.send(event("POST", path, text)), 400, code)


@BOTH
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (body_of(proof={}), "field-unknown"),
        (body_of(CSR="x"), "field-unknown"),
        (body_of(csr=...), "field-missing"),
        ("{}", "field-missing"),
        *[(body_of(csr=value), "field-type") for value in NO_STRINGS],
        *[(body_of(thingName=value), "field-type") for value in NO_STRINGS],
    ],
)
def test_s1_fields_are_exactly_those_of_the_contract(backend: Deployment, path: str, body: str, code: str) -> None:
    """S1: an unknown field, a missing one and one of another type are refused."""
    assert backend.refused(backend.send(event("POST", path, body)), 400, code, CSR)


@BOTH
@pytest.mark.parametrize("value", ["[" * 31 + "]" * 31, '"' + '[{\\"' * 100 + '"', "[" + "[[]]," * 100 + "1]"])
def test_s1_what_is_not_nested_more_than_32_deep_is_read(backend: Deployment, path: str, value: str) -> None:
    """S1: 32 levels, brackets within a string, and brackets side by side are JSON like any other."""
    body = '{"other": ' + value + "}"
    assert backend.refused(backend.send(event("POST", path, body)), 400, "field-unknown")


@BOTH
def test_s1_s3_endless_nesting_is_refused_by_its_length(backend: Deployment, path: str) -> None:
    """S1: 200,000 nested brackets never reach the parser."""
    assert backend.refused(backend.send(event("POST", path, "[" * 200_000)), 413, "body-too-large")


@BOTH
@pytest.mark.parametrize(
    ("body", "encoded", "code"),
    [
        ("junk!", True, "body-base64-invalid"),
        ("e30", True, "body-base64-invalid"),
        ("e3 0=", True, "body-base64-invalid"),
        ("\u00e9\u00e9\u00e9\u00e9", True, "body-base64-invalid"),
        (body_of(), True, "body-base64-invalid"),
        (base64.b64encode(body_of().encode("ascii")).decode("ascii"), False, "json-malformed"),
        (base64.b64encode(body_of().encode("ascii")).decode("ascii"), None, "json-malformed"),
        ("\ud800", False, "body-not-utf8"),
        (None, False, "body-empty"),
        (None, True, "body-empty"),
        (None, None, "body-empty"),
    ],
)
def test_s2_the_body_is_what_the_event_says_it_is(
    backend: Deployment, path: str, body: str | None, encoded: bool | None, code: str
) -> None:
    """S2: `isBase64Encoded` is believed, and what does not fit it is refused."""
    assert backend.refused(backend.send(event("POST", path, body, encoded=encoded)), 400, code, CSR)


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "text/json", "application/x-www-form-urlencoded", "application/jsonx",
     "application/json,application/json", "application/problem+json", "multipart/form-data; boundary=application/json"],
)  # fmt: skip
def test_s2_only_declared_json_is_read(backend: Deployment, content_type: str | None) -> None:
    """S2: /v1 takes nothing that is not declared as application/json."""
    answer = backend.send(event("POST", V1, body_of(), content_type=content_type))
    assert backend.refused(answer, 415, "media-type-unsupported", CSR)


@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
@pytest.mark.parametrize("value", ["application/json", "APPLICATION/JSON", "application/json; charset=utf-8"])
def test_s2_json_may_be_declared_in_any_case_and_with_parameters(backend: Deployment, name: str, value: str) -> None:
    """S2: media types and names of headers are compared without case (RFC 9110 §8.3.1), parameters do not matter."""
    made = event("POST", V1, "{}", content_type=None)
    made["headers"][name] = value
    assert backend.refused(backend.send(made), 400, "field-missing")


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1", "/v1/", "/v1/certificates/", "//v1/certificates", "/V1/certificates", "/v1/certificates/x",
     "/v1/%63ertificates", "/getcertificate", "/getCertificate/../v1/health", "/v1/operator", "/v1/operator/invites/1"],
)  # fmt: skip
def test_s2_an_unknown_path_is_404(backend: Deployment, path: str) -> None:
    """S2: paths are matched whole, to the letter."""
    assert backend.refused(backend.send(event("POST", path, body_of())), 404, "not-found", CSR)


@pytest.mark.parametrize(
    ("path", "methods", "allow"),
    [
        (V1, ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "post", "", "BREW"], "POST"),
        ("/getCertificate", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"], "POST"),
        ("/v1/health", ["POST", "HEAD", "PUT", "DELETE", "get"], "GET"),
        ("/v1/invite", ["POST", "HEAD", "PUT", "DELETE", "get"], "GET"),
        ("/v1/operator/invites", ["HEAD", "PUT", "PATCH"], "POST, GET, DELETE"),
        ("/v1/operator/fleet", ["POST", "HEAD", "PUT"], "GET, DELETE"),
        ("/v1/operator/replacements", ["GET", "DELETE"], "POST"),
        ("/v1/operator/sweep", ["GET", "DELETE"], "POST"),
    ],
)
def test_s2_another_method_is_405_and_says_which_is_allowed(path: str, methods: list[str], allow: str) -> None:
    """S2: 405 comes with Allow, as RFC 9110 §15.5.6 asks."""
    for method in methods:
        with deployed() as backend:
            answer = backend.send(event(method, path, body_of()))
            assert backend.refused(answer, 405, "method-not-allowed", CSR)
            assert answer.headers["allow"] == allow


@pytest.mark.parametrize("made", [{}, {"rawPath": None}, {"requestContext": None, "rawPath": "/v1/x"}, {"headers": {}}])
def test_s2_an_event_with_nothing_in_it_is_answered(backend: Deployment, made: dict[str, Any]) -> None:
    """S2: an event that lacks what API Gateway always sends is a 404 that carries Lambda's own request id."""
    answer = backend.send(made)
    assert (answer.status, answer.json["requestId"], backend.calls) == (404, "lambda-request-id", [])


def padded(size: int) -> bytes:
    """Return a good body of that many bytes, padded with blanks as JSON allows."""
    return body_of().encode("ascii").ljust(size)


def as_base64(backend: Deployment, body: bytes) -> Answer:
    """Send the body as API Gateway sends what is binary to it."""
    return backend.post_bytes(V1, body)


def as_text(backend: Deployment, body: bytes) -> Answer:
    """Send the body as API Gateway sends text."""
    return backend.send(event("POST", V1, body.decode("utf-8")))


@pytest.mark.parametrize("send", [as_base64, as_text])
def test_s3_a_body_may_have_16_kib_and_not_a_byte_more(send: Any) -> None:
    """S3: 16,384 bytes are taken, 16,385 are 413, 16,384 characters of two bytes each are 413 too."""
    with deployed() as backend:
        assert send(backend, padded(16 * 1024)).status == 201
    with deployed() as backend:
        assert backend.refused(send(backend, padded(16 * 1024 + 1)), 413, "body-too-large", CSR)
    with deployed() as backend:
        assert backend.refused(send(backend, ("\u00e9" * 16 * 1024).encode("utf-8")), 413, "body-too-large")


def test_s3_the_length_is_checked_before_anything_is_decoded(backend: Deployment) -> None:
    """S3: a body that is too long and no base64 either is 413, so nothing tried to decode it."""
    answer = backend.send(event("POST", V1, "!" * 30_000, encoded=True))
    assert backend.refused(answer, 413, "body-too-large")


def test_s3_a_csr_may_have_4096_characters_and_not_one_more() -> None:
    """S3: AWS IoT's limit for a CSR is enforced here, since AWS's library does not."""
    with deployed() as backend:
        assert backend.enroll(of_length(4096), THING).status == 201
    with deployed() as backend:
        longer = of_length(4097)
        assert backend.refused(backend.enroll(longer, THING), 400, "csr-too-large", longer)


@BOTH
@pytest.mark.parametrize(
    "name",
    ["", "x" * 129, "../x", "%2f", "a%2fb", "$aws", "*", "+", "#", "${iot:ClientId}", THING + "\n", "\n" + THING,
     THING + "\r\n", " " + THING, "a/b", "a b", "press\u201317", "pr\u0435ss-17", "a\x00b", "\uff41", "\u0661"],
)  # fmt: skip
def test_s11_a_name_that_no_thing_can_have_is_refused(backend: Deployment, path: str, name: str) -> None:
    """S11: only the alphabet of AWS IoT, from the first to the very last character."""
    answer = backend.post(path, {"csr": CSR, "thingName": name})
    assert backend.refused(answer, 400, "thing-name-invalid", CSR)


@pytest.mark.parametrize("name", ["a", "A-z_0:9", "x" * 64])
def test_s11_every_allowed_character_and_length_that_x509_can_carry_is_taken(backend: Deployment, name: str) -> None:
    """S11: letters, digits, colon, underscore and dash, up to the 64 characters a common name can have."""
    assert backend.enroll(pem_of(request(None, name)), name).json["thingName"] == name


def test_health_says_ok_and_the_version_and_contacts_nobody(backend: Deployment) -> None:
    """GET /v1/health needs no body, no header and no AWS call."""
    answer = backend.send(event("GET", "/v1/health", content_type=None))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json == {"status": "ok", "version": "0.1.0", "attestation": "off"}
    assert backend.calls == []


def test_a_bare_csr_is_for_the_thing_of_its_common_name(backend: Deployment) -> None:
    """POST /getCertificate with nothing but a CSR in PEM issues for the Thing that its common name says."""
    answer = backend.post_bytes("/getCertificate", CSR.encode())
    assert answer.status == 200
    certificate = x509.load_pem_x509_certificate(answer.body.encode())
    assert certificate.public_key() == x509.load_pem_x509_csr(CSR.encode()).public_key()
    assert len(backend.iot.list_thing_principals(thingName=THING)["principals"]) == 1


@pytest.mark.parametrize("name", ["a b", "../x", "pr\u0435ss-17", "${iot:ClientId}"])
def test_s10_s11_a_bare_csr_names_a_thing_or_is_refused(backend: Deployment, name: str) -> None:
    """S10, S11: a common name that no Thing can have is refused when it has to be the Thing's name."""
    csr = pem_of(request(None, name))
    assert backend.refused(backend.post_bytes("/getCertificate", csr.encode()), 400, "csr-names-no-thing", csr)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (CSR.encode() + CSR.encode(), "csr-pem-invalid"),
        (CSR.replace("CERTIFICATE REQUEST", "CERTIFICATE").encode(), "csr-pem-invalid"),
        (b"-----BEGIN \xff" + CSR.encode(), "csr-pem-invalid"),
    ],
)
def test_s3_s4_a_bare_csr_is_one_clean_block(backend: Deployment, body: bytes, code: str) -> None:
    """S3, S4: a bare CSR is held to the same rules as one in JSON."""
    assert backend.refused(backend.post_bytes("/getCertificate", body), 400, code)


def test_without_a_name_the_common_name_is_the_things(backend: Deployment) -> None:
    """``thingName`` may be left out: the CSR's common name says which Thing it is."""
    answer = backend.post(V1, {"csr": CSR})
    assert (answer.status, answer.json["thingName"]) == (201, THING)


def test_a_bare_csr_is_taken_at_the_articles_path_alone(backend: Deployment) -> None:
    """POST /v1/certificates takes JSON and nothing else."""
    assert backend.refused(backend.post_bytes("/v1/certificates", CSR.encode()), 400, "json-malformed", CSR)


@pytest.mark.parametrize(
    ("body", "code"), [(b"", "body-empty"), (b"MIIC", "json-malformed"), (b"\x30\x82", "body-not-utf8")]
)
def test_who_sends_neither_json_nor_pem_is_told_what_is_taken(backend: Deployment, body: bytes, code: str) -> None:
    """On /getCertificate a body that is no JSON may have been meant as a CSR: bare base64, say, or DER."""
    answer = backend.post_bytes("/getCertificate", body)
    assert backend.refused(answer, 400, code)
    assert answer.json["detail"].endswith("or a CSR in PEM.")
