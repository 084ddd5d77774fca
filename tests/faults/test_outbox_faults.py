"""Outbox and forwarder as processes, on a real token, with a broker, a network and a token that fail.

The number of messages of the largest test is 2,000; the variable OUTBOX_MESSAGES sets another one::

    OUTBOX_MESSAGES=10000 scripts/test tests/faults/test_outbox_faults.py
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_enroll.iot.window import MOST_MESSAGES
from hsm_enroll.key import KeyType, TokenName
from tests.client.iot.device import EnrolledDevice, enrolled_device
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.forwarders import RunningForwarder
from tests.support.identities import identity
from tests.support.processes import wait_until
from tests.support.recording import RecordingBroker, recording
from tests.support.softhsm import MODULE, SoftHsm
from tests.support.writers import payloads, writing

_ROOT = Path(__file__).parents[2]
_THING = "gateway-17"
_MESSAGES = int(os.environ.get("OUTBOX_MESSAGES", "2000"))
_WRITERS = 4
_KILLS = 4
_TOPICS = [f"device/{_THING}/{number}" for number in range(_WRITERS)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA of device and broker."""
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture
def broker(authority: Authority) -> Iterator[RecordingBroker]:
    """A broker that fails when it is told to."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with recording(context) as running:
        yield running


@pytest.fixture
def softhsm(tmp_path: Path) -> SoftHsm:
    """The device's token."""
    softhsm = SoftHsm(tmp_path / "softhsm")
    softhsm.add_token("gateway")
    return softhsm


@pytest.fixture
def device(
    softhsm: SoftHsm,
    authority: Authority,
    broker: RecordingBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> EnrolledDevice:
    """A device that is enrolled, with short timeouts, and without a limit to how fast it sends."""
    for name, value in softhsm.environment.items():
        monkeypatch.setenv(name, value)
    key = softhsm.create_key("gateway", "key", KeyType.EC_P256, b"\1")
    mine = identity(
        thing_name=_THING,
        certificate_pem=authority.issue_client(key, _THING).public_bytes(Encoding.PEM).decode(),
        token=TokenName(MODULE, "gateway", "", "SoftHSM project", "SoftHSM v2"),
        key_label="key",
        key_id=b"\1",
        key_type=KeyType.EC_P256,
        mqtt_endpoint="localhost",
        mqtt_port=broker.port,
    )
    device = enrolled_device(mine, broker.port, authority, softhsm, tmp_path)
    return device.with_environment(
        PYTHONPATH=str(_ROOT),
        HSM_ENROLL_DRAINING_RATE="0",
        HSM_ENROLL_CONNECT_TIMEOUT="2",
        HSM_ENROLL_OPERATION_TIMEOUT="2",
    )


def _assert_delivered(broker: RecordingBroker, device: EnrolledDevice, count: int, most_twice: int) -> None:
    """Everything has arrived, in order, no more twice than can have been in flight, and nothing is left."""
    for topic in _TOPICS:
        assert broker.payloads(topic) == payloads(count), topic
    duplicates = len(broker.received) - count * _WRITERS
    assert 0 <= duplicates <= most_twice
    outbox = device.json("status")["outbox"]
    assert (outbox["messages"], outbox["refused"], outbox["dropped"], outbox["expired"]) == (0, 0, 0, 0)


def test_a_forwarder_that_is_killed_loses_nothing(device: EnrolledDevice, broker: RecordingBroker) -> None:
    """D21: killed at random while four processes write: all arrives, in order, and twice only what was in flight."""
    chance = random.Random()
    count = _MESSAGES // _WRITERS
    with writing(device.environment, _TOPICS, count, pause=8.0 / count):
        for _ in range(_KILLS):
            with RunningForwarder(device) as forwarder:
                forwarder.wait_for("connected")
                time.sleep(chance.uniform(0.0, 1.0))
                forwarder.kill()
        with RunningForwarder(device) as forwarder:
            broker.wait_for(count * _WRITERS)
            assert forwarder.stop(signal.SIGTERM) == 143
    # What is acknowledged is removed some hundredths of a second later, and a killed process does not come to that.
    _assert_delivered(broker, device, count, _KILLS * 4 * MOST_MESSAGES)


@pytest.mark.parametrize("fault", ["stopped", "cut", "frozen", "deaf", "mute"])
def test_a_broker_that_fails_for_a_while_costs_nothing(
    device: EnrolledDevice, broker: RecordingBroker, fault: str
) -> None:
    """D21: stopped, cut off, half-open, or accepting without an answer: the forwarder goes on by itself afterwards."""
    with RunningForwarder(device) as forwarder, writing(device.environment, _TOPICS, 60, pause=0.05):
        forwarder.wait_for("connected")
        broker.wait_for(20)
        _begin(broker, fault)
        forwarder.wait_for("lost")
        if fault in {"mute", "stopped"}:
            forwarder.wait_for("failed")
        if fault == "deaf":
            forwarder.wait_for("lost", 2)
        _end(broker, fault)
        forwarder.wait_for("connected", 2)
        broker.wait_for(60 * _WRITERS)
        losses = len(forwarder.events("lost"))
        assert forwarder.stop(signal.SIGINT) == 130
    _assert_delivered(broker, device, 60, losses * MOST_MESSAGES)


def _begin(broker: RecordingBroker, fault: str) -> None:
    if fault == "stopped":
        broker.stop()
    elif fault == "frozen":
        broker.freeze()
    elif fault == "deaf":
        broker.is_deaf = True
    else:
        broker.is_mute = fault == "mute"
        broker.cut()


def _end(broker: RecordingBroker, fault: str) -> None:
    broker.is_deaf = broker.is_mute = False
    if fault == "stopped":
        broker.start()


def test_a_token_that_comes_back_is_used_again(
    device: EnrolledDevice, broker: RecordingBroker, softhsm: SoftHsm
) -> None:
    """D7: without the token there is no connection; when it is back, the forwarder logs in again and goes on."""
    away = softhsm.folder / "away"
    with RunningForwarder(device) as forwarder, writing(device.environment, _TOPICS, 30, pause=0.1):
        forwarder.wait_for("connected")
        softhsm.tokens.rename(away)
        softhsm.tokens.mkdir(mode=0o700)
        broker.cut()
        failed = forwarder.wait_for("failed")
        codes = {"token-not-found", "token-refused", "key-missing"}
        assert failed["error"]["code"] in codes

        def is_shown() -> bool:
            shown = device.json("status", status=11)["forward"]
            return (shown["running"], shown["connected"]) == (True, False) and shown["lastError"]["code"] in codes

        # It is written at most once a second.
        wait_until(is_shown, "a report of the failure", device.home / "forward.json")
        softhsm.tokens.rmdir()
        away.rename(softhsm.tokens)
        forwarder.wait_for("connected", 2)
        broker.wait_for(30 * _WRITERS)
        losses = len(forwarder.events("lost"))
        assert forwarder.stop(signal.SIGTERM) == 143
    _assert_delivered(broker, device, 30, losses * MOST_MESSAGES)


def test_a_forwarder_that_starts_before_the_network_waits_for_it(
    device: EnrolledDevice, broker: RecordingBroker
) -> None:
    """At boot there may be no network yet: the forwarder starts nevertheless, and connects when there is one."""
    broker.stop()
    assert device.run("publish", "--queue", _TOPICS[0], "0").returncode == 0
    with RunningForwarder(device) as forwarder:
        assert forwarder.wait_for("failed")["error"]["code"] == "mqtt-unreachable"
        broker.start()
        forwarder.wait_for("connected")
        broker.wait_for(1)
        assert forwarder.events("lost") == []
        assert forwarder.stop(signal.SIGTERM) == 143


def test_a_wrong_pin_ends_it(device: EnrolledDevice) -> None:
    """D1: one try, then it ends with the error's status, so that a service manager can tell it from an outage."""
    with RunningForwarder(device.with_environment(HSM_ENROLL_PIN="wrong-pin")) as forwarder:
        assert forwarder.wait() == 12
