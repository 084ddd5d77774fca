"""D26: the client id that a connection has: one of its own, so that it throws nobody out, or the Thing's name."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from awscrt.exceptions import AwsCrtError
from hypothesis import given
from hypothesis import strategies as st

from hsm_enroll.errors import MqttError, MqttRefusedError
from hsm_enroll.iot import Fallbacks, failures
from hsm_enroll.iot.target import Target, own_client_id
from hsm_enroll.store.identity import Identity
from tests.client.iot import cryptoki
from tests.client.iot.apart import apart, connect, connect_apart, publish_apart
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.relay import Intolerance, relaying
from tests.support.scripted import CONNECT, Packet
from tests.support.softhsm import PIN

_HANG_UP = None
# MQTT 5.0 §3.2.2.2
_SUCCESS, _UNSPECIFIED, _NOT_VALID, _NOT_AUTHORIZED, _UNAVAILABLE, _BANNED = 0x00, 0x80, 0x85, 0x87, 0x88, 0x8A


class Door:
    """A broker's answer to CONNECT, by whether the client id is the Thing's name; ``ids`` are those that came."""

    def __init__(self, *, own: int | None, thing: int | None) -> None:
        self.ids: list[str] = []
        self._answers = {True: own, False: thing}

    def __call__(self, packet: Packet) -> bytes | None:
        if packet.type != CONNECT:
            return b""
        self.ids.append(scripted.client_id(packet))
        reason = self._answers["/" in self.ids[-1]]
        return None if reason is None else scripted.connack(reason)


@contextmanager
def _open(authority: Authority, door: Door, *, farewell: bool = False) -> Iterator[int]:
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(door, context, farewell=farewell) as port:
        yield port


def _shape(identity: Identity, purpose: str) -> re.Pattern[str]:
    return re.compile(rf"{identity.thing_name}/{purpose}-[0-9a-f]{{8}}")


@given(st.text("abcXYZ019:_-", min_size=1, max_size=128), st.sampled_from(["publish", "subscribe", "init", "doctor"]))
def test_an_id_of_its_own_is_below_the_thing_and_fits(thing: str, purpose: str) -> None:
    """An id is the Thing's name, a word and eight digits in at most 128 bytes; where that is too long, the name."""
    own = own_client_id(thing, purpose)
    room = len(f"{thing}/{purpose}-01234567") <= 128
    assert re.fullmatch(rf"{thing}/{purpose}-[0-9a-f]{{8}}" if room else thing, own)
    assert len(own.encode()) <= 128
    assert (own_client_id(thing, purpose) != own) is room


def test_a_message_goes_out_under_an_id_of_its_own(identity: Identity, authority: Authority) -> None:
    """D26: each publishing process has an id that no other one has, and one that only connects says what for."""
    door = Door(own=_UNAVAILABLE, thing=_UNAVAILABLE)
    with _open(authority, door) as port:
        for _ in range(2):
            with pytest.raises(MqttError):
                publish_apart(identity, "a", b"", ca_file=authority.certificate, port=port)
        with pytest.raises(MqttError):
            connect_apart(identity, purpose="try", ca_file=authority.certificate, port=port)
    first, second, third = door.ids
    assert first != second
    assert _shape(identity, "publish").fullmatch(first)
    assert _shape(identity, "publish").fullmatch(second)
    assert _shape(identity, "try").fullmatch(third)


def test_a_programs_connection_has_the_things_name(identity: Identity, broker: Broker, authority: Authority) -> None:
    """The library's connection without a purpose has the Thing's name, and did without nothing."""
    identity = dataclasses.replace(identity, mqtt_port=broker.port)
    assert apart(_connect, identity, authority.certificate, None) == Fallbacks()
    assert f" as {identity.thing_name} " in broker.log.wait_for("New client connected")


def _connect(identity: Identity, ca_file: Path, purpose: str | None) -> Fallbacks:
    with connect(identity, PIN, purpose=purpose, ca_file=ca_file) as connection:
        return connection.fallbacks


def test_nobody_is_thrown_out_and_nothing_is_lost(identity: Identity, broker: Broker, authority: Authority) -> None:
    """D26: beside a program that is connected others publish and listen; it gets every message, and stays connected."""
    identity = dataclasses.replace(identity, mqtt_port=broker.port)
    with broker.observed("#") as observer:
        heard = apart(_stay_connected, identity, authority.certificate)
        for payload in (b"0", b"1", b"2", b"still here"):
            observer.wait_for(payload.hex())
    assert heard == [[b"0", b"1", b"2", b"still here"], [b"still here"]]


def _stay_connected(identity: Identity, ca_file: Path) -> list[list[bytes]]:
    topic = f"device/{identity.thing_name}/x"
    with connect(identity, PIN, ca_file=ca_file) as program:
        heard_by_program = program.subscribe(topic)
        for number in range(3):
            publish_apart(identity, topic, str(number).encode(), ca_file=ca_file)
        connect_apart(identity, purpose="doctor", ca_file=ca_file)
        with connect(identity, PIN, purpose="subscribe", ca_file=ca_file) as listener:
            heard_by_listener = listener.subscribe(topic)
            program.publish(topic, b"still here")
            return [
                [next(heard_by_program).payload for _ in range(4)],
                [next(heard_by_listener).payload],
            ]


@pytest.mark.parametrize("reason", [_NOT_AUTHORIZED, _NOT_VALID], ids=["not authorized", "not valid"])
def test_a_refused_id_is_left_for_the_things_name(reason: int, identity: Identity, authority: Authority) -> None:
    """D26: an id that CONNACK refuses is told, and the same connection made under the Thing's name, once."""
    door = Door(own=reason, thing=_SUCCESS)
    with _open(authority, door) as port:
        fallbacks = connect_apart(identity, purpose="try", ca_file=authority.certificate, port=port)
    own, thing = door.ids
    assert _shape(identity, "try").fullmatch(own)
    assert thing == identity.thing_name
    assert fallbacks.tls is None
    name = {_NOT_AUTHORIZED: "NOT_AUTHORIZED", _NOT_VALID: "CLIENT_IDENTIFIER_NOT_VALID"}[reason]
    assert fallbacks.client_id == f"localhost:{port} refused client id {own!r} ({name})"


@pytest.mark.parametrize("farewell", [False, True], ids=["FIN", "close_notify"])
def test_a_closed_door_is_tried_with_the_things_name(farewell: bool, identity: Identity, authority: Authority) -> None:
    """D26: closed without a CONNACK twice, a connection may have been closed for its id: the Thing's name is tried."""
    door = Door(own=_HANG_UP, thing=_SUCCESS)
    with _open(authority, door, farewell=farewell) as port:
        fallbacks = connect_apart(identity, purpose="try", ca_file=authority.certificate, port=port)
    assert door.ids == [door.ids[0], door.ids[0], identity.thing_name]
    assert fallbacks.client_id is not None
    assert fallbacks.client_id.startswith(f"localhost:{port} refused client id {door.ids[0]!r}, or closed")


def test_a_network_that_drops_once_costs_no_other_program_its_connection(
    identity: Identity, authority: Authority
) -> None:
    """D26: after one connection that was cut off, the id of its own is tried again, and nothing is done without."""
    door = Door(own=_SUCCESS, thing=_SUCCESS)
    answers: list[bytes | None] = [None]

    def once_closed(packet: Packet) -> bytes | None:
        answer = door(packet)
        return answers.pop() if packet.type == CONNECT and answers else answer

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(once_closed, context) as port:
        fallbacks = connect_apart(identity, purpose="try", ca_file=authority.certificate, port=port)
    assert fallbacks == Fallbacks()
    assert door.ids == [door.ids[0]] * 2


def test_the_things_name_takes_no_second_login(identity: Identity, authority: Authority) -> None:
    """D1: the second attempt uses the login of the first."""
    with _open(authority, Door(own=_NOT_AUTHORIZED, thing=_SUCCESS)) as port:
        identity = dataclasses.replace(identity, mqtt_port=port)
        fallbacks, logins = apart(_watched_connect, identity, authority.certificate, False)
    assert fallbacks.client_id
    assert logins == [cryptoki.CKR_OK]


def _watched_connect(identity: Identity, ca_file: Path, tls13: bool) -> tuple[Fallbacks, list[int]]:
    logins = cryptoki.answers("C_Login")
    with connect(identity, PIN, purpose="try", ca_file=ca_file, tls13=tls13) as connection:
        assert (connection.tls_fallback, connection.client_id_fallback) == connection.fallbacks
        return connection.fallbacks, list(logins)


def test_both_fallbacks_go_together(identity: Identity, authority: Authority) -> None:
    """D1, D15, D26: where TLS 1.3 is cut off and the id refused, three attempts take one PIN, and both are told."""
    door = Door(own=_NOT_AUTHORIZED, thing=_SUCCESS)
    with _open(authority, door) as port, relaying(port, Intolerance.HANG_UP) as relay:
        identity = dataclasses.replace(identity, mqtt_port=relay.port)
        fallbacks, logins = apart(_watched_connect, identity, authority.certificate, True)
    own, thing = door.ids
    assert _shape(identity, "try").fullmatch(own)
    assert thing == identity.thing_name
    assert relay.offered == [True, False, False]
    assert fallbacks.tls == f"localhost:{relay.port} did not complete the handshake (AWS_IO_SOCKET_CLOSED)"
    assert fallbacks.client_id == f"localhost:{relay.port} refused client id {own!r} (NOT_AUTHORIZED)"
    # Another offer takes another login, made while the token is still logged in.
    assert logins == [cryptoki.CKR_OK, cryptoki.CKR_USER_ALREADY_LOGGED_IN]


def test_tls_1_3_is_kept_where_only_the_id_was_refused(identity: Identity, authority: Authority) -> None:
    """A refused id is no reason to give TLS 1.3 up."""
    with _open(authority, Door(own=_NOT_AUTHORIZED, thing=_SUCCESS)) as port, relaying(port) as relay:
        fallbacks = connect_apart(identity, purpose="try", ca_file=authority.certificate, port=relay.port, tls13=True)
    assert (relay.offered, relay.chosen) == ([True, True], [True, True])
    assert (fallbacks.tls, fallbacks.client_id is None) == (None, False)


@pytest.mark.parametrize(
    ("own", "thing", "kind", "message"),
    [
        (_NOT_AUTHORIZED, _NOT_AUTHORIZED, MqttRefusedError, r"refused client id 'press-ec-p256' \(NOT_AUTHORIZED\)"),
        (_NOT_AUTHORIZED, _UNAVAILABLE, MqttError, r"refused client id 'press-ec-p256' \(SERVER_UNAVAILABLE\)"),
        (_HANG_UP, _HANG_UP, MqttRefusedError, "closed the connection without an answer"),
        (_HANG_UP, _NOT_VALID, MqttRefusedError, r"refused client id 'press-ec-p256' \(CLIENT_IDENTIFIER_NOT_VALID\)"),
    ],
)
def test_the_last_attempts_error_is_the_one(
    own: int | None,
    thing: int | None,
    kind: type[MqttError],
    message: str,
    identity: Identity,
    authority: Authority,
) -> None:
    """D19: where the Thing's name is refused too there is no further attempt, and the error is the last one's."""
    door = Door(own=own, thing=thing)
    with _open(authority, door) as port, pytest.raises(MqttError, match=message) as caught:
        connect_apart(identity, purpose="try", ca_file=authority.certificate, port=port)
    assert type(caught.value) is kind
    assert door.ids == [*[door.ids[0]] * (2 if own is _HANG_UP else 1), identity.thing_name]


@pytest.mark.parametrize("reason", [_UNSPECIFIED, _UNAVAILABLE, _BANNED])
def test_another_refusal_is_final(reason: int, identity: Identity, authority: Authority) -> None:
    """D19: a CONNACK that says something else than that the id is not wanted is not answered with another attempt."""
    door = Door(own=reason, thing=_SUCCESS)
    with _open(authority, door) as port, pytest.raises(MqttError, match="refused client id"):
        connect_apart(identity, purpose="try", ca_file=authority.certificate, port=port)
    assert len(door.ids) == 1


@pytest.mark.parametrize(
    "name",
    [
        "AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE",
        "AWS_IO_TLS_ERROR_READ_FAILURE",
        "AWS_IO_TLS_NEGOTIATION_TIMEOUT",
        "AWS_IO_SOCKET_CONNECTION_REFUSED",
        "AWS_IO_SOCKET_TIMEOUT",
        "AWS_IO_DNS_INVALID_NAME",
        "AWS_ERROR_MQTT_TIMEOUT",
        "AWS_ERROR_MQTT5_CONNACK_TIMEOUT",
        "AWS_ERROR_PKCS11_CKR_DEVICE_ERROR",
    ],
)
def test_what_is_not_about_the_id_is_final(name: str, identity: Identity) -> None:
    """D19: a handshake that failed, a broker out of reach and a token that refuses say nothing about a client id."""
    error = AwsCrtError(0, name, name)
    assert failures.of_client_id(error, None, Target.of(identity, purpose="try")) is None


@pytest.mark.parametrize(("purpose", "told"), [(None, True), ("try", False)])
def test_only_a_shared_name_can_have_been_taken(purpose: str | None, told: bool, identity: Identity) -> None:
    """D19: a connection lost without a word may have been taken over where it had the Thing's name, and only there."""
    error = AwsCrtError(0, "AWS_IO_SOCKET_CLOSED", "")
    hint = failures.of_lost(error, None, Target.of(identity, purpose=purpose)).hint
    assert (f"another program connected as '{identity.thing_name}'" in hint) is told


def test_all_attempts_share_one_time_limit(identity: Identity, authority: Authority) -> None:
    """D15: the second attempt has the time that the first one left, and ends with it."""

    def script(packet: Packet) -> bytes:
        return b"" if scripted.client_id(packet) == identity.thing_name else scripted.connack(_NOT_AUTHORIZED)

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port:
        identity = dataclasses.replace(identity, mqtt_port=port)
        message, seconds = apart(_run_out_of_time, identity, authority.certificate, 2.0)
    assert re.search(r"no broker answers at .* (within (1\.\d|2) s|\(AWS_ERROR_MQTT5?_\w*TIMEOUT\))", message), message
    assert seconds < 4.0


def _run_out_of_time(identity: Identity, ca_file: Path, timeout: float) -> tuple[str, float]:
    begin = time.monotonic()
    with pytest.raises(MqttError) as caught:
        connect(identity, PIN, purpose="try", ca_file=ca_file, timeout=timeout)
    return caught.value.message, time.monotonic() - begin
