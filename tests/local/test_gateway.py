"""API Gateway's routes and its authorization, and the HTTPS server in front of it."""

from __future__ import annotations

import base64
import json
import logging
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import requests

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local import tls
from hsm_enroll.local.authority import Authority
from hsm_enroll.local.endpoints import ACCESS_KEY_ID
from hsm_enroll.local.faults import Fault, Faults
from hsm_enroll.local.gateway import MAX_BODY_BYTES, Gateway, routes_of
from hsm_enroll.local.home import Home
from hsm_enroll.local.lambda_runtime import Context
from hsm_enroll.local.server import KeepAliveHandler, LoopbackServer, listen, log_file
from tests.support.clients import sign
from tests.support.processes import wait_until

ROUTES = {"GET /": "NONE", "POST /": "NONE", "POST /a": "NONE", "POST /signed": "AWS_IAM"}


@dataclass
class Recorded:
    """A handler that keeps what it gets and answers as it is told; and where it is served."""

    url: str = ""
    ca_file: str = ""
    log: Path = Path()
    answer: Callable[[], object] = lambda: {"statusCode": 200, "body": "ok"}
    events: list[dict[str, Any]] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    stop: Callable[[], None] = lambda: None

    def __call__(self, event: dict[str, Any], context: object) -> object:
        assert isinstance(context, Context)
        self.events.append(event)
        self.contexts.append(context)
        return self.answer()

    def post(self, path: str, **arguments: Any) -> requests.Response:
        """Send a request over HTTPS and verify the server against the CA file."""
        return self.send("POST", path, **arguments)

    def send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """As `post`, with any method."""
        return requests.request(method, self.url + path, verify=self.ca_file, timeout=60, **arguments)


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    """The recording handler behind the gateway, over HTTPS."""
    home = Home(tmp_path / "home")
    home.prepare()
    home.write_pair(home.server_certificate, home.server_key, Authority.of(home).issue_server())
    handler = Recorded(ca_file=str(home.ca_certificate), log=home.logs / "gateway.log")
    with ExitStack() as stack:
        log = log_file(stack, handler.log)
        listener = stack.enter_context(listen(0, "--port"))
        gateway = Gateway(ROUTES, handler, handler.faults, log)
        server = stack.enter_context(ExitStack())
        server.enter_context(LoopbackServer(gateway, listener, log, tls.for_api(home), KeepAliveHandler))
        handler.url = f"https://localhost:{listener.getsockname()[1]}"
        handler.stop = server.close
        yield handler


def test_a_connection_stays_open_between_requests(recorded: Recorded) -> None:
    """As with API Gateway, the next request finds the connection of the one before."""
    context = ssl.create_default_context(cafile=recorded.ca_file)
    port = int(recorded.url.rpartition(":")[2])
    with closing(HTTPSConnection("localhost", port, context=context, timeout=60)) as connection:
        connection.connect()
        opened = connection.sock
        for path, status in (("/", 200), ("/a", 200), ("/nothing", 404), ("/", 200)):
            connection.request("POST", path, b"body")
            response = connection.getresponse()
            response.read()
            assert (response.status, connection.sock) == (status, opened)
    assert [event["body"] for event in recorded.events] == ["Ym9keQ=="] * 3


@pytest.mark.parametrize("length", ["-5", "abc", "+5"])
def test_a_body_of_unknown_length_is_not_the_next_request(recorded: Recorded, length: str) -> None:
    """Where a body's end is not known the connection ends with the response."""
    context = ssl.create_default_context(cafile=recorded.ca_file)
    address = ("localhost", int(recorded.url.rpartition(":")[2]))
    hidden = "POST /a HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        socket.create_connection(address, 60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{hidden}".encode())
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received.count(b"HTTP/1.1 ") == 1
    assert len(recorded.events) == 1


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


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/a"), ("POST", "/a/"), ("POST", "/A"), ("POST", "/none"), ("OPTIONS", "/a")]
)
def test_what_is_no_route_is_not_found(recorded: Recorded, method: str, path: str) -> None:
    """Without a $default route API Gateway itself answers, and an unknown method is no other case."""
    response = recorded.send(method, path)
    assert (response.status_code, response.json()) == (404, {"message": "Not Found"})
    assert response.headers["apigw-requestid"]
    assert recorded.events == []


def test_the_event_names_the_route(recorded: Recorded) -> None:
    """Both places of the event say which route it took, without the query."""
    recorded.post("/a?b=c")
    (event,) = recorded.events
    assert event["routeKey"] == event["requestContext"]["routeKey"] == "POST /a"
    assert "authorizer" not in event["requestContext"]


def test_a_signed_request_reaches_the_handler_with_its_callers_name(recorded: Recorded) -> None:
    """Signed by AWS's own library with the cloud's credentials: the event has the members that AWS documents."""
    path, body = "/signed?next=a%2Fb%3D&thing=x", b'{"a": 1}'
    headers = {**sign("POST", recorded.url + path, body), "content-type": "application/json"}
    assert recorded.post(path, data=body, headers=headers).status_code == 200
    (event,) = recorded.events
    assert event["requestContext"]["authorizer"]["iam"] == {
        "accessKey": ACCESS_KEY_ID,
        "accountId": "123456789012",
        "callerId": "AIDALOCAL",
        "cognitoIdentity": None,
        "principalOrgId": None,
        "userArn": "arn:aws:iam::123456789012:user/local",
        "userId": "AIDALOCAL",
    }


def test_an_unsigned_or_wrongly_signed_request_is_forbidden(recorded: Recorded) -> None:
    """No signature, another secret, another query or another body: API Gateway's own 403; the log says why."""
    signed = sign("POST", f"{recorded.url}/signed", b"{}")
    for path, body, headers in [
        ("/signed", b"{}", {}),
        ("/signed", b"{}", sign("POST", f"{recorded.url}/signed", b"{}", secret="another")),
        ("/signed?thing=x", b"{}", signed),
        ("/signed", b"[]", signed),
    ]:
        response = recorded.post(path, data=body, headers=headers)
        assert (response.status_code, response.json()) == (403, {"message": "Forbidden"})
    assert recorded.events == []
    assert recorded.log.read_text().count("forbidden") == 4
    assert signed["Authorization"] not in recorded.log.read_text()


def test_the_routes_are_the_templates() -> None:
    """Every route resource counts, and one that says nothing of authorization asks for none (AWS's default)."""
    assert routes_of(
        {
            "A": {"Type": "AWS::ApiGatewayV2::Route", "Properties": {"RouteKey": "GET /a"}},
            "B": {
                "Type": "AWS::ApiGatewayV2::Route",
                "Properties": {"RouteKey": "PUT /b", "AuthorizationType": "AWS_IAM"},
            },
            "C": {"Type": "AWS::S3::Bucket"},
        }
    ) == {"GET /a": "NONE", "PUT /b": "AWS_IAM"}


@pytest.mark.parametrize(
    "properties",
    [
        {"RouteKey": "$default"},
        {"RouteKey": "ANY /a"},
        {"RouteKey": "GET /things/{thing}"},
        {"RouteKey": {"Ref": "Key"}},
        {"RouteKey": "GET /a", "AuthorizationType": "JWT"},
        {"RouteKey": "GET /a", "AuthorizationType": "CUSTOM"},
    ],
    ids=str,
)
def test_a_route_that_the_gateway_does_not_know_is_an_error(properties: dict[str, Any]) -> None:
    """Nothing in a template's routes is passed over in silence."""
    with pytest.raises(LocalCloudError, match="does not support the template"):
        routes_of({"Route": {"Type": "AWS::ApiGatewayV2::Route", "Properties": properties}})


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


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [(Fault.UNAVAILABLE, 503, "Service Unavailable"), (Fault.THROTTLED, 429, "Too Many Requests")],
)
def test_an_outage_is_api_gateways_own_response(recorded: Recorded, fault: Fault, status: int, message: str) -> None:
    """So many requests get it, without Retry-After and without the handler; the next one is handled."""
    recorded.faults.add(fault, 2)
    for method in ("GET", "POST"):
        response = recorded.send(method, "/")
        assert (response.status_code, response.json()) == (status, {"message": message})
        assert "retry-after" not in response.headers
        assert response.headers["apigw-requestid"]
    assert recorded.events == []
    assert recorded.post("/").status_code == 200


def test_a_lost_response_is_that_of_a_post_that_was_carried_out(recorded: Recorded) -> None:
    """The handler is invoked, and the connection closed without a response; a GET before it is not affected."""
    recorded.faults.add(Fault.LOST, 1)
    assert recorded.send("GET", "/").status_code == 200
    with pytest.raises(requests.exceptions.ConnectionError):
        recorded.post("/")
    assert [event["requestContext"]["http"]["method"] for event in recorded.events] == ["GET", "POST"]
    assert recorded.post("/").status_code == 200


def test_a_slow_request_waits_before_it_is_handled(recorded: Recorded) -> None:
    """The handler is not invoked before the delay has passed; ending all faults ends the delay."""
    recorded.faults.add(Fault.SLOW, 1)
    with ThreadPoolExecutor() as pool:
        response = pool.submit(recorded.post, "/")
        wait_until(lambda: "fault on request: slow" in recorded.log.read_text(), "the fault", recorded.log)
        assert recorded.events == []
        recorded.faults.cancel()
        assert response.result().status_code == 200


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_half_a_request_is_not_handled(recorded: Recorded, framing: str) -> None:
    """A client that goes away in the middle of its body: the function is not invoked, as with API Gateway."""
    context = ssl.create_default_context(cafile=recorded.ca_file)
    address = ("localhost", int(recorded.url.rpartition(":")[2]))
    with (
        socket.create_connection(address, 60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n5\r\nhal".encode())
        socket.socket.shutdown(client, socket.SHUT_WR)
        with suppress(BrokenPipeError):  # OpenSSL 3.5 fails to answer the server's close_notify
            assert client.recv(1) == b""
    assert recorded.events == []


def test_a_server_that_stops_does_not_wait_for_half_a_request(recorded: Recorded) -> None:
    """A connection in the middle of a body, and an idle one, are closed when the server stops."""
    context = ssl.create_default_context(cafile=recorded.ca_file)
    address = ("localhost", int(recorded.url.rpartition(":")[2]))
    with ExitStack() as stack:
        clients = []
        for sent in (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf", b""):
            plain = stack.enter_context(socket.create_connection(address, 10))  # less than the server's own limit
            clients.append(stack.enter_context(context.wrap_socket(plain, server_hostname="localhost")))
            clients[-1].sendall(sent)
        recorded.stop()
        assert [client.recv(1) for client in clients] == [b"", b""]
    assert recorded.events == []


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
        listener = stack.enter_context(listen(0, "--port"))
        stack.enter_context(LoopbackServer(application, listener, log))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert requests.get(url, timeout=60).status_code == 500
    assert "LookupError: lost" in (tmp_path / "log").read_text()
    assert json.dumps(capfd.readouterr()) == '["", ""]'
