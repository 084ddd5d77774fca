"""The commands that speak MQTT, and streams: bytes, endless ones, full ones, and readers that stopped reading."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import termios
import time
from array import array
from collections.abc import Callable
from fcntl import F_GETPIPE_SZ, fcntl, ioctl
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest

from hsm_enroll.store.identity import Identity
from tests.client.iot.device import EnrolledDevice, enrolled_device
from tests.support import documents, scripted
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.scripted import CONNECT, SUBSCRIBE, Packet
from tests.support.softhsm import SoftHsm

_LARGEST = 128 * 1024
_TIME_LIMIT = 60.0


@pytest.fixture
def device(
    identity: Identity, broker: Broker, authority: Authority, softhsm: SoftHsm, tmp_path: Path
) -> EnrolledDevice:
    """An enrolled device whose broker is there."""
    return enrolled_device(identity, broker.port, authority, softhsm, tmp_path)


def test_subscribe_gives_each_message_as_a_line_when_it_comes(device: EnrolledDevice, broker: Broker) -> None:
    """With ``--json`` each message is a document and a line, text as text and other bytes in base64."""
    topic = f"device/{device.thing}/x"
    with device.start("subscribe", f"device/{device.thing}/+", "--count", "2", "--json") as subscriber:
        assert subscriber.stdout is not None
        broker.log.wait_for(f"Sending SUBACK to {device.thing}/subscribe-")
        device.run("publish", topic, "één")
        first = subscriber.stdout.readline()
        assert documents.read(["subscribe"], first) == [{"topic": topic, "payload": "één"}]
        _publish_bytes(device, topic, b"\xff\x00\x10")
        output, errors = subscriber.communicate(timeout=_TIME_LIMIT)
    assert (subscriber.returncode, errors) == (0, "")
    assert documents.read(["subscribe"], output) == [{"topic": topic, "payloadBase64": "/wAQ"}]


def test_a_binary_message_survives_raw(device: EnrolledDevice, broker: Broker) -> None:
    """``subscribe --raw`` writes the bytes of the messages and none besides."""
    topic = f"device/{device.thing}/x"
    with _start(device, "subscribe", topic, "--count", "2", "--raw") as subscriber:
        broker.log.wait_for(f"Sending SUBACK to {device.thing}/subscribe-")
        for message in (b"\xff\x00\r\n", b"\x1b[1m"):
            _publish_bytes(device, topic, message)
        output, _ = subscriber.communicate(timeout=_TIME_LIMIT)
    assert (subscriber.returncode, output) == (0, b"\xff\x00\r\n\x1b[1m")


def test_under_a_wildcard_each_message_has_its_topic(device: EnrolledDevice, broker: Broker) -> None:
    """A message that may be of several topics is shown with its own, and nothing in it steers the terminal."""
    with device.start("subscribe", f"device/{device.thing}/#", "--count", "1") as subscriber:
        broker.log.wait_for(f"Sending SUBACK to {device.thing}/subscribe-")
        _publish_bytes(device, f"device/{device.thing}/x/y", b"\x1b[1mbold\xff")
        output, _ = subscriber.communicate(timeout=_TIME_LIMIT)
    assert output == f"device/{device.thing}/x/y \\x1b[1mbold\\xff\n"


def test_raw_and_json_exclude_each_other(device: EnrolledDevice) -> None:
    """Bytes are no JSON: ``subscribe --raw --json`` is wrong usage."""
    assert device.refused("subscribe", "x", "--raw") == (2, "usage")


@pytest.mark.usefixtures("broker")
def test_a_full_stdout_does_not_hide_that_a_message_was_delivered(device: EnrolledDevice) -> None:
    """D30: with stdout full, ``publish`` says that the message was published, with ``--json`` too, and exits 53."""
    topic = f"device/{device.thing}/x"
    for number, options in enumerate(([], ["--json"])):
        with Path("/dev/full").open("wb") as full, device.start("publish", topic, "on", *options, stdout=full) as run:
            _, errors = run.communicate(timeout=_TIME_LIMIT)
        assert (run.returncode, "Traceback" in errors) == (53, False), number
        assert f"error: published 2 bytes to {topic}, but standard output cannot be written: No space left" in errors


@pytest.mark.usefixtures("broker")
def test_a_full_stderr_does_not_keep_a_message_back(device: EnrolledDevice) -> None:
    """D30: with stderr full, ``publish`` publishes and exits 0."""
    topic = f"device/{device.thing}/x"
    with Path("/dev/full").open("wb") as full, device.start("publish", topic, "on", stderr=full) as run:
        output, _ = run.communicate(timeout=_TIME_LIMIT)
    assert (run.returncode, output) == (0, f"published 2 bytes to {topic}\n")


def test_subscribe_keeps_no_message(device: EnrolledDevice, authority: Authority) -> None:
    """D29: what ``subscribe --json`` has printed takes no memory any more, however much it was."""
    payload, numbers = b"x" * 100_000, iter(range(1, 401))

    def script(packet: Packet) -> bytes | None:
        if packet.type == CONNECT:
            return scripted.connack(0)
        accepted = scripted.suback(packet, 1) if packet.type == SUBSCRIBE else b""
        number = next(numbers, None)
        return accepted if number is None else accepted + scripted.publish("x", payload, number)

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port, _start(device.at(port), "subscribe", "x", "--json") as subscriber:
        assert subscriber.stdout is not None
        subscriber.stdout.readline()
        before = _peak_memory(subscriber)
        for _ in range(399):
            subscriber.stdout.readline()
        assert _peak_memory(subscriber) - before < 400 * len(payload) // 3
        subscriber.terminate()
        subscriber.stdout.read()
    assert subscriber.returncode == 143


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_reader_that_stopped_does_not_hold_up_the_end(
    device: EnrolledDevice, broker: Broker, number: int, status: int
) -> None:
    """D29: ``subscribe`` whose output nobody reads any more ends at the first SIGTERM or Ctrl-C."""
    topic = f"device/{device.thing}/x"
    with _start(device, "subscribe", topic) as subscriber:
        broker.log.wait_for(f"Sending SUBACK to {device.thing}/subscribe-")
        assert subscriber.stdout is not None
        _publish_bytes(device, topic, b"x" * _LARGEST)  # twice what a pipe holds
        _wait_until(partial(_is_full, subscriber.stdout))
        subscriber.send_signal(number)
        assert subscriber.wait(_TIME_LIMIT) == status


@pytest.mark.parametrize("size", [_LARGEST + 1, None], ids=["one byte more", "endless"])
def test_a_message_that_is_too_large_is_refused_unsent(device: EnrolledDevice, size: int | None) -> None:
    """D29: more than 128 KiB on stdin, or an endless stdin, is wrong usage."""
    with Path("/dev/zero").open("rb") as endless:
        stdin = endless if size is None else subprocess.PIPE
        with _start(device, "publish", "x", "--json", stdin=stdin) as run:
            output, _ = run.communicate(None if size is None else b"x" * size, timeout=_TIME_LIMIT)
    assert (run.returncode, json.loads(output)["error"]["code"]) == (2, "usage")


def test_a_publish_that_waits_for_stdin_ends_at_sigterm(device: EnrolledDevice) -> None:
    """D20: ``publish`` ends with 143 while it reads its message."""
    with _start(device, "publish", "x", stdin=subprocess.PIPE) as run:
        assert run.stdin is not None
        run.stdin.write(b"the beginning")
        run.stdin.flush()
        _wait_until(partial(_is_empty, run.stdin))
        run.terminate()
        assert run.wait(_TIME_LIMIT) == 143


def _publish_bytes(device: EnrolledDevice, topic: str, payload: bytes) -> None:
    with _start(device, "publish", topic, stdin=subprocess.PIPE) as run:
        run.communicate(payload, timeout=_TIME_LIMIT)
    assert run.returncode == 0


def _start(device: EnrolledDevice, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-m", "hsm_enroll", *arguments], env=device.environment, **pipes)


def _peak_memory(process: subprocess.Popen[bytes]) -> int:
    """Return the most memory that a process has had, in bytes (proc(5), VmHWM)."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    [peak] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak) * 1024


def _waiting(pipe: IO[bytes]) -> int:
    """Return how many bytes are in a pipe, asked at either end."""
    count = array("i", [0])
    ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def _is_full(pipe: IO[bytes]) -> bool:
    return _waiting(pipe) == fcntl(pipe, F_GETPIPE_SZ)


def _is_empty(pipe: IO[bytes]) -> bool:
    return _waiting(pipe) == 0


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIME_LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
