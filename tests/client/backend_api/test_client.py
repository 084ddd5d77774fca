"""The HTTP side of the client, against a server that misbehaves in every way a network does."""

from __future__ import annotations

import json
import math
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_enroll.backend_api.client import EnrollmentClient, Issued
from hsm_enroll.errors import (
    ApiTlsError,
    BackendRefusedError,
    BackendUnreachableError,
    HsmEnrollError,
    ThrottledError,
    UnexpectedResponseError,
    UsageError,
)
from hsm_enroll.secret import Secret
from tests.client.backend_api.kept_open import kept_open, on_one_connection
from tests.client.backend_api.patient import Waits
from tests.support.authority import Authority
from tests.support.https_server import Answer, HttpsServer, https_server, response

_SAMPLES = Path(__file__).parents[2] / "contract" / "samples"
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
_INVITE = response("200 OK", (_SAMPLES / "invite-answer.json").read_text(encoding="utf-8"))


def _enroll(
    server: HttpsServer,
    authority: Authority,
    waits: Waits | None = None,
    deadline: float = 30,
    wait: float | None = None,
) -> Issued:
    waits = Waits() if waits is None else waits
    client = EnrollmentClient(
        server.url + "/",
        code=Secret("THE-CODE"),
        ca_file=authority.certificate,
        wait=wait,
        deadline=deadline,
        sleep=waits.append,
        clock=waits.clock,
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


def test_what_is_done_meanwhile_is_done_while_the_answer_is_to_come(authority: Authority) -> None:
    """It begins when the whole request has been sent, and the answer is not given before it has begun."""
    begun = threading.Event()

    def answer(stream: ssl.SSLSocket, _: HttpsServer) -> None:
        assert begun.wait(30)
        stream.sendall(_GOOD)

    with https_server(authority, answer) as server:
        client = EnrollmentClient(server.url, ca_file=authority.certificate)
        assert client.enroll("THE-CSR", "gateway-17", begun.set).thing_name == "gateway-17"


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
                     UnexpectedResponseError, id="D17 captive portal"),
        pytest.param(response("200 OK", '{"certificatePem": "-----BEG'), UnexpectedResponseError, id="D17 cut JSON"),
        pytest.param(response("302 Found", "", "Location: https://elsewhere.example/"), UnexpectedResponseError,
                     id="D17 redirect"),
        pytest.param(response("307 Temporary Redirect", "", "Location: https://elsewhere.example/"),
                     UnexpectedResponseError, id="D17 redirect that keeps the body"),
        pytest.param(response("511 Network Authentication Required", "log in", content_type="text/html"),
                     BackendUnreachableError, id="D17 network login"),
        pytest.param(response("200 OK", "[]"), UnexpectedResponseError, id="D17 not an object"),
        pytest.param(response("200 OK", "[" * 50_000), UnexpectedResponseError, id="D17 nested deeply"),
        pytest.param(response("200 OK", b"\xff\xfe"), UnexpectedResponseError, id="D17 not UTF-8"),
        pytest.param(response("201 Created", json.dumps({**_ANSWER, "thingName": "other"})), UnexpectedResponseError,
                     id="D17 another Thing"),
        pytest.param(response("201 Created", json.dumps({**_ANSWER, "mqttPort": True})), UnexpectedResponseError,
                     id="D17 port of another type"),
        pytest.param(response("201 Created", json.dumps({**_ANSWER, "mqttPort": 70000})), UnexpectedResponseError,
                     id="D17 port out of range"),
        pytest.param(response("201 Created", json.dumps({**_ANSWER, "certificatePem": 5})), UnexpectedResponseError,
                     id="D17 certificate of another type"),
        pytest.param(response("201 Created", json.dumps({k: v for k, v in _ANSWER.items() if k != "attested"})),
                     UnexpectedResponseError, id="D17 member missing"),
        pytest.param(response("404 Not Found", '{"message": "Not Found"}'), UnexpectedResponseError,
                     id="wrong address"),
    ],
)  # fmt: skip
def test_what_is_no_answer_of_ours_is_an_error(
    authority: Authority, answer: bytes, error: type[HsmEnrollError]
) -> None:
    """D17: each has its own error, and no other answer is waited for: the same thing would answer again."""
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

    with https_server(authority, flood) as server, pytest.raises(UnexpectedResponseError):
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
    """D15: an answer that trickles in for ever is given up at the deadline, though every byte came in time.

    The request is not repeated beside the one that may still be under way.
    """
    begin = time.monotonic()
    with https_server(authority, answer) as server:
        with pytest.raises(BackendUnreachableError):
            _enroll(server, authority, deadline=0.5)
        assert len(server.requests) == 1
    assert time.monotonic() - begin < 10


def _cut(stream: ssl.SSLSocket, _: HttpsServer) -> None:
    stream.sendall(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")


def _reset(stream: ssl.SSLSocket, _: HttpsServer) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# What came instead of the answer, and what is said if it stays. API Gateway's own bodies are not problem documents.
_BUSY: dict[str, tuple[bytes, type[HsmEnrollError]]] = {
    "429": (response("429 Too Many Requests", '{"message": "Too Many Requests"}'), ThrottledError),
    "500": (response("500 Internal Server Error", '{"message": "Internal Server Error"}'), BackendUnreachableError),
    "502": (response("502 Bad Gateway", "bad", content_type="text/plain"), BackendUnreachableError),
    "503": (response("503 Service Unavailable", '{"message": "Service Unavailable"}'), BackendUnreachableError),
    "504": (response("504 Gateway Timeout", ""), BackendUnreachableError),
}
_UNANSWERED: dict[str, bytes | Answer] = {
    "cut body": _cut,
    "reset": _reset,
    "closed without an answer": b"",
    "not HTTP": b"nonsense\r\n\r\n",
}


@pytest.mark.parametrize("status", ["200 OK", "201 Created"])
@pytest.mark.parametrize("fault", [*_BUSY, *_UNANSWERED])
def test_what_may_pass_is_tried_again_with_the_same_request(authority: Authority, fault: str, status: str) -> None:
    """D16, S25: after faults that pass, or lost answers, the very same request gets the certificate, new or known."""
    answer = _BUSY[fault][0] if fault in _BUSY else _UNANSWERED[fault]
    waits = Waits()
    with https_server(authority, *[answer] * 3, response(status, json.dumps(_ANSWER))) as server:
        assert _enroll(server, authority, waits).thing_name == "gateway-17"
    assert len(server.requests) == 4 == len(waits) + 1
    assert len(set(server.requests)) == 1


@pytest.mark.parametrize("fault", _BUSY)
def test_a_busy_api_is_given_up_after_15_minutes(authority: Authority, fault: str) -> None:
    """D16, S25: a fault that stays ends in a retryable error when the time is up, and not before."""
    answer, error = _BUSY[fault]
    waits = Waits()
    with https_server(authority, answer) as server:
        with pytest.raises(HsmEnrollError) as raised:
            _enroll(server, authority, waits)
        assert len(server.requests) == len(waits) + 1
    assert type(raised.value) is error
    assert raised.value.retryable
    assert sum(waits) == pytest.approx(15 * 60)


@pytest.mark.parametrize("fault", _UNANSWERED)
def test_an_api_that_does_not_answer_is_given_up_after_four_tries(authority: Authority, fault: str) -> None:
    """D15: without --wait, somebody is there who can look at the network."""
    waits = Waits()
    with https_server(authority, _UNANSWERED[fault]) as server:
        with pytest.raises(BackendUnreachableError):
            _enroll(server, authority, waits)
        assert len(server.requests) == 4
    assert sum(waits) < 4


def test_a_given_time_outlasts_the_network(authority: Authority) -> None:
    """D15: with --wait, lost answers are waited out as long as it says."""
    waits = Waits()
    with https_server(authority, *[_cut] * 8, _GOOD) as server:
        assert _enroll(server, authority, waits, wait=math.inf).thing_name == "gateway-17"
    assert len(waits) == 8


@pytest.mark.parametrize("fault", [*_BUSY, *_UNANSWERED])
def test_no_time_is_one_try(authority: Authority, fault: str) -> None:
    """D16: with --wait 0 nothing is waited for."""
    answer = _BUSY[fault][0] if fault in _BUSY else _UNANSWERED[fault]
    with https_server(authority, answer) as server:
        with pytest.raises(HsmEnrollError):
            _enroll(server, authority, wait=0)
        assert len(server.requests) == 1


def test_all_requests_together_have_the_time(authority: Authority) -> None:
    """D16: what the question about the invite has waited, the request for the certificate waits less."""
    waits = Waits()
    busy = response("429 Too Many Requests", "", "Retry-After: 40")
    with https_server(authority, busy, _INVITE, busy) as server:
        client = EnrollmentClient(
            server.url, code=Secret("CODE"), ca_file=authority.certificate, wait=60, sleep=waits.append,
            clock=waits.clock,
        )  # fmt: skip
        assert client.terms() is not None
        with pytest.raises(ThrottledError):
            client.enroll("THE-CSR", "gateway-17")
        assert len(server.requests) == 3
    assert len(waits) == 1


@pytest.mark.parametrize("sample", ["problem-throttled.json", "problem-enrollment-queued.json"])
def test_whoever_has_to_wait_with_all_others_is_told_that_the_api_is_busy(authority: Authority, sample: str) -> None:
    """D16: whatever the backend calls it."""
    problem = (_SAMPLES / sample).read_text(encoding="utf-8")
    busy = response("429 Too Many Requests", problem, "Retry-After: 40", content_type="application/problem+json")
    with https_server(authority, busy) as server, pytest.raises(ThrottledError) as raised:
        _enroll(server, authority, wait=0)
    assert raised.value.message == f"{server.url} is busy; it asks to wait 40 s"


@pytest.mark.parametrize("status", ["500 Internal Server Error", "502 Bad Gateway"])
def test_a_fault_that_the_backend_reports_is_final(authority: Authority, status: str) -> None:
    """D16: its own problem document says with Retry-After if a retry helps; here, an operator needs the id."""
    problem = json.dumps({"detail": "no", "code": "aws-refused", "requestId": "r-1"})
    with https_server(authority, response(status, problem, content_type="application/problem+json")) as server:
        with pytest.raises(BackendUnreachableError) as raised:
            _enroll(server, authority)
        assert len(server.requests) == 1
    assert raised.value.hint.endswith("ask the operator of the backend, and tell them the request id: r-1")


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_busy_api_is_asked_again(authority: Authority, status: str) -> None:
    """D16: the client waits at least as long as Retry-After says, then succeeds."""
    waits = Waits()
    with https_server(authority, response(status, "", "Retry-After: 2"), _GOOD) as server:
        assert _enroll(server, authority, waits).thing_name == "gateway-17"
    assert len(waits) == 1
    assert 2 <= waits[0] < 3


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_place_in_a_queue_is_waited_for(authority: Authority, status: str) -> None:
    """D16: however long the API asks for within the time is waited, for a turn that is the device's own."""
    waits = Waits()
    with https_server(authority, response(status, "", "Retry-After: 800"), _GOOD) as server:
        assert _enroll(server, authority, waits).thing_name == "gateway-17"
    assert len(waits) == 1
    assert 800 <= waits[0] <= 800.5


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_wait_that_ends_too_late_is_left_to_the_person(authority: Authority, status: str) -> None:
    """D16: an API that asks for more patience than the command has is given up at once."""
    with https_server(authority, response(status, "", "Retry-After: 901")) as server:
        with pytest.raises(HsmEnrollError) as raised:
            _enroll(server, authority)
        assert raised.value.retryable
        assert len(server.requests) == 1


def test_a_refusal_carries_the_apis_reason(authority: Authority) -> None:
    """D31: a problem document's code, detail and request id reach the person, control characters escaped."""
    problem = {"detail": "no\x1b[31m\nsuch\0\u202e", "code": "csr-key", "requestId": "r-1\r"}
    answer = response("400 Bad Request", json.dumps(problem), content_type="application/problem+json")
    with https_server(authority, answer) as server, pytest.raises(BackendRefusedError) as raised:
        _enroll(server, authority)
    assert (raised.value.problem_code, raised.value.request_id) == ("csr-key", r"r-1\r")
    assert r"refused: no\x1b[31m\nsuch\x00\u202e (csr-key)" in raised.value.message


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        ("401 Unauthorized", "invite-required", "hsm-enroll init INVITE"),
        ("401 Unauthorized", "invite-invalid", "a new invite"),
        ("403 Forbidden", "attestation-required", "extra tpm"),
        ("409 Conflict", "thing-enrolled", "hsm-enroll fleet replace THING"),
        ("409 Conflict", "key-enrolled", "hsm-enroll init --new-key INVITE"),
        ("409 Conflict", "thing-revoked", "hsm-enroll init --new-key INVITE"),
        ("403 Forbidden", "ek-unknown", "hsm-enroll tpm info --json"),
        ("409 Conflict", "tpm-enrolled", "--reuse-tpm"),
        ("409 Conflict", "thing-exists", "take over an existing Thing"),
        ("400 Bad Request", "something-new", "Ask the operator of the backend, and tell them the request id: r-1"),
    ],
)
def test_a_refusal_says_what_a_technician_can_do(authority: Authority, status: str, code: str, advice: str) -> None:
    """Each refusal is final, keeps its code as data and has a hint of its own; an unknown one sends to the operator."""
    problem = json.dumps({"detail": "no", "code": code, "requestId": "r-1"})
    with https_server(authority, response(status, problem, content_type="application/problem+json")) as server:
        with pytest.raises(BackendRefusedError) as raised:
            _enroll(server, authority)
        assert len(server.requests) == 1
    assert raised.value.problem_code == code
    assert advice in raised.value.hint
    assert not raised.value.retryable


def test_an_enrollment_in_progress_is_waited_for(authority: Authority) -> None:
    """D16: while another request for the same Thing is at work the client waits; when that lasts, so may the person."""
    problem = json.dumps({"detail": "under way", "code": "enrollment-in-progress", "requestId": "r-1"})
    busy = response("503 Service Unavailable", problem, "Retry-After: 5", content_type="application/problem+json")
    waits = Waits()
    with https_server(authority, busy, _GOOD) as server:
        assert _enroll(server, authority, waits).thing_name == "gateway-17"
    assert 5 <= waits[0] < 6
    with https_server(authority, busy) as server, pytest.raises(BackendUnreachableError) as raised:
        _enroll(server, authority)
    assert "enrollment-in-progress" in raised.value.message
    assert raised.value.hint.startswith("Wait a minute")


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
    waits = Waits()
    client = EnrollmentClient(url(), ca_file=authority.certificate, sleep=waits.append, clock=waits.clock)
    with pytest.raises(BackendUnreachableError) as raised:
        client.enroll("THE-CSR", "gateway-17")
    assert raised.value.retryable
    assert len(waits) == 3
    assert sum(waits) < 10


@pytest.mark.parametrize("url", ["http://api.example", "https://a:b@api.example"])
def test_only_an_https_url_is_taken(url: str) -> None:
    """A URL that would send a code in the clear, or that is not a base URL, is refused before anything is sent."""
    with pytest.raises(UsageError):
        EnrollmentClient(url)


def test_a_connection_that_died_under_the_request_costs_one_try(authority: Authority) -> None:
    """D16: the very same request goes over a new connection, since the API may be asked for it twice."""
    dying = on_one_connection(kept_open("200 OK", '{"version": "1.0"}'), None)
    waits = Waits()
    with https_server(authority, dying, _GOOD) as server:
        client = EnrollmentClient(server.url, ca_file=authority.certificate, sleep=waits.append)
        assert client.health().version == "1.0"
        assert client.enroll("THE-CSR", "gateway-17").thing_name == "gateway-17"
        client.close()
    assert len(waits) == 1
    asked, again = server.requests[1:]
    assert asked == again


def test_a_version_cannot_steer_the_terminal(authority: Authority) -> None:
    """Control characters in what the API says of its version are replaced."""
    with https_server(authority, response("200 OK", json.dumps({"version": "1\x1b[2J"}))) as server:
        assert EnrollmentClient(server.url, ca_file=authority.certificate).health().version == r"1\x1b[2J"
