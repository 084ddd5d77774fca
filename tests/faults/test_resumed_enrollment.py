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

_STEPS = ("token", "api", "key", "csr", "certificate", "store", "message")


@dataclass
class Device:
    """A state folder and a SoftHSM token of its own."""

    folder: Path
    environment: dict[str, str]

    def enroll(self, **specification: Any) -> subprocess.CompletedProcess[str]:
        """Run one enrollment in a process of its own."""
        command = [sys.executable, "-m", "tests.faults.killed_enrollment", json.dumps(specification)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def keys(self) -> list[str]:
        """The CKA_IDs of all private keys in the token, as pkcs11-tool sees them."""
        module = json.loads((self.folder / "home" / "token.json").read_text())["module"]
        pin = (self.folder / "home" / "pin").read_text().strip()
        listed = subprocess.run(
            ["pkcs11-tool", "--module", module, "--login", "--pin", pin, "--list-objects", "--type", "privkey"],
            env=self.environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return [line.split()[-1] for line in listed.stdout.splitlines() if line.strip().startswith("ID:")]

    def requests(self) -> list[str]:
        """The CSRs that reached the API."""
        return [json.loads(line) for line in (self.folder / "requests").read_text().splitlines()]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device with a token, not enrolled."""
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/bin",
        "HSM_ENROLL_HOME": str(tmp_path / "home"),
        "SOFTHSM2_CONF": str(configuration),
    }
    create = [sys.executable, "-m", "hsm_enroll", "token", "create", "--label", "gateway"]
    subprocess.run(create, env=environment, capture_output=True, timeout=60, check=True)
    return Device(tmp_path, environment)


@pytest.mark.parametrize("kill", [f"{step} {moment}" for step in _STEPS for moment in ("begin", "end")])
def test_killed_at_a_step_it_resumes_with_the_same_key_and_request(device: Device, kill: str) -> None:
    """D10: SIGKILL at any step of init, then init again: one key, the same request, enrolled."""
    assert device.enroll(kill=kill).returncode == -signal.SIGKILL
    again = device.enroll()
    assert again.returncode == 0, again.stderr
    assert device.keys() == [json.loads(again.stdout)["id"]]
    assert len(set(device.requests())) == 1
    third = device.enroll()
    assert json.loads(third.stdout)["already"] is True


def test_killed_before_the_answer_it_sends_the_very_same_request(device: Device) -> None:
    """D10, D16: an answer that was lost is asked for with the same CSR, byte for byte."""
    assert device.enroll(answers=False).returncode == -signal.SIGKILL
    assert device.enroll().returncode == 0
    first, second = device.requests()
    assert first == second
    assert len(device.keys()) == 1


def test_half_a_key_pair_is_replaced(device: Device) -> None:
    """D8, D10: a pair whose public half is missing after a crash is made anew under the same name."""
    assert device.enroll(kill="csr begin").returncode == -signal.SIGKILL
    (key,) = device.keys()
    module = json.loads((device.folder / "home" / "token.json").read_text())["module"]
    pin = (device.folder / "home" / "pin").read_text().strip()
    subprocess.run(
        ["pkcs11-tool", "--module", module, "--login", "--pin", pin, "--delete-object", "--type=pubkey", "--id", key],
        env=device.environment, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert device.enroll().returncode == 0
    assert device.keys() == [key]


@pytest.mark.parametrize("kill", ["key end", "certificate end", "store end", "message begin"])
def test_a_replacement_that_was_killed_resumes_too(device: Device, kill: str) -> None:
    """D10: init --new-key, killed and run again, makes one new key beside the old one."""
    first = json.loads(device.enroll().stdout)["id"]
    assert device.enroll(newKey=True, kill=kill).returncode == -signal.SIGKILL
    again = device.enroll(newKey=True)
    assert again.returncode == 0, again.stderr
    assert sorted(device.keys()) == sorted([first, json.loads(again.stdout)["id"]])
    assert len(set(device.requests())) == 2
