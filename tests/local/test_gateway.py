"""API Gateway's payload format 2.0, and the HTTPS server in front of it."""

from __future__ import annotations

import base64
import datetime as dt
import json
import logging
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from hsm_enroll.local.authority import Authority
from hsm_enroll.local.gateway import MAX_BODY_BYTES, Gateway, MalformedAnswerError, Request, to_event, to_response
from hsm_enroll.local.home import Home
from hsm_enroll.local.lambda_runtime import Context
from hsm_enroll.local.server import LoopbackServer, log_file

NOW = dt.datetime(2026, 3, 12, 19, 3, 58, 390_000, tzinfo=dt.UTC)


def _request(body: bytes = b"", content_type: str = "application/json", target: str = "/v1/certificates") -> Request:
    headers = {"host": "localhost:4711", "user-agent": "test/1", "content-type": content_type}
    return Request("POST", target, "HTTP/1.1", headers, body, "127.0.0.1")


def test_the_event_has_the_documented_shape() -> None:
    """Every member of the developer guide's example that a proxy integration without authorizer has."""
    assert to_event(_request(b'{"a": "\xc3\xa4"}', target="/a%20b?x=1&x=2&y=%C3%A4"), "id=", NOW) == {
        "version": "2.0",
        "routeKey": "$default",
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
            "routeKey": "$default",
            "stage": "$default",
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1773342238390,
        },
        "body": '{"a": "ä"}',
        "isBase64Encoded": False,
    }


def test_an_event_without_body_and_query_lacks_those_members() -> None:
    """API Gateway leaves them out rather than sending them empty."""
    event = to_event(_request(), "id", NOW)
    assert "body" not in event
    assert "queryStringParameters" not in event
    assert event["isBase64Encoded"] is False


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
    event = to_event(_request(body, content_type), "id", NOW)
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
    with pytest.raises(MalformedAnswerError):
        to_response(answer)


@dataclass
class Recorded:
    """A handler that keeps what it gets and answers as it is told; and where it is served."""

    url: str = ""
    ca_file: str = ""
    log: Path = Path()
    answer: Callable[[], object] = lambda: {"statusCode": 200, "body": "ok"}
    events: list[dict[str, Any]] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)

    def __call__(self, event: dict[str, Any], context: object) -> object:
        assert isinstance(context, Context)
        self.events.append(event)
        self.contexts.append(context)
        return self.answer()

    def post(self, path: str, **arguments: Any) -> requests.Response:
        """Send a request over HTTPS and verify the server against the CA file."""
        return requests.post(self.url + path, verify=self.ca_file, timeout=60, **arguments)


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    """The recording handler behind the gateway, over HTTPS."""
    home = Home(tmp_path / "home")
    home.prepare()
    home.write_pair(home.server_certificate, home.server_key, Authority.of(home).issue_server())
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(home.server_certificate, home.server_key)
    handler = Recorded(ca_file=str(home.ca_certificate), log=home.logs / "gateway.log")
    with ExitStack() as stack:
        log = log_file(stack, handler.log)
        server = stack.enter_context(LoopbackServer(Gateway(handler, log), log, tls))
        handler.url = f"https://localhost:{server.port}"
        yield handler


def test_a_request_over_https(recorded: Recorded) -> None:
    """Method, path, query, headers of one name and body arrive; the answer's headers and request id come back."""
    recorded.answer = lambda: {"statusCode": 429, "headers": {"Retry-After": 5}, "body": "slow"}
    response = recorded.post("/a?b=c", json={"d": "e"}, headers={"X-One": "1", "Accept": "a/b"})
    assert (response.status_code, response.text, response.headers["retry-after"]) == (429, "slow", "5")
    (event,) = recorded.events
    assert (event["rawPath"], event["rawQueryString"], event["body"]) == ("/a", "b=c", '{"d": "e"}')
    assert event["requestContext"]["http"]["method"] == "POST"
    assert event["headers"]["x-one"] == "1"
    assert event["headers"]["content-length"] == "10"
    assert event["requestContext"]["requestId"] == response.headers["apigw-requestid"]


def test_the_context_is_lambdas(recorded: Recorded) -> None:
    """The handler sees a request id, the function's name and how much time is left."""
    recorded.post("/")
    (context,) = recorded.contexts
    assert context.aws_request_id
    assert context.function_name == "hsm-enroll"
    assert 0 < context.get_remaining_time_in_millis() <= 30_000


def test_curls_default_body_is_base64(recorded: Recorded) -> None:
    """curl --data declares a form, which API Gateway hands on in base64."""
    command = ["curl", "--silent", "--fail", "--noproxy", "*", "--cacert", recorded.ca_file, "--data", '{"a": 1}']
    subprocess.run([*command, recorded.url], check=True, capture_output=True)
    (event,) = recorded.events
    assert event["isBase64Encoded"] is True
    assert base64.b64decode(event["body"]) == b'{"a": 1}'


def test_several_headers_of_one_name_are_joined(recorded: Recorded) -> None:
    """Payload format 2.0 has no multi-value headers: commas separate them."""
    command = ["curl", "--silent", "--fail", "--noproxy", "*", "--cacert", recorded.ca_file]
    subprocess.run([*command, "-H", "X-A: 1", "-H", "x-a: 2", recorded.url], check=True, capture_output=True)
    assert recorded.events[0]["headers"]["x-a"] == "1,2"


def test_a_chunked_body_is_put_together(recorded: Recorded) -> None:
    """A body of unannounced length arrives whole."""
    recorded.post("/", data=iter([b'{"a"', b": 1}"]), headers={"content-type": "application/json"})
    assert recorded.events[0]["body"] == '{"a": 1}'


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_ten_megabytes_is_refused(recorded: Recorded, chunked: bool) -> None:
    """413, without the handler being asked; ten megabytes exactly are let through."""
    body = b"x" * (MAX_BODY_BYTES + 1)
    refused = recorded.post("/", data=iter([body]) if chunked else body)
    assert (refused.status_code, refused.json()) == (413, {"message": "Request Entity Too Large"})
    assert recorded.events == []
    assert recorded.post("/", data=body[1:]).status_code == 200


def test_a_handler_that_raises_is_a_500(recorded: Recorded) -> None:
    """The caller learns nothing; the log has the traceback."""

    def fail() -> object:
        raise ZeroDivisionError("secret")

    recorded.answer = fail
    response = recorded.post("/")
    assert (response.status_code, response.json()) == (500, {"message": "Internal Server Error"})
    assert "ZeroDivisionError" in recorded.log.read_text()


def test_a_malformed_answer_is_a_500(recorded: Recorded) -> None:
    """So is an answer that is none."""
    recorded.answer = lambda: {"statusCode": 200, "body": {"not": "text"}}
    response = recorded.post("/")
    assert (response.status_code, response.json()) == (500, {"message": "Internal Server Error"})
    assert "malformed" in recorded.log.read_text()


def test_an_idle_client_stops_nobody(recorded: Recorded) -> None:
    """Connections that never begin their TLS handshake do not keep others waiting."""
    port = int(recorded.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
        assert recorded.post("/").status_code == 200


def test_a_client_that_speaks_no_tls_is_noted_and_dropped(recorded: Recorded) -> None:
    """Plain HTTP gets no answer, and the server goes on."""
    port = int(recorded.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 60) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b"200" not in plain.recv(1024)
    assert recorded.post("/").status_code == 200
    assert recorded.events[0]["requestContext"]["http"]["method"] == "POST"


def test_what_escapes_the_application_is_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A failure of the server's own application goes to its log, and nothing to standard output or error."""

    def application(_environ: dict[str, Any], _start_response: object) -> list[bytes]:
        raise LookupError("lost")

    with ExitStack() as stack:
        log: logging.Logger = log_file(stack, tmp_path / "log")
        server = stack.enter_context(LoopbackServer(application, log))
        assert requests.get(f"http://127.0.0.1:{server.port}", timeout=60).status_code == 500
    assert "LookupError: lost" in (tmp_path / "log").read_text()
    assert json.dumps(capfd.readouterr()) == '["", ""]'
