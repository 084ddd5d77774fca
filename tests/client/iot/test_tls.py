"""Which version of TLS is negotiated: 1.2, and 1.3 where it is asked for, the key can do it and the way bears it."""

from __future__ import annotations

import dataclasses
import socket
import ssl
from pathlib import Path

import pytest

from hsm_enroll.errors import MqttError, MqttNotTrustedError, MqttRefusedError
from hsm_enroll.iot import Fallbacks, shared_port
from hsm_enroll.key import KeyType
from hsm_enroll.store.identity import Identity
from tests.client.iot import cryptoki
from tests.client.iot.apart import apart, connect, publish_apart
from tests.support import broker as mosquitto
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.relay import Intolerance, relaying
from tests.support.softhsm import PIN

_TIMEOUT_SECONDS = 15.0
# An address of this machine on which nothing else has port 443.
_LOOPBACK = "127.44.3.1"


def _publish(
    identity: Identity, authority: Authority, port: int, *, tls13: bool, timeout: float = _TIMEOUT_SECONDS
) -> Fallbacks:
    return publish_apart(
        identity,
        f"device/{identity.thing_name}/x",
        b"x",
        ca_file=authority.certificate,
        port=port,
        tls13=tls13,
        timeout=timeout,
    )


@pytest.mark.parametrize(
    ("key_type", "tls13", "offered"),
    [
        (KeyType.EC_P256, False, False),
        (KeyType.EC_P256, True, True),
        (KeyType.EC_P384, True, True),
        (KeyType.RSA_2048, False, False),
        (KeyType.RSA_2048, True, False),
    ],
)
def test_tls_1_3_is_negotiated_where_it_is_asked_for(
    key_type: KeyType,
    tls13: bool,
    offered: bool,
    identities: dict[KeyType, Identity],
    broker: Broker,
    authority: Authority,
) -> None:
    """A broker that has both is spoken to in TLS 1.2, or in 1.3 where that is asked for and the key is an EC key."""
    with relaying(broker.port) as relay:
        assert _publish(identities[key_type], authority, relay.port, tls13=tls13) == Fallbacks()
    assert (relay.offered, relay.chosen) == ([offered], [offered])
    broker.log.wait_for(f"Received PUBLISH from {identities[key_type].thing_name}")


def test_a_server_of_tls_1_2_alone_needs_no_second_try(identity: Identity, authority: Authority) -> None:
    """A server that has no TLS 1.3 chooses 1.2 from the same offer: one handshake, and nothing to say."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        scripted.serving(lambda _: scripted.connack(0x88), context) as port,
        relaying(port) as relay,
        pytest.raises(MqttError, match="SERVER_UNAVAILABLE"),
    ):
        _publish(identity, authority, relay.port, tls13=True)
    assert (relay.offered, relay.chosen) == ([True], [False])


@pytest.mark.parametrize("intolerance", [Intolerance.ALERT, Intolerance.HANG_UP, Intolerance.SILENCE])
def test_what_does_not_bear_tls_1_3_is_tried_with_1_2(
    intolerance: Intolerance, identity: Identity, broker: Broker, authority: Authority
) -> None:
    """D15: where the offer of TLS 1.3 is refused, cut off or left without an answer, 1.2 is tried, and it is told."""
    with relaying(broker.port, intolerance) as relay:
        fallbacks = _publish(identity, authority, relay.port, tls13=True, timeout=25.0)
    assert fallbacks.tls is not None
    assert fallbacks.client_id is None
    assert fallbacks.tls.startswith(f"localhost:{relay.port} did not complete the handshake (AWS_IO_")
    assert (relay.offered[0], relay.offered[-1], relay.chosen) == (True, False, [False])
    broker.log.wait_for(f"Received PUBLISH from {identity.thing_name}")


def test_the_fallback_takes_no_second_login(identity: Identity, broker: Broker, authority: Authority) -> None:
    """D1: the second handshake finds the token logged in: one C_Login checks a PIN, the other says "already"."""
    with relaying(broker.port, Intolerance.ALERT) as relay:
        identity = dataclasses.replace(identity, mqtt_port=relay.port)
        fallback, logins = apart(_watched_fallback, identity, authority.certificate)
    assert fallback
    assert logins == [cryptoki.CKR_OK, cryptoki.CKR_USER_ALREADY_LOGGED_IN]


def _watched_fallback(identity: Identity, ca_file: Path) -> tuple[str | None, list[int]]:
    logins = cryptoki.answers("C_Login")
    with connect(identity, PIN, ca_file=ca_file, tls13=True) as connection:
        connection.publish(f"device/{identity.thing_name}/x", b"x")
        return connection.tls_fallback, list(logins)


@pytest.mark.parametrize("tls13", [False, True])
def test_a_refused_certificate_is_refused_either_way(
    tls13: bool, identity: Identity, authority: Authority, other_authority: Authority, tmp_path: Path
) -> None:
    """D19: a certificate that the broker does not want is "refused", whatever version of TLS was offered."""
    server = authority.issue_pair("server", ["localhost"])
    with (
        mosquitto.running(tmp_path / "other", other_authority, server=server) as broker,
        pytest.raises(MqttRefusedError),
    ):
        _publish(identity, authority, broker.port, tls13=tls13)


def test_a_server_that_is_not_trusted_is_not_tried_again(
    identity: Identity, broker: Broker, other_authority: Authority
) -> None:
    """D15: a server of another CA is "not trusted" with TLS 1.3 too, after one handshake and a look at its reason."""
    with relaying(broker.port) as relay, pytest.raises(MqttNotTrustedError):
        _publish(identity, other_authority, relay.port, tls13=True)
    assert relay.offered == [True, True]
    assert relay.chosen == [True, True]


def test_tls_1_1_is_refused_beside_1_3(identity: Identity, authority: Authority) -> None:
    """The floor holds where TLS 1.3 is offered: a server that has no TLS later than 1.1 is refused (RFC 8996)."""
    with (
        scripted.serving(lambda _: scripted.connack(0), scripted.tls_1_1(authority)) as port,
        pytest.raises(MqttNotTrustedError, match=r"does not support TLS 1\.2"),
    ):
        _publish(identity, authority, port, tls13=True)


@pytest.mark.parametrize("is_shared", [True, False], ids=["443", "another port"])
def test_on_port_443_the_protocol_is_named(is_shared: bool, identity: Identity, authority: Authority) -> None:
    """On the port that it shares with HTTPS, AWS IoT knows MQTT by ALPN (RFC 7301); elsewhere none is offered."""
    context = scripted.tls(authority.issue_pair("server", [_LOOPBACK]), authority.certificate)
    context.set_alpn_protocols(["x-amzn-mqtt-ca", "http/1.1"])
    chosen: list[str | None] = []

    def note(connection: ssl.SSLSocket) -> None:
        chosen.append(connection.selected_alpn_protocol())

    address = (_LOOPBACK, shared_port.PORT if is_shared and _may_bind_443() else 0)
    with scripted.serving(_accept, context, address=address, on_handshake=note) as port:
        apart(_connect_to, identity, authority.certificate, port, is_shared)
    assert chosen == ["x-amzn-mqtt-ca" if is_shared else None]


def _may_bind_443() -> bool:
    try:
        socket.create_server((_LOOPBACK, shared_port.PORT)).close()
    except PermissionError:
        return False
    return True


def _accept(packet: scripted.Packet) -> bytes:
    return scripted.connack(0) if packet.type == scripted.CONNECT else b""


def _connect_to(identity: Identity, ca_file: Path, port: int, is_shared: bool) -> None:
    if is_shared and port != shared_port.PORT:  # an ordinary user's stand-in for it
        shared_port.PORT = port
    connect(identity, PIN, ca_file=ca_file, endpoint=_LOOPBACK, port=port).close()
