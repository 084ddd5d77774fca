"""Servers that accept a connection and then say nothing: a command says within seconds what it is waiting for."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from tests.support.authority import Authority
from tests.support.devices import Device, Machine, Operator
from tests.support.https_server import https_server, response


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are accepted and nothing else happens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def _first_word_of(machine: Machine, what: str, *arguments: str) -> str:
    """Start a command, wait until it says what it is waiting for, end it with Ctrl-C, and return the line."""
    run = machine.start(*arguments)
    assert run.stderr is not None
    told = next((line for line in run.stderr if line.startswith(f"  {what}")), "")
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130
    return told


def test_a_silent_api_is_named_while_it_is_waited_for(device: Device, thing: str, silent_port: int) -> None:
    """D15: init, also without a terminal, says which API it is waiting for, and for how long at most."""
    api = f"https://localhost:{silent_port}"
    told = _first_word_of(device, "waiting for", "init", "--api", api, "--thing", thing)
    assert told == f"  waiting for the API at {api}, up to 45 s\n"


def test_a_silent_broker_is_named_while_it_is_waited_for(device: Device, thing: str, silent_port: int) -> None:
    """D15: so do publish, subscribe and the first message of init."""
    device.json("init", "--thing", thing, "--no-publish")
    device.extra.update(HSM_ENROLL_MQTT_ENDPOINT="localhost", HSM_ENROLL_MQTT_PORT=str(silent_port))
    for arguments in (("publish", "a", "x"), ("subscribe", "a"), ("init", "--new-key", "--thing", f"{thing}-b")):
        told = _first_word_of(device, "waiting for", *arguments)
        assert told == f"  waiting for the broker at localhost:{silent_port}, up to 20 s\n", arguments


def test_a_busy_api_is_told_with_the_next_try(device: Device, thing: str) -> None:
    """D16: while the API is busy, init says why it waits and when it tries again."""
    authority = Authority(device.folder / "authority")
    busy = response("503 Service Unavailable", "", "Retry-After: 2")
    with https_server(authority, busy, is_ready=True) as server:
        device.extra["HSM_ENROLL_CA_FILE"] = str(authority.certificate)
        told = _first_word_of(device, server.url, "init", "--api", server.url, "--thing", thing)
    assert told.startswith(f"  {server.url} is busy (status 503); trying again in 2 s")


def test_operators_and_doctor_are_told_too(operator: Operator, device: Device, silent_port: int) -> None:
    """D15: a command of the operator's names the API that it is waiting for; doctor says that a check takes long."""
    api = f"https://localhost:{silent_port}"
    told = _first_word_of(operator, "waiting for", "fleet", "list", "--api", api)
    assert told == f"  waiting for the API at {api}, up to 45 s\n"
    device.extra["HSM_ENROLL_API_URL"] = api
    told = _first_word_of(device, "waiting for", "doctor", "--online")
    assert told == "  waiting for the next check, up to 45 s\n"


def test_nothing_is_said_with_quiet_and_json(operator: Operator, silent_port: int) -> None:
    """They began to wait before the one that speaks, and say nothing of it."""
    command = ("fleet", "list", "--api", f"https://localhost:{silent_port}")
    silent = [operator.start(*command, option) for option in ("--quiet", "--json")]
    assert _first_word_of(operator, "waiting for", *command)
    for run in silent:
        run.send_signal(signal.SIGINT)
        assert "waiting" not in run.communicate(timeout=60)[1]
