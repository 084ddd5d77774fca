"""The library's examples, run as they are written on an enrolled device."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import hsm_enroll
from tests.support.devices import Cloud, Device, Observer, publish_as_observer
from tests.support.pages import ROOT

_SHADOW = ROOT / "docs" / "examples" / "shadow.py"
_TIME_LIMIT = 60

Observe = Callable[[str], Observer]


def _started(device: Device, program: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, program], env=device.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_packages_own_example_enrolls_publishes_and_receives(
    device: Device, thing: str, cloud: Cloud, observe: Observe, tmp_path: Path
) -> None:
    """The program in the package's docstring enrolls the device, sends a value and prints the command that comes."""
    assert hsm_enroll.__doc__
    [block] = re.findall(r"::\n\n((?:    .*\n|\n)+)", hsm_enroll.__doc__)
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(block))
    device.extra["HSM_ENROLL_THING"] = thing
    observer = observe(f"device/{thing}/#")
    with _started(device, program) as running:
        assert observer.message() == (f"device/{thing}/temperature", "21.5")
        publish_as_observer(cloud.document, f"device/{thing}/commands", "open")
        output, errors = running.communicate(timeout=_TIME_LIMIT)
    assert (running.returncode, output, errors) == (0, "open\n", "")


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


def _answer(cloud: Cloud, topic: str, document: dict[str, object]) -> None:
    """Answer as the shadow service does, which moto does not have over MQTT."""
    publish_as_observer(cloud.document, topic, json.dumps(document))


def _token(request: str) -> dict[str, object]:
    """What ties an answer to its request (AWS IoT developer guide, "Device Shadow service documents")."""
    return {"clientToken": json.loads(request)["clientToken"]}
