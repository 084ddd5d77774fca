"""The setting ``tls`` as the commands and the library obey it: a device of the local cloud, behind a box in between."""

from __future__ import annotations

import signal
import sys
from subprocess import run

import pytest

from hsm_enroll.errors import InterruptedRunError
from tests.support import documents
from tests.support.devices import Cloud, Device
from tests.support.relay import Intolerance, relaying

_SAID = "warning: TLS 1.3 failed, this connection uses TLS 1.2: "
_CONNECT = (
    "from hsm_enroll import Identity, connect\n"
    "identity = Identity.load()\n"
    "with connect(identity) as connection:\n"
    "    connection.publish(f'device/{identity.thing_name}/x', b'x')\n"
    "    print(repr(connection.tls_fallback))\n"
)


@pytest.fixture
def enrolled(device: Device, thing: str) -> Device:
    """An enrolled device."""
    device.json("init", "--thing", thing, "--no-publish")
    return device


@pytest.mark.parametrize(("setting", "offered"), [("", False), ("1.2", False), ("auto", True)])
def test_publish_offers_what_the_setting_says(
    setting: str, offered: bool, enrolled: Device, cloud: Cloud, thing: str
) -> None:
    """TLS 1.3 is offered where ``tls`` is ``auto``, and nothing is said where it comes about."""
    enrolled.extra["HSM_ENROLL_TLS"] = setting
    with relaying(cloud.document["mqttPort"]) as relay:
        enrolled.extra["HSM_ENROLL_MQTT_PORT"] = str(relay.port)
        published = enrolled.run("publish", f"device/{thing}/x", "x")
    assert published.returncode == 0
    assert "warning" not in published.stderr
    assert (relay.offered, relay.chosen) == ([offered], [offered])


def test_the_first_message_obeys_the_setting(device: Device, cloud: Cloud, thing: str) -> None:
    """D15: ``init`` offers TLS 1.3 for its first message where ``tls`` is ``auto``, and says that it fell back."""
    device.extra["HSM_ENROLL_TLS"] = "auto"
    with relaying(cloud.document["mqttPort"], Intolerance.HANG_UP) as relay:
        device.extra["HSM_ENROLL_MQTT_PORT"] = str(relay.port)
        enrolled = device.run("init", "--thing", thing)
    assert enrolled.returncode == 0
    assert f"{_SAID}localhost:{relay.port} " in enrolled.stderr
    assert (relay.offered[0], relay.chosen) == (True, [False])


def test_publish_says_that_it_fell_back(enrolled: Device, cloud: Cloud, thing: str) -> None:
    """D15: one line on stderr says that, and how, TLS 1.3 failed; the message went out with 1.2."""
    enrolled.extra["HSM_ENROLL_TLS"] = "auto"
    with relaying(cloud.document["mqttPort"], Intolerance.HANG_UP) as relay:
        enrolled.extra["HSM_ENROLL_MQTT_PORT"] = str(relay.port)
        published = enrolled.run("publish", f"device/{thing}/x", "x", "--json")
    assert published.returncode == 0
    assert documents.read(["publish"], published.stdout)["published"]["bytes"] == 1
    [line] = published.stderr.splitlines()
    assert line.startswith(f"{_SAID}localhost:{relay.port} ")
    assert relay.chosen == [False]


def test_subscribe_says_that_it_fell_back(enrolled: Device, cloud: Cloud, thing: str) -> None:
    """D15: ``subscribe`` says it too, before the first message."""
    enrolled.extra["HSM_ENROLL_TLS"] = "auto"
    with relaying(cloud.document["mqttPort"], Intolerance.HANG_UP) as relay:
        enrolled.extra["HSM_ENROLL_MQTT_PORT"] = str(relay.port)
        with enrolled.start("subscribe", f"device/{thing}/x", "--json") as subscribing:
            try:
                assert subscribing.stderr is not None
                said = subscribing.stderr.readline()
                subscribing.send_signal(signal.SIGINT)
                assert subscribing.wait(30) == InterruptedRunError.exit_status
            finally:
                subscribing.kill()
    assert said.startswith(f"{_SAID}localhost:{relay.port} ")


def test_the_library_tells_that_it_fell_back(enrolled: Device, cloud: Cloud) -> None:
    """A program finds on its connection whether, and why, it has TLS 1.2; nothing is printed."""
    enrolled.extra["HSM_ENROLL_TLS"] = "auto"
    outputs = []
    for intolerance in (Intolerance.NONE, Intolerance.HANG_UP):
        with relaying(cloud.document["mqttPort"], intolerance) as relay:
            enrolled.extra["HSM_ENROLL_MQTT_PORT"] = str(relay.port)
            command = [sys.executable, "-c", _CONNECT]
            done = run(command, env=enrolled.environment, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""
        outputs.append(done.stdout.strip())
    assert outputs[0] == "None"
    assert f"localhost:{relay.port}" in outputs[1]
