"""What ``hsm-enroll publish`` asks of the broker, and what it says when it waits and when it is interrupted."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsm_enroll.store.identity import Identity
from tests.client.iot.device import EnrolledDevice, enrolled_device
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.scripted import CONNECT, PUBLISH, SUBSCRIBE, Packet
from tests.support.softhsm import SoftHsm

_TIME_LIMIT = 60.0

AtBroker = Callable[[scripted.Script], EnrolledDevice]


@pytest.fixture
def at_broker(identity: Identity, authority: Authority, softhsm: SoftHsm, tmp_path: Path) -> Iterator[AtBroker]:
    """Gives an enrolled device whose broker says what a test wants it to."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    scripts: list[scripted.Script] = []
    with scripted.serving(lambda packet: scripts[0](packet), context) as port:

        def at(script: scripted.Script) -> EnrolledDevice:
            scripts.append(script)
            return enrolled_device(identity, port, authority, softhsm, tmp_path)

        yield at


def test_the_keep_alive_is_a_setting(at_broker: AtBroker) -> None:
    """HSM_ENROLL_MQTT_KEEP_ALIVE is the keep-alive of CONNECT, in seconds (MQTT 5.0 §3.1.2.10)."""
    asked: list[int] = []

    def script(packet: Packet) -> bytes:
        if packet.type != CONNECT:
            return scripted.puback(packet) if packet.type == PUBLISH else b""
        asked.append(int.from_bytes(packet.body[8:10]))
        return scripted.connack(0)

    device = at_broker(script)
    for variables in ({}, {"HSM_ENROLL_MQTT_KEEP_ALIVE": "30"}):
        assert device.with_environment(**variables).run("publish", "a/b", "x").returncode == 0
    assert asked == [60, 30]


@pytest.mark.parametrize("reached", [CONNECT, PUBLISH], ids=["connecting", "unacknowledged"])
def test_an_interrupted_publish_promises_nothing(reached: int, at_broker: AtBroker) -> None:
    """D20: Ctrl-C says that the message may arrive twice; there is nothing that the next run could resume."""
    ready = threading.Event()

    def script(packet: Packet) -> bytes:
        if packet.type == reached:
            ready.set()
        return scripted.connack(0) if packet.type == CONNECT != reached else b""

    with at_broker(script).start("publish", "a/b", "x") as run:
        assert ready.wait(_TIME_LIMIT)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=_TIME_LIMIT)
    assert run.returncode == 130
    assert "If the broker has the message already, it arrives twice." in " ".join(errors.split())
    assert "resumes" not in errors


@pytest.mark.parametrize("arguments", [("publish", "a/b", "x"), ("subscribe", "a/b")], ids=" ".join)
def test_how_long_a_broker_is_waited_for_is_a_setting(arguments: tuple[str, ...], at_broker: AtBroker) -> None:
    """D15: HSM_ENROLL_CONNECT_TIMEOUT is for the CONNACK, HSM_ENROLL_OPERATION_TIMEOUT for what follows."""
    accepts = False

    def script(packet: Packet) -> bytes:
        return scripted.connack(0) if packet.type == CONNECT and accepts else b""

    device = at_broker(script).with_environment(HSM_ENROLL_CONNECT_TIMEOUT="1", HSM_ENROLL_OPERATION_TIMEOUT="1.5")
    connecting = device.error(*arguments)
    accepts = True
    waiting = device.error(*arguments)
    assert (connecting["code"], waiting["code"]) == ("mqtt-unreachable", "mqtt-unreachable")
    assert connecting["message"].endswith("within 1 s")
    assert waiting["message"].endswith("within 1.5 s")


@pytest.mark.parametrize("arguments", [("publish", "a/b", "x"), ("subscribe", "a/b")], ids=" ".join)
def test_a_broker_that_does_not_acknowledge_is_named(arguments: tuple[str, ...], at_broker: AtBroker) -> None:
    """D15: also once it is connected, a command says within seconds whom it is waiting for, and how long at most."""
    device = at_broker(lambda packet: scripted.connack(0) if packet.type == CONNECT else b"")
    device = device.with_environment(HSM_ENROLL_OPERATION_TIMEOUT="40")
    with device.start(*arguments) as run:
        assert run.stderr is not None
        told = next((line for line in run.stderr if line.startswith("  waiting for")), "")
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=_TIME_LIMIT)
    assert re.fullmatch(r"  waiting for the broker at localhost:\d+, up to 40 s\n", told)


def test_a_topic_cannot_steer_the_terminal(at_broker: AtBroker) -> None:
    """D31: under a wildcard, control characters of a message's topic are shown escaped."""

    def script(packet: Packet) -> bytes:
        if packet.type == SUBSCRIBE:
            return scripted.suback(packet, 1) + scripted.publish("a/\x1b[2J", b"x", 1)
        return scripted.connack(0) if packet.type == CONNECT else b""

    run = at_broker(script).run("subscribe", "a/#", "--count", "1")
    assert run.stdout == "a/\\x1b[2J x\n"
