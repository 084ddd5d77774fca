"""Renew, recover and retire with a failing disk, no API, lost answers and signals: D10, D16, D20."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, product
from typing import Any

import pytest

from tests.support import documents
from tests.support.devices import Cloud, Device
from tests.support.failing_calls import failing

_ARGUMENTS = {"renew": ("renew",), "recover": ("recover",), "retire": ("retire", "--yes")}
_BARE = ["lock", "pin", "token.json"]
# Runs the command in this process, whose group gets the signal once a step has had its effect, but is not over.
_INTERRUPTED = """
import os, sys
from contextlib import contextmanager
from hsm_enroll.__main__ import main
from hsm_enroll.device.steps import Steps

name, number = sys.argv[1], int(sys.argv[2])
step = Steps.step

@contextmanager
def interrupted(self, running):
    with step(self, running):
        yield
        if running == name:
            os.killpg(0, number)

Steps.step = interrupted
sys.argv = ["hsm-enroll", *sys.argv[3:]]
main()
"""


@pytest.fixture
def enrolled(device: Device, thing: str) -> Device:
    """A device that is enrolled."""
    device.json("init", "--thing", thing, "--no-publish")
    return device


def _principals(cloud: Cloud, thing: str) -> list[str]:
    found = cloud.aws("iot").list_thing_principals(thingName=thing)["principals"]
    return [principal.rpartition("/")[2] for principal in found]


def _identity(device: Device) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((device.home / "identity.json").read_text())
    return written


def _files(device: Device) -> dict[str, bytes]:
    """Return what is in the state folder, but for the lock with which retire keeps the forwarder from running."""
    return {file.name: file.read_bytes() for file in device.home.iterdir() if file.name != "forward.lock"}


def _prepare(command: str, device: Device) -> None:
    """Have the device be as a command finds it."""
    if command == "recover":
        for name in ("identity.json", "certificate.pem"):
            (device.home / name).unlink(missing_ok=True)


def _assert_done(command: str, device: Device, cloud: Cloud, thing: str) -> None:
    """One key and one certificate, which works; or neither if the device is retired. Nothing is under way."""
    names = sorted(file.name for file in device.home.iterdir())
    if command == "retire":
        assert (names, device.key_ids(), _principals(cloud, thing)) == (_BARE, [], [])
        return
    identity = _identity(device)
    assert names == sorted([*_BARE, "certificate.pem", "identity.json"])
    assert device.key_ids() == [identity["key_id"]]
    assert _principals(cloud, thing) == [identity["certificate_id"]]
    assert cloud.certificates()[identity["certificate_id"]] == "ACTIVE"
    assert device.run("publish", f"certtest/{thing}", "hello").returncode == 0


@contextmanager
def _with(device: Device, environment: dict[str, str]) -> Iterator[None]:
    device.extra.update(environment)
    yield
    for name in environment:
        del device.extra[name]


@pytest.mark.parametrize(
    ("command", "number"),
    [
        pytest.param("renew", errno.ENOSPC, id="renew, full"),
        pytest.param("renew", errno.EIO, id="renew, broken"),
        pytest.param("recover", errno.ENOSPC, id="recover, full"),
        pytest.param("retire", errno.EROFS, id="retire, read-only"),
    ],
)
def test_a_disk_that_takes_nothing_costs_nothing(
    command: str, number: int, enrolled: Device, cloud: Cloud, thing: str
) -> None:
    """D10: on a full, read-only or broken disk it is exit 50, and what there is of key and identity is as before."""
    identity = _identity(enrolled)
    _prepare(command, enrolled)
    before = _files(enrolled)
    for fault in (failing(fsync=number), failing(open=f"+{number}:.tmp"), failing(write=number)):
        with _with(enrolled, fault):
            error = enrolled.error(*_ARGUMENTS[command])
        assert (error["exitStatus"], error["code"]) == (50, "state-unusable")
    assert _files(enrolled) == before
    assert enrolled.key_ids() == [identity["key_id"]]
    assert cloud.certificates()[identity["certificate_id"]] == "ACTIVE"
    assert _principals(cloud, thing) == [identity["certificate_id"]]
    assert enrolled.run(*_ARGUMENTS[command]).returncode == 0
    _assert_done(command, enrolled, cloud, thing)


@pytest.mark.parametrize(
    ("command", "call"), [*product(("renew", "retire"), ("write", "fsync", "rename")), ("recover", "write")]
)
def test_the_nth_write_fails(command: str, call: str, enrolled: Device, cloud: Cloud, thing: str) -> None:
    """D10: EIO at the n-th write, fsync or rename is an error, and the next run goes on until all is done."""
    failures = _failures(enrolled, call, command, *_ARGUMENTS[command][1:])
    assert failures >= {"renew": 3, "recover": 2, "retire": 1}[command]
    _assert_done(command, enrolled, cloud, thing)


def test_the_nth_write_of_an_enrollment_fails(device: Device, cloud: Cloud, thing: str) -> None:
    """D10: EIO at the n-th write of init is an error, and the next run goes on until the device is enrolled."""
    assert _failures(device, "write", "init", "--thing", thing, "--no-publish") >= 3
    _assert_done("init", device, cloud, thing)


def test_the_api_is_away_at_each_step_of_a_renewal(enrolled: Device, cloud: Cloud, thing: str) -> None:
    """D16: the old identity stays and works until the commit, and the next run goes on with the same key."""
    before = _identity(enrolled)
    for point in ("before step certificate", "before step commit"):
        _killed(enrolled, point)
        with _away(enrolled):
            error = enrolled.error("renew")
        assert (error["exitStatus"], error["code"]) == (30, "backend-unreachable")
        assert _identity(enrolled) == before
        assert enrolled.run("publish", f"certtest/{thing}", "as ever").returncode == 0
    (new,) = set(enrolled.key_ids()) - {before["key_id"]}
    assert enrolled.run("renew").returncode == 0
    assert _identity(enrolled)["key_id"] == new
    _assert_done("renew", enrolled, cloud, thing)


@pytest.mark.parametrize(
    ("command", "step", "number"),
    [
        ("renew", "key", signal.SIGINT),
        ("renew", "commit", signal.SIGINT),
        ("recover", "certificate", signal.SIGTERM),
        ("retire", "destroy", signal.SIGTERM),
        ("retire", "destroy", signal.SIGINT),
    ],
)
def test_a_signal_after_the_effect_of_a_step(
    command: str, step: str, number: signal.Signals, enrolled: Device, cloud: Cloud, thing: str
) -> None:
    """D20: Ctrl-C or SIGTERM before a step's effect is noted is exit 130 or 143, and the next run finishes."""
    _prepare(command, enrolled)
    run = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, step, str(int(number)), *_ARGUMENTS[command]],
        env=enrolled.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        start_new_session=True,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (128 + number, "")
    assert "failed\n" in run.stderr
    assert "Traceback" not in run.stderr
    again = enrolled.run(*_ARGUMENTS[command])
    assert again.returncode == 0, again.stderr
    _assert_done(command, enrolled, cloud, thing)


def test_every_answer_is_lost_once(enrolled: Device, cloud: Cloud, thing: str) -> None:
    """D16: each request that was carried out although its answer was lost is sent again, and has no other effect."""
    for command, route, statuses in (
        ("renew", "/v1/renewals", [201, 200]),
        ("renew", "/v1/renewals/commit", [204, 204]),
        ("recover", "/v1/recoveries", [200, 200]),
        ("retire", "/v1/retirements", [204, 204]),
    ):
        _prepare(command, enrolled)
        if route == "/v1/renewals/commit":
            _killed(enrolled, "before step commit")
        faults, handled = len(cloud.log("gateway")), len(cloud.log("handler"))
        _lose_next_answer(cloud)
        run = enrolled.run(*_ARGUMENTS[command])
        assert run.returncode == 0, run.stderr
        assert cloud.log("gateway")[faults:].count("fault on request: lost") == 1
        entries = [json.loads(line) for line in cloud.log("handler")[handled:].splitlines()]
        assert [entry["status"] for entry in entries if entry.get("route") == route] == statuses
        _assert_done(command, enrolled, cloud, thing)


def _failures(device: Device, call: str, command: str, *options: str) -> int:
    """Run a command with EIO at its first call of a kind, its second, and so on until it succeeds; count failures."""
    for number in count(1):
        _prepare(command, device)
        with _with(device, failing(**{call: f"{errno.EIO}:{number}"})):
            run = device.run(command, *options, "--json")
        assert "Traceback" not in run.stderr
        if run.returncode == 0:
            return number - 1
        code = documents.read((command, *options), run.stdout)["error"]["code"]
        if code == "not-enrolled":
            return number - 1  # the last file was removed, and only that could not be made durable
        assert code in {"state-unusable", "token-refused"}, run.stdout
    raise AssertionError


def _killed(device: Device, point: str) -> None:
    """Run ``renew`` as far as a fault point."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_points", "renew"], env={**device.environment, "KILL_AT": point},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False, start_new_session=True,
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL, run.stderr


@contextmanager
def _away(device: Device) -> Iterator[None]:
    """Let the device's API be one that does not answer."""
    file = device.home / "identity.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), "api": "https://localhost:9"}))
    yield
    file.write_text(before)


def _lose_next_answer(cloud: Cloud) -> None:
    command = [sys.executable, "-m", "hsm_enroll", "local", "fail", "--next", "lost", "--home", cloud.document["home"]]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
