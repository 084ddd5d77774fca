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
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

_STEPS = ("token", "key", "csr", "certificate", "store", "message")


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
    assert device.enroll(answered="no").returncode == -signal.SIGKILL
    assert device.enroll().returncode == 0
    first, second = device.requests()
    assert first == second
    assert len(device.keys()) == 1


def test_killed_after_the_answer_was_stored_nothing_is_sent_again(device: Device) -> None:
    """D10: once the certificate is stored, resuming sends the first message and asks the API for nothing."""
    assert device.enroll(kill="message begin").returncode == -signal.SIGKILL
    assert device.enroll().returncode == 0
    assert len(device.requests()) == 1


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


def test_another_thing_takes_the_same_key(device: Device) -> None:
    """A Thing's name that was mistyped and refused costs no second key: the key is kept and the CSR made anew."""
    assert device.enroll(kill="certificate end", thing="gatewya-17").returncode == -signal.SIGKILL
    assert device.enroll().returncode == 0
    names = [x509.load_pem_x509_csr(csr.encode()).subject.rfc4514_string() for csr in device.requests()]
    assert names == ["CN=gatewya-17", "CN=gateway-17"]
    assert len(device.keys()) == 1


def test_another_key_type_is_refused_while_one_is_under_way(device: Device) -> None:
    """An attempt under way is not silently left behind with its key; --new-key gives it up and destroys the key."""
    assert device.enroll(kill="csr end").returncode == -signal.SIGKILL
    refused = device.enroll(keyType="ec-p384")
    assert refused.returncode == 1
    assert "UsageError" in refused.stderr
    assert "under way" in refused.stderr
    given_up = device.enroll(keyType="ec-p384", newKey=True)
    assert given_up.returncode == 0, given_up.stderr
    assert device.keys() == [json.loads(given_up.stdout)["id"]]
    (request,) = device.requests()
    key = x509.load_pem_x509_csr(request.encode()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.key_size == 384


@pytest.mark.parametrize("kill", ["key end", "certificate end", "store end", "message begin"])
def test_a_replacement_that_was_killed_resumes_too(device: Device, kill: str) -> None:
    """D10: init --new-key, killed and run again, makes one new key beside the old one."""
    first = json.loads(device.enroll().stdout)["id"]
    assert device.enroll(newKey=True, kill=kill).returncode == -signal.SIGKILL
    again = device.enroll(newKey=True)
    assert again.returncode == 0, again.stderr
    assert sorted(device.keys()) == sorted([first, json.loads(again.stdout)["id"]])
    assert len(set(device.requests())) == 2


@pytest.mark.parametrize("code", ["thing-enrolled", "thing-revoked", "invite-required"])
def test_a_refused_replacement_leaves_the_identity_as_it_was(device: Device, code: str) -> None:
    """D10: after a refused init --new-key a plain init is enrolled with the old key and asks nobody."""
    first = json.loads(device.enroll().stdout)["id"]
    refused = device.enroll(newKey=True, answered=code)
    assert "BackendRefusedError" in refused.stderr
    asked = len(device.requests())
    for _ in range(2):
        plain = device.enroll(answered=code)
        assert json.loads(plain.stdout) == {"id": first, "already": True, "open": True}
    assert len(device.requests()) == asked


@pytest.mark.parametrize("code", ["thing-enrolled", "thing-revoked"])
def test_a_refused_replacement_goes_on_with_new_key(device: Device, code: str) -> None:
    """D10: init --new-key after its refusal makes one new key in all, whatever the refusal was."""
    first = json.loads(device.enroll().stdout)["id"]
    device.enroll(newKey=True, answered=code)
    again = device.enroll(newKey=True)
    second = json.loads(again.stdout)["id"]
    assert sorted(device.keys()) == sorted([first, second])
    assert json.loads(device.enroll().stdout) == {"id": second, "already": True, "open": False}


def test_a_killed_replacement_leaves_the_identity_as_it_was(device: Device) -> None:
    """D10: power that went during init --new-key does not make a plain init contact anybody."""
    first = json.loads(device.enroll().stdout)["id"]
    assert device.enroll(newKey=True, kill="csr end").returncode == -signal.SIGKILL
    assert json.loads(device.enroll().stdout) == {"id": first, "already": True, "open": True}
    assert len(device.requests()) == 1


@pytest.mark.parametrize("code", ["thing-revoked", "key-enrolled"])
def test_a_key_that_the_api_never_takes_is_replaced_on_request(device: Device, code: str) -> None:
    """A device whose key is spent is not stuck with it: --new-key makes another in its place, plain init does not."""
    for _ in range(2):
        assert "BackendRefusedError" in device.enroll(answered=code).stderr
    first, second = device.requests()
    assert first == second
    assert device.enroll(newKey=True, kill="key end").returncode == -signal.SIGKILL
    again = device.enroll()
    assert again.returncode == 0, again.stderr
    assert device.keys() == [json.loads(again.stdout)["id"]]
    spent, other = (x509.load_pem_x509_csr(csr.encode()).public_key() for csr in sorted({*device.requests()}))
    assert spent != other


@pytest.mark.parametrize("code", ["thing-enrolled", "invite-required"])
def test_a_key_that_the_api_may_take_later_is_kept(device: Device, code: str) -> None:
    """D16: with another invite the very same request is sent, also with --new-key: it may have been carried out."""
    device.enroll(answered=code)
    assert device.enroll(newKey=True).returncode == 0
    first, second = device.requests()
    assert first == second
