"""API Gateway's payload format 2.0: events and answers."""

from __future__ import annotations

import base64
import datetime as dt
import re
from dataclasses import replace

import pytest
from cryptography import x509

from hsm_enroll.local.payload import MalformedResponseError, Request, to_event, to_response
from tests.support.csr_factory import pem_of, request
from tests.support.deployment import certificate_for

NOW = dt.datetime(2026, 3, 12, 19, 3, 58, 390_000, tzinfo=dt.UTC)


def _request(body: bytes = b"", content_type: str = "application/json", target: str = "/v1/certificates") -> Request:
    headers = {"host": "localhost:4711", "user-agent": "test/1", "content-type": content_type}
    return Request("POST", target, "HTTP/1.1", headers, body, "127.0.0.1")


def test_the_event_has_the_documented_shape() -> None:
    """Every member of the developer guide's example that a proxy integration without authorizer has."""
    assert to_event(_request(b'{"a": "\xc3\xa4"}', target="/a%20b?x=1&x=2&y=%C3%A4"), "POST /a", "id=", NOW) == {
        "version": "2.0",
        "routeKey": "POST /a",
        "rawPath": "/a%20b",
        "rawQueryString": "x=1&x=2&y=%C3%A4",
        "queryStringParameters": {"x": "1,2", "y": "ä"},
        "headers": {"host": "localhost:4711", "user-agent": "test/1", "content-type": "application/json"},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "local",
            "domainName": "localhost:4711",
            "domainPrefix": "localhost:4711",
            "http": {
                "method": "POST",
                "path": "/a%20b",
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "test/1",
            },
            "requestId": "id=",
            "routeKey": "POST /a",
            "stage": "$default",
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1773342238390,
        },
        "body": '{"a": "ä"}',
        "isBase64Encoded": False,
    }


def test_an_event_without_body_and_query_lacks_those_members() -> None:
    """API Gateway leaves them out rather than sending them empty."""
    event = to_event(_request(), "POST /", "id", NOW)
    assert "body" not in event
    assert "queryStringParameters" not in event
    assert event["isBase64Encoded"] is False


def test_the_event_says_who_signed_the_request() -> None:
    """Where the route asks for IAM, the caller stands in requestContext.authorizer.iam, and else nothing does."""
    iam = {"userArn": "arn:aws:iam::123456789012:user/local", "cognitoIdentity": None}
    assert to_event(_request(), "POST /", "id", NOW, iam)["requestContext"]["authorizer"] == {"iam": iam}
    assert "authorizer" not in to_event(_request(), "POST /", "id", NOW)["requestContext"]


def test_the_event_says_whose_certificate_the_connection_has() -> None:
    """Where the server asks for one, in the form of the developer guide's example; and else nothing does."""
    csr = x509.load_pem_x509_csr(pem_of(request()).encode())
    request_with_one = replace(_request(), client_certificate=certificate_for(csr))
    event = to_event(request_with_one, "POST /", "id", NOW)
    shown = event["requestContext"]["authentication"]["clientCert"]
    assert shown["clientCertPem"] == request_with_one.client_certificate
    assert (shown["subjectDN"], shown["issuerDN"]) == ("CN=AWS IoT Certificate", "CN=development CA")
    assert re.fullmatch("([0-9a-f]{2}:)+[0-9a-f]{2}", shown["serialNumber"])
    assert shown["validity"]["notAfter"] == "Dec 31 23:59:59 2049 GMT"
    assert "authentication" not in to_event(_request(), "POST /", "id", NOW)["requestContext"]


@pytest.mark.parametrize(
    ("content_type", "body", "is_text"),
    [
        ("application/json", b"{}", True),
        ("APPLICATION/JSON; charset=utf-8", b"{}", True),
        ("application/problem+json", b"{}", True),
        ("text/plain", b"x", True),
        ("application/xml", b"<a/>", True),
        ("application/json", b"\xff", False),
        ("application/x-www-form-urlencoded", b"{}", False),
        ("application/octet-stream", b"{}", False),
        ("", b"{}", False),
    ],
)
def test_bodies_are_text_or_base64(content_type: str, body: bytes, is_text: bool) -> None:
    """Only a body whose type says text, and which is UTF-8, travels as text."""
    event = to_event(_request(body, content_type), "POST /", "id", NOW)
    assert event["isBase64Encoded"] is not is_text
    assert event["body"] == (body.decode() if is_text else base64.b64encode(body).decode())


@pytest.mark.parametrize(
    ("answer", "status", "content_type", "body"),
    [
        ({"statusCode": 201, "headers": {"Content-Type": "a/b"}, "body": "ä"}, 201, "a/b", "ä".encode()),
        ({"statusCode": "404"}, 404, "text/plain;charset=UTF-8", b""),
        ({"statusCode": 200, "body": "AP8=", "isBase64Encoded": True}, 200, "text/plain;charset=UTF-8", b"\0\xff"),
        ({"statusCode": 200, "body": None, "headers": None}, 200, "text/plain;charset=UTF-8", b""),
        ({"message": "bare"}, 200, "application/json", b'{"message": "bare"}'),
        ("bare", 200, "application/json", b"bare"),
        ([1, 2], 200, "application/json", b"[1, 2]"),
        (None, 200, "application/json", b"null"),
    ],
)
def test_an_answer_becomes_a_response(answer: object, status: int, content_type: str, body: bytes) -> None:
    """With statusCode it is taken as it says, without it the whole value is the body of a 200."""
    response = to_response(answer)
    assert (response.status_code, response.headers["content-type"], response.get_data()) == (status, content_type, body)


@pytest.mark.parametrize(
    "answer",
    [
        {"statusCode": "many"},
        {"statusCode": 99},
        {"statusCode": 600},
        {"statusCode": None},
        {"statusCode": 200, "body": {"a": 1}},
        {"statusCode": 200, "body": "not base64!", "isBase64Encoded": True},
        {"statusCode": 200, "headers": ["a"]},
        {"statusCode": 200, "headers": {"a": ["b"]}},
        {"statusCode": 200, "headers": {"a": "b\r\nc: d"}},
        {"statusCode": 200, "body": b"bytes"},
        pytest.param(object(), id="no JSON value"),
    ],
    ids=str,
)
def test_a_malformed_answer_is_told_apart(answer: object) -> None:
    """What API Gateway answers 500 to does not become a response."""
    with pytest.raises(MalformedResponseError):
        to_response(answer)
