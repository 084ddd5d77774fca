"""``init --wait``: how long it goes on while the API is busy, what it says of it, and how it ends."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from tests.support.authority import Authority
from tests.support.devices import Device
from tests.support.https_server import HttpsServer, https_server, response

_BUSY = response("429 Too Many Requests", '{"message": "Too Many Requests"}')
_QUEUED = response("429 Too Many Requests", "", "Retry-After: 3600")


@pytest.fixture
def authority(device: Device) -> Authority:
    """A CA that the device trusts."""
    authority = Authority(device.folder / "authority")
    device.extra["HSM_ENROLL_CA_FILE"] = str(authority.certificate)
    return authority


@pytest.fixture
def busy(authority: Authority) -> Iterator[HttpsServer]:
    """An API that throttles every request for a certificate."""
    with https_server(authority, _BUSY, is_ready=True) as server:
        yield server


def _told(device: Device, url: str, thing: str, wait: str) -> list[str]:
    """Start init, wait until it says when its next try is, end it with Ctrl-C, and return what it has said."""
    run = device.start("init", "--api", url, "--thing", thing, "--wait", wait)
    assert run.stderr is not None
    told = []
    for line in run.stderr:
        told.append(line)
        if "trying again" in line:
            break
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130
    return told


def test_d16_one_try_is_one_request(device: Device, thing: str, busy: HttpsServer) -> None:
    """D16: with --wait 0 a busy API is an error at once, which says that it is busy."""
    assert device.refused("init", "--api", busy.url, "--thing", thing, "--wait", "0") == (32, "throttled")
    assert len(busy.requests) == 1


def test_d16_the_time_ends_it(device: Device, thing: str, busy: HttpsServer) -> None:
    """D16: after the time there is a last try, and then the error."""
    assert device.refused("init", "--api", busy.url, "--thing", thing, "--wait", "1s") == (32, "throttled")
    assert len(busy.requests) > 1


@pytest.mark.parametrize(
    ("wait", "ending"), [("90s", ", for up to 1"), ("1d", ", for up to 24 h. "), ("unlimited", ", until it succeeds. ")]
)
def test_d16_the_wait_is_told(device: Device, thing: str, busy: HttpsServer, wait: str, ending: str) -> None:
    """D16: it says why, when the next try is, for how long it goes on, and how to stop it."""
    line = _told(device, busy.url, thing, wait)[-1]
    assert line.startswith(f"  {busy.url} is busy (status 429); trying again")
    assert ending in line
    assert "press Ctrl-C" in line


def test_d16_a_turn_after_the_end_is_left_to_the_person(device: Device, thing: str, authority: Authority) -> None:
    """D16: a place in the queue that comes up after the time is not waited for; within it, it is."""
    with https_server(authority, _QUEUED, is_ready=True) as server:
        assert device.refused("init", "--api", server.url, "--thing", thing, "--wait", "59m") == (32, "throttled")
        assert "trying again in 60 min" in _told(device, server.url, thing, "2h")[-1]


def test_d20_after_ctrl_c_the_same_request_is_sent(device: Device, thing: str, busy: HttpsServer) -> None:
    """D16, D20: Ctrl-C ends the wait with exit 130, and the next run sends the very same request for the same key."""
    _told(device, busy.url, thing, "unlimited")
    before = len(busy.requests)
    assert device.refused("init", "--api", busy.url, "--thing", thing, "--wait", "0") == (32, "throttled")
    assert len(busy.requests) == before + 1
    assert len({request.partition(b"\r\n\r\n")[2] for request in busy.requests}) == 1
    assert len(device.key_ids()) == 1


def test_d15_a_given_time_outlasts_the_network(device: Device, thing: str, authority: Authority) -> None:
    """D15: an unattended first boot goes on while nothing accepts connections."""
    assert authority.certificate.exists()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://localhost:{listener.getsockname()[1]}"
    assert _told(device, url, thing, "unlimited")[-1].startswith(f"  cannot reach {url}: ")


@pytest.mark.parametrize("wait", ["", "15", "15 m", "-1s", "1.5h", "forever", "m", "9999999999s", "\uff11m"])
def test_what_is_not_a_time_is_exit_2(device: Device, wait: str) -> None:
    """An invalid time is refused before anything is done, with examples of valid ones."""
    error = device.error("init", "--thing", "x", "--wait", wait)
    assert (error["exitStatus"], error["code"]) == (2, "usage")
    assert "unlimited" in error["hint"]
