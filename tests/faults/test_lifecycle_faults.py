"""Renewing and retiring with a disk that fails, an API that is away, and answers that are lost: D10, D16, D20."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest

from tests.support import documents
from tests.support.devices import Cloud, Device
from tests.support.failing_calls import failing

_ARGUMENTS = {"renew": ("renew",), "retire": ("retire", "--yes")}
_BARE = ["lock", "pin", "token.json"]


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
        pytest.param("retire", errno.EROFS, id="retire, read-only"),
    ],
)
def test_a_disk_that_takes_nothing_costs_nothing(
    command: str, number: int, enrolled: Device, cloud: Cloud, thing: str
) -> None:
    """D10: on a full, read-only or broken disk it is exit 50, and key, certificate and identity are as before."""
    before = _identity(enrolled)
    for fault in (failing(fsync=number), failing(open=f"+{number}:.tmp"), failing(write=number)):
        with _with(enrolled, fault):
            error = enrolled.error(*_ARGUMENTS[command])
        assert (error["exitStatus"], error["code"]) == (50, "state-unusable")
    assert _identity(enrolled) == before
    assert enrolled.key_ids() == [before["key_id"]]
    _assert_done("", enrolled, cloud, thing)
    assert enrolled.run(*_ARGUMENTS[command]).returncode == 0
    _assert_done(command, enrolled, cloud, thing)


@pytest.mark.parametrize("command", ["renew", "retire"])
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_the_nth_write_fails(command: str, call: str, enrolled: Device, cloud: Cloud, thing: str) -> None:
    """D10: EIO at the n-th write, fsync or rename is an error, and the next run goes on until all is done."""
    failures = 0
    for number in count(1):
        with _with(enrolled, failing(**{call: f"{errno.EIO}:{number}"})):
            run = enrolled.run(*_ARGUMENTS[command], "--json")
        assert "Traceback" not in run.stderr
        document = documents.read(_ARGUMENTS[command], run.stdout)
        if run.returncode == 0:
            break
        if document["error"]["code"] == "not-enrolled":
            break  # the last file was removed, and only that could not be made durable
        failures += 1
        assert document["error"]["code"] in {"state-unusable", "token-refused"}, document
    assert failures >= {"renew": 3, "retire": 1}[command]
    _assert_done(command, enrolled, cloud, thing)


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


def test_every_answer_is_lost_once(enrolled: Device, cloud: Cloud, thing: str) -> None:
    """D16: each request that was carried out although its answer was lost is sent again, and has no other effect."""
    for command, points in (("renew", ("before step certificate", "before step commit")), ("retire", (None,))):
        for point in points:
            if point is not None:
                _killed(enrolled, point)
            _lose_next_answer(cloud)
            if point == "before step certificate":
                _killed(enrolled, "after step certificate")
        run = enrolled.run(*_ARGUMENTS[command])
        assert run.returncode == 0, run.stderr
        _assert_done(command, enrolled, cloud, thing)


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
