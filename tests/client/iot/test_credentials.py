"""How aws-credentials speaks with the credentials provider, and what it says if that does not work."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.errors import UsageError
from hsm_enroll.iot.credentials import Proxy
from hsm_enroll.store.identity import Identity
from tests.client.iot.device import EnrolledDevice, enrolled_device
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.https_server import Answer, HttpsServer, https_server, response
from tests.support.softhsm import SoftHsm
from tests.support.tunnel_proxy import tunnel_proxy

CREDENTIALS = {
    "accessKeyId": "ASIAIOSFODNN7EXAMPLE",
    "secretAccessKey": "wJalrXUtnFEMI",
    "sessionToken": "IQoJb3JpZ2luX2Vj",
    "expiration": "2049-01-01T00:00:00Z",
}


def given(**members: Any) -> bytes:
    """Return the provider's answer, with other members."""
    return response("200 OK", json.dumps({"credentials": {**CREDENTIALS, **members}}))


def refused(status: str, message: str, *headers: str) -> bytes:
    """Return a refusal of the provider's."""
    return response(status, json.dumps({"message": message}), *headers)


@pytest.fixture
def device(identity: Identity, authority: Authority, softhsm: SoftHsm, tmp_path: Path) -> EnrolledDevice:
    """A device whose settings name a role alias."""
    made = enrolled_device(identity, 1, authority, softhsm, tmp_path / "device")
    return made.with_environment(HSM_ENROLL_ROLE_ALIAS="gateways", HSM_ENROLL_CREDENTIALS_ENDPOINT="localhost")


@pytest.fixture
def ask(device: EnrolledDevice, authority: Authority) -> Callable[..., tuple[Any, HttpsServer]]:
    """Runs the command with a provider that answers once; returns its document, or its error, and the provider."""

    def run(answer: bytes | Answer, status: int, **environment: str) -> tuple[Any, HttpsServer]:
        with https_server(authority, answer, client_ca=authority.certificate) as server:
            port = server.url.rpartition(":")[2]
            with_port = device.with_environment(HSM_ENROLL_CREDENTIALS_PORT=port, **environment)
            document = with_port.json("aws-credentials", status=status)
        return document.get("error", document), server

    return run


Ask = Callable[..., tuple[Any, HttpsServer]]


def test_the_request_names_alias_and_thing_and_nothing_else(ask: Ask, device: EnrolledDevice) -> None:
    """The answer becomes what AWS's SDKs read; the key in the token has made the handshake."""
    document, server = ask(given(), 0)
    assert document == {
        "Version": 1,
        "AccessKeyId": "ASIAIOSFODNN7EXAMPLE",
        "SecretAccessKey": "wJalrXUtnFEMI",
        "SessionToken": "IQoJb3JpZ2luX2Vj",
        "Expiration": "2049-01-01T00:00:00Z",
    }
    (request,) = server.requests
    line, *headers = request.decode().strip().split("\r\n")
    assert line == "GET /role-aliases/gateways/credentials HTTP/1.1"
    names = dict(header.lower().split(": ") for header in headers)
    assert names.keys() <= {"host", "accept", "x-amzn-iot-thingname", "content-length"}
    assert names["x-amzn-iot-thingname"] == device.thing


@pytest.mark.parametrize(
    ("answer", "status", "code", "message", "hint"),
    [
        (refused("403 Forbidden", "Access Denied"), 31, "credentials-refused", "Access Denied", "doctor --login"),
        (refused("403 Forbidden", "Invalid thing name passed"), 31, "credentials-refused", "thing name", "attached"),
        (refused("404 Not Found", "Role alias does not exist"), 31, "credentials-refused", "'gateways'", "recover"),
        (refused("400 Bad Request", "Unable to assume the role"), 31, "credentials-refused", "assume", "operator"),
        (refused("400 Bad Request", "Rate", "x-amzn-ErrorType: ThrottlingException"), 32, "throttled", "Rate", ""),
        (refused("429 Too Many", "Rate exceeded"), 32, "throttled", "Rate exceeded", ""),
        (refused("500 Internal", "Internal\x1b[2J Failure"), 30, "backend-unreachable", r"Internal\x1b[2J", "later"),
        (response("503 Service Unavailable", ""), 30, "backend-unreachable", "503", "later"),
        (response("200 OK", "<html>", content_type="text/html"), 33, "unexpected-response", "no credentials", "port"),
        (response("302 Found", "", "Location: https://example.com"), 33, "unexpected-response", "302", "port"),
        (response("403 Forbidden", "[]"), 33, "unexpected-response", "403", "port"),
        (response("200 OK", "x" * 100_000), 33, "unexpected-response", "too large", "port"),
        (given(expiration="0001-01-01T00:00:00+14:00"), 33, "unexpected-response", "missing or invalid", "port"),
        (given(sessionToken="\x1b[2J"), 33, "unexpected-response", "missing or invalid", "port"),
        (lambda stream, _: stream.close(), 30, "backend-unreachable", "cannot be reached", "outgoing"),
        (lambda stream, server: server.stop.wait(6) and stream, 30, "backend-unreachable", "within 2 s", "outgoing"),
    ],
    ids=lambda value: value if isinstance(value, str) and 3 < len(value) < 20 else "",
)
def test_each_failure_says_what_it_is_and_what_to_do(
    answer: bytes | Answer, status: int, code: str, message: str, hint: str, ask: Ask, device: EnrolledDevice
) -> None:
    """D15, D17: with the provider's own reason, and nothing of a secret; nothing is kept."""
    error, _ = ask(answer, status, HSM_ENROLL_CONNECT_TIMEOUT="2" if "within 2 s" in message else "20")
    assert error["code"] == code
    assert message in error["message"]
    assert hint in error["hint"]
    assert "wJalrXUtnFEMI" not in str(error)
    assert not (device.home / "aws-credentials.json").exists()


def test_a_clock_that_aws_would_not_accept_is_named(ask: Ask, device: EnrolledDevice) -> None:
    """D14: credentials are of no use if what they sign is too old; up to five minutes do no harm."""
    answer = response("200 OK", json.dumps({"credentials": CREDENTIALS}), f"Date: {formatdate(time.time() + 900)}")
    error, _ = ask(answer, 1)
    assert error["code"] == "clock-wrong"
    assert "15 min behind AWS's" in error["message"]
    assert not (device.home / "aws-credentials.json").exists()
    ask(response("200 OK", json.dumps({"credentials": CREDENTIALS}), f"Date: {formatdate(time.time() + 200)}"), 0)


def test_a_provider_of_another_authority_is_not_trusted(
    device: EnrolledDevice, broker: Broker, other_authority: Authority
) -> None:
    """D15: what is wrong with its certificate is said, at once; here it is the broker's."""
    distrusting = {"HSM_ENROLL_CA_FILE": str(other_authority.certificate)}
    asking = device.with_environment(HSM_ENROLL_CREDENTIALS_PORT=str(broker.port), **distrusting)
    error = asking.error("aws-credentials")
    assert (error["code"], error["exitStatus"]) == ("api-not-trusted", 33)
    assert "certificate" in error["message"]


def test_a_certificate_that_the_provider_does_not_know_is_refused(
    device: EnrolledDevice, authority: Authority, other_authority: Authority
) -> None:
    """In the handshake; the hint names what tells it from a network that fails, which looks the same at times."""
    with https_server(authority, given(), client_ca=other_authority.certificate) as server:
        error = device.with_environment(HSM_ENROLL_CREDENTIALS_PORT=server.url.rpartition(":")[2]).error(
            "aws-credentials"
        )
    assert "in the TLS handshake" in error["message"]
    assert "doctor --login" in error["hint"]


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        ("403 Forbidden", "Access Denied", "iot:AssumeRoleWithCertificate"),
        ("404 Not Found", "Role alias does not exist", "run hsm-enroll recover"),
    ],
)
def test_the_doctor_knows_that_a_refused_certificate_is_not_revoked(
    device: EnrolledDevice, broker: Broker, authority: Authority, status: str, message: str, hint: str
) -> None:
    """The broker accepts it, so what the operator is to be asked is left, if the command's own hint is the doctor."""
    with https_server(authority, refused(status, message), client_ca=authority.certificate) as server:
        asking = device.at(broker.port).with_environment(HSM_ENROLL_CREDENTIALS_PORT=server.url.rpartition(":")[2])
        found = {check["id"]: check for check in asking.json("doctor", "--login", status=1)["checks"]}
    assert (found["mqtt.login"]["status"], found["credentials.login"]["status"]) == ("ok", "failed")
    assert message in found["credentials.login"]["message"]
    assert hint in found["credentials.login"]["hint"]
    assert "doctor" not in found["credentials.login"]["hint"]


def test_a_proxy_of_the_environment_is_gone_through(device: EnrolledDevice, authority: Authority) -> None:
    """D25: as with the API, and with its password; the handshake is the provider's."""
    with https_server(authority, given(), client_ca=authority.certificate) as server, tunnel_proxy(server.url) as proxy:
        port, seen = proxy
        away = {"HSM_ENROLL_CREDENTIALS_ENDPOINT": "localhost", "HSM_ENROLL_CREDENTIALS_PORT": "9"}
        through = device.with_environment(https_proxy=f"http://some:one%21@localhost:{port}", **away)
        assert through.json("aws-credentials")["Version"] == 1
    assert seen[0].startswith(b"CONNECT localhost:9 ")
    assert b"proxy-authorization: basic c29tztpvbmuh" in seen[0].lower()


def test_a_provider_may_have_an_ipv6_address(device: EnrolledDevice, authority: Authority) -> None:
    """Also where the environment names a proxy, and hosts that it is not for: the address is not taken for a port."""
    with https_server(authority, given(), client_ca=authority.certificate) as server, tunnel_proxy(server.url) as proxy:
        port, seen = proxy
        away = {"HSM_ENROLL_CREDENTIALS_ENDPOINT": "fd00::1", "HSM_ENROLL_CREDENTIALS_PORT": "9"}
        away["HSM_ENROLL_CONNECT_TIMEOUT"] = "1"
        through = device.with_environment(https_proxy=f"http://localhost:{port}", no_proxy="other.example", **away)
        error = through.error("aws-credentials")
    assert seen[0].startswith(b"CONNECT ")
    assert "[fd00::1]:9" in error["message"]


@pytest.mark.parametrize("proxy", ["https://localhost:1", "http://localhost:99999", "socks5://localhost:1", "http://"])
def test_a_proxy_that_cannot_be_used_is_an_error(proxy: str) -> None:
    """D25: before a login to the token, and without its password."""
    with pytest.raises(UsageError) as refused:
        Proxy.of_url(proxy.replace("//", "//some:one@"))
    assert "HTTPS_PROXY" in refused.value.hint
    assert "one" not in refused.value.message.split()


def test_nobody_at_the_port_is_unreachable(device: EnrolledDevice) -> None:
    """D15: exit status 30, try later."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = device.with_environment(HSM_ENROLL_CREDENTIALS_PORT=str(port)).error("aws-credentials")
    assert (error["code"], error["retryable"]) == ("backend-unreachable", True)
    assert f"localhost:{port}" in error["message"]


def test_a_wrong_pin_is_tried_once(device: EnrolledDevice) -> None:
    """D1: before anything is connected to, and the error says where the PIN came from."""
    error = device.with_environment(HSM_ENROLL_PIN="wrong", HSM_ENROLL_CREDENTIALS_PORT="1").error("aws-credentials")
    assert error["code"] == "pin-wrong"
    assert "HSM_ENROLL_PIN" in error["message"]


def test_port_443_is_asked_for_http(device: EnrolledDevice, authority: Authority) -> None:
    """ALPN: there MQTT is told from HTTP by it, and a login for port 443 offers MQTT's name otherwise."""
    address = "127.44.3.2"  # on which nothing else has port 443
    pair = authority.issue_pair("localhost", [address])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(pair.certificate, pair.key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["x-amzn-mqtt-ca", "http/1.1"])
    with socket.create_server((address, 443)) as listener:
        process = device.with_environment(
            HSM_ENROLL_CREDENTIALS_ENDPOINT=address, HSM_ENROLL_CREDENTIALS_PORT="443"
        ).start("aws-credentials", "--json")
        connection, _ = listener.accept()
        with connection, context.wrap_socket(connection, server_side=True) as stream:
            assert stream.selected_alpn_protocol() == "http/1.1"
        process.communicate(timeout=60)
