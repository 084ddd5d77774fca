"""What a device asks of the API before it creates anything."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsm_enroll.backend_api.attestation import Policy
from hsm_enroll.backend_api.client import EnrollmentClient, Terms
from hsm_enroll.errors import BackendRefusedError, BackendUnreachableError, UnexpectedResponseError
from hsm_enroll.secret import Secret
from tests.client.backend_api.kept_open import kept_open, on_one_connection
from tests.client.backend_api.patient import Waits
from tests.support.authority import Authority
from tests.support.https_server import HttpsServer, https_server, response

_SAMPLES = Path(__file__).parents[2] / "contract" / "samples"
_INVITE = (_SAMPLES / "invite-answer.json").read_text(encoding="utf-8")
_HEALTH = (_SAMPLES / "health-answer.json").read_text(encoding="utf-8")
_ISSUED = (_SAMPLES / "enroll-answer.json").read_text(encoding="utf-8")
_THING = json.loads(_ISSUED)["thingName"]


def _client(server: HttpsServer, authority: Authority, *, code: str | None = "THE-CODE") -> EnrollmentClient:
    secret = None if code is None else Secret(code)
    waits = Waits()
    return EnrollmentClient(
        server.url, code=secret, ca_file=authority.certificate, sleep=waits.append, clock=waits.clock
    )


def test_an_invite_says_which_thing_it_is_for(authority: Authority) -> None:
    """The code goes in the header, as with the enrollment itself, and the answer names the Thing."""
    with https_server(authority, response("200 OK", _INVITE)) as server:
        assert _client(server, authority).terms() == Terms("gateway-*")
    [request] = server.requests
    assert request.startswith(b"GET /v1/invite HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer THE-CODE\r\n" in request
    assert request.count(b"THE-CODE") == 1


def test_without_a_code_the_connection_is_opened_meanwhile(authority: Authority) -> None:
    """An open deployment has no invites: nothing is waited for, and the request finds the connection open."""
    answers = on_one_connection(kept_open("200 OK", _HEALTH), response("201 Created", _ISSUED))
    with https_server(authority, answers, b"") as server:
        client = _client(server, authority, code=None)
        assert client.terms() is None
        assert client.enroll("THE-CSR", _THING).thing_name == _THING
    assert [request.split(b" ")[1] for request in server.requests] == [b"/v1/health", b"/v1/certificates"]


def test_a_connection_that_cannot_be_opened_beforehand_is_opened_later(authority: Authority) -> None:
    """What goes wrong before there is a request is the request's to say, should it go wrong then."""
    with https_server(authority, response("503 Service Unavailable", ""), response("201 Created", _ISSUED)) as server:
        client = _client(server, authority, code=None)
        client.terms()
        assert client.enroll("THE-CSR", _THING).thing_name == _THING


def test_a_backend_that_does_not_know_the_path_tells_nothing(authority: Authority) -> None:
    """A backend of an earlier release enrolls as before; API Gateway answers there with a body of its own."""
    with https_server(authority, response("404 Not Found", '{"message": "Not Found"}')) as server:
        assert _client(server, authority).terms() is None


def test_a_portals_404_is_not_an_earlier_backends(authority: Authority) -> None:
    """D17: a page in place of the API is told from API Gateway's own answer, before a key is made."""
    page = response("404 Not Found", "<html>", content_type="text/html")
    with https_server(authority, page) as server, pytest.raises(UnexpectedResponseError):
        _client(server, authority).terms()


def test_a_used_invite_says_so(authority: Authority) -> None:
    """An invite without a use left is of use to the device that used it, and to no other."""
    with https_server(authority, response("200 OK", '{"thing": "gateway-17", "usesLeft": 0}')) as server:
        assert _client(server, authority).terms() == Terms("gateway-17", is_used_up=True)


_POLICIES = [
    ("require", Policy.REQUIRE),
    ("prefer", Policy.PREFER),
    ("off", Policy.OFF),
    ("x", Policy.OFF),
    (7, Policy.OFF),
]


@pytest.mark.parametrize(("attestation", "policy"), _POLICIES)
def test_an_invite_says_whether_a_tpm_has_to_attest(authority: Authority, attestation: object, policy: Policy) -> None:
    """What is wanted is known before a key is made; a backend that does not say wants nothing."""
    answer = json.dumps({"thing": "gateway-17", "usesLeft": 1, "attestation": attestation})
    with https_server(authority, response("200 OK", answer)) as server:
        assert _client(server, authority).terms() == Terms("gateway-17", attestation=policy)


@pytest.mark.parametrize(("attestation", "policy"), _POLICIES)
def test_without_an_invite_the_deployment_says_whether_a_tpm_has_to_attest(
    authority: Authority, attestation: object, policy: Policy
) -> None:
    """It says so when the connection is opened, which costs no request of its own."""
    health = json.dumps({"status": "ok", "version": "1", "attestation": attestation})
    with https_server(authority, response("200 OK", health)) as server:
        client = _client(server, authority, code=None)
        assert client.policy() is Policy.OFF
        client.terms()
        assert client.policy() is policy
    assert len(server.requests) == 1


def test_a_deployment_that_does_not_answer_wants_nothing_yet(authority: Authority) -> None:
    """The request that follows says what is wrong."""
    with https_server(authority, response("503 Service Unavailable", "")) as server:
        client = _client(server, authority, code=None)
        client.terms()
        assert client.policy() is Policy.OFF


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("Date: Sun, 06 Nov 1994 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Date: yesterday", None),
        ("X-Date: Sun, 06 Nov 1994 08:49:37 GMT", None),
    ],
)
def test_the_apis_clock_is_its_date(authority: Authority, header: str, shown: datetime | None) -> None:
    """D14: the health check's Date is the API's clock; without a valid one it does not say (RFC 9110 §6.6.1)."""
    with https_server(authority, response("200 OK", _HEALTH, header)) as server:
        assert _client(server, authority).clock() == shown


def test_the_request_for_a_certificate_finds_the_connection_open(authority: Authority) -> None:
    """Name, TCP and TLS are paid for once, while the key is made."""
    answers = on_one_connection(kept_open("200 OK", _INVITE), response("201 Created", _ISSUED))
    with https_server(authority, answers, b"") as server:
        client = _client(server, authority)
        client.terms()
        assert client.enroll("THE-CSR", _THING).thing_name == _THING


@pytest.mark.parametrize(
    "answer",
    [
        '{"thing": 1, "usesLeft": 1}',
        "{}",
        '{"thing": "", "usesLeft": 1}',
        '{"thing": "a b", "usesLeft": 1}',
        '{"thing": "\\u001b[2J", "usesLeft": 1}',
        '{"thing": "gateway-17"}',
        '{"thing": "gateway-17", "usesLeft": true}',
        "[]",
    ],
)
def test_d31_a_name_that_no_thing_has_is_not_taken(authority: Authority, answer: str) -> None:
    """D31: what is not a Thing's name, or the beginning of one, is an unexpected response and is not shown."""
    invite = response("200 OK", answer)
    with https_server(authority, invite) as server, pytest.raises(UnexpectedResponseError) as caught:
        _client(server, authority).terms()
    assert caught.value.message.isprintable()


def test_a_refused_invite_is_said_at_once(authority: Authority) -> None:
    """An invite that the API does not accept is not asked about again."""
    problem = (_SAMPLES / "problem-invite-invalid.json").read_text(encoding="utf-8")
    answer = response("401 Unauthorized", problem, content_type="application/problem+json")
    with https_server(authority, answer) as server, pytest.raises(BackendRefusedError) as caught:
        _client(server, authority).terms()
    assert caught.value.problem_code == "invite-invalid"
    assert "new invite" in caught.value.hint
    assert len(server.requests) == 1


def test_d16_a_fault_that_passes_is_waited_for(authority: Authority) -> None:
    """D16: after 503 it is asked again, for as long as the certificate would be."""
    busy = response("503 Service Unavailable", "")
    with https_server(authority, busy, response("200 OK", _INVITE)) as server:
        assert _client(server, authority).terms() == Terms("gateway-*")
    with https_server(authority, busy) as server, pytest.raises(BackendUnreachableError):
        _client(server, authority).terms()
    assert len(server.requests) > 4
