"""A TPM that loses its power while it is in use, again and again (D3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import documents, tpm2
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
    """D3: each cut of a TPM in use counts as a failed try; ``doctor`` and ``csr`` say so, and how the TPM heals."""
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
            "failed",
            "one more wrong PIN will lock the token: the TPM counts 2 of the 3 failed tries that lock it",
            _WAIT % "17 min",
        )
        assert _refused_csr(device) == (13, "pin-final-try", _WAIT % "17 min")
        _log_in_as_another_program(device)

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


def test_d3_a_refused_csr_adds_nothing_at_the_next_cut(device: TpmDevice) -> None:
    """D3: a device whose power fails at each start stops one failed try short of the lockout, and is not locked."""
    with _until_the_next_cut(device):
        assert device.run("csr").returncode == 0
    for _ in range(2):
        with _until_the_next_cut(device) as tpm:
            assert tpm.wrong_pins() == 2
            assert device.refused("csr") == (13, "pin-final-try")


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


def _log_in_as_another_program(device: TpmDevice) -> None:
    """Use the TPM as a program does that does not ask it for its count."""
    assert device.pkcs11_tool("--list-objects")
