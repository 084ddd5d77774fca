"""``hsm-enroll forward`` with a real token, the real broker and the deployed policy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits, Properties
from tests.support.devices import Cloud, Device, Observer, connection
from tests.support.forwarders import RunningForwarder
from tests.support.screen import Screen
from tests.support.service_manager import ServiceManager
from tests.support.writers import payloads, writing

_COUNT = 60
_TIME_LIMIT = 90.0


@pytest.fixture
def sender(device: Device, thing: str) -> Device:
    """An enrolled device."""
    device.extra["PYTHONPATH"] = str(Path(__file__).parents[2])
    device.json("init", "--thing", thing)
    return device


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    """A service manager."""
    with ServiceManager() as running:
        yield running


def _queue(device: Device, topic: str, message: str) -> None:
    run = device.run("publish", "--queue", topic, message)
    assert run.returncode == 0, run.stderr


def _allow(cloud: Cloud, thing: str, topic: str) -> None:
    """Let a device publish to a topic, by a policy of its own."""
    iot = cloud.aws("iot")
    (certificate,) = iot.list_thing_principals(thingName=thing)["principals"]
    resource = f"arn:aws:iot:{cloud.environment['AWS_REGION']}:123456789012:topic/{topic}"
    statement = {"Effect": "Allow", "Action": "iot:Publish", "Resource": resource}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    iot.create_policy(policyName=thing, policyDocument=json.dumps(document))
    iot.attach_policy(policyName=thing, target=certificate)


def _values(metrics: Path) -> dict[str, float]:
    lines = (line.split(" ") for line in metrics.read_text().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def test_messages_are_delivered_through_a_renewal_and_past_a_refused_topic(
    sender: Device, cloud: Cloud, thing: str, observe: Callable[[str], Observer], tmp_path: Path
) -> None:
    """D21: all arrives in order though the identity is renewed meanwhile; what the policy forbids is set aside.

    Once the policy allows it, it is sent, too, by the forwarder that runs.
    """
    metrics = tmp_path / "hsm-enroll.prom"
    topics = [f"device/{thing}/{name}" for name in "ab"]
    observer = observe(f"device/{thing}/#")
    elsewhere = observe("elsewhere/no")
    for message in ("one", "two"):
        _queue(sender, "elsewhere/no", message)
    with RunningForwarder(sender, "--metrics-file", str(metrics)) as forwarder:
        with writing(sender.environment, topics, _COUNT, pause=0.1):
            forwarder.wait_for("connected")
            sender.json("renew")
            forwarder.wait_for("renewed")
            forwarder.wait_for("connected", 2)
        heard: dict[str, list[bytes]] = {topic: [] for topic in topics}
        while sum(map(len, heard.values())) < 2 * _COUNT:
            topic, payload = observer.message()
            if payload.encode() not in heard[topic]:
                heard[topic].append(payload.encode())
        assert heard == dict.fromkeys(topics, payloads(_COUNT))

        aside = forwarder.wait_for("set-aside")
        assert (aside["topic"], aside["reason"]) == ("elsewhere/no", "NOT_AUTHORIZED")
        # The second refusal of the same kind is no event.
        shown = next(shown for _ in range(50) if not (shown := sender.json("status"))["outbox"]["messages"])
        assert (shown["forward"]["running"], shown["forward"]["connected"]) == (True, True)
        assert (shown["outbox"]["messages"], shown["outbox"]["refused"]) == (0, 2)

        refused = sender.json("outbox", "refused")["messages"]
        assert [(each["topic"], each["reason"]) for each in refused] == [("elsewhere/no", "NOT_AUTHORIZED")] * 2
        assert elsewhere.heard_nothing()
        _allow(cloud, thing, "elsewhere/no")
        assert sender.json("outbox", "retry") == {"queued": 2}
        assert [elsewhere.message()[1] for _ in refused] == ["one", "two"]
        assert forwarder.stop(signal.SIGTERM) == 143
        assert forwarder.events("stopped")[0]["sent"] >= 2 * _COUNT
    values = _values(metrics)
    assert values["hsm_enroll_forward_connected"] == 0
    assert values["hsm_enroll_forward_sent_total"] >= 2 * _COUNT
    assert values["hsm_enroll_outbox_messages"] == 0
    assert values["hsm_enroll_outbox_refused_total"] == 2
    assert metrics.stat().st_mode & 0o777 == 0o644
    assert sender.json("status")["forward"]["running"] is False
    # Three for the first, and for the second one or two: it may have been on its way when the first was refused.
    assert cloud.log("mqtt").count("is not allowed: iot:Publish to 'elsewhere/no'") in {4, 5}
    assert sender.json("outbox", "refused") == {"messages": []}


def test_one_forwarder_runs_for_a_state_folder(sender: Device, thing: str) -> None:
    """D13: a second one is refused, and retire is, while the first one runs."""
    with RunningForwarder(sender) as forwarder:
        forwarder.wait_for("connected")
        error = sender.error("forward")
        assert (error["exitStatus"], error["code"]) == (51, "busy")
        assert "forward is running" in error["message"]
        assert sender.refused("retire", "--yes") == (51, "busy")
        # Its client id is the Thing's name, and another program's is its own.
        assert sender.run("publish", f"device/{thing}/x", "x").returncode == 0
        assert forwarder.stop(signal.SIGINT) == 130
        assert forwarder.events("lost") == []


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_reader_that_does_not_read_does_not_hold_it_up(
    sender: Device, thing: str, observe: Callable[[str], Observer], has_ended: bool
) -> None:
    """D30: with its output's pipe full, or with nobody at its end, a message is sent, and it ends in order."""
    topic = f"device/{thing}/x"
    observer = observe(topic)
    reader, writer = os.pipe()
    if has_ended:
        os.close(reader)
    else:
        _fill(writer)
    with sender.start("forward", "--json", stdout=writer, stderr=writer) as process:
        os.close(writer)
        try:
            _queue(sender, topic, "one")
            assert observer.message()[1] == "one"
            process.send_signal(signal.SIGTERM)
            assert process.wait(_TIME_LIMIT) == 143
        finally:
            process.kill()
    if not has_ended:
        os.close(reader)


def _fill(writer: int) -> None:
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)


def test_expiry_and_properties_arrive(sender: Device, cloud: Cloud, thing: str) -> None:
    """What was queued with a message goes with it (MQTT 5.0 §3.3.2.3); what has expired is not sent."""
    topic, answers = f"device/{thing}/x", f"device/{thing}/answers"
    properties = Properties("text/plain", answers, b"id", (("unit", "°C"), ("place", "hall 3")))
    with Outbox.open(sender.home, OutboxLimits(1024 * 1024)) as outbox:
        outbox.add(
            NewMessage(topic, b"late", expires_after=0.001),
            NewMessage(topic, b"21.5", expires_after=3600.0, properties=properties),
        )
    command = ["mosquitto_sub", "-V", "5", "-q", "1", "-C", "1", "-t", topic, "-F", "%p|%E|%C|%R|%D|%P", "-d"]
    with subprocess.Popen(
        ["stdbuf", "-oL", *command, *connection(cloud.document)], stdout=subprocess.PIPE, text=True
    ) as observer:
        assert observer.stdout is not None
        while not observer.stdout.readline().startswith("Subscribed"):
            pass
        with RunningForwarder(sender) as forwarder:
            heard = [line for line in observer.stdout if "|" in line]
            assert forwarder.stop(signal.SIGTERM) == 143
    payload, expiry, *others = heard[0].rstrip("\n").split("|")
    assert payload == "21.5"
    assert 3500 < int(expiry) <= 3600
    assert others == ["text/plain", answers, "id", "unit:°C place:hall 3"]
    assert sender.json("status")["outbox"]["expired"] == 1


def test_a_forwarder_beside_another_one(sender: Device) -> None:
    """On a terminal the first says how to end it; a second one that would subscribe says how the first one does it."""
    with Screen(sender, "forward") as screen:
        screen.expect(", until Ctrl-C")
        screen.expect("connected to")
        error = sender.error("forward", "--subscribe", "a/#", "--socket", str(sender.folder / "socket"))
        assert error["code"] == "busy"
        assert "sudo systemctl edit hsm-enroll-forward.service" in error["hint"]
        assert "systemctl" not in sender.error("forward")["hint"]
        screen.type("\x03")
        assert screen.end() == 130


def test_who_is_not_enrolled_has_nothing_to_send(device: Device) -> None:
    """Exit 3; and a metrics file in a folder that does not exist is a mistake of the command line."""
    assert device.refused("forward") == (3, "not-enrolled")
    assert device.refused("forward", "--metrics-file", "/nowhere/x.prom") == (2, "usage")


def test_forward_tells_the_service_manager_how_it_is(sender: Device, manager: ServiceManager) -> None:
    """It is ready, then connected, then again and again makes progress; SIGTERM has it say that it ends."""
    sender.extra |= manager.environment
    with RunningForwarder(sender) as forwarder:
        assert manager.receive()[:2] == ["READY=1", "WATCHDOG=1"]
        manager.wait_for("STATUS=connected since ")
        manager.wait_for("WATCHDOG=1")
        assert forwarder.stop(signal.SIGTERM) == 143
        manager.wait_for("STOPPING=1")
    assert manager.lines.count("READY=1") == 1


def test_forward_is_ready_without_a_network(sender: Device, manager: ServiceManager) -> None:
    """A gateway that boots without a network has a service that runs, and says why it is not connected."""
    sender.extra |= {**manager.environment, "HSM_ENROLL_MQTT_PORT": "1"}
    with RunningForwarder(sender) as forwarder:
        assert manager.receive()[:2] == ["READY=1", "WATCHDOG=1"]
        assert "localhost:1" in manager.wait_for("STATUS=not connected: ")
        assert forwarder.stop(signal.SIGTERM) == 143
