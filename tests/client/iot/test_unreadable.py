"""Packets that awscrt cannot read: whoever waits is told, and nothing else of the process is taken for one."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hsm_enroll.errors import MqttError
from hsm_enroll.store.identity import Identity
from tests.client.iot.apart import apart, connect
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.scripted import CONNECT, SUBSCRIBE, Packet
from tests.support.softhsm import PIN


def _without_codes(subscribe: Packet) -> bytes:
    return bytes((0x90, 3, *subscribe.body[:2], 0))


def _with_a_foreign_topic(subscribe: Packet) -> bytes:
    return scripted.suback(subscribe, 1) + bytes((0x30, 5, 0, 2, 0xFF, 0xFE, 0))


@pytest.mark.parametrize("answer", [_without_codes, _with_a_foreign_topic], ids=["SUBACK", "topic"])
def test_an_unreadable_packet_ends_the_connection(
    answer: Callable[[Packet], bytes], identity: Identity, authority: Authority
) -> None:
    """D19: a SUBACK without reason codes and a topic that is not UTF-8 are errors at once; later requests fail too."""

    def script(packet: Packet) -> bytes:
        if packet.type == CONNECT:
            return scripted.connack(0)
        return answer(packet) if packet.type == SUBSCRIBE else b""

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port:
        identity = dataclasses.replace(identity, mqtt_port=port)
        messages = apart(_subscribe_and_publish, identity, authority.certificate)
    assert len(messages) == 2
    assert all("is not valid MQTT 5" in message for message in messages)


def _subscribe_and_publish(identity: Identity, ca_file: Path) -> list[str]:
    told = []
    attempts: tuple[Callable[[], object], ...] = (
        lambda: list(connection.subscribe("a/b", timeout=600)),
        lambda: connection.publish("a/b", b"", timeout=600),
    )
    with connect(identity, PIN, ca_file=ca_file) as connection:
        for attempt in attempts:
            with pytest.raises(MqttError) as caught:
                attempt()
            told.append(caught.value.message)
    return told


def test_a_callback_of_the_programs_ends_nothing(identity: Identity, authority: Authority) -> None:
    """An error in the program's own code is left to the hook that was there before, and the connection goes on."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(
        lambda packet: scripted.connack(0) if packet.type == CONNECT else scripted.puback(packet), context
    ) as port:
        identity = dataclasses.replace(identity, mqtt_port=port)
        assert apart(_fail_in_a_callback, identity, authority.certificate) == ["mine"]


def _fail_in_a_callback(identity: Identity, ca_file: Path) -> list[str]:
    seen: list[str] = []
    sys.unraisablehook = lambda unraisable: seen.append(str(unraisable.exc_value))
    with connect(identity, PIN, ca_file=ca_file) as connection:
        try:
            raise ValueError("mine")
        except ValueError as error:
            arguments = SimpleNamespace(
                exc_type=ValueError, exc_value=error, exc_traceback=error.__traceback__, err_msg=None, object=ValueError
            )
        sys.unraisablehook(arguments)
        connection.publish("a/b", b"")
    return seen
