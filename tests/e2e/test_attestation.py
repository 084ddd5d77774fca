"""Proof of hardware with every part real: what a TPM certifies decides who gets a certificate, from delivery on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import tpm2
from tests.support.devices import Cloud, Device, Operator
from tests.support.tpm2 import Tpm2
from tests.support.tpm_device import TpmDevice, trust_the_vendor


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm2]:
    """A TPM that is powered and has a resource manager, and no token yet."""
    home = tmp_path_factory.mktemp("tpm")
    tpm2.manufacture(home)
    with tpm2.powered(home) as powered:
        yield powered


@pytest.fixture
def new_tpm_device(invite_cloud: Cloud, tpm: Tpm2, tmp_path: Path) -> Callable[[str], TpmDevice]:
    """Makes devices by name that have a token in the same TPM, and know nothing of the cloud but its CA."""

    def make(name: str) -> TpmDevice:
        made = TpmDevice(tmp_path / name, invite_cloud.gateway_environment, tpm=tpm)
        made.create_token()
        return made

    return make


@pytest.fixture
def trusting(operator: Operator, tpm: Tpm2) -> Operator:
    """The operator, who trusts the TPM's vendor."""
    trust_the_vendor(operator, tpm)
    return operator


def test_the_chip_is_the_invite_for_life(
    trusting: Operator, invite_cloud: Cloud, new_tpm_device: Callable[[str], TpmDevice], thing: str
) -> None:
    """From its delivery note alone a TPM's device is enrolled, renewed, and after a wiped disk the same Thing again."""
    device, api = new_tpm_device("device"), ("--api", str(invite_cloud.document["apiUrl"]))
    keys = device.json("tpm", "info")["endorsementKeys"]
    manifest = trusting.folder / "manifest.csv"
    manifest.write_text("thing,ek_sha256\n" + "".join(f"{thing},{key['publicSha256']}\n" for key in keys))
    trusting.json("fleet", "import-ek", str(manifest))

    enrolled = device.json("init", *api)
    assert (enrolled["thingName"], enrolled["attested"]) == (thing, True)
    assert device.json("status")["attested"] is True
    assert {check["id"]: check["status"] for check in device.json("doctor")["checks"]}["key.attested"] == "ok"
    attributes = invite_cloud.aws("iot").describe_thing(thingName=thing)["attributes"]
    assert attributes["attested"] == "true"
    assert any(f"ek={key['publicSha256']}" in attributes["key"] for key in keys)

    renewed = device.json("renew")
    assert renewed["attested"] is True
    assert renewed["certificate"]["id"] != enrolled["certificate"]["id"]

    for folder in (device.home, device.store):
        shutil.rmtree(folder)
    device.create_token()
    again = device.json("init", *api)
    assert (again["thingName"], again["attested"]) == (thing, True)
    assert again["key"]["uri"] != renewed["key"]["uri"]
    active = [id_ for id_, status in invite_cloud.certificates().items() if status == "ACTIVE"]
    assert again["certificate"]["id"] in active
    assert not {enrolled["certificate"]["id"], renewed["certificate"]["id"]} & set(active)
    shown = trusting.json("fleet", "show", thing)["thing"]
    assert (shown["certificateId"], shown["status"]) == (again["certificate"]["id"], "issued")


def test_one_tpm_is_one_thing_unless_the_operator_says_so(
    trusting: Operator, new_tpm_device: Callable[[str], TpmDevice], thing: str
) -> None:
    """The TPM of an enrolled Thing is refused as another, and taken with an invite that allows it."""
    first, second = (f"{thing}-{number}" for number in (1, 2))
    new_tpm_device(first).json("init", trusting.invite(first, "--require-tpm", "--reuse-tpm"), "--no-publish")
    device = new_tpm_device(second)
    error = device.error("init", trusting.invite(second, "--require-tpm"), "--no-publish")
    assert (error["exitStatus"], error["code"]) == (31, "backend-refused")
    assert "--reuse-tpm" in error["hint"]
    enrolled = device.json("init", trusting.invite(second, "--require-tpm", "--reuse-tpm"), "--no-publish")
    assert (enrolled["thingName"], enrolled["attested"]) == (second, True)


def test_softhsm_is_refused_before_a_key_is_made(trusting: Operator, gateway: Device, thing: str) -> None:
    """Where proof is required a token in software says that it cannot give it, and what can; nothing was made."""
    invite = trusting.invite(thing, "--require-tpm")
    error = gateway.error("init", invite, "--no-publish")
    assert error["exitStatus"] == 31
    assert "TPM" in error["message"] + error["hint"]
    assert gateway.key_ids() == []
    assert trusting.json("fleet", "list", "--prefix", thing)["things"] == []


def test_who_is_not_attested_is_found(
    trusting: Operator, gateway: Device, new_tpm_device: Callable[[str], TpmDevice], thing: str
) -> None:
    """``fleet list --attested`` tells the fleet's two kinds of devices apart."""
    names = {"yes": f"{thing}-tpm", "no": f"{thing}-softhsm"}
    gateway.json("init", trusting.invite(names["no"]), "--no-publish")
    new_tpm_device("tpm").json("init", trusting.invite(names["yes"], "--require-tpm", "--reuse-tpm"), "--no-publish")
    for attested, name in names.items():
        listed = trusting.json("fleet", "list", "--attested", attested, "--prefix", thing)["things"]
        assert [found["thing"] for found in listed] == [name]
