"""Requests that the device's key signs, against a server that answers as a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hsm_enroll.backend_api.client import Issued
from hsm_enroll.backend_api.proofs import ProofClient
from hsm_enroll.errors import (
    ApiTlsError,
    BackendRefusedError,
    BackendUnreachableError,
    HsmEnrollError,
    PinWrongError,
    ThrottledError,
    UnexpectedResponseError,
)
from tests.client.backend_api.patient import Waits
from tests.support.authority import Authority
from tests.support.https_server import HttpsServer, https_server, response

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
_ISSUED = Issued(str(_ANSWER["certificatePem"]), "0a" * 32, "gateway-17", "iot.example", 8883, attested=False)
_OK = response("200 OK", json.dumps(_ANSWER))
_CREATED = response("201 Created", json.dumps(_ANSWER))
_CSR = b'{"csr": "CSR"}'
_DONE = response("204 No Content", "")
_BUSY = response("503 Service Unavailable", "", "Retry-After: 1")


class _Prover:
    """Makes proofs that say which they are, and keeps what they are for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []

    def __call__(self, url: str, payload: bytes) -> str:
        self.asked.append((url, payload))
        return f"proof-{len(self.asked)}"


def _client(server: HttpsServer, authority: Authority, waits: Waits | None = None) -> ProofClient:
    waits = Waits() if waits is None else waits
    return ProofClient(server.url, ca_file=authority.certificate, sleep=waits.append, clock=waits.clock)


_CALLS: list[tuple[str, Callable[[ProofClient, _Prover], Issued | None], bytes, bytes, Issued | None]] = [
    ("/v1/renewals", lambda client, prove: client.renew("CSR", "gateway-17", prove), _CSR, _CREATED, _ISSUED),
    ("/v1/renewals/commit", lambda client, prove: client.commit(prove), b"{}", _DONE, None),
    ("/v1/recoveries", lambda client, prove: client.recover(prove), b"{}", _OK, _ISSUED),
    ("/v1/retirements", lambda client, prove: client.retire(prove), b"{}", _DONE, None),
]  # fmt: skip
_each = pytest.mark.parametrize(("path", "call", "payload", "good", "result"), _CALLS, ids=[row[0] for row in _CALLS])


@_each
def test_a_request_is_a_proof_of_its_url_and_payload(
    authority: Authority,
    path: str,
    call: Callable[[ProofClient, _Prover], Issued | None],
    payload: bytes,
    good: bytes,
    result: Issued | None,
) -> None:
    """The body is the proof itself, of the whole URL, with the media type of a JWS and nothing else to authorize it."""
    prove = _Prover()
    with https_server(authority, good) as server:
        assert call(_client(server, authority), prove) == result
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"POST {path} HTTP/1.1"
    assert "Content-Type: application/jose" in lines
    assert not [line for line in lines if line.startswith("Authorization")]
    assert body == b"proof-1"
    assert prove.asked == [(server.url + path, payload)]


@_each
def test_d16_each_try_has_a_proof_of_its_own(
    authority: Authority,
    path: str,
    call: Callable[[ProofClient, _Prover], Issued | None],
    payload: bytes,
    good: bytes,
    result: Issued | None,
) -> None:
    """D16: the API accepts a proof once, so each try of a request is signed anew, also after no answer."""
    del path, payload
    prove = _Prover()
    with https_server(authority, _BUSY, lambda *_: None, good) as server:
        assert call(_client(server, authority), prove) == result
    assert [request.rpartition(b"\r\n")[2] for request in server.requests] == [b"proof-1", b"proof-2", b"proof-3"]


@_each
def test_a_refusal_is_final_and_says_when_it_was(
    authority: Authority,
    path: str,
    call: Callable[[ProofClient, _Prover], Issued | None],
    payload: bytes,
    good: bytes,
    result: Issued | None,
) -> None:
    """The error has the API's code and its time, by which the device can say which clock is wrong."""
    del path, payload, good, result
    problem = json.dumps({"code": "clock-skew", "detail": "Too late.", "requestId": "7"})
    date = "Date: Thu, 26 Nov 2026 11:20:14 GMT"
    refusal = response("401 Unauthorized", problem, date, content_type="application/problem+json")
    with https_server(authority, refusal) as server:
        with pytest.raises(BackendRefusedError) as raised:
            call(_client(server, authority), _Prover())
        assert len(server.requests) == 1
    assert raised.value.problem_code == "clock-skew"
    assert raised.value.api_time == datetime(2026, 11, 26, 11, 20, 14, tzinfo=UTC)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("key-not-current", "hsm-enroll fleet replace THING"),
        ("renewal-in-progress", "within an hour"),
        ("proof-invalid", "hsm-enroll fleet replace THING"),
        ("thing-revoked", "hsm-enroll init --new-key INVITE"),
    ],
)
def test_a_refusal_says_what_to_do(authority: Authority, code: str, hint: str) -> None:
    """Each of the API's codes for a key has a hint of its own."""
    problem = response("409 Conflict", json.dumps({"code": code}), content_type="application/problem+json")
    with https_server(authority, problem) as server, pytest.raises(BackendRefusedError) as raised:
        _client(server, authority).commit(_Prover())
    assert hint in raised.value.hint


_PROBLEM = "application/problem+json"


def test_s24_a_device_that_was_renewed_too_often_says_so(authority: Authority) -> None:
    """S24: an hour is not waited for; the error says that it is not the API that is busy, and what to do."""
    sample = (_SAMPLES / "problem-renewals-limited.json").read_text(encoding="utf-8")
    limited = response("429 Too Many Requests", sample, "Retry-After: 3589", content_type=_PROBLEM)
    with https_server(authority, limited) as server:
        with pytest.raises(ThrottledError) as raised:
            _client(server, authority).renew("CSR", "gateway-17", _Prover())
        assert len(server.requests) == 1
    assert raised.value.message == (
        f"{server.url} refused: This Thing was renewed too often; it keeps the certificate that it has, and may be "
        "renewed again later (renewals-limited); it asks to wait 60 min"
    )
    assert "Run hsm-enroll renew again after that time" in raised.value.hint


def test_s24_minutes_until_the_next_renewal_are_waited_for(authority: Authority) -> None:
    """S24: as for a turn."""
    sample = (_SAMPLES / "problem-renewals-limited.json").read_text(encoding="utf-8")
    limited = response("429 Too Many Requests", sample, "Retry-After: 600", content_type=_PROBLEM)
    waits = Waits()
    with https_server(authority, limited, _CREATED) as server:
        assert _client(server, authority, waits).renew("CSR", "gateway-17", _Prover()) == _ISSUED
    assert sum(waits) >= 600


@pytest.mark.parametrize(
    ("answers", "may_have_acted"),
    [
        ([response("401 Unauthorized", '{"code": "clock-skew"}', content_type=_PROBLEM)], False),
        ([response("429 Too Many Requests", '{"message": "Too Many Requests"}')], False),
        ([response("429 Too Many Requests", '{"code": "throttled"}', content_type=_PROBLEM)], True),
        ([response("500 Internal Server Error", '{"code": "internal"}', content_type=_PROBLEM)], True),
        ([b"", response("401 Unauthorized", '{"code": "clock-skew"}', content_type=_PROBLEM)], True),
        ([_DONE], True),
    ],
    ids=["refused", "API Gateway is busy", "AWS is busy", "failed", "refused after a lost answer", "done"],
)
def test_it_is_known_whether_the_api_may_have_acted(
    authority: Authority, answers: list[bytes], may_have_acted: bool
) -> None:
    """Nothing was done if each try was refused at once; a lost answer or a failure half-way leaves a doubt."""
    with https_server(authority, *answers) as server:
        waits = Waits()
        client = ProofClient(server.url, ca_file=authority.certificate, wait=1, sleep=waits.append, clock=waits.clock)
        with suppress(HsmEnrollError):
            client.retire(_Prover())
    assert client.may_have_acted is may_have_acted


def test_a_request_that_never_left_is_no_act(authority: Authority) -> None:
    """Without a connection nothing can have been done."""
    client = ProofClient("https://localhost:9", ca_file=authority.certificate, wait=0)
    with pytest.raises(BackendUnreachableError):
        client.retire(_Prover())
    assert not client.may_have_acted


def test_a_certificate_that_has_expired_keeps_a_request_from_leaving(tmp_path: Path) -> None:
    """The server is asked nothing before its certificate is checked."""
    authority = Authority(tmp_path / "another time", now=datetime.now(UTC) - timedelta(days=3650))
    with https_server(authority, _DONE) as server:
        client = ProofClient(server.url, ca_file=authority.certificate, wait=0)
        with pytest.raises(ApiTlsError):
            client.retire(_Prover())
    assert not client.may_have_acted


@pytest.mark.parametrize("name", ["", "a/b", "x" * 129])
def test_a_recovered_thing_has_a_valid_name(authority: Authority, name: str) -> None:
    """D17: it is not known beforehand, and becomes part of topics and commands."""
    answer = response("200 OK", json.dumps({**_ANSWER, "thingName": name}))
    with https_server(authority, answer) as server, pytest.raises(UnexpectedResponseError):
        _client(server, authority).recover(_Prover())


def test_another_things_certificate_is_not_a_renewal(authority: Authority) -> None:
    """D17: the answer has to be for the Thing that this device is."""
    with https_server(authority, _CREATED) as server, pytest.raises(UnexpectedResponseError, match="another Thing"):
        _client(server, authority).renew("CSR", "gateway-18", _Prover())


def test_a_backend_of_an_earlier_release_is_named(authority: Authority) -> None:
    """API Gateway answers for a route that is not there; the operator has to update the backend."""
    with https_server(authority, response("404 Not Found", '{"message": "Not Found"}')) as server:
        with pytest.raises(UnexpectedResponseError, match="has no /v1/retirements") as raised:
            _client(server, authority).retire(_Prover())
        assert "earlier release" in raised.value.hint


@pytest.mark.parametrize("answer", [_OK, response("200 OK", "hotel", content_type="text/html")])
def test_only_204_says_that_it_is_done(authority: Authority, answer: bytes) -> None:
    """D17: a portal that answers everything with 200 has committed nothing."""
    with https_server(authority, answer) as server, pytest.raises(UnexpectedResponseError):
        _client(server, authority).commit(_Prover())


def test_an_error_of_the_token_is_not_tried_again(authority: Authority) -> None:
    """What signing raises is raised, and nothing is sent."""

    def refuse(*_: object) -> str:
        raise PinWrongError("refused")

    with https_server(authority, _DONE) as server:
        with pytest.raises(HsmEnrollError, match="refused"):
            _client(server, authority).retire(refuse)
        assert server.requests == []


def test_without_an_answer_four_tries_are_the_last(authority: Authority) -> None:
    """D16: an API that cannot be reached is given up within seconds."""
    prove, waits = _Prover(), Waits()
    with https_server(authority, lambda *_: None) as server, pytest.raises(BackendUnreachableError):
        _client(server, authority, waits).retire(prove)
    assert (len(prove.asked), len(waits)) == (4, 3)
