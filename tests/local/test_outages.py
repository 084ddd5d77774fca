"""Outages that are asked for: ``local restart`` and ``local fail``, and a device that gets over them."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.cloud import Endpoints, LocalCloud, fail, restart
from tests.support.clients import TIME_LIMIT, SoftwareDevice, connect, iot, receive
from tests.support.devices import Device, Observer, Operator, publish_as_observer
from tests.support.processes import children


@pytest.fixture
def operator(cloud: Endpoints, tmp_path: Path) -> Iterator[Operator]:
    """Whoever rehearses outages; in the end all is as it was."""
    yield Operator(tmp_path / "operator", cloud.exports())
    restart(cloud.home, "api")


def test_the_broker_is_restarted(cloud: Endpoints, operator: Operator, enrolled: SoftwareDevice) -> None:
    """D27: connections are closed, and devices connect again to another mosquitto; retained messages stay."""
    topic = f"device/{enrolled.thing}/x"
    _retain(cloud, f"{topic}/retained", "state")
    subscriber, before = receive(cloud, enrolled.identity, topic), _broker(cloud)
    assert operator.json("local", "restart", "broker", "--home", str(cloud.home)) == {"restarted": "broker"}
    assert _broker(cloud) != before
    assert subscriber.stdout is not None
    while not subscriber.stdout.readline().startswith("Subscribed"):  # mosquitto_sub connects again by itself
        assert subscriber.poll() is None
    publish_as_observer(cloud.to_json(), topic, "again")
    assert f"message: {topic} again" in subscriber.communicate(timeout=TIME_LIMIT)[0].splitlines()
    output, _ = receive(cloud, enrolled.identity, f"{topic}/retained").communicate(timeout=TIME_LIMIT)
    _retain(cloud, f"{topic}/retained", "")
    assert f"message: {topic}/retained state" in output.splitlines()


def test_restarts_that_were_asked_for_are_not_counted(cloud: Endpoints, enrolled: SoftwareDevice) -> None:
    """D27: the limit is for a broker that dies by itself."""
    for _ in range(7):
        restart(cloud.home, "broker")
    assert connect(cloud, enrolled.identity) == "admitted"


def test_the_api_is_restarted(cloud: Endpoints, operator: Operator) -> None:
    """D27: it is at the same port, open connections are closed, and faults that were still to come are dropped."""
    fail(cloud.home, "503", 10)
    assert _health(cloud) == 503
    context = ssl.create_default_context(cafile=cloud.ca_file)
    address = ("localhost", int(cloud.api_url.rpartition(":")[2]))
    with (
        socket.create_connection(address, 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as idle,
    ):
        assert operator.json("local", "restart", "api", "--home", str(cloud.home)) == {"restarted": "api"}
        assert idle.recv(1) == b""
    assert _health(cloud) == 200


def test_the_handler_is_loaded_anew(home: Path) -> None:
    """D27: a restarted API has nothing in memory, as a new execution environment of Lambda."""
    with LocalCloud(home) as cloud:
        before = sys.modules["handler"]
        cloud.restart("api")
        assert sys.modules["handler"] is not before
        assert _health(cloud.endpoints) == 200


@pytest.mark.parametrize("fault", ["503", "lost", "throttle", "slow"])
def test_a_device_gets_over_an_outage(cloud: Endpoints, operator: Operator, tmp_path: Path, fault: str) -> None:
    """D27: ``init`` enrolls, though the API fails three times in a row, and only one certificate is issued."""
    count = 1 if fault == "slow" else 3
    device, thing = Device(tmp_path / "device", cloud.exports()), f"outage-{fault}"
    device.create_token()
    document = operator.json("local", "fail", "--next", fault, "--count", str(count), "--home", str(cloud.home))
    assert document == {"next": fault, "count": count}
    observer = Observer(cloud.to_json(), f"certtest/{thing}")
    assert device.json("init", "--thing", thing)["thingName"] == thing
    assert json.loads(observer.message()[1])["thingName"] == thing
    observer.close()
    assert len(iot(cloud).list_thing_principals(thingName=thing)["principals"]) == 1


def test_without_a_cloud_there_is_nothing_to_fail(tmp_path: Path) -> None:
    """D27: both commands say that none is running, and how to start one."""
    machine = Operator(tmp_path / "operator", {})
    for command in (("restart", "broker"), ("fail", "--next", "503")):
        error = machine.error("local", *command, "--home", str(tmp_path / "none"))
        assert error["code"] == "local-cloud"
        assert error["hint"] == f"Start one: hsm-enroll local up --detach --home {tmp_path}/none"


def test_a_cloud_that_takes_no_commands_is_an_error(cloud: Endpoints) -> None:
    """D27: one that an earlier version started, as its home has no socket; the hint says to start it again."""
    control, away = cloud.home / "control.socket", cloud.home / "away.socket"
    assert control.stat().st_mode & 0o777 == 0o600
    control.rename(away)
    try:
        with pytest.raises(LocalCloudError, match="does not accept commands") as caught:
            fail(cloud.home, "503", 1)
    finally:
        away.rename(control)
    assert f"hsm-enroll local down --home '{cloud.home}'; " in caught.value.hint


def test_a_command_of_another_version_is_an_error(cloud: Endpoints) -> None:
    """D27: a cloud that does not know what it is asked for says so, and accepts the next command."""
    with pytest.raises(LocalCloudError, match="cannot carry this out") as caught:
        fail(cloud.home, "flood", 1)
    assert f"hsm-enroll local down --home '{cloud.home}'; " in caught.value.hint
    restart(cloud.home, "api")


def test_whoever_asks_and_goes_does_not_end_the_commands(cloud: Endpoints) -> None:
    """D27: after a command whose sender was interrupted, the cloud accepts the next one."""
    path, before = os.path.relpath(cloud.home / "control.socket"), _broker(cloud)
    with socket.socket(socket.AF_UNIX) as impatient:
        impatient.connect(path)
        impatient.sendall(b'{"command": "restart", "target": "broker"}\n')
    restart(cloud.home, "api")
    assert _broker(cloud) != before


def _health(cloud: Endpoints) -> int:
    return requests.get(f"{cloud.api_url}/v1/health", verify=str(cloud.ca_file), timeout=TIME_LIMIT).status_code


def _broker(cloud: Endpoints) -> int:
    (process,) = children(int((cloud.home / "lock").read_text()))
    return process


def _retain(cloud: Endpoints, topic: str, message: str) -> None:
    options = ["--cert", str(cloud.observer_certificate), "--key", str(cloud.observer_key)]
    command = ["mosquitto_pub", "-r", "-q", "1", "-t", topic, "-m", message, "--cafile", str(cloud.ca_file), *options]
    subprocess.run([*command, "-h", "localhost", "-p", str(cloud.mqtt_port)], env=dict(os.environ), check=True)
