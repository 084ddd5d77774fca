"""``hsm-enroll forward --subscribe … --socket …``, with a real token, the real broker and the deployed policy."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.readers import CAPACITY
from hsm_enroll.store.forwarder import ForwardReport
from tests.support import documents
from tests.support.cable import cable
from tests.support.devices import Cloud, Device, Machine, Observer, connection, publish_as_observer
from tests.support.forwarders import RunningForwarder
from tests.support.identities import identity

_TIME_LIMIT = 30.0


@pytest.fixture
def receiver(device: Device, thing: str) -> Device:
    """An enrolled device."""
    device.json("init", "--thing", thing)
    return device


class _Reader:
    """A program that is connected to the socket."""

    def __init__(self, path: Path) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.settimeout(_TIME_LIMIT)
        self.connection.connect(str(path))
        self._lines = self.connection.makefile("r", encoding="ascii")

    def message(self) -> dict[str, Any]:
        """Return the next message."""
        line = self._lines.readline()
        read: dict[str, Any] = json.loads(line)
        documents.validator("subscribe").validate(read)
        assert line == json.dumps(read) + "\n"
        return read

    def at_end(self) -> bool:
        """Whether nothing more comes."""
        return self._lines.readline() == ""

    def close(self) -> None:
        """End it."""
        self._lines.close()
        self.connection.close()


@contextmanager
def _reading(path: Path) -> Iterator[_Reader]:
    reader = _Reader(path)
    try:
        yield reader
    finally:
        reader.close()


def test_messages_come_through_a_lost_connection_and_a_renewal(
    receiver: Device, cloud: Cloud, thing: str, observe: Callable[[str], Observer]
) -> None:
    """Each program gets each message once; what the policy forbids is said, and disturbs nothing else."""
    path, commands = receiver.folder / "messages.sock", f"device/{thing}/commands"
    options = ("--subscribe", f"{commands}/#", "--subscribe", "elsewhere/#", "--socket", str(path))

    def send(name: str) -> dict[str, str]:
        publish_as_observer(cloud.document, f"{commands}/{name}", name)
        return {"topic": f"{commands}/{name}", "payload": name}

    with cable(cloud.document["mqttPort"]) as laid:
        receiver.extra["HSM_ENROLL_MQTT_PORT"] = str(laid.port)
        with RunningForwarder(receiver, *options) as forwarder:
            forwarder.wait_for("subscribed")
            refused = forwarder.wait_for("not-subscribed")
            assert (refused["topic"], refused["error"]["code"]) == ("elsewhere/#", "mqtt-refused")
            with _reading(path) as first, _reading(path) as second:
                assert send("öffnen") == first.message() == second.message()
                second.close()
                laid.cut()
                forwarder.wait_for("subscribed", 2)
                assert send("again") == first.message()
                receiver.json("renew")
                forwarder.wait_for("renewed")
                forwarder.wait_for("subscribed", 3)
                assert send("renewed") == first.message()
                observer = observe(f"device/{thing}/x")
                assert receiver.run("publish", "--queue", f"device/{thing}/x", "x").returncode == 0
                assert observer.message()[1] == "x"
                assert forwarder.stop(signal.SIGTERM) == 143
                assert first.at_end()
            assert forwarder.events("stopped")[0]["sent"] == 1
            assert forwarder.events("subscribed")[0]["topic"] == f"{commands}/#"
    assert not path.exists()


def test_a_program_that_does_not_read_disturbs_nobody(receiver: Device, cloud: Cloud, thing: str) -> None:
    """It is disconnected, another one gets everything; a killed forwarder's socket is no obstacle for the next one."""
    path, topic, size = receiver.folder / "messages.sock", f"device/{thing}/firmware", 120_000
    options = ("--subscribe", topic, "--socket", str(path))
    count = CAPACITY // size + 10
    part = "x" * size + "\n"
    with RunningForwarder(receiver, *options) as forwarder:
        forwarder.wait_for("subscribed")
        forwarder.kill()
    assert path.is_socket()
    with RunningForwarder(receiver, *options) as forwarder:
        forwarder.wait_for("subscribed")
        with _reading(path), _reading(path) as quick:
            command = ["mosquitto_pub", "-q", "1", "-t", topic, "-l", *connection(cloud.document)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as publisher:
                assert publisher.stdin is not None
                for _ in range(count):
                    publisher.stdin.write(part)
                    publisher.stdin.flush()
                    assert quick.message() == {"topic": topic, "payload": part.rstrip("\n")}
                publisher.stdin.close()
            assert publisher.returncode == 0
            assert "does not read" in forwarder.wait_for("reader-dropped")["reason"]
        assert forwarder.stop(signal.SIGINT) == 130
    report = ForwardReport.load(receiver.home)
    assert report is not None
    assert (report.received, report.unread) == (count, 0)


def test_the_options_belong_together(tmp_path: Path) -> None:
    """One without the other, a filter that is none, a socket in no folder, and a file in its place are wrong usage."""
    receiver = Machine(tmp_path, {})
    receiver.home.mkdir(mode=0o700)
    identity().save(receiver.home)
    wrong = (
        ("--subscribe", "a/#"),
        ("--socket", "x.sock"),
        ("--subscribe", "a/#/b", "--socket", "x.sock"),
        ("--subscribe", "a/#", "--socket", "/nowhere/x.sock"),
        ("--subscribe", "a/#", "--socket", str(receiver.home / "identity.json")),
    )
    assert [receiver.refused("forward", *options) for options in wrong] == [(2, "usage")] * len(wrong)
    assert (receiver.home / "identity.json").is_file()
