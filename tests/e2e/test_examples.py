"""The library's examples, run as they are written on an enrolled device."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import hsm_enroll
from hsm_enroll import aio
from tests.support.cable import cable
from tests.support.devices import Cloud, Device, Observer, publish_as_observer
from tests.support.pages import ROOT

_EXAMPLES = ROOT / "docs" / "examples"
_SHADOW = _EXAMPLES / "shadow.py"
_TIME_LIMIT = 60

Observe = Callable[[str], Observer]


@contextmanager
def _started(device: Device, program: Path) -> Iterator[subprocess.Popen[str]]:
    command, pipe = [sys.executable, str(program)], subprocess.PIPE
    with subprocess.Popen(command, env=device.environment, stdout=pipe, stderr=pipe, text=True) as running:
        try:
            yield running
        finally:
            running.kill()  # a test that fails would wait for it without end


def test_the_packages_own_example_enrolls_publishes_and_receives(
    device: Device, thing: str, cloud: Cloud, observe: Observe, tmp_path: Path
) -> None:
    """The program in the package's docstring enrolls the device, sends a value and prints the command that comes."""
    program = _example_of(hsm_enroll.__doc__, tmp_path)
    device.extra["HSM_ENROLL_THING"] = thing
    observer = observe(f"device/{thing}/#")
    with _started(device, program) as running:
        assert observer.message() == (f"device/{thing}/temperature", "21.5")
        publish_as_observer(cloud.document, f"device/{thing}/commands", "open")
        output, errors = running.communicate(timeout=_TIME_LIMIT)
    assert (running.returncode, output, errors) == (0, "open\n", "")


def test_the_asyncio_modules_own_example_answers_commands(
    device: Device, thing: str, cloud: Cloud, observe: Observe, tmp_path: Path
) -> None:
    """The program in the docstring of ``hsm_enroll.aio`` answers each command until it is stopped."""
    device.json("init", "--thing", thing, "--no-publish")
    done, online = observe(f"device/{thing}/done"), observe(f"device/{thing}/online")
    program = _example_of(aio.__doc__, tmp_path)
    with _started(device, program) as running:
        assert online.message() == (f"device/{thing}/online", "yes")
        for command in ("open", "close"):
            publish_as_observer(cloud.document, f"device/{thing}/commands", command)
            assert done.message() == (f"device/{thing}/done", command)
        running.terminate()
        running.communicate(timeout=_TIME_LIMIT)


def _example_of(docstring: str | None, folder: Path) -> Path:
    """Write the one program in a docstring into a file."""
    assert docstring
    [block] = re.findall(r"::\n\n((?:    .*\n|\n)+)", docstring)
    program = folder / "program.py"
    program.write_text(textwrap.dedent(block))
    return program


@pytest.mark.parametrize(
    ("answer", "outcome", "desired"),
    [
        ("accepted", {"state": {"desired": {"target": 21.5}}, "version": 6}, {"target": 21.5}),
        ("rejected", {"code": 404, "message": "No shadow exists with name: 'thing'"}, {}),
    ],
    ids=["a shadow", "no shadow yet"],
)
def test_awss_shadow_client_works_on_our_connection(
    device: Device,
    thing: str,
    cloud: Cloud,
    observe: Observe,
    answer: str,
    outcome: dict[str, object],
    desired: dict[str, object],
) -> None:
    """The shadow example reads what its Thing's shadow desires, nothing where there is none, and reports it."""
    device.json("init", "--thing", thing, "--no-publish")
    shadow = f"$aws/things/{thing}/shadow"
    gets, updates = observe(f"{shadow}/get"), observe(f"{shadow}/update")
    with _started(device, _SHADOW) as running:
        _, asked = gets.message()
        _answer(cloud, f"{shadow}/get/{answer}", {**outcome, **_token(asked)})
        _, reported = updates.message()
        _answer(cloud, f"{shadow}/update/accepted", {"version": 7, **_token(reported)})
        output, errors = running.communicate(timeout=_TIME_LIMIT)
    assert (running.returncode, errors) == (0, "")
    assert json.loads(reported)["state"] == {"reported": desired}
    assert output == f"desired: {desired}\nreported, version 7\n"


def test_the_shadow_example_says_that_nothing_answers(device: Device, thing: str) -> None:
    """On the local cloud, which has no shadow service, the example ends by itself and says why."""
    device.json("init", "--thing", thing, "--no-publish")
    with _started(device, _SHADOW) as running:
        output, errors = running.communicate(timeout=_TIME_LIMIT)
    assert (running.returncode, output) == (1, "")
    assert "the shadow service did not answer within 5 s" in errors
    assert "the local cloud has none" in errors
    assert "Traceback" not in errors


def test_the_subscribers_example_outlasts_an_outage(device: Device, thing: str, cloud: Cloud, observe: Observe) -> None:
    """The example answers commands before and after an outage, tells of it, and leaves no will behind when it stops."""
    device.json("init", "--thing", thing, "--no-publish")
    topics = f"device/{thing}"
    observer = observe(f"{topics}/#")
    with cable(cloud.document["mqttPort"]) as laid:
        device.extra["HSM_ENROLL_MQTT_PORT"] = str(laid.port)
        with _started(device, _EXAMPLES / "subscriber.py") as running:
            assert running.stdout is not None
            assert running.stdout.readline() == "connected\n"
            assert observer.message() == (f"{topics}/status", "online")
            _command(cloud, observer, topics, "one")
            laid.cut()
            assert observer.message() == (f"{topics}/status", "lost")
            assert running.stdout.readline().startswith("lost: the connection to localhost:")
            while (line := running.stdout.readline()) != "resumed\n":
                assert line.startswith("failed: ")
            _command(cloud, observer, topics, "two", before=(f"{topics}/done", "one"))
            publish_as_observer(cloud.document, f"{topics}/commands", "stop")
            output, errors = running.communicate(timeout=_TIME_LIMIT)
    assert (running.returncode, output, errors) == (0, "", "")
    assert [observer.message() for _ in range(2)] == [(f"{topics}/commands", "stop"), (f"{topics}/status", "offline")]


def _command(
    cloud: Cloud, observer: Observer, topics: str, command: str, before: tuple[str, str] | None = None
) -> None:
    """Send a command, and wait for the answer; the message before may come again, if its PUBACK was lost."""
    publish_as_observer(cloud.document, f"{topics}/commands", command)
    message = observer.message()
    if message == before:
        message = observer.message()
    assert message == (f"{topics}/commands", command)
    assert observer.message() == (f"{topics}/done", command)


def test_the_asyncio_example_measures_and_listens_at_once(
    device: Device, thing: str, cloud: Cloud, observe: Observe
) -> None:
    """The example goes on publishing while it waits for commands, prints each of them, and stops when told to."""
    device.json("init", "--thing", thing, "--no-publish")
    measured = observe(f"device/{thing}/temperature")
    with _started(device, _EXAMPLES / "asyncio_gateway.py") as running:
        assert [measured.message() for _ in range(2)] == [
            (f"device/{thing}/temperature", value) for value in ("21.0", "21.1")
        ]
        for command in ("open", "stop"):
            publish_as_observer(cloud.document, f"device/{thing}/commands", command)
        output, errors = running.communicate(timeout=_TIME_LIMIT)
    assert (running.returncode, output, errors) == (0, "command: open\ncommand: stop\n", "")


def test_a_program_needs_no_configuration(new_device: Callable[[str], Device], thing: str, cloud: Cloud) -> None:
    """API, PIN and the token's creation can be arguments: nothing else is set, and the PIN is stored nowhere."""
    device = new_device("bare")
    device.folder.mkdir(exist_ok=True)
    device.cloud = cloud.gateway_environment
    program = device.folder / "bare.py"
    program.write_text(_BARE.format(thing=thing, api=cloud.document["apiUrl"]))
    with _started(device, program) as running:
        output, errors = running.communicate(timeout=_TIME_LIMIT)
    assert (running.returncode, output, errors) == (0, f"{thing} True\nrefused\nasked for hsm-enroll\nreceived\n", "")
    assert not (device.home / "pin").exists()


_BARE = """
from hsm_enroll import PinMissingError, Secret, TokenName, connect, enroll

def pin(token: TokenName) -> Secret:
    print("asked for", token.label)
    return Secret("31415-made-by-the-program")

identity = enroll({thing!r}, api={api!r}, pin=Secret("31415-made-by-the-program"), create_token=True)
again = enroll({thing!r}, api={api!r}, pin=pin)
print(identity.thing_name, again == identity)
try:
    connect(identity)
except PinMissingError:
    print("refused")
with connect(identity, pin=pin, purpose="bare") as connection:
    with connection.subscribe(f"device/{{identity.thing_name}}/x") as messages:
        connection.publish(messages.topic, b"received", qos=0)
        print(messages.receive().payload.decode())
"""


def _answer(cloud: Cloud, topic: str, document: dict[str, object]) -> None:
    """Answer as the shadow service does, which moto does not have over MQTT."""
    publish_as_observer(cloud.document, topic, json.dumps(document))


def _token(request: str) -> dict[str, object]:
    """What ties an answer to its request (AWS IoT developer guide, "Device Shadow service documents")."""
    return {"clientToken": json.loads(request)["clientToken"]}
