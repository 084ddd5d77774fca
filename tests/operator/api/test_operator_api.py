"""The operator's client, against a stand-in that checks signatures and against servers that misbehave."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsm_enroll.errors import (
    ApiTlsError,
    BackendRefusedError,
    BackendUnreachableError,
    HsmEnrollError,
    ThrottledError,
    UnexpectedResponseError,
    UsageError,
)
from hsm_enroll.operator.api import OperatorClient
from hsm_enroll.operator.invites import NewInvite
from hsm_enroll.secret import Secret
from tests.client.backend_api.kept_open import kept_open, on_one_connection
from tests.operator.api.stand_in import Backend, json_reply, problem
from tests.support.authority import Authority
from tests.support.https_server import Answer, HttpsServer, https_server, response

_CODE = "7K3QM-ABCDE-FGHJK-MNPQR-STVWX"
_INVITE = {
    "id": "0123456789abcdef",
    "code": _CODE,
    "thing": "gateway-17",
    "uses": 1,
    "expires": "2026-11-24T10:00:00Z",
}
_ASKED = [NewInvite("gateway-17")]

pytestmark = pytest.mark.usefixtures("operator_credentials")


@pytest.fixture
def waits() -> list[float]:
    """The seconds that the client has waited, without waiting."""
    return []


@pytest.fixture
def client(backend: Backend, authority: Authority, waits: list[float]) -> OperatorClient:
    """A client of the stand-in."""
    return OperatorClient(backend.url + "/", authority.certificate, sleep=waits.append)


def test_invites_are_made_as_they_were_asked_for(client: OperatorClient, backend: Backend) -> None:
    """A signed POST holds every invite with what was asked for; the answer comes back typed, its codes as secrets."""
    made = client.create_invites(
        [
            NewInvite("gateway-17"),
            NewInvite("line3-*", uses=12, ttl_seconds=3600, ek_sha256="AB" * 32, existing_thing=True),
        ]
    )
    assert backend.received[0].body == {
        "invites": [
            {"thing": "gateway-17", "uses": 1, "ttlSeconds": 86400},
            {"thing": "line3-*", "uses": 12, "ttlSeconds": 3600, "ekSha256": "ab" * 32, "existingThing": True},
        ]
    }
    assert [one.code for one in made] == [Secret(code) for code in backend.codes]
    assert [one.id for one in made] == list(backend.invites)
    assert [(one.thing, one.uses) for one in made] == [("gateway-17", 1), ("line3-*", 12)]
    assert made[0].expires == datetime(2026, 11, 24, 10, tzinfo=UTC)
    assert made[0].url(client.api_url) == Secret(f"{backend.url}/#{backend.codes[0]}")
    assert backend.refused == 0


@pytest.mark.parametrize("count", [0, 101])
def test_a_request_holds_1_to_100_invites(client: OperatorClient, backend: Backend, count: int) -> None:
    """More than the contract's 100 invites or 16 KiB, or none, are not sent."""
    with pytest.raises(ValueError, match=f"^{count} invites"):
        client.create_invites(_ASKED * count)
    with pytest.raises(ValueError, match=r"^99 invites"):
        client.create_invites([NewInvite("g" * 64, ek_sha256="ab" * 32)] * 99)
    assert backend.received == []


def test_lists_follow_their_pages(client: OperatorClient, backend: Backend) -> None:
    """Invites and Things come from all pages in order; a page's token returns as it came, whatever it is made of."""
    backend.page = 3
    client.create_invites([NewInvite(f"gateway-{number}") for number in range(7)])
    for number in range(8):
        backend.add_thing(f"gateway-{number}", ["claimed", "issued", "revoked"][number % 3])
    assert [one.thing for one in client.list_invites()] == [f"gateway-{number}" for number in range(7)]
    things = list(client.list_things())
    assert [one.thing for one in things] == [f"gateway-{number}" for number in range(8)]
    assert [one.certificate_id for one in things] == [one["certificateId"] for one in backend.things.values()]
    assert things[0].enrolled is None
    assert things[2].revoked == datetime(2026, 11, 23, 11, 30, tzinfo=UTC)
    assert (len(backend.received), backend.refused) == (1 + 3 + 3, 0)


def test_pages_are_asked_for_as_they_are_taken(client: OperatorClient, backend: Backend) -> None:
    """Whoever takes one Thing pays for one page."""
    backend.page = 1
    backend.add_thing("one")
    backend.add_thing("two")
    assert next(client.list_things()).thing == "one"
    assert len(backend.received) == 1


def test_pages_that_go_round_are_refused(client: OperatorClient, backend: Backend) -> None:
    """An API whose pages never end is not followed for ever."""
    backend.replies = {number: json_reply(200, {"things": [], "next": "again"}) for number in range(3)}
    with pytest.raises(UnexpectedResponseError, match="repeat"):
        list(client.list_things())
    assert len(backend.received) == 2


def test_a_thing_is_shown_and_revoked(client: OperatorClient, backend: Backend) -> None:
    """A Thing is named in the query, whatever characters its name has."""
    backend.add_thing("a:b_c-d")
    assert client.show_thing("a:b_c-d").thing.status == "issued"
    assert client.revoke_thing("a:b_c-d") == ()
    assert client.show_thing("a:b_c-d").thing.status == "revoked"
    assert backend.received[1].query == {"thing": "a:b_c-d", "others": "show"}


def test_the_answer_about_another_thing_is_refused(client: OperatorClient, backend: Backend) -> None:
    """A Thing that was not asked for is not shown in the other's place."""
    backend.add_thing("two")
    backend.replies = {0: json_reply(200, {"thing": backend.things["two"]})}
    with pytest.raises(UnexpectedResponseError, match="another Thing"):
        client.show_thing("one")


def test_an_invite_is_revoked(client: OperatorClient) -> None:
    """The invite's id is sent, and its status changes."""
    made = client.create_invites(_ASKED)[0]
    client.revoke_invite(made.id)
    assert [one.status for one in client.list_invites()] == ["revoked"]


def test_a_sweep_goes_on_to_its_end(client: OperatorClient, backend: Backend) -> None:
    """S21: a sweep is asked for part by part, each with the token that the part before gave."""
    certificate = "0b" * 32
    backend.sweeps = [
        {"checked": 250, "disabled": [], "foreign": 2},
        {"checked": 9, "disabled": [{"certificateId": certificate, "created": "2026-11-23T08:00:00Z"}], "foreign": 0},
    ]
    reports = list(client.sweep())
    assert [report.checked for report in reports] == [250, 9]
    assert [one.certificate_id for report in reports for one in report.disabled] == [certificate]
    assert [request.body for request in backend.received] == [{"yesAll": True}, {"yesAll": True, "next": "p:1"}]


def test_temporary_credentials_sign_their_token_too(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    """A session token travels with the request, under its signature."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token")
    assert list(OperatorClient(backend.url, authority.certificate).list_things()) == []
    assert backend.received[0].headers["x-amz-security-token"] == "the-session-token"
    assert backend.refused == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_SECRET_ACCESS_KEY", "another"), ("AWS_REGION", "us-east-1"), ("AWS_ACCESS_KEY_ID", "B")],
)
def test_whom_the_gateway_does_not_let_in_is_told_what_is_needed(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, authority: Authority, variable: str, value: str
) -> None:
    """A 403 of API Gateway's own names the permission that the IAM identity needs."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(BackendRefusedError) as caught:
        OperatorClient(backend.url, authority.certificate).revoke_invite("0123456789abcdef")
    assert "Forbidden" in caught.value.message
    assert "execute-api:Invoke" in caught.value.hint
    assert caught.value.request_id == "gateway-request"
    assert (caught.value.exit_status, caught.value.problem_code) == (31, "")
    assert (backend.received, backend.refused) == ([], 1)


def test_no_credentials_are_an_error_of_their_own(
    backend: Backend, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without AWS credentials nothing is sent, and the hint says where they may come from."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError, match="no AWS credentials were found") as caught:
        list(OperatorClient(backend.url, authority.certificate).list_things())
    assert "AWS_PROFILE" in caught.value.hint
    assert backend.received == []


def test_an_expired_login_says_so(
    backend: Backend, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Credentials that cannot be had, or a profile that does not exist, are named with AWS's own words."""
    profile = tmp_path / "config"
    profile.write_text("[profile gone]\ncredential_process = /bin/false\nregion = eu-west-3\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
    for name in ("gone", "nobody"):
        monkeypatch.setenv("AWS_PROFILE", name)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
        with pytest.raises(UsageError, match="credentials or configuration cannot be used") as caught:
            list(OperatorClient(backend.url, authority.certificate).list_things())
        assert "aws sso login" in caught.value.hint
    assert backend.received == []


@pytest.mark.parametrize(
    ("reply", "error", "code"),
    [
        (problem(404, "invite-unknown"), BackendRefusedError, "invite-unknown"),
        (problem(403, "operator-required"), BackendRefusedError, "operator-required"),
        (problem(400, "field-invalid"), BackendRefusedError, "field-invalid"),
        (problem(500, "internal"), BackendUnreachableError, None),
        (problem(503, "aws-unavailable"), BackendUnreachableError, None),
        (json_reply(503, {"message": "Service Unavailable"}), BackendUnreachableError, None),
        (json_reply(404, {"message": "Not Found"}), UnexpectedResponseError, None),
        (json_reply(200, {"invites": []}), UnexpectedResponseError, None),
    ],
)
def test_every_refusal_is_its_own_error(
    client: OperatorClient,
    backend: Backend,
    reply: tuple[int, dict[str, str], bytes],
    error: type[HsmEnrollError],
    code: str | None,
) -> None:
    """A problem document's code is handed on; an API Gateway without our routes is not taken for ours."""
    backend.replies = {0: reply}
    with pytest.raises(error) as caught:
        client.revoke_invite("0123456789abcdef")
    assert type(caught.value) is error
    assert getattr(caught.value, "problem_code", None) == code
    assert "operator of the backend" not in caught.value.hint  # the reader is the operator
    if code is not None:
        assert f"refused: Detail of {code} ({code})" in str(caught.value)
        assert caught.value.request_id == "the-request"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "busy",
    [
        json_reply(429, {"message": "Too Many Requests"}),
        problem(429, "throttled", Retry_After="2"),
        problem(503, "aws-unavailable", Retry_After="2"),
    ],
)
def test_a_busy_api_is_asked_again(
    client: OperatorClient, backend: Backend, waits: list[float], busy: tuple[int, dict[str, str], bytes]
) -> None:
    """D16: 429, and 503 with Retry-After, are tried again after the wait that was asked for and some jitter."""
    backend.replies = {0: busy, 1: busy}
    assert list(client.list_things()) == []
    asked = float(busy[1].get("Retry-After", "0"))
    assert len(waits) == 2
    assert all(asked <= wait <= asked + limit for wait, limit in zip(waits, (0.5, 1.0), strict=True))


def test_invites_are_not_asked_for_again_where_they_may_exist(client: OperatorClient, backend: Backend) -> None:
    """D16: after 503 nobody knows whether they were made; after 429 they were not."""
    backend.replies = {0: problem(503, "aws-unavailable", Retry_After="2")}
    with pytest.raises(BackendUnreachableError):
        client.create_invites(_ASKED)
    assert len(backend.received) == 1
    backend.replies = {1: problem(429, "throttled", Retry_After="2")}
    assert len(client.create_invites(_ASKED)) == 1


def test_a_busy_api_is_not_asked_for_ever(client: OperatorClient, backend: Backend, waits: list[float]) -> None:
    """D16: after five tries the answer stands, and what the waits can sum up to is bounded."""
    backend.replies = dict.fromkeys(range(20), problem(429, "throttled"))
    with pytest.raises(ThrottledError) as caught:
        client.create_invites(_ASKED)
    assert caught.value.exit_status == 32
    assert len(backend.received) == 5
    assert sum(waits) <= 0.5 + 1 + 2 + 4


def test_a_wait_that_is_too_long_is_left_to_the_person(
    client: OperatorClient, backend: Backend, waits: list[float]
) -> None:
    """D16: an API that asks to wait an hour is not waited for."""
    backend.replies = {0: problem(503, "aws-unavailable", Retry_After="3600")}
    with pytest.raises(BackendUnreachableError):
        client.sweep().__next__()
    assert waits == []


def _closed(stream: ssl.SSLSocket, _: HttpsServer) -> None:
    stream.shutdown(socket.SHUT_RDWR)


def _endless(stream: ssl.SSLSocket, server: HttpsServer) -> None:
    stream.sendall(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n\r\n")
    while not server.stop.wait(0.05):
        stream.sendall(b" ")


def _huge(stream: ssl.SSLSocket, _: HttpsServer) -> None:
    stream.sendall(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n")
    for _chunk in range(100):
        stream.sendall(b" " * 1_000_000)


def _created(**members: object) -> bytes:
    return response("201 Created", json.dumps({"invites": [{**_INVITE, **members}]}))


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (response("302 Found", "", "Location: https://elsewhere.example/"), UnexpectedResponseError, "redirect"),
        (response("307 Temporary Redirect", "", "Location: /login"), UnexpectedResponseError, "redirect"),
        (response("200 OK", "<html>Log in</html>", content_type="text/html"), UnexpectedResponseError, "text/html"),
        (response("403 Forbidden", "<html>No</html>", content_type="text/html"), UnexpectedResponseError, "status 403"),
        (response("511 Network Authentication Required", "", content_type="text/html"), BackendUnreachableError, "511"),
        (response("201 Created", '{"invites": [{"code": "' + _CODE), UnexpectedResponseError, "cut off"),
        (response("201 Created", "[" * 100_000), UnexpectedResponseError, "not valid JSON"),
        (response("201 Created", "[]"), UnexpectedResponseError, "not a JSON object"),
        (response("201 Created", "{}"), UnexpectedResponseError, "invites is not a list"),
        (response("201 Created", '{"invites": []}'), UnexpectedResponseError, "not the ones"),
        (_created(thing="gateway-18"), UnexpectedResponseError, "not the ones"),
        (_created(uses=2), UnexpectedResponseError, "not the ones"),
        (_created(code="\x1b[31mred"), UnexpectedResponseError, "code is missing"),
        (_created(code=None), UnexpectedResponseError, "code is missing"),
        (_created(id="../../x"), UnexpectedResponseError, "id is missing"),
        (_created(expires="2026-02-30T10:00:00Z"), UnexpectedResponseError, "expires is missing"),
        (_closed, BackendUnreachableError, "broke before"),
        (_endless, BackendUnreachableError, "within 2 s"),
        (_huge, UnexpectedResponseError, "longer than"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", BackendUnreachableError, "broke before"),
    ],
)
def test_what_is_not_the_apis_answer_is_refused_by_name(
    authority: Authority,
    answer: bytes | Answer,
    error: type[HsmEnrollError],
    said: str,
    shown_with_locals: Callable[[BaseException], str],
) -> None:
    """D15, D17: portals, redirects, cut, endless and foreign answers; asked once, and no code in any traceback."""
    with https_server(authority, answer) as server:
        client = OperatorClient(server.url, authority.certificate, deadline=2)
        with pytest.raises(error, match=said) as caught:
            client.create_invites(_ASKED)
        assert len(server.requests) == 1
    assert _CODE not in shown_with_locals(caught.value)


_PAGE = kept_open("200 OK", json.dumps({"invites": [], "next": None}))


def test_requests_share_a_connection(authority: Authority) -> None:
    """A second request needs no new TCP and TLS handshake."""
    with https_server(authority, on_one_connection(_PAGE, _PAGE, _created()), b"") as server:
        client = OperatorClient(server.url, authority.certificate)
        assert list(client.list_invites()) == list(client.list_invites()) == []
        assert len(client.create_invites(_ASKED)) == 1


def test_invites_are_not_made_twice_where_the_connection_died(authority: Authority) -> None:
    """A connection that was kept open and dies under the request may have carried it: it is not sent again."""
    with https_server(authority, on_one_connection(_PAGE, None), _created()) as server:
        client = OperatorClient(server.url, authority.certificate)
        assert list(client.list_invites()) == []
        with pytest.raises(BackendUnreachableError) as caught:
            client.create_invites(_ASKED)
        assert len(server.requests) == 2
    assert "may have been made" in caught.value.hint


def test_a_lost_answer_says_that_invites_may_exist(authority: Authority) -> None:
    """Invites whose answer was lost are not made again by themselves; the hint says how to find and end them."""
    with https_server(authority, _closed) as server, pytest.raises(BackendUnreachableError) as caught:
        OperatorClient(server.url, authority.certificate).create_invites(_ASKED * 3)
    assert "Up to 3 invites may have been made" in caught.value.hint
    assert "hsm-enroll invite list" in caught.value.hint


def test_a_server_that_is_not_trusted_gets_no_request(authority: Authority, tmp_path: Path) -> None:
    """D15: a server whose certificate another CA has issued gets no request."""
    other = Authority(tmp_path / "other", name="another CA")
    with https_server(authority, _created()) as server, pytest.raises(ApiTlsError):
        OperatorClient(server.url, other.certificate).create_invites(_ASKED)
    assert server.requests == []


def test_nobody_there_is_tried_again_a_few_times(authority: Authority, waits: list[float]) -> None:
    """D15: a port that nobody listens at, and a name that does not exist, are told apart; both are tried five times."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url, said in (
        (f"https://localhost:{port}", "nothing accepts connections"),
        ("https://does-not-exist.invalid", "cannot be resolved"),
    ):
        waits.clear()
        with pytest.raises(BackendUnreachableError, match=said) as caught:
            OperatorClient(url, authority.certificate, sleep=waits.append).create_invites(_ASKED)
        assert "invite list" not in caught.value.hint
        assert len(waits) == 4


@pytest.mark.parametrize(
    "url",
    [
        *("http://api.example", "api.example", "https://", "https://a:99999", "https://[::1", "https://u:p@a"),
        *("https://a?b", "https://a#b", "https://a/\x1b[0m", "https://a b", "https://\u0430.example"),
    ],
)
def test_an_address_that_is_none_is_wrong_usage(url: str) -> None:
    """Anything but an HTTPS base URL is refused before anything is sent."""
    with pytest.raises(UsageError):
        OperatorClient(url)


def test_a_missing_ca_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trust anchor that is not there is an error, also the one that AWS_CA_BUNDLE names."""
    with pytest.raises(UsageError, match=r"nowhere\.pem cannot be read"):
        OperatorClient("https://api.example", tmp_path / "nowhere.pem")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "neither.pem"))
    with pytest.raises(UsageError, match=r"neither\.pem cannot be read"):
        OperatorClient("https://api.example")


def test_the_trust_anchor_of_awss_tools_serves_too(
    backend: Backend, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a company's proxy AWS_CA_BUNDLE is trusted for the API as it is for AWS."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.certificate))
    assert list(OperatorClient(backend.url).list_things()) == []


def test_a_new_invite_shows_no_code(client: OperatorClient, backend: Backend) -> None:
    """Neither repr nor str of what the client hands out holds a code."""
    made = client.create_invites(_ASKED)[0]
    url = made.url(client.api_url)
    assert backend.codes[0] in url.reveal()
    assert backend.codes[0] not in f"{made!r} {made} {url!r} {url}"
