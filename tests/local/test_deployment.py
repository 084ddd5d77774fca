"""What the template decides of a local cloud, and what a cloud is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import requests

from hsm_enroll.backend_folder import backend_folder
from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.cloud import LocalCloud, running
from tests.support.clients import TIME_LIMIT, SoftwareDevice, connect, sign

ROOT = Path(__file__).parents[2]


def test_a_cloud_for_the_invited_only(home: Path, tmp_path: Path) -> None:
    """``local up --auth invite`` turns away who bears no invite, and lets in who bears one made by an operator."""
    command = [sys.executable, "-m", "hsm_enroll", "local", "up", "--auth", "invite", "--detach", "--home", str(home)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    cloud, device = running(home), SoftwareDevice("invited", tmp_path / "device", subject="/CN=invited")
    api = partial(requests.post, verify=str(cloud.ca_file), timeout=TIME_LIMIT)
    url, request = f"{cloud.api_url}/v1/certificates", {"thingName": device.thing, "csr": device.csr}
    refused = api(url, json=request)
    assert (refused.status_code, refused.json()["code"]) == (401, "invite-required")

    wanted = json.dumps({"invites": [{"thing": device.thing}]}).encode()
    signed = sign("POST", f"{cloud.api_url}/v1/operator/invites", wanted)
    made = api(
        f"{cloud.api_url}/v1/operator/invites", data=wanted, headers=signed | {"content-type": "application/json"}
    )
    (invite,) = made.json()["invites"]
    issued = api(url, json=request, headers={"Authorization": f"Bearer {invite['code']}"})
    assert issued.status_code == 201
    device.store(issued.json()["certificatePem"])
    assert connect(cloud, device.identity) == "admitted"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("FunctionName:\n    Description:", "Function:\n    Description:", "its outputs are"),
        ("RouteKey: GET /v1/health", "RouteKey: $default", "route [$]default"),
    ],
)
def test_a_template_that_does_not_fit_is_an_error(home: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    """A function that is not named, and a route that the gateway cannot serve."""
    function = tmp_path / "function"
    shutil.copytree(backend_folder(), function)
    template = (function / "template.yaml").read_text()
    assert old in template
    (function / "template.yaml").write_text(template.replace(old, new))
    with pytest.raises(LocalCloudError, match=message), LocalCloud(home, function):
        pass
