"""``hsm-enroll init`` on an emulated TPM, against SoftHSM, and what share of its time each step takes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import Figure
from benchmarks.measuring import ratios, run, runs, shares
from benchmarks.softhsm import COMMAND, SoftHsm
from hsm_enroll.local.cloud import detach, down
from tests.support import tpm2

_RUNS = 7
_KEY_TYPES = ("ec-p256", "rsa-2048")


class _Device(NamedTuple):
    """A device that is new in every run: an empty state folder, and a Thing of its own.

    Attributes:
        homes: the state folders, each named like its Thing.
        told: its environment.
    """

    homes: Iterator[Path]
    told: Mapping[str, str]

    def init(self, key_type: str) -> tuple[float, dict[str, float]]:
        """Enroll; return the seconds of it and of each step."""
        home = next(self.homes)
        command = [*COMMAND, "init", "--thing", home.name, "--key-type", key_type, "--json"]
        seconds, written = run(command, {**self.told, "HSM_ENROLL_HOME": str(home)})
        return seconds, {step["name"]: step["seconds"] for step in json.loads(written)["steps"]}


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        tpm_folder, hsm_folder, cloud_folder = (Path(folder, name) for name in ("tpm", "hsm", "cloud"))
        tpm_folder.mkdir()
        hsm_folder.mkdir()
        homes = (Path(folder, f"bench-{number}") for number in count())
        cloud = detach(cloud_folder, timeout=60)
        api = {"HSM_ENROLL_API_URL": cloud.api_url, "HSM_ENROLL_CA_FILE": str(cloud.ca_file)}
        try:
            with tpm2.provided(tpm_folder) as tpm:
                pin = {"HSM_ENROLL_PIN": tpm.pin.reveal(), "HSM_ENROLL_TOKEN": str(tpm.wanted)}
                ours = _Device(homes, {**api, **tpm.environment, **pin})
                hsm = SoftHsm(hsm_folder)
                token = {"HSM_ENROLL_MODULE": str(hsm.module), "HSM_ENROLL_TOKEN": "pkcs11:token=gateway"}
                peer = _Device(homes, {**api, **hsm.environment, **token, "HSM_ENROLL_PIN": hsm.pin})
                for key_type in _KEY_TYPES:
                    yield from _compare(key_type, ours, peer, runs(_RUNS, quick=quick))
        finally:
            down(cloud_folder)


def _compare(key_type: str, ours: _Device, peer: _Device, pairs: int) -> Iterator[Figure]:
    phases: list[dict[str, float]] = []

    def init() -> float:
        seconds, steps = ours.init(key_type)
        phases.append(shares(seconds, steps))
        return seconds

    what = f"init on swtpm, {key_type}"
    figures = ratios(init, lambda: peer.init(key_type)[0], pairs)
    yield Figure.of(f"tpm-{key_type}", what, "init on SoftHSM", figures)
    yield from Figure.shares(f"tpm-{key_type}", what, phases[1:])
