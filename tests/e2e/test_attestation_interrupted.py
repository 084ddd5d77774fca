"""Attestation cut off with every part real: nothing is left in the machine, the token or the TPM."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.support.devices import Cloud, Operator
from tests.support.processes import wait_until
from tests.support.tpm_device import TpmDevice, trusted_tpm_device


def _processes_of(device: TpmDevice) -> list[str]:
    """Return the command lines of the processes that work for a device."""
    mark = f"HSM_ENROLL_HOME={device.home}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_d10_d20_an_attestation_that_is_killed_or_interrupted_leaves_nothing(
    operator: Operator, invite_cloud: Cloud, tmp_path: Path, thing: str
) -> None:
    """D10, D20: also while the TPM hangs; afterwards there is one key and one certificate, and no secret was shown."""
    with trusted_tpm_device(operator, invite_cloud, tmp_path) as device:
        invite = operator.invite(thing, "--require-tpm")
        log = tmp_path / "init.log"
        for number in (signal.SIGKILL, signal.SIGINT):
            with log.open("w") as output:
                process = device.start("init", invite, "--no-publish", stdout=subprocess.DEVNULL, stderr=output)
                wait_until(lambda: "checking the invite" in log.read_text(), "the invite's answer", log)
                with device.tpm.stopped():
                    process.send_signal(number)
                    assert process.wait() == (-number if number == signal.SIGKILL else 130)
            wait_until(lambda: not _processes_of(device), "the end of what the run has started", log)
        done = device.run("init", invite, "--no-publish", "--verbose")
        assert done.returncode == 0, done.stderr
        for command in ("CreatePrimary", "ActivateCredential", "Certify"):
            assert f"TPM2_{command} " in done.stderr
        assert device.pin() not in done.stdout + done.stderr
        assert device.json("status")["attested"] is True
        assert device.tpm.wrong_pins() == 0
        assert device.json("token", "prune", "--yes")["destroyed"] == []
        names = invite_cloud.aws("iot").list_thing_principals(thingName=thing)["principals"]
        assert len(names) == 1
