"""``hsm-enroll init`` on an emulated TPM with proof of hardware against one without, and what the proof consists of."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from benchmarks.figures import Figure
from benchmarks.measuring import ratios, run, runs, shares
from benchmarks.softhsm import COMMAND
from enrollment_backend.attestation.credential import make_credential
from enrollment_backend.attestation.evidence import read_attestation_key
from enrollment_backend.attestation.structures import read_public
from hsm_enroll.local.cloud import Endpoints, Options, detach, down
from hsm_enroll.token.tpm2.attestation.attestor import Attestor
from hsm_enroll.uri import Pkcs11Uri
from tests.support import tpm2
from tests.support.tpm2 import Tpm2

_RUNS = 15


class _Site(NamedTuple):
    """A TPM with a token, and a cloud that trusts its vendor.

    Attributes:
        folder: of the runs; each has a state folder of its own in it.
        cloud: the local cloud.
        told: what every run is told.
        names: a Thing for each run.
    """

    folder: Path
    cloud: Endpoints
    told: dict[str, str]
    names: Iterator[str]

    def invite(self, thing: str, *options: str) -> str:
        """Have an invite made for a Thing."""
        return run([*COMMAND, "invite", "create", "--thing", thing, *options], self.told)[1].strip()

    def init(self, *options: str) -> tuple[float, dict[str, float], int]:
        """Enroll as a new Thing; return the seconds of it and of each step, and the requests that it took.

        Args:
            options: of the Thing's invite.
        """
        thing = next(self.names)
        home = self.folder / thing
        home.mkdir(mode=0o700)
        invite = home / "invite"
        invite.touch(mode=0o600)
        invite.write_text(self.invite(thing, *options))
        before = self._requests()
        command = [*COMMAND, "init", f"@{invite}", "--no-publish", "--json"]
        seconds, written = run(command, {**self.told, "HSM_ENROLL_HOME": str(home / "state")})
        document = json.loads(written)
        if document["attested"] is not bool(options):
            raise RuntimeError(f"{thing} is attested: {document['attested']}")
        steps = {step["name"]: step["seconds"] for step in document["steps"]}
        return seconds, steps, self._requests() - before

    def _requests(self) -> int:
        return sum(" HTTP/1.1" in line for line in (self.cloud.home / "logs" / "gateway.log").read_text().splitlines())


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        tpm_folder, cloud_folder, homes = (Path(folder, name) for name in ("tpm", "cloud", "homes"))
        tpm_folder.mkdir()
        homes.mkdir()
        cloud = detach(cloud_folder, 60, Options(auth="invite"))
        try:
            with tpm2.provided(tpm_folder) as tpm:
                told = {**cloud.exports(), **tpm.environment, "HSM_ENROLL_PIN": tpm.pin.reveal()}
                told |= {"HSM_ENROLL_TOKEN": str(tpm.wanted)}
                for authority in tpm.ek_authorities:
                    sha256 = tpm2.certificate_sha256(authority)
                    run([*COMMAND, "fleet", "ek-ca", "add", str(authority), "--sha256", sha256], told)
                site = _Site(homes, cloud, told, (f"bench-{number}" for number in count()))
                yield from _enrolling(site, runs(_RUNS, quick=quick))
                made = json.loads(run([*COMMAND, "csr", "--json"], {**told, "HSM_ENROLL_HOME": folder})[1])
                with mock.patch.dict(os.environ, tpm.environment):
                    yield from _proving(tpm, Pkcs11Uri.parse(made["key"]["uri"]), runs(_RUNS, quick=quick))
        finally:
            down(cloud_folder)


def _enrolling(site: _Site, pairs: int) -> Iterator[Figure]:
    proven: list[tuple[float, dict[str, float], int]] = []
    plain: list[tuple[float, dict[str, float], int]] = []

    def ours() -> float:
        proven.append(site.init("--require-tpm", "--reuse-tpm"))
        return proven[-1][0]

    def peer() -> float:
        plain.append(site.init())
        return plain[-1][0]

    whole = "init on swtpm with proof of hardware"
    yield Figure.of("attesting-init", whole, "the same without proof", ratios(ours, peer, pairs), at_most=1.5)
    more = [with_proof[2] - without[2] for with_proof, without in zip(proven[1:], plain[1:], strict=True)]
    yield Figure.of("attesting-requests", "more requests to the API with proof", "", more, unit="count", at_most=1)
    yield from Figure.shares("attesting", whole, [shares(seconds, steps) for seconds, steps, _ in proven[1:]])


def _proving(tpm: Tpm2, key: Pkcs11Uri, times: int) -> Iterator[Figure]:
    """Measure each TPM command as a share of the time that the TPM takes for the whole proof, with its preferred EK."""
    token = tpm.name
    proofs: list[dict[str, float]] = []
    for _ in range(times):
        with Attestor() as attestor:
            presented = attestor.endorsement()
            name = read_attestation_key(presented.ak_public).name
            challenge = make_credential(read_public(presented.ek_public), name, bytes(32))
            attestor.activate(challenge.credential_blob, challenge.encrypted_secret)
            label, id_ = key.object or "", key.id or b""
            attestor.certify(token, key_label=label, key_id=id_, pin=tpm.pin, qualifying_data=bytes(32))
            spent: dict[str, float] = {}
            for command, seconds in attestor.timings:
                spent[f"TPM2_{command}"] = spent.get(f"TPM2_{command}", 0.0) + seconds
        proofs.append(spent)
    whole = "all TPM commands of a proof"
    yield Figure.of("proof-ms", f"{whole}, swtpm", "", [1000 * sum(spent.values()) for spent in proofs], unit="ms")
    parts = [{name: seconds / sum(spent.values()) for name, seconds in spent.items()} for spent in proofs]
    yield from Figure.shares("proof", whole, parts)
