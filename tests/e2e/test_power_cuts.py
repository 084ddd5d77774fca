"""A TPM that loses its power while it is in use, again and again (D3)."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm_enroll.device.pin import generate_pin
from tests.support import documents, tpm2
from tests.support.processes import program
from tests.support.tpm2 import Tpm2
from tests.support.tpm_device import TpmDevice

_PACE = "Power cuts count as failed tries too. While powered, this TPM forgets one failed try every 17 min."
_WAIT = f"{_PACE} Try again in %s, or reset the count: tpm2_dictionarylockout --clear-lockout"


@pytest.fixture
def device(tmp_path: Path) -> TpmDevice:
    """A device whose TPM locks after three failed tries, and lost its power after one ``csr`` with the right PIN."""
    home = tmp_path / "tpm"
    home.mkdir()
    with tpm2.provided(home) as tpm:
        tpm.set_limits(3, 1000)
        made = TpmDevice(tmp_path / "device", {}, tpm=tpm)
        made.create_token()
        assert made.run("csr").returncode == 0
        assert tpm.wrong_pins() == 0
        tpm.cut_power()
    return made


def test_d3_power_cuts_lock_a_tpm_and_are_told(device: TpmDevice) -> None:
    """D3: each cut of a TPM in use counts as a failed try; ``doctor`` and ``csr`` say so, and how the TPM heals.

    The PIN that ``token create`` saved is the right one, so it is tried until the TPM is locked.
    """
    with _until_the_next_cut(device) as tpm:
        assert tpm.wrong_pins() == 1
        assert _told_by_doctor(device) == (
            "warning",
            "the TPM counts 1 of the 3 failed tries that lock it",
            f"{_PACE} If a PIN was wrong, check the configured PIN.",
        )
        assert device.run("csr").returncode == 0

    with _until_the_next_cut(device) as tpm:
        assert tpm.wrong_pins() == 2
        assert _told_by_doctor(device) == (
            "warning",
            (
                "one more failed try will lock the token: the TPM counts 2 of the 3 failed tries that lock it; "
                "the PIN is tried, since token create saved it"
            ),
            _PACE,
        )
        assert device.run("csr").returncode == 0

    with _until_the_next_cut(device) as tpm:
        assert tpm.wrong_pins() == 3
        assert _told_by_doctor(device) == (
            "failed",
            "the PIN is locked: the TPM counts 3 of the 3 failed tries that lock it",
            _WAIT % "34 min",
        )
        assert _refused_csr(device) == (13, "pin-locked", _WAIT % "34 min")
        tpm.forget_wrong_pins()
        assert device.run("csr").returncode == 0


def test_d3_a_pin_from_elsewhere_is_not_tried_with_the_last_try(device: TpmDevice) -> None:
    """D3: a PIN that may be wrong, even the same one from a file, stops one failed try short of the lockout.

    A device whose power fails at each start is then not locked: a refused ``csr`` adds nothing at the next cut.
    """
    configured = device.folder / "configured-pin"
    configured.touch(mode=0o600)
    configured.write_text(device.pin())
    device.extra["HSM_ENROLL_PIN_FILE"] = str(configured)
    with _until_the_next_cut(device):
        assert device.run("csr").returncode == 0
    for _ in range(2):
        with _until_the_next_cut(device) as tpm:
            assert tpm.wrong_pins() == 2
            assert _told_by_doctor(device) == (
                "failed",
                "one more wrong PIN will lock the token: the TPM counts 2 of the 3 failed tries that lock it",
                _WAIT % "17 min",
            )
            assert _refused_csr(device) == (13, "pin-final-try", _WAIT % "17 min")


def test_d3_a_saved_pin_that_was_refused_is_not_certain_again(device: TpmDevice) -> None:
    """D3, D1: where another program has changed the PIN, the last try is not used for the saved one."""
    with _until_the_next_cut(device) as tpm:
        tpm.forget_wrong_pins()
        saved = device.home / "pin"
        saved.write_text(f"{generate_pin().reveal()}\n")
        error = device.error("csr")
        assert (error["exitStatus"], error["code"]) == (12, "pin-wrong")
        assert error["message"].endswith(f": it was the PIN that token create saved in {saved}")
        assert "HSM_ENROLL_PIN_FILE" in error["hint"]
        assert error["hint"].endswith("The TPM counts 1 of the 3 failed tries that lock it.")
        assert device.refused("csr") == (12, "pin-wrong")
        assert tpm.wrong_pins() == 2
        assert device.refused("csr") == (13, "pin-final-try")
        assert tpm.wrong_pins() == 2


def test_d3_a_saved_pin_that_is_damaged_does_not_lock_the_tpm(device: TpmDevice) -> None:
    """D3, D1: what cannot be the PIN that token create saved is not tried with the last try."""
    with _until_the_next_cut(device) as tpm:
        tpm.forget_wrong_pins()
        (device.home / "pin").write_text("{\n")
        device.extra["HSM_ENROLL_PIN"] = "wrong-1234"
        for _ in range(2):
            assert device.refused("csr") == (12, "pin-wrong")
        del device.extra["HSM_ENROLL_PIN"]
        assert device.refused("csr") == (13, "pin-final-try")
        assert _told_by_doctor(device)[0] == "failed"
        assert tpm.wrong_pins() == 2


def test_d3_nobody_is_asked_for_a_pin_that_may_not_be_tried(device: TpmDevice) -> None:
    """D3: on a terminal, one failed try short of the lockout, the command ends with 13 instead of prompting."""
    for name in ("pin", "token.json"):
        (device.home / name).unlink()
    with _until_the_next_cut(device) as tpm:
        for _ in range(2 - tpm.wrong_pins()):
            device.extra["HSM_ENROLL_PIN"] = "wrong-1234"
            assert device.refused("csr") == (12, "pin-wrong")
        del device.extra["HSM_ENROLL_PIN"]
        command = shlex.join([sys.executable, "-m", "hsm_enroll", "csr"])
        # script(1) gives the command a terminal of its own, and exits as it does.
        terminal = [program("script", package="bsdutils"), "--quiet", "--return", "--command", command, "/dev/null"]
        run = subprocess.run(
            terminal, env=device.environment, input="", capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode == 13, run.stdout
        assert "so no PIN was tried" in " ".join(run.stdout.split())
        assert "PIN of token" not in run.stdout


@contextmanager
def _until_the_next_cut(device: TpmDevice) -> Iterator[Tpm2]:
    with tpm2.powered(device.tpm.home) as tpm:
        device.tpm = tpm
        yield tpm
        tpm.cut_power()


def _told_by_doctor(device: TpmDevice) -> tuple[str, str, str]:
    report = documents.read(["doctor"], device.run("doctor", "--json").stdout)
    (found,) = [check for check in report["checks"] if check["id"] == "token.pin-tries"]
    return found["status"], found["message"], found["hint"]


def _refused_csr(device: TpmDevice) -> tuple[int, str, str]:
    error = device.error("csr")
    return error["exitStatus"], error["code"], error["hint"]
