"""The connection to the API: it is kept open, is replaced when it has died, and shows nothing to anybody else."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from requests import adapters

from hsm_enroll.backend_api import transport
from hsm_enroll.backend_api.transport import Outgoing, Transport
from hsm_enroll.errors import ApiTlsError, BackendUnreachableError, UnexpectedResponseError, UsageError
from tests.client.backend_api.kept_open import End, close_notify, kept_open, on_one_connection, reset
from tests.support.authority import Authority
from tests.support.https_server import Answer, HttpsServer, https_server, response

_HUSH = "the-code"
_KEPT = kept_open("200 OK", "{}")
_LAST = response("200 OK", "{}")


def _transport(url: str, authority: Authority, authorize: transport.Authorize | None = None) -> Transport:
    return Transport(
        url,
        authorize or (lambda _: {"Authorization": f"Bearer {_HUSH}"}),
        ca_file=authority.certificate,
        deadline=20,
        largest_answer=1000,
    )


def test_one_connection_serves_several_requests(authority: Authority) -> None:
    """The second request needs no new TCP and TLS handshake."""
    with (
        https_server(authority, on_one_connection(_KEPT, _KEPT, _LAST), b"") as server,
        closing(_transport(server.url, authority)) as api,
    ):
        assert [api.exchange("GET", "/first").status, api.exchange("POST", "/second", b"{}").status] == [200, 200]
        assert api.exchange("GET", "/third").body == b"{}"
    assert [request.split()[1] for request in server.requests] == [b"/first", b"/second", b"/third"]


@pytest.mark.parametrize("interim", ["103 Early Hints", "102 Processing", "199 Whatever"])
def test_an_interim_answer_is_passed_over(authority: Authority, interim: str) -> None:
    """RFC 9110 §15.2: the answer is the final one, however many come before it, and the connection stays usable."""
    hints = f"HTTP/1.1 {interim}\r\nLink: </a>\r\n\r\n".encode()
    with (
        https_server(authority, on_one_connection(hints * 3 + _KEPT, hints + _LAST), b"") as server,
        closing(_transport(server.url, authority)) as api,
    ):
        answers = [api.exchange("GET", "/"), api.exchange("GET", "/")]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"{}")] * 2


def test_surplus_is_not_taken_for_the_next_answer(authority: Authority) -> None:
    """Bytes behind an answer belong to no request: the next one goes over a new connection.

    http.client reads 8192 bytes at once. What comes behind them stays in TLS, where select does not see it.
    """
    padding = b" " * (8192 - len(_KEPT))
    surplus = kept_open("200 OK", '{"surplus": true}')
    with (
        https_server(authority, on_one_connection(_KEPT + padding + surplus, end=_wait), _LAST) as server,
        closing(_transport(server.url, authority)) as api,
    ):
        api.exchange("GET", "/first")
        assert api.exchange("GET", "/second").body == b"{}"
    assert [request.split()[1] for request in server.requests if request] == [b"/first", b"/second"]


@pytest.mark.parametrize(("days", "why"), [(3650, "is not valid yet"), (-3650, "has expired")])
def test_d14_a_certificate_that_is_untimely_points_at_the_clock(tmp_path: Path, days: int, why: str) -> None:
    """D14: the certificate is not blamed alone: the message says what this machine's clock shows."""
    now = datetime.now(UTC)
    authority = Authority(tmp_path / "another time", now=now + timedelta(days=days))
    with https_server(authority, _LAST) as server, pytest.raises(ApiTlsError) as raised:
        _transport(server.url, authority).exchange("GET", "/")
    assert f"{why}, if this machine's clock is right, which says {now.year}-" in raised.value.message
    assert raised.value.untimely
    assert raised.value.hint.startswith("Check this machine's clock")


def test_no_cookie_is_kept(authority: Authority) -> None:
    """What a server asks to be told again with every request is not told."""
    with (
        https_server(authority, on_one_connection(_KEPT, _LAST)) as server,
        closing(_transport(server.url, authority)) as api,
    ):
        api.exchange("GET", "/")
        api.exchange("GET", "/")
    assert len(server.requests) == 2
    assert b"cookie" not in server.requests[1].lower()


def _wait(stream: ssl.SSLSocket) -> None:
    stream.recv(1)  # until the client ends the connection


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the limit the next request opens a new connection: a router may have forgotten the old one."""
    with (
        https_server(authority, on_one_connection(_KEPT, end=_wait), _LAST) as server,
        closing(_transport(server.url, authority)) as api,
    ):
        api.exchange("GET", "/")
        monkeypatch.setattr(transport, "LONGEST_IDLE_SECONDS", 0.0)
        assert api.exchange("GET", "/").status == 200


@pytest.mark.parametrize("end", [lambda _: None, reset, close_notify], ids=["closed", "reset", "close_notify"])
def test_a_connection_that_died_while_idle_costs_nothing(authority: Authority, end: End) -> None:
    """Where the server has ended the connection, the next request opens another, without an error."""
    answered, ended = threading.Event(), threading.Event()

    def first(stream: ssl.SSLSocket, _: HttpsServer) -> None:
        stream.sendall(_KEPT)
        answered.wait(20)
        end(stream)
        stream.close()
        ended.set()

    with https_server(authority, first, _LAST) as server, closing(_transport(server.url, authority)) as api:
        api.exchange("GET", "/")
        answered.set()
        assert ended.wait(20)
        assert api.exchange("GET", "/").status == 200
    assert len(server.requests) == 2


@pytest.mark.parametrize("end", [lambda _: None, reset, close_notify], ids=["closed", "reset", "close_notify"])
def test_a_connection_that_dies_under_a_request_may_have_carried_it_out(authority: Authority, end: End) -> None:
    """The transport itself sends nothing twice: whoever knows what the request was decides about that."""
    with (
        https_server(authority, on_one_connection(_KEPT, None, end=end), _LAST) as server,
        closing(_transport(server.url, authority)) as api,
    ):
        api.exchange("GET", "/")
        with pytest.raises(BackendUnreachableError, match="broke before its answer was complete") as raised:
            api.exchange("POST", "/", b"{}")
        assert raised.value.sent
        assert len(server.requests) == 2
        assert api.exchange("POST", "/", b"{}").status == 200


def test_a_server_that_hangs_up_in_the_handshake_is_not_called_untrusted(authority: Authority) -> None:
    """D15: an end without a word is a broken connection, which may pass, and says nothing about the certificate."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(BackendUnreachableError):
            _transport(f"https://localhost:{listener.getsockname()[1]}", authority).exchange("GET", "/")
        thread.join(20)


def test_the_body_of_a_redirect_is_not_read_to_its_end(authority: Authority) -> None:
    """D17: a redirect is an answer like any other, and too large a one is given up early."""
    sent = 0

    def flood(stream: ssl.SSLSocket, _: HttpsServer) -> None:
        nonlocal sent
        stream.sendall(
            b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 104857600\r\n\r\n"
        )
        while sent < 104_857_600:
            stream.sendall(b" " * 65536)
            sent += 65536

    with https_server(authority, flood) as server, pytest.raises(UnexpectedResponseError, match="longer than 1000"):
        _transport(server.url, authority).exchange("GET", "/")
    assert sent < 104_857_600 / 2


def test_who_authorizes_is_told_what_is_sent(authority: Authority) -> None:
    """Method, URL with its query, content type and body are those of the request, and the headers given are sent."""
    told: list[Outgoing] = []

    def authorize(request: Outgoing) -> Mapping[str, str]:
        told.append(request)
        return {"X-Proof": "7"}

    with https_server(authority, _LAST) as server:
        _transport(f"{server.url}/stage", authority, authorize).exchange("POST", "/a?b=c%20d", b"{}")
        url = f"{server.url}/stage/a?b=c%20d"
    assert told == [Outgoing("POST", url, {"Content-Type": "application/json"}, b"{}")]
    assert server.requests[0].startswith(b"POST /stage/a?b=c%20d HTTP/1.1\r\n")
    assert b"\r\nX-Proof: 7\r\n" in server.requests[0]


def test_what_who_authorizes_raises_is_not_translated(authority: Authority) -> None:
    """An error of ours goes through, and nothing is sent."""

    def refuse(_: Outgoing) -> Mapping[str, str]:
        raise UsageError("no credentials")

    with https_server(authority, _LAST) as server, pytest.raises(UsageError, match="no credentials"):
        _transport(server.url, authority, refuse).exchange("GET", "/")
    assert server.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(on_one_connection(None), id="no answer"),
        pytest.param(on_one_connection(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), id="half an answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b" " * 9999, id="too large"),
    ],
)
def test_no_traceback_shows_a_code(
    authority: Authority, answer: bytes | Answer, shown_with_locals: Callable[[BaseException], str]
) -> None:
    """Rule 9: the header with the code is in no local variable of an exception's frames, the library's included."""
    with https_server(authority, answer) as server:
        with pytest.raises((BackendUnreachableError, UnexpectedResponseError)) as raised:
            _transport(server.url, authority).exchange("POST", "/", b"{}")
        assert _HUSH.encode() in server.requests[0]
    assert _HUSH not in shown_with_locals(raised.value)


@pytest.mark.parametrize("place", ["127.0.0.1:99999", "127.0.0.1:1", "[::1"])
def test_no_traceback_shows_a_proxys_password(
    place: str, authority: Authority, shown_with_locals: Callable[[BaseException], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 9: a proxy that cannot be used, and one whose URL is not valid, are told without the password."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://some:{_HUSH}@{place}/")
    with pytest.raises((BackendUnreachableError, UsageError)) as raised:
        _transport("https://api.example", authority, lambda _: {}).exchange("GET", "/")
    assert _HUSH not in shown_with_locals(raised.value)
    assert place in raised.value.hint


def test_an_unusable_ca_file_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    """D24: it is wrong usage, found when the client is made, and not a TLS error of the server's."""
    ca_file = tmp_path / "ca.pem"
    ca_file.touch()
    with pytest.raises(UsageError, match=r"ca\.pem .* it is empty"):
        Transport("https://api.example", lambda _: {}, ca_file=ca_file, deadline=1, largest_answer=1)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_environments_ca_file_is_trusted(
    variable: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D25: without the setting, the API is trusted by the file that MQTT and doctor use too."""
    monkeypatch.setenv(variable, str(authority.certificate))
    with https_server(authority, _LAST) as server:
        api = Transport(server.url, lambda _: {}, ca_file=None, deadline=20, largest_answer=1000)
        assert api.exchange("GET", "/").status == 200


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_the_hint_names_the_proxy_in_between(
    variable: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D25: where the API cannot be reached through a proxy, the hint names the proxy, without its password."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        place = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv(variable, f"http://some:{_HUSH}@{place}/")
    with pytest.raises(BackendUnreachableError) as raised:
        _transport("https://api.example", authority).exchange("GET", "/")
    assert f"the proxy {place}: check" in raised.value.hint
    assert "list api.example in NO_PROXY" in raised.value.hint
    assert _HUSH not in raised.value.hint


def test_the_hint_names_no_proxy_that_is_bypassed(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """D25: a proxy that NO_PROXY bypasses, by a name or a network, is neither used nor named."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        place = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    with pytest.raises(BackendUnreachableError) as raised:
        _transport(f"https://{place}", authority).exchange("GET", "/")
    assert raised.value.hint == BackendUnreachableError.default_hint


def test_certifis_authorities_are_not_trusted(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trusted authorities are the file's or the system's; those that requests brings along do not count."""
    monkeypatch.setattr(adapters, "DEFAULT_CA_BUNDLE_PATH", str(authority.certificate))
    other = Authority(tmp_path / "other").certificate
    with https_server(authority, _LAST) as server, pytest.raises(ApiTlsError):
        Transport(server.url, lambda _: {}, ca_file=other, deadline=20, largest_answer=1000).exchange("GET", "/")
    assert server.requests == []
