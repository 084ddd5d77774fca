"""A server that this side must not speak to, and the file that says whom to trust."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from hsm_enroll.errors import MqttNotTrustedError, UsageError
from hsm_enroll.store.identity import Identity
from tests.client.iot.apart import publish_apart
from tests.support import broker as mosquitto
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.broker import Broker

# awscrt keeps silent about a handshake that it refused for 10 to 30 seconds: the reason has to be found before.
_TIMEOUT_SECONDS = 9.0


def _publish(identity: Identity, port: int, ca_file: Path | None) -> None:
    topic = f"device/{identity.thing_name}/x"
    publish_apart(identity, topic, b"x", ca_file=ca_file, port=port, timeout=_TIMEOUT_SECONDS)


def test_a_broker_of_another_ca_is_not_trusted(identity: Identity, broker: Broker, other_authority: Authority) -> None:
    """D19: a server whose certificate is not from the CA that was named is "not trusted", and soon."""
    with pytest.raises(MqttNotTrustedError, match="not trusted"):
        _publish(identity, broker.port, other_authority.certificate)


def test_a_private_ca_is_not_trusted_unless_it_is_named(identity: Identity, broker: Broker) -> None:
    """Without a CA file the system's authorities are trusted, and a development CA is none of them."""
    with pytest.raises(MqttNotTrustedError, match="not trusted"):
        _publish(identity, broker.port, None)


def test_a_broker_of_another_name_is_not_trusted(identity: Identity, authority: Authority, tmp_path: Path) -> None:
    """D19: a certificate of the right CA for another host is "not trusted"."""
    server = authority.issue_pair("another", ["another.example"])
    with (
        mosquitto.running(tmp_path / "another", authority, server=server) as broker,
        pytest.raises(MqttNotTrustedError, match="Hostname mismatch"),
    ):
        _publish(identity, broker.port, authority.certificate)


@pytest.mark.parametrize(("days", "reason"), [(-5, "expired"), (5, "not yet valid")])
def test_a_certificate_out_of_its_time_is_not_trusted(
    days: int, reason: str, identity: Identity, authority: Authority, tmp_path: Path
) -> None:
    """D14: a certificate that has expired, or is of the future, is "not trusted", and the hint names the clock."""
    server = authority.issue_pair("untimely", ["localhost"], shift=dt.timedelta(days=days))
    with (
        mosquitto.running(tmp_path / "untimely", authority, server=server) as broker,
        pytest.raises(MqttNotTrustedError, match=reason) as caught,
    ):
        _publish(identity, broker.port, authority.certificate)
    assert "clock" in caught.value.hint


def test_a_server_without_tls_is_not_trusted(identity: Identity, authority: Authority) -> None:
    """A server that answers in plain text is "not trusted", and nothing is sent to it."""
    with (
        scripted.serving(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as port,
        pytest.raises(MqttNotTrustedError),
    ):
        _publish(identity, port, authority.certificate)


def test_tls_1_1_is_refused(identity: Identity, authority: Authority) -> None:
    """A server that offers no TLS later than 1.1 is refused (RFC 8996), though it would accept us."""
    with (
        scripted.serving(lambda _: scripted.connack(0), scripted.tls_1_1(authority)) as port,
        pytest.raises(MqttNotTrustedError, match=r"does not support TLS 1\.2"),
    ):
        _publish(identity, port, authority.certificate)


def test_an_unusable_ca_file_is_wrong_usage(identity: Identity, broker: Broker, tmp_path: Path) -> None:
    """D24: a CA file without a certificate is refused by name: it does not mean the system's authorities."""
    ca_file = tmp_path / "ca.pem"
    ca_file.touch()
    with pytest.raises(UsageError, match=r"ca\.pem does not contain PEM certificates"):
        _publish(identity, broker.port, ca_file)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_environments_ca_file_is_trusted(
    variable: str, identity: Identity, broker: Broker, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D25: without the setting, the broker is trusted by the file that the API's client and doctor use too."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, str(authority.certificate))
    _publish(identity, broker.port, None)


def test_a_ca_file_may_hold_comments_and_several_certificates(
    identity: Identity, broker: Broker, authority: Authority, other_authority: Authority, tmp_path: Path
) -> None:
    """D24: a bundle with text and a private key beside its certificates is taken."""
    key = authority.issue_pair("localhost", ["localhost"]).key.read_text()
    parts = ("# Autorité\n", other_authority.certificate.read_text(), key, authority.certificate.read_text())
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("".join(parts), encoding="utf-8")
    _publish(identity, broker.port, bundle)
