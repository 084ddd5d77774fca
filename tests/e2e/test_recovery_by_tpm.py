"""``recover`` with every part real where the disk with the keys is lost: the TPM says which Thing this is."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.devices import Cloud, Operator
from tests.support.tpm_device import trusted_tpm_device


def test_a_wiped_disk_is_the_same_thing_again(
    operator: Operator, invite_cloud: Cloud, tmp_path: Path, thing: str
) -> None:
    """An attested Thing needs neither an invite nor the operator's list: its TPM is known. The old certificate goes.

    The token is looked for once, and shown so.
    """
    with trusted_tpm_device(operator, invite_cloud, tmp_path) as device:
        first = device.json("init", operator.invite(thing, "--require-tpm"), "--no-publish")
        for folder in (device.home, device.store):
            shutil.rmtree(folder)
        device.create_token()
        recovered = device.run("recover", "--api", str(invite_cloud.document["apiUrl"]))
        assert recovered.returncode == 0, recovered.stderr
        assert recovered.stderr.count("looking for the token") == 1
        assert "requesting a certificate from the API" in recovered.stderr
        again = device.json("status")
        assert (again["thingName"], again["attested"]) == (thing, True)
        assert again["key"]["uri"] != first["key"]["uri"]
        active = {id_ for id_, status in invite_cloud.certificates().items() if status == "ACTIVE"}
        assert again["certificate"]["id"] in active
        assert first["certificate"]["id"] not in active
        [attested] = [check for check in device.json("doctor")["checks"] if check["id"] == "key.attested"]
        assert attested["status"] == "ok"
