"""The HTTP side of the client, against a server that misbehaves in every way a network does."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_enroll.api import EnrollmentClient, Issued
from hsm_enroll.errors import (
    ApiTlsError,
    BackendRefusedError,
    BackendUnreachableError,
    ForeignAnswerError,
    HsmEnrollError,
    ThrottledError,
    UsageError,
)
from hsm_enroll.secret import Secret
from tests.client.https_server import Answer, HttpsServer, https_server, response
from tests.client.mqtt.authority import Authority

_SAMPLES = Path(__file__).parent.parent / "contract" / "samples"
_ANSWER = {
    "certificatePem": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "certificateId": "0a" * 32,
    "certificateArn": "arn:aws:iot:eu-central-1:123456789012:cert/" + "0a" * 32,
    "thingName": "gateway-17",
    "mqttEndpoint": "iot.example",
    "mqttPort": 8883,
    "attested": False,
}
_GOOD = response("201 Created", json.dumps(_ANSWER))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A CA that the client is told to trust."""
    return Authority(tmp_path / "authority")


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no other trust anchor from the surroundings."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def _enroll(
    server: HttpsServer, authority: Authority, waits: list[float] | None = None, deadline: float = 30
) -> Issued:
    client = EnrollmentClient(
        server.url + "/",
        code=Secret("THE-CODE"),
        ca_file=authority.certificate,
        deadline=deadline,
        sleep=([] if waits is None else waits).append,
    )
    return client.enroll("THE-CSR", "gateway-17")


def test_a_request_is_the_contracts(authority: Authority) -> None:
    """The client posts JSON with CSR and Thing to /v1/certificates, the code as a bearer token."""
    with https_server(authority, _GOOD) as server:
        issued = _enroll(server, authority)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/certificates HTTP/1.1"
    assert "Authorization: Bearer THE-CODE" in lines
    assert "Content-Type: application/json" in lines
    assert json.loads(body) == {"csr": "THE-CSR", "thingName": "gateway-17"}
    assert issued == Issued(_ANSWER["certificatePem"], "0a" * 32, "gateway-17", "iot.example", 8883, attested=False)  # type: ignore[arg-type]


def test_a_code_is_not_replaced_by_a_netrc_password(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password for the host in the user's netrc is not sent in the code's place."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login someone password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with https_server(authority, _GOOD) as server:
        _enroll(server, authority)
    assert b"Authorization: Bearer THE-CODE" in server.requests[0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(response("200 OK", "<html>Welcome to the hotel</html>", content_type="text/html"),
                     ForeignAnswerError, id="D17 captive portal"),
        pytest.param(response("200 OK", '{"certificatePem": "-----BEG'), ForeignAnswerError, id="D17 cut JSON"),
        pytest.param(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{",
                     BackendUnreachableError, id="D17 cut body"),
        pytest.param(response("302 Found", "", "Location: https://elsewhere.example/"), ForeignAnswerError,
                     id="D17 redirect"),
        pytest.param(response("307 Temporary Redirect", "", "Location: https://elsewhere.example/"),
                     ForeignAnswerError, id="D17 redirect that keeps the body"),
        pytest.param(response("511 Network Authentication Required", "log in", content_type="text/html"),
                     BackendUnreachableError, id="D17 network login"),
        pytest.param(response("200 OK", "[]"), ForeignAnswerError, id="D17 not an object"),
        pytest.param(response("200 OK", "[" * 50_000), ForeignAnswerError, id="D17 nested deeply"),
        pytest.param(response("200 OK", b"\xff\xfe"), ForeignAnswerError, id="D17 not UTF-8"),
        pytest.param(response("201 Created", json.dumps({**_ANSWER, "thingName": "other"})), ForeignAnswerError,
                     id="D17 another Thing"),
        pytest.param(response("201 Created", json.dumps({**_ANSWER, "mqttPort": True})), ForeignAnswerError,
                     id="D17 port of another type"),
        pytest.param(response("201 Created", json.dumps({**_ANSWER, "mqttPort": 70000})), ForeignAnswerError,
                     id="D17 port out of range"),
        pytest.param(response("201 Created", json.dumps({**_ANSWER, "certificatePem": 5})), ForeignAnswerError,
                     id="D17 certificate of another type"),
        pytest.param(response("201 Created", json.dumps({k: v for k, v in _ANSWER.items() if k != "attested"})),
                     ForeignAnswerError, id="D17 member missing"),
        pytest.param(response("404 Not Found", '{"message": "Not Found"}'), ForeignAnswerError, id="wrong address"),
        pytest.param(response("500 Internal Server Error", '{"message": "Internal Server Error"}'),
                     BackendUnreachableError, id="D16 500"),
        pytest.param(response("502 Bad Gateway", "bad", content_type="text/plain"), BackendUnreachableError,
                     id="D16 502"),
        pytest.param(response("503 Service Unavailable", "", "Retry-After: 1"), BackendUnreachableError, id="D16 503"),
        pytest.param(b"nonsense\r\n\r\n", BackendUnreachableError, id="D17 not HTTP"),
        pytest.param(b"", BackendUnreachableError, id="D15 closed without an answer"),
    ],
)  # fmt: skip
def test_what_is_no_answer_of_ours_is_an_error(
    authority: Authority, answer: bytes, error: type[HsmEnrollError]
) -> None:
    """D15, D16, D17: each has its own error, and the request is sent once, since it may have been carried out."""
    with https_server(authority, answer) as server:
        with pytest.raises(HsmEnrollError) as raised:
            _enroll(server, authority)
        assert type(raised.value) is error
        assert raised.value.hint
        assert "THE-CODE" not in raised.value.message
        assert len(server.requests) == 1


def test_a_huge_answer_is_given_up_early(authority: Authority) -> None:
    """D17: an answer of 100 MB is not read to its end."""
    sent = 0

    def flood(stream: ssl.SSLSocket, _: HttpsServer) -> None:
        nonlocal sent
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 104857600\r\n\r\n")
        while sent < 104_857_600:
            stream.sendall(b" " * 65536)
            sent += 65536

    with https_server(authority, flood) as server, pytest.raises(ForeignAnswerError):
        _enroll(server, authority)
    assert sent < 104_857_600 / 2


def _trickle(head: bytes, drop: bytes) -> Answer:
    def answer(stream: ssl.SSLSocket, server: HttpsServer) -> None:
        stream.sendall(head)
        while not server.stop.wait(0.02):
            stream.sendall(drop)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "), id="body"),
        pytest.param(_trickle(b"HTTP/1.1 200 OK\r\nX: ", b"y"), id="header"),
        pytest.param(_trickle(b"", b""), id="nothing"),
    ],
)
def test_an_endless_slow_answer_ends_at_the_deadline(authority: Authority, answer: Answer) -> None:
    """D15: an answer that trickles in for ever is given up at the deadline, though every byte came in time."""
    begin = time.monotonic()
    with https_server(authority, answer) as server, pytest.raises(BackendUnreachableError):
        _enroll(server, authority, deadline=0.5)
    assert time.monotonic() - begin < 10


def test_a_busy_api_is_asked_again(authority: Authority) -> None:
    """D16: after 429 the client waits at least as long as Retry-After says, then succeeds."""
    waits: list[float] = []
    with https_server(authority, response("429 Too Many Requests", "", "Retry-After: 2"), _GOOD) as server:
        assert _enroll(server, authority, waits).thing_name == "gateway-17"
    assert len(waits) == 1
    assert 2 <= waits[0] < 3


@pytest.mark.parametrize("headers", [(), ("Retry-After: 3600",), ("Retry-After: soon",)])
def test_an_api_that_stays_busy_is_given_up(authority: Authority, headers: tuple[str, ...]) -> None:
    """D16: 429 with or without Retry-After ends in an error of its own, after waits that are bounded."""
    waits: list[float] = []
    with https_server(authority, response("429 Too Many Requests", "", *headers)) as server:
        with pytest.raises(ThrottledError):
            _enroll(server, authority, waits)
        assert len(server.requests) == len(waits) + 1 <= 4
    assert sum(waits) < 60


def test_a_refusal_carries_the_apis_reason(authority: Authority) -> None:
    """A problem document's code, detail and request id reach the person; its control characters do not."""
    problem = {"detail": "no\x1b[31m such", "code": "csr-key", "requestId": "r-1"}
    answer = response("400 Bad Request", json.dumps(problem), content_type="application/problem+json")
    with https_server(authority, answer) as server, pytest.raises(BackendRefusedError) as raised:
        _enroll(server, authority)
    assert (raised.value.problem_code, raised.value.request_id) == ("csr-key", "r-1")
    assert "csr-key" in raised.value.message
    assert "\x1b" not in raised.value.message


def test_an_untrusted_server_gets_no_request(authority: Authority, tmp_path: Path) -> None:
    """D15: a server whose certificate another CA signed is told nothing, not even the code."""
    other = Authority(tmp_path / "other")
    with https_server(other, _GOOD) as server:
        with pytest.raises(ApiTlsError):
            _enroll(server, authority)
        assert server.requests == []


def test_the_named_ca_is_the_only_anchor(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CA file that was named holds against REQUESTS_CA_BUNDLE of the surroundings."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(tmp_path / "other").certificate))
    with https_server(authority, _GOOD) as server:
        assert _enroll(server, authority).mqtt_port == 8883


def _closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"https://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("url", [_closed_port, lambda: "https://no-such-host.invalid"], ids=["refused", "DNS"])
def test_no_connection_is_tried_again_then_given_up(authority: Authority, url: Callable[[], str]) -> None:
    """D15: without a connection nothing can have happened, so it is tried again a few times, with bounded waits."""
    waits: list[float] = []
    client = EnrollmentClient(url(), ca_file=authority.certificate, sleep=waits.append)
    with pytest.raises(BackendUnreachableError) as raised:
        client.enroll("THE-CSR", "gateway-17")
    assert raised.value.retryable
    assert len(waits) == 3
    assert sum(waits) < 10


@pytest.mark.parametrize(
    "url",
    ["http://api.example", "api.example", "https://", "https://a:b@api.example", "https://api.example/?x=1",
     "https://api.example:99999", "ftp://api.example", ""],
)  # fmt: skip
def test_only_an_https_url_is_taken(url: str) -> None:
    """An address that would send a code in the clear, or that is no address, is refused before anything is sent."""
    with pytest.raises(UsageError):
        EnrollmentClient(url)


def test_a_missing_ca_file_is_said(tmp_path: Path) -> None:
    """A CA file that does not exist is named, instead of failing as a TLS error."""
    with pytest.raises(UsageError, match=r"ca\.pem"):
        EnrollmentClient("https://api.example", ca_file=tmp_path / "ca.pem")
