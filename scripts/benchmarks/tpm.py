"""``hsm-enroll init`` on an emulated TPM: what share of its time each step takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import show
from hsm_enroll.local.cloud import detach, down
from tests.support import tpm2

_COMMAND = [str(Path(sys.executable).with_name("hsm-enroll"))]
_RUNS = 7
_KEY_TYPES = ("ec-p256", "rsa-2048")


def measure() -> None:
    """Measure and print a line for each step and key type."""
    with tempfile.TemporaryDirectory() as folder:
        (tpm_folder := Path(folder, "tpm")).mkdir()
        cloud_folder = Path(folder, "cloud")
        cloud = detach(cloud_folder, timeout=60)
        told = {"HSM_ENROLL_API_URL": cloud.api_url, "HSM_ENROLL_CA_FILE": str(cloud.ca_file)}
        try:
            with tpm2.provided(tpm_folder) as tpm:
                told |= {**tpm.environment, "HSM_ENROLL_PIN": tpm.pin.reveal(), "HSM_ENROLL_TOKEN": str(tpm.wanted)}
                for key_type in _KEY_TYPES:
                    _show(key_type, [_steps(Path(folder, f"{key_type}-{run}"), key_type, told) for run in range(_RUNS)])
        finally:
            down(cloud_folder)


def _show(key_type: str, runs: list[dict[str, float]]) -> None:
    totals = [sum(run.values()) for run in runs]
    show(f"init on swtpm, {key_type}, seconds", totals)
    for step in runs[0]:
        shares = [run[step] / total for run, total in zip(runs, totals, strict=True)]
        show(f"  share of the step {step}", shares)


def _steps(home: Path, key_type: str, told: Mapping[str, str]) -> dict[str, float]:
    command = [*_COMMAND, "init", "--thing", home.name, "--key-type", key_type, "--json"]
    run = subprocess.run(
        command, env={**os.environ, **told, "HSM_ENROLL_HOME": str(home)}, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise RuntimeError(run.stdout + run.stderr)
    document: dict[str, Any] = json.loads(run.stdout)
    return {step["name"]: step["seconds"] for step in document["steps"]}
