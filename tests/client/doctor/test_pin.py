"""What the doctor says of the PIN is what the commands do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_enroll import settings
from hsm_enroll.doctor import Machine, Patient, Status, checks_state
from hsm_enroll.service.systemd import UnitState
from hsm_enroll.service.units import FORWARD
from hsm_enroll.token import discovery
from hsm_enroll.token.tokens import Tokens
from tests.support.devices import Device
from tests.support.processes import program, run


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A device with a token, for all tests of this module to copy."""
    device = Device(tmp_path_factory.mktemp("original") / "device", {})
    device.create_token()
    return device


@pytest.fixture
def device(original: Device, tmp_path: Path) -> Device:
    """A copy of it."""
    device = Device(tmp_path / "device", {})
    device.take_token_of(original)
    return device


def _saved(_: Device) -> None:
    """The PIN that ``token create`` saved is there."""


def _saved_is_gone(device: Device) -> None:
    (device.home / "pin").unlink()


def _saved_is_exposed(device: Device) -> None:
    (device.home / "pin").chmod(0o644)


def _never_saved(device: Device) -> None:
    for name in ("pin", "token.json"):
        (device.home / name).unlink()


def _configured_is_missing(device: Device) -> None:
    device.extra["HSM_ENROLL_PIN_FILE"] = str(device.folder / "none")


def _configured_is_empty(device: Device) -> None:
    file = device.folder / "empty"
    file.touch(mode=0o600)
    device.extra["HSM_ENROLL_PIN_FILE"] = str(file)


@pytest.mark.parametrize(
    ("arrange", "status"),
    [
        (_saved, "ok"),
        (_saved_is_gone, "warning"),
        (_never_saved, "warning"),
        (_saved_is_exposed, "failed"),
        (_configured_is_missing, "failed"),
        (_configured_is_empty, "failed"),
    ],
)
def test_the_doctor_and_the_commands_agree(device: Device, arrange: Callable[[Device], None], status: str) -> None:
    """A command without a terminal fails exactly where the check is not ok, with the same words.

    The check is a warning where the command would prompt on a terminal, and says how it ends without one.
    """
    arrange(device)
    [found] = [check for check in device.json("doctor", status=int(status == "failed"))["checks"] if _is_of_pin(check)]
    assert found["status"] == status
    if status == "ok":
        assert device.run("csr").returncode == 0
        return
    error = device.error("csr")
    assert error["exitStatus"] == 12
    prompt = "; commands prompt for it on a terminal, and without one exit with 12" if status == "warning" else ""
    assert (found["message"], found["hint"]) == (error["message"] + prompt, error["hint"])


@pytest.mark.parametrize(("is_enabled", "status"), [(True, Status.OK), (False, Status.WARNING)])
def test_an_encrypted_pin_is_enough_for_the_services(
    device: Device, monkeypatch: pytest.MonkeyPatch, is_enabled: bool, status: Status
) -> None:
    """Nothing is wrong with a PIN that only the services have; the check says how a command is run with it."""
    _never_saved(device)
    encrypted = device.folder / "hsm-enroll.pin"
    encrypted.touch()
    service = UnitState(FORWARD, "loaded", (), is_enabled, "active", "success", 0, "")
    for name, value in device.environment.items():
        monkeypatch.setenv(name, value)
    with Tokens() as tokens:
        patient = Patient(
            settings.load(os.environ, {}), os.environ, tokens, Machine(encrypted_pin=encrypted), lambda: service
        )
        found = checks_state.pin_source(patient)
    assert found.status is status
    assert ("LoadCredentialEncrypted=hsm-enroll.pin hsm-enroll" in found.message) is is_enabled


def test_a_softhsm_token_without_a_user_pin_is_not_healthy(tmp_path: Path) -> None:
    """Such a token cannot be logged in to: the check fails although a PIN is configured, and says how to set one."""
    device = Device(tmp_path / "device", {"HSM_ENROLL_PIN": "123456"})
    module = next(path for path in discovery.discover() if "softhsm" in path.name)
    command = [program("pkcs11-tool", package="opensc"), "--module", str(module), "--init-token", "--slot-index", "0"]
    run([*command, "--label", "gateway", "--so-pin", "12345678"], device.softhsm.environment)
    [found] = [check for check in device.json("doctor", status=1)["checks"] if _is_of_pin(check)]
    assert (found["status"], found["message"]) == (
        "failed",
        "token 'gateway' has no user PIN yet, so no command can log in",
    )
    error = device.error("csr")
    assert "has no user PIN yet" in error["message"]
    assert found["hint"] == error["hint"]
    assert "--init-pin" in found["hint"]


def _is_of_pin(check: dict[str, str]) -> bool:
    return check["id"] == "pin.source"
