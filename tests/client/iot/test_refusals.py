"""D19: the ways in which no connection comes about, or one ends, told apart."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from hsm_enroll.errors import (
    HsmEnrollError,
    MqttError,
    MqttRefusedError,
    MqttTakenOverError,
    MqttUnreachableError,
)
from hsm_enroll.store.identity import Identity
from tests.client.iot.apart import apart, connect, publish_apart
from tests.support import broker as mosquitto
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.broker import Broker, Neighbour
from tests.support.scripted import CONNECT, PUBLISH, Packet
from tests.support.softhsm import PIN

if TYPE_CHECKING:
    from hsm_enroll.iot.target import Target

_TIME_LIMIT = 10.0


def _publish(identity: Identity, authority: Authority, *, port: int, timeout: float = 20.0) -> None:
    topic = f"device/{identity.thing_name}/x"
    publish_apart(identity, topic, b"x", ca_file=authority.certificate, port=port, timeout=timeout)


def test_a_port_that_nobody_listens_on_is_unreachable(identity: Identity, authority: Authority) -> None:
    """D19: a refused TCP connection is "unreachable"."""
    with pytest.raises(MqttUnreachableError, match="AWS_IO_SOCKET_CONNECTION_REFUSED"):
        _publish(identity, authority, port=mosquitto.free_port())


def test_a_name_that_does_not_resolve_is_unreachable(identity: Identity, authority: Authority) -> None:
    """D19: a host name that no resolver can know, one of its labels being too long, is "unreachable"."""
    identity = dataclasses.replace(identity, mqtt_endpoint=f"{'x' * 64}.invalid")
    with pytest.raises(MqttUnreachableError, match="AWS_IO_DNS_"):
        _publish(identity, authority, port=1)


def test_a_server_that_says_nothing_is_unreachable(identity: Identity, authority: Authority) -> None:
    """D19: a TCP connection on which no handshake comes ends at the time limit."""
    with scripted.serving(None) as port, pytest.raises(MqttUnreachableError, match="within 3 s"):
        _publish(identity, authority, port=port, timeout=3.0)


def test_a_broker_that_does_not_answer_connect_is_unreachable(identity: Identity, authority: Authority) -> None:
    """D19: a handshake without a CONNACK after it ends at the time limit."""
    with _scripted(authority, lambda _: b"") as port, pytest.raises(MqttUnreachableError):
        _publish(identity, authority, port=port, timeout=3.0)


def test_an_inactive_certificate_is_refused(identity: Identity, authority: Authority, tmp_path: Path) -> None:
    """D19: a broker that has the certificate on its revocation list is "refused", not "unreachable"."""
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem.encode())
    with (
        mosquitto.running(tmp_path / "strict", authority, crl=authority.revoke(certificate)) as broker,
        pytest.raises(MqttRefusedError),
    ):
        _publish(identity, authority, port=broker.port)


def test_a_certificate_of_another_key_is_refused(
    identities: dict[str, Identity], identity: Identity, broker: Broker, authority: Authority
) -> None:
    """A certificate that is not the key's gets no connection, whoever's certificate it is."""
    stranger = next(other for other in identities.values() if other is not identity)
    mixed = dataclasses.replace(identity, certificate_pem=stranger.certificate_pem)
    with pytest.raises(MqttRefusedError):
        _publish(mixed, authority, port=broker.port)


def test_a_client_that_is_not_authorised_is_refused(identity: Identity, authority: Authority, tmp_path: Path) -> None:
    """D19: a CONNACK with "not authorized", as without a policy, is "refused"."""
    with (
        mosquitto.running(tmp_path / "strict", authority, lines=("clientid_prefixes lathe-",)) as broker,
        pytest.raises(MqttRefusedError, match=r"refused client id .* \(NOT_AUTHORIZED\)"),
    ):
        _publish(identity, authority, port=broker.port)


@pytest.mark.parametrize("farewell", [False, True], ids=["FIN", "close_notify"])
def test_a_broker_that_hangs_up_on_connect_has_refused(
    farewell: bool, identity: Identity, authority: Authority
) -> None:
    """D19: a connection closed without a CONNACK is "refused"; AWS IoT does so to certificates it does not want."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with (
        scripted.serving(lambda _: None, context, farewell=farewell) as port,
        pytest.raises(MqttRefusedError, match="closed the connection without an answer"),
    ):
        _publish(identity, authority, port=port)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (0x80, MqttError),
        (0x85, MqttRefusedError),
        (0x86, MqttRefusedError),
        (0x87, MqttRefusedError),
        (0x88, MqttError),
        (0x8A, MqttRefusedError),
        (0x8C, MqttRefusedError),
        (0x9F, MqttError),
    ],
)
def test_a_connack_tells_why(reason: int, kind: type[HsmEnrollError], identity: Identity, authority: Authority) -> None:
    """D19: the reason code of a CONNACK (MQTT 5.0 §3.2.2.2) decides between "refused" and "failed"."""
    with _scripted(authority, lambda _: scripted.connack(reason)) as port, pytest.raises(MqttError) as caught:
        _publish(identity, authority, port=port)
    assert type(caught.value) is kind


@pytest.mark.parametrize("reason", [0x86, 0x8C])
def test_a_broker_that_wants_another_login_blames_neither_certificate_nor_policy(
    reason: int, identity: Identity, authority: Authority
) -> None:
    """D19: user name and authentication method are what AWS IoT does not ask for: the endpoint is wrong."""
    with (
        _scripted(authority, lambda _: scripted.connack(reason)) as port,
        pytest.raises(MqttRefusedError, match="requires another login than a certificate") as caught,
    ):
        _publish(identity, authority, port=port)
    assert "Check the endpoint" in caught.value.hint


def test_a_broker_of_qos_0_is_not_blamed_on_the_topic(identity: Identity, authority: Authority) -> None:
    """D19: where no message is acknowledged, none is published, and the error says why."""
    sent: list[int] = []

    def script(packet: Packet) -> bytes:
        sent.append(packet.type)
        return scripted.connack_of_qos_0()

    with _scripted(authority, script) as port, pytest.raises(MqttError, match="accepts QoS 0 only") as caught:
        _publish(identity, authority, port=port)
    assert caught.value.code == "mqtt-failed"
    assert PUBLISH not in sent


@pytest.mark.parametrize(
    ("reason", "kind"),
    [(0x80, MqttError), (0x87, MqttRefusedError), (0x8B, MqttError), (0x8E, MqttTakenOverError), (0xFE, MqttError)],
)
def test_a_disconnect_tells_why(
    reason: int, kind: type[HsmEnrollError], identity: Identity, authority: Authority
) -> None:
    """D19: the reason code of a DISCONNECT (MQTT 5.0 §3.14.2.1) is the reason of what was under way."""

    def script(packet: Packet) -> bytes:
        return scripted.connack(0) if packet.type == CONNECT else scripted.disconnect(reason)

    with _scripted(authority, script) as port, pytest.raises(MqttError, match="ended the connection") as caught:
        _publish(identity, authority, port=port)
    assert type(caught.value) is kind


def test_a_connection_that_is_taken_over_says_so(identity: Identity, authority: Authority) -> None:
    """D19: "session taken over" is the error of the messages that were waited for and of what is asked afterwards."""

    def script(packet: Packet) -> bytes:
        if packet.type == CONNECT:
            return scripted.connack(0)
        return scripted.suback(packet, 1) + scripted.disconnect(0x8E)

    with _scripted(authority, script) as port:
        codes = apart(_wait_and_publish, dataclasses.replace(identity, mqtt_port=port), authority.certificate, None)
    assert codes == ["mqtt-taken-over", "mqtt-taken-over"]


def test_a_connection_that_is_taken_over_does_not_come_back(
    identity: Identity, broker: Broker, authority: Authority
) -> None:
    """D19: mosquitto ends the older of two connections with the same client id, and the older does not reconnect."""
    identity = dataclasses.replace(identity, mqtt_port=broker.port)
    codes = apart(_wait_and_publish, identity, authority.certificate, broker.neighbour)
    # Only newer versions of mosquitto send a DISCONNECT that says why (not 2.0.11, but 2.0.21).
    assert codes in (["mqtt-failed"] * 2, ["mqtt-taken-over"] * 2)


def _wait_and_publish(identity: Identity, ca_file: Path, rival: Neighbour | None) -> list[str]:
    topic = f"device/{identity.thing_name}/x"
    codes = []
    stopped = _note_stop()
    with connect(identity, PIN, ca_file=ca_file) as connection:
        messages = connection.subscribe(topic)
        if rival:
            rival.publish(topic, "x", client_id=identity.thing_name)
        attempts: tuple[Callable[[], object], ...] = (
            lambda: list(messages),
            lambda: connection.publish(topic, b"y"),
        )
        for attempt in attempts:
            with pytest.raises(MqttError) as caught:
                attempt()
            codes.append(caught.value.code)
        assert stopped.wait(_TIME_LIMIT)
    return codes


def test_a_failed_attempt_is_not_repeated(identity: Identity, authority: Authority) -> None:
    """D19: awscrt is stopped after the first failure, though it would try for ever."""
    connects: list[Packet] = []

    def script(packet: Packet) -> bytes:
        connects.append(packet)
        return scripted.connack(0x88)

    with _scripted(authority, script) as port:
        code, stopped = apart(_fail_once, dataclasses.replace(identity, mqtt_port=port), authority.certificate)
    assert (code, stopped, len(connects)) == ("mqtt-failed", True, 1)


def _fail_once(identity: Identity, ca_file: Path) -> tuple[str, bool]:
    stopped = _note_stop()
    with pytest.raises(MqttError) as caught:
        connect(identity, PIN, ca_file=ca_file)
    return caught.value.code, stopped.wait(_TIME_LIMIT)


def _note_stop() -> threading.Event:
    """Set the event that is returned once an awscrt client of this process has stopped."""
    from hsm_enroll.iot import client

    stopped = threading.Event()
    build = client.build

    def watched(target: Target, login: client.Login, callbacks: client.Callbacks, timeout: float) -> Any:
        def note(data: Any) -> None:
            callbacks.on_stopped(data)
            stopped.set()

        return build(target, login, dataclasses.replace(callbacks, on_stopped=note), timeout)

    client.build = watched
    return stopped


@contextmanager
def _scripted(authority: Authority, script: Callable[[Packet], bytes | None]) -> Iterator[int]:
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    server: AbstractContextManager[int] = scripted.serving(script, context)
    with server as port:
        yield port
