"""What the doctor sees of the network: names, TLS at both ends, who intercepts it, and the time."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import urllib3.connection

from hsm_enroll.backend_api.client import EnrollmentClient
from hsm_enroll.doctor import Finding, Patient, Status, api, checks_credentials, checks_online, network
from hsm_enroll.doctor.tls import Negotiated
from hsm_enroll.errors import UsageError
from hsm_enroll.iot import shared_port, trust
from hsm_enroll.key import KeyType
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings, Tls
from hsm_enroll.token.tokens import Tokens
from tests.support import broker as mosquitto
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.https_server import HttpsServer, https_server, response
from tests.support.identities import identity
from tests.support.relay import Intolerance, relaying
from tests.support.tunnel_proxy import tunnel_proxy

_HEALTHY = response("200 OK", '{"version": "0.1.0"}')
_SUITE = "ECDHE-ECDSA-AES128-GCM-SHA256"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that this machine trusts."""
    return Authority(tmp_path_factory.mktemp("authority") / "ca", "trusted CA")


@pytest.fixture(scope="session")
def interceptor(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA of somebody in between; its name would clear a terminal."""
    return Authority(tmp_path_factory.mktemp("interceptor") / "ca", "inspecting\x1b[2J CA")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def settings(tmp_path: Path, authority: Authority) -> Callable[..., Patient]:
    """Make a device that is not enrolled, of its settings."""

    def make(**values: Any) -> Patient:
        told = Settings(**{"state": tmp_path / "state", "ca_file": authority.certificate, **values})
        return Patient(told, {}, Tokens())

    return make


def _found(finding: Finding) -> tuple[str, Status]:
    return finding.id, finding.status


def test_what_the_api_negotiates_is_told(authority: Authority, settings: Callable[..., Patient]) -> None:
    """The finding names the version and the cipher suite that the server negotiated."""
    negotiated: list[tuple[str, str]] = []

    def answer(stream: ssl.SSLSocket, _: HttpsServer) -> None:
        name, version, _bits = stream.cipher() or ("", "", 0)
        negotiated.append((version, name))
        stream.sendall(_HEALTHY)

    with https_server(authority, answer) as server:
        finding = checks_online.api_tls(settings(api_url=server.url))
    assert finding == Finding("online.api-tls", Status.OK, "the API negotiates {}, {}".format(*negotiated[0]))


def test_who_intercepts_the_api_is_named(interceptor: Authority, settings: Callable[..., Patient]) -> None:
    """D15: a chain that ends elsewhere fails with the issuer that was seen, printable; the API is not asked further."""
    with https_server(interceptor, _HEALTHY) as server:
        patient = settings(api_url=server.url)
        finding = checks_online.api_tls(patient)
        reachable = checks_online.api(patient)
        requests = b"".join(server.requests)
    assert _found(finding) == ("online.api-tls", Status.FAILED)
    assert "inspecting\\x1b[2J CA" in finding.message
    assert "intercept" in finding.hint
    assert _found(reachable) == ("api.reachable", Status.SKIPPED)
    assert b"Authorization" not in requests


@pytest.mark.parametrize(
    ("policy", "told"), [("off", ""), ("prefer", "; it prefers keys"), ("require", "; it requires that a TPM")]
)
def test_what_the_deployment_wants_of_keys_is_told(
    authority: Authority, settings: Callable[..., Patient], policy: str, told: str
) -> None:
    """Before an enrollment, too: a gateway without a TPM need not be driven to a site that requires one."""
    with https_server(authority, response("200 OK", f'{{"version": "0.1.0", "attestation": "{policy}"}}')) as server:
        finding = checks_online.api(settings(api_url=server.url))
    assert finding.status is Status.OK
    assert finding.message.partition("version 0.1.0")[2].startswith(told)
    assert bool(finding.message.partition("version 0.1.0")[2]) is bool(told)


def test_an_api_that_fails_is_not_blamed_on_the_network(authority: Authority, settings: Callable[..., Patient]) -> None:
    """D15: where the API answers 503, the hint is about the API; the doctor has nothing to resume."""
    with https_server(authority, response("503 Service Unavailable", "")) as server:
        finding = checks_online.api(settings(api_url=server.url))
    assert _found(finding) == ("api.reachable", Status.FAILED)
    assert finding.hint.startswith("The network is fine, the API is not: wait a few minutes")
    assert "resumes" not in finding.hint


def test_an_interceptor_behind_a_proxy_is_named(
    interceptor: Authority, settings: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D15: where the environment names a proxy the way leads through it, with its password, and its CA is named."""
    with https_server(interceptor, _HEALTHY) as server, tunnel_proxy(server.url) as (port, seen):
        monkeypatch.setenv("https_proxy", f"http://some:one%21@localhost:{port}")
        patient = settings(api_url="https://api.invalid/base")
        names, finding = checks_online.dns(patient), checks_online.api_tls(patient)
        requests = b"".join(server.requests)
    assert _found(names) == ("online.dns", Status.OK)
    assert _found(finding) == ("online.api-tls", Status.FAILED)
    assert "inspecting\\x1b[2J CA" in finding.message
    assert b"CONNECT api.invalid:443" in seen[0]
    assert b"Proxy-Authorization: Basic c29tZTpvbmUh\r\n" in seen[0]
    assert requests.startswith(b"GET /base/v1/health ")


@pytest.mark.parametrize(
    ("ahead", "status"),
    [
        (timedelta(seconds=20), Status.OK),
        (timedelta(minutes=10), Status.WARNING),
        (timedelta(hours=3), Status.FAILED),
        (timedelta(days=20000), Status.FAILED),
    ],
)
@pytest.mark.parametrize("direction", [1, -1])
def test_a_clock_that_is_not_the_apis_is_told(
    ahead: timedelta, status: Status, direction: int, authority: Authority, settings: Callable[..., Patient]
) -> None:
    """D14: the clock is compared with the API's Date, and the finding says by how much, and which way, it is wrong."""
    date = format_datetime(datetime.now(UTC) - direction * ahead, usegmt=True)
    with https_server(authority, response("200 OK", "{}", f"Date: {date}")) as server:
        finding = checks_online.clock(settings(api_url=server.url))
    assert _found(finding) == ("online.clock", status)
    assert (("ahead of" if direction > 0 else "behind") in finding.message) is (status is not Status.OK)


def test_a_library_that_warns_of_the_clock_is_not_heard(
    authority: Authority, settings: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D14: with a clock before its own release urllib3 warns on stderr, in its own words; doctor's checks say it."""
    monkeypatch.setattr(urllib3.connection, "RECENT_DATE", date(9999, 1, 1))
    with warnings.catch_warnings(), https_server(authority, _HEALTHY) as server:
        warnings.simplefilter("error")
        assert checks_online.api_tls(settings(api_url=server.url)).status is Status.OK


@pytest.mark.parametrize("headers", [(), ("Date: yesterday",), ("Date: Tue, 99 Foo 2026 00:00:00 GMT",)])
def test_an_api_without_a_date_does_not_judge_the_clock(
    headers: tuple[str, ...], authority: Authority, settings: Callable[..., Patient]
) -> None:
    """An answer without a Date, or with one that is none, leaves the clock alone."""
    with https_server(authority, response("200 OK", "{}", *headers)) as server:
        finding = checks_online.clock(settings(api_url=server.url))
    assert _found(finding) == ("online.clock", Status.SKIPPED)


def test_an_api_of_another_time_is_a_matter_of_the_clock(
    authority: Authority, settings: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D14: a certificate "not yet valid" is not the finding where the API's time says that it is the clock."""
    issue = authority.issue_pair
    monkeypatch.setattr(authority, "issue_pair", lambda *names: issue(*names, shift=timedelta(days=5)))
    date = format_datetime(datetime.now(UTC) + timedelta(days=5), usegmt=True)
    with https_server(authority, response("200 OK", "{}", f"Date: {date}")) as server:
        patient = settings(api_url=server.url)
        findings = [checks_online.api_tls(patient), checks_online.clock(patient)]
    assert [_found(finding) for finding in findings] == [
        ("online.api-tls", Status.SKIPPED),
        ("online.clock", Status.FAILED),
    ]


def test_an_answer_without_an_end_is_given_up(
    authority: Authority, settings: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D15: a server that sends a header byte by byte does not hold the doctor up."""
    monkeypatch.setattr(api, "WHOLE_SECONDS", 1.0)

    def trickle(stream: ssl.SSLSocket, server: HttpsServer) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not server.stop.wait(0.1):
            stream.sendall(b"x")

    with https_server(authority, trickle) as server:
        finding = checks_online.api_tls(settings(api_url=server.url))
    assert _found(finding) == ("online.api-tls", Status.SKIPPED)


@pytest.mark.parametrize(
    "values",
    [
        {"api_url": "https://no-such-host.invalid"},
        {"mqtt_endpoint": "no-such-host.invalid", "mqtt_port": 8883},
        {"mqtt_endpoint": "a..b", "mqtt_port": 8883},
    ],
)
def test_a_name_without_an_address_fails_dns_alone(values: dict[str, object], settings: Callable[..., Patient]) -> None:
    """D15: a name that cannot be resolved is named, and nothing behind it is blamed."""
    patient = settings(**values)
    finding = checks_online.dns(patient)
    assert _found(finding) == ("online.dns", Status.FAILED)
    assert str(values.get("mqtt_endpoint", "no-such-host.invalid")) in finding.message
    checks = (checks_online.api, checks_online.api_tls, checks_online.clock, checks_online.mqtt, checks_online.mqtt_tls)
    assert {check(patient).status for check in checks} == {Status.SKIPPED}


def test_without_api_and_broker_nothing_is_asked(settings: Callable[..., Patient]) -> None:
    """A device that knows neither skips every check of the network."""
    patient = settings()
    checks = (
        checks_online.dns,
        checks_online.api,
        checks_online.api_tls,
        checks_online.clock,
        checks_online.mqtt,
        checks_online.mqtt_tls,
    )
    assert {check(patient).status for check in checks} == {Status.SKIPPED}


@pytest.mark.parametrize(
    ("tls", "key_type", "version"),
    [
        (Tls.V1_2, KeyType.EC_P256, "TLSv1.2"),
        (Tls.AUTO, KeyType.EC_P256, "TLSv1.3"),
        (Tls.AUTO, KeyType.RSA_2048, "TLSv1.2"),
    ],
)
def test_what_a_broker_negotiates_is_told(
    tls: Tls, key_type: KeyType, version: str, tmp_path: Path, authority: Authority, settings: Callable[..., Patient]
) -> None:
    """The finding names what a broker that wants a certificate negotiates without one, offered what a device would."""
    with mosquitto.running(tmp_path / "broker", authority) as broker, relaying(broker.port) as relay:
        patient = settings(mqtt_endpoint="localhost", mqtt_port=relay.port, tls=tls, key_type=key_type)
        outcome = network.shake_hands("localhost", relay.port, authority.certificate, tls13=patient.offers_tls13)
    assert isinstance(outcome, Negotiated)
    assert outcome.version == version
    assert relay.chosen == [version == "TLSv1.3"]


@pytest.mark.parametrize("intolerance", [Intolerance.ALERT, Intolerance.HANG_UP])
def test_what_does_not_bear_tls_1_3_is_told(
    intolerance: Intolerance, tmp_path: Path, authority: Authority, settings: Callable[..., Patient]
) -> None:
    """Where what is in between bears no TLS 1.3, the finding names what a connection falls back to, and why."""
    with mosquitto.running(tmp_path / "broker", authority) as broker, relaying(broker.port, intolerance) as relay:
        finding = checks_online.mqtt_tls(settings(mqtt_endpoint="localhost", mqtt_port=relay.port, tls=Tls.AUTO))
    assert _found(finding) == ("online.mqtt-tls", Status.OK)
    assert "negotiates TLSv1.2" in finding.message
    assert "; TLS 1.3 failed: " in finding.message


def test_the_cipher_suite_of_a_broker_is_told(authority: Authority, settings: Callable[..., Patient]) -> None:
    """The finding names the one cipher suite that the broker has, and that the device's key was not used."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    context.set_ciphers(_SUITE)
    with scripted.serving(lambda _: None, context) as port:
        finding = checks_online.mqtt_tls(settings(mqtt_endpoint="localhost", mqtt_port=port))
    assert _found(finding) == ("online.mqtt-tls", Status.OK)
    assert f"TLSv1.2, {_SUITE}, asked without the device's key" in finding.message


@pytest.mark.parametrize("is_shared", [True, False], ids=["443", "another port"])
def test_on_port_443_the_broker_is_asked_for_mqtt(
    is_shared: bool, authority: Authority, settings: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks at the broker's TLS offers the ALPN protocol that a connection offers: on port 443, and only there.

    Both the doctor, also where it has to do without TLS 1.3, and the second look that MQTT takes after a failed
    handshake.
    """
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1", "x-amzn-mqtt-ca"])
    chosen: SimpleQueue[str | None] = SimpleQueue()
    with (
        scripted.serving(
            lambda _: None, context, on_handshake=lambda tls: chosen.put(tls.selected_alpn_protocol())
        ) as direct,
        relaying(direct, Intolerance.ALERT) as relay,
    ):
        for port in (relay.port, direct):
            if is_shared:
                monkeypatch.setattr(shared_port, "PORT", port)
            finding = checks_online.mqtt_tls(settings(mqtt_endpoint="localhost", mqtt_port=port, tls=Tls.AUTO))
            assert finding.status is Status.OK, finding.message
        assert trust.why_distrusted("localhost", direct, authority.certificate, timeout=10) is None
        offered = [chosen.get(timeout=10) for _ in range(3)]
    assert offered == ["x-amzn-mqtt-ca" if is_shared else None] * 3


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_intercepts_mqtt_is_named(
    newest: ssl.TLSVersion, interceptor: Authority, settings: Callable[..., Patient]
) -> None:
    """D15: a broker of another CA fails; its issuer is named, but for one that ends TLS 1.2 without a certificate."""
    context = scripted.tls(interceptor.issue_pair("server", ["localhost"]), interceptor.certificate)
    context.maximum_version = newest
    with scripted.serving(lambda _: None, context) as port:
        finding = checks_online.mqtt_tls(settings(mqtt_endpoint="localhost", mqtt_port=port))
    assert _found(finding) == ("online.mqtt-tls", Status.FAILED)
    seen = newest is ssl.TLSVersion.TLSv1_3
    assert ("inspecting\\x1b[2J CA" in finding.message, "could not be seen" in finding.message) == (seen, not seen)
    assert "HSM_ENROLL_CA_FILE" in finding.hint


def test_a_server_without_tls_is_told(settings: Callable[..., Patient]) -> None:
    """D15: what answers in plain text agrees on no TLS."""
    with scripted.serving(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        finding = checks_online.mqtt_tls(settings(mqtt_endpoint="localhost", mqtt_port=port))
    assert _found(finding) == ("online.mqtt-tls", Status.FAILED)
    assert "cannot negotiate TLS 1.2 or later" in finding.message


def test_a_closed_port_is_told_once(settings: Callable[..., Patient]) -> None:
    """D15: a broker that does not accept connections fails its own check, and that of TLS refers to it."""
    patient = settings(mqtt_endpoint="localhost", mqtt_port=mosquitto.free_port())
    assert _found(checks_online.mqtt(patient)) == ("mqtt.reachable", Status.FAILED)
    assert _found(checks_online.mqtt_tls(patient)) == ("online.mqtt-tls", Status.SKIPPED)


@pytest.mark.parametrize("content", [None, "nothing like a certificate"])
def test_a_ca_file_that_is_none_is_named(
    content: str | None, tmp_path: Path, authority: Authority, settings: Callable[..., Patient]
) -> None:
    """D24: a CA file that is missing or holds none fails with its name, and not as a server's fault."""
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    with mosquitto.running(tmp_path / "broker", authority) as broker, https_server(authority, _HEALTHY) as server:
        patient = settings(api_url=server.url, mqtt_endpoint="localhost", mqtt_port=broker.port, ca_file=ca_file)
        findings = [checks_online.api(patient), checks_online.mqtt_tls(patient)]
        assert _found(checks_online.api_tls(patient)) == ("online.api-tls", Status.SKIPPED)
    assert [finding.status for finding in findings] == [Status.FAILED, Status.FAILED]
    assert all(str(ca_file) in finding.message for finding in findings)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_environments_ca_file_is_trusted(
    variable: str,
    tmp_path: Path,
    authority: Authority,
    settings: Callable[..., Patient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """D25: without the setting, API and broker are trusted by the file that init and MQTT use too."""
    monkeypatch.setenv(variable, str(authority.certificate))
    with mosquitto.running(tmp_path / "broker", authority) as broker, https_server(authority, _HEALTHY) as server:
        patient = settings(api_url=server.url, mqtt_endpoint="localhost", mqtt_port=broker.port, ca_file=None)
        checks = (checks_online.api, checks_online.api_tls, checks_online.mqtt_tls)
        assert [check(patient).status for check in checks] == [Status.OK] * 3


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        ({"ALL_PROXY": "http://proxy.example:3128"}, "proxy.example"),
        ({"HTTPS_PROXY": "http://proxy.example", "NO_PROXY": "192.0.2.0/24"}, "192.0.2.7"),
        ({"HTTPS_PROXY": "http://proxy.example", "NO_PROXY": "198.51.100.0/24"}, "proxy.example"),
    ],
    ids=["ALL_PROXY", "network", "another network"],
)
def test_the_way_to_the_api_is_that_of_init(
    variables: dict[str, str], host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D25: the proxy is chosen as by the client that init uses: ALL_PROXY counts, and so do networks in NO_PROXY."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert api.first_host("https://192.0.2.7") == host


_ASKING = (checks_online.dns, checks_online.api_tls, checks_online.clock)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://api.example", None),
        ("https://api.example:99999", None),
        ("https://api.example:x", None),
        ("https://[::1", None),
        ("https://user:hush@api.example", None),
        ("api.example", None),
        ("https://api.invalid", "http://localhost:99999"),
        ("https://api.invalid", "http://localhost:port"),
        ("https://api.invalid", "http://[::1"),
        ("https://api.invalid", "socks5://localhost:1080"),
        ("https://api.invalid", "gopher://localhost:1080"),
    ],
)
def test_an_address_that_init_refuses_fails_one_check_with_its_words(
    url: str, proxy: str | None, settings: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the client of ``init`` says of an invalid API URL or proxy is the finding; the other checks refer to it."""
    if proxy is not None:
        monkeypatch.setenv("https_proxy", proxy)
    patient = settings(api_url=url)
    with pytest.raises(UsageError) as refused:
        EnrollmentClient(url, code=Secret("code"), ca_file=patient.settings.ca_file).terms()
    expected = Finding("api.reachable", Status.FAILED, refused.value.message, refused.value.hint)
    assert checks_online.api(patient) == expected
    assert {check(patient).status for check in _ASKING} == {Status.SKIPPED}
    assert "hush" not in expected.message


def test_a_proxy_that_is_not_needed_may_be_invalid(
    authority: Authority, settings: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where NO_PROXY lists the API's network, the proxy is not used, as by ``init``."""
    monkeypatch.setenv("https_proxy", "http://localhost:99999")
    monkeypatch.setenv("no_proxy", "127.0.0.0/8")
    with https_server(authority, _HEALTHY) as server:
        patient = settings(api_url=server.url.replace("localhost", "127.0.0.1"))
        checks = (checks_online.dns, checks_online.api, checks_online.api_tls)
        assert [check(patient).status for check in checks] == [Status.OK] * 3


def test_a_credentials_provider_behind_a_proxy_is_left_to_the_login(
    settings: Callable[..., Patient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This network need not know its name, nor let a connection out to it."""
    identity(mqtt_endpoint="localhost", role_alias=RoleAlias("gateways", "credentials.invalid")).save(tmp_path)
    seen = []
    for proxy in ("", "http://localhost:9"):
        monkeypatch.setenv("https_proxy", proxy)
        patient = settings(state=tmp_path)
        seen.append(("credentials.invalid" in patient.unresolved, checks_credentials.reachable(patient).message))
    assert seen == [
        (True, "see online.dns"),
        (False, "the credentials provider is behind a proxy: see credentials.login"),
    ]


@pytest.mark.parametrize("known", [{"role_alias": "gateways"}, {"credentials_endpoint": "localhost"}], ids="".join)
def test_half_of_what_gets_aws_credentials_is_not_enough(
    known: dict[str, str], settings: Callable[..., Patient], tmp_path: Path
) -> None:
    """Whoever has set one of the two wants credentials, and is told that the other one is missing."""
    identity(mqtt_endpoint="localhost").save(tmp_path)
    finding = checks_credentials.reachable(settings(state=tmp_path, **known))
    assert _found(finding) == ("credentials.reachable", Status.FAILED)


def test_an_api_behind_a_proxy_is_asked_through_it(
    authority: Authority, settings: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALL_PROXY leads to the API; what is told of TLS is what was negotiated with the API at its other end."""
    with https_server(authority, _HEALTHY) as server, tunnel_proxy(server.url) as (port, seen):
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{port}")
        patient = settings(api_url="https://localhost:9")
        checks = (checks_online.dns, checks_online.api, checks_online.api_tls)
        assert [check(patient).status for check in checks] == [Status.OK] * 3
    assert len(seen) == 2
    assert all(head.startswith(b"CONNECT localhost:9 ") for head in seen)
