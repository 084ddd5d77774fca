"""``recover`` with every part real where the disk with the keys is lost: the TPM says which Thing this is."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support import tpm2
from tests.support.devices import Cloud, Operator
from tests.support.tpm_device import TpmDevice


def test_a_wiped_disk_is_the_same_thing_again(
    operator: Operator, invite_cloud: Cloud, tmp_path: Path, thing: str
) -> None:
    """An attested Thing needs neither an invite nor the operator's list: its TPM is known. The old certificate goes."""
    home = tmp_path / "tpm"
    home.mkdir()
    with tpm2.provided(home) as tpm:
        for authority in tpm.ek_authorities:
            operator.json("fleet", "ek-ca", "add", str(authority), "--sha256", tpm2.certificate_sha256(authority))
        device = TpmDevice(tmp_path / "device", invite_cloud.gateway_environment, tpm=tpm)
        device.create_token()
        first = device.json("init", operator.invite(thing, "--require-tpm"), "--no-publish")
        for folder in (device.home, device.store):
            shutil.rmtree(folder)
        device.create_token()
        again = device.json("recover", "--api", str(invite_cloud.document["apiUrl"]))
        assert (again["thingName"], again["attested"], again["issued"]) == (thing, True, True)
        assert again["key"]["uri"] != first["key"]["uri"]
        active = {id_ for id_, status in invite_cloud.certificates().items() if status == "ACTIVE"}
        assert again["certificate"]["id"] in active
        assert first["certificate"]["id"] not in active
        [attested] = [check for check in device.json("doctor")["checks"] if check["id"] == "key.attested"]
        assert attested["status"] == "ok"
