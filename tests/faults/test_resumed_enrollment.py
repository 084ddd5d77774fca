"""Power goes at any moment: an enrollment that was killed, and run again, makes one key and one request."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.devices import Device

_STEPS = ("token", "key", "csr", "certificate", "store", "message")


@dataclass
class KilledDevice(Device):
    """A device whose enrollment can be killed."""

    def enroll(self, **specification: Any) -> subprocess.CompletedProcess[str]:
        """Run one enrollment in a process of its own."""
        command = [sys.executable, "-m", "tests.faults.killed_enrollment", json.dumps(specification)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def requests(self) -> list[str]:
        """The CSRs that reached the API."""
        return [json.loads(line) for line in (self.folder / "requests").read_text().splitlines()]


@pytest.fixture
def device(tmp_path: Path, fresh_device: KilledDevice) -> KilledDevice:
    """A device with a token, not enrolled."""
    made = KilledDevice(tmp_path / "device", {})
    made.take_token_of(fresh_device)
    return made


@pytest.mark.parametrize("kill", [f"{step} {moment}" for step in _STEPS for moment in ("begin", "end")])
def test_killed_at_a_step_it_resumes_with_the_same_key_and_request(device: KilledDevice, kill: str) -> None:
    """D10: SIGKILL at any step of init, then init again: one key, the same request, enrolled."""
    assert device.enroll(kill=kill).returncode == -signal.SIGKILL
    again = device.enroll()
    assert again.returncode == 0, again.stderr
    assert device.key_ids() == [json.loads(again.stdout)["id"]]
    assert len(set(device.requests())) == 1


def test_killed_before_the_answer_it_sends_the_very_same_request(device: KilledDevice) -> None:
    """D10, D16: an answer that was lost is asked for with the same CSR, byte for byte; after that, nothing is."""
    assert device.enroll(answers=False).returncode == -signal.SIGKILL
    assert device.enroll().returncode == 0
    assert json.loads(device.enroll().stdout)["already"] is True
    first, second = device.requests()
    assert first == second
    assert len(device.key_ids()) == 1


def test_half_a_key_pair_is_replaced(device: KilledDevice) -> None:
    """D8, D10: a pair whose public half is missing after a crash is made anew under the same name."""
    assert device.enroll(kill="csr begin").returncode == -signal.SIGKILL
    (key,) = device.key_ids()
    device.pkcs11_tool("--delete-object", "--type", "pubkey", "--id", key)
    assert device.enroll().returncode == 0
    assert device.key_ids() == [key]


@pytest.mark.parametrize("kill", ["key end", "certificate end", "store end", "message begin"])
def test_a_replacement_that_was_killed_resumes_too(device: KilledDevice, kill: str) -> None:
    """D10: init --new-key, killed and run again, makes one new key beside the old one."""
    first = json.loads(device.enroll().stdout)["id"]
    assert device.enroll(newKey=True, kill=kill).returncode == -signal.SIGKILL
    again = device.enroll(newKey=True)
    assert again.returncode == 0, again.stderr
    assert sorted(device.key_ids()) == sorted([first, json.loads(again.stdout)["id"]])
    assert len(set(device.requests())) == 2
