"""The fleet, every part real: a Thing that is revoked is out at once, and certificates that fell through are found."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from moto.iot.models import iot_backends

from hsm_enroll.local.cloud import LocalCloud, Options
from hsm_enroll.local.lambda_runtime import ACCOUNT_ID
from tests.support.clients import SoftwareDevice
from tests.support.devices import Cloud, Device, Operator, publish_as_observer
from tests.support.forwarders import RunningForwarder
from tests.support.processes import wait_until

NewGateway = Callable[[str], Device]


@pytest.fixture
def revoked(operator: Operator, gateway: Device, thing: str) -> Device:
    """A device that was enrolled, with the invite in its folder, and whose Thing was then revoked."""
    invite = operator.invite(thing)
    (gateway.folder / "invite").write_text(invite)
    gateway.json("init", invite, "--thing", thing)
    assert operator.json("fleet", "revoke", thing, "--yes") == {
        "thing": thing,
        "revoked": True,
        "otherCertificates": [],
    }
    return gateway


@contextmanager
def _subscribed(device: Device, topic: str) -> Iterator[subprocess.Popen[str]]:
    """Yield ``subscribe`` once its subscription stands; it is gone at the end, whatever happens."""
    with device.start("subscribe", topic, "--count", "1") as process:
        try:
            assert process.stderr is not None
            assert any(line.startswith("subscribed to") for line in process.stderr)
            yield process
        finally:
            process.kill()


def test_revoking_ends_the_open_connection_of_that_device_alone(
    operator: Operator, new_gateway: NewGateway, invite_cloud: Cloud, thing: str
) -> None:
    """fleet revoke: the device's subscription ends with exit 40 and it cannot connect; another's goes on."""
    names = (f"{thing}-out", f"{thing}-stays")
    out, stays = (new_gateway(name) for name in names)
    for device, name in zip((out, stays), names, strict=True):
        device.json("init", operator.invite(name), "--thing", name, "--no-publish")
    with _subscribed(out, f"device/{names[0]}/in") as ending, _subscribed(stays, f"device/{names[1]}/in") as staying:
        told = operator.run("fleet", "revoke", names[0], "--yes")
        assert (told.returncode, told.stdout) == (0, f"{names[0]} is revoked\n"), told.stderr
        _, stderr = ending.communicate(timeout=60)
        assert ending.returncode == 40, stderr
        assert "Traceback" not in stderr
        assert out.error("publish", f"device/{names[0]}/out", "x")["exitStatus"] == 40
        assert staying.poll() is None
        publish_as_observer(invite_cloud.document, f"device/{names[1]}/in", "still here")
        assert (staying.communicate(timeout=60)[0], staying.returncode) == ("still here\n", 0)


def test_a_device_that_is_revoked_while_it_forwards_goes_on_trying(
    operator: Operator, gateway: Device, invite_cloud: Cloud, thing: str
) -> None:
    """D21: the forwarder says that it is refused, as status does, keeps what waits, and is back once that is undone."""
    gateway.json("init", operator.invite(thing), "--thing", thing, "--no-publish")
    certificate = gateway.json("status")["certificate"]["id"]
    with RunningForwarder(gateway) as forwarder:
        forwarder.wait_for("connected")
        assert operator.json("fleet", "revoke", thing, "--yes")["revoked"] is True
        assert forwarder.wait_for("failed")["error"]["code"] == "mqtt-refused"
        assert gateway.run("publish", "--queue", f"device/{thing}/x", "waits").returncode == 0

        def is_shown() -> bool:
            shown = gateway.json("status")
            forward, error = shown["forward"], shown["forward"]["lastError"] or {}
            assert forward["running"]
            return (forward["connected"], error.get("code"), shown["outbox"]["messages"]) == (False, "mqtt-refused", 1)

        # It is written at most once a second.
        wait_until(is_shown, "a report of the refusal", gateway.home / "forward.json")
        assert forwarder.is_running
        invite_cloud.aws("iot").update_certificate(certificateId=certificate, newStatus="ACTIVE")
        forwarder.wait_for("connected", 2)
        wait_until(
            lambda: gateway.json("status")["outbox"]["messages"] == 0, "its message", gateway.home / "forward.json"
        )
        assert forwarder.stop(signal.SIGTERM) == 143


def test_a_revoked_thing_is_told_apart(operator: Operator, revoked: Device, invite_cloud: Cloud, thing: str) -> None:
    """fleet show and list say revoked and since when; the certificate is INACTIVE; revoking again changes nothing."""
    shown = operator.json("fleet", "show", thing)["thing"]
    assert (shown["status"], shown["revoked"] is None) == ("revoked", False)
    assert shown["certificateId"] == revoked.json("status")["certificate"]["id"]
    assert invite_cloud.certificates()[shown["certificateId"]] == "INACTIVE"
    assert operator.run("fleet", "revoke", thing, "--yes").returncode == 0
    assert operator.json("fleet", "show", thing)["thing"] == shown
    assert shown in operator.json("fleet", "list")["things"]


@pytest.mark.parametrize("given", ["nothing", "the old invite"])
def test_a_revoked_device_without_a_new_invite_is_told_what_to_do(
    operator: Operator, revoked: Device, invite_cloud: Cloud, thing: str, given: str
) -> None:
    """S12: init --new-key with no invite, or with the one that is used, names what to ask the operator for."""
    before = invite_cloud.certificates()
    old = (revoked.folder / "invite").read_text()
    invite = (old,) if given == "the old invite" else ("--api", old.partition("/#")[0])
    error = revoked.error("init", "--new-key", *invite)
    assert error["exitStatus"] == 31
    assert "the operator for" in error["hint"]
    assert invite_cloud.certificates() == before
    assert operator.json("fleet", "show", thing)["thing"]["status"] == "revoked"


def test_a_revoked_thing_enrolls_again_with_a_new_invite_and_key(
    operator: Operator, revoked: Device, invite_cloud: Cloud, thing: str
) -> None:
    """With both the Thing is back under another key and certificate; the old identity stays out."""
    old = revoked.json("status")
    shutil.copytree(revoked.home, revoked.folder / "old-home")
    new = revoked.json("init", operator.invite(thing), "--new-key")
    assert new["key"]["uri"] != old["key"]["uri"]
    shown = operator.json("fleet", "show", thing)["thing"]
    assert (shown["status"], shown["certificateId"], shown["revoked"]) == ("issued", new["certificate"]["id"], None)
    statuses = invite_cloud.certificates()
    assert (statuses[old["certificate"]["id"]], statuses[new["certificate"]["id"]]) == ("INACTIVE", "ACTIVE")
    assert revoked.run("publish", f"device/{thing}/out", "x").returncode == 0
    revoked.extra["HSM_ENROLL_HOME"] = str(revoked.folder / "old-home")
    assert revoked.json("status")["certificate"] == {
        **old["certificate"], "file": str(revoked.folder / "old-home" / "certificate.pem"),
    }  # fmt: skip
    assert revoked.error("publish", f"device/{thing}/out", "x")["exitStatus"] == 40


def test_an_enrolled_thing_is_not_given_to_another_key(
    operator: Operator, new_gateway: NewGateway, invite_cloud: Cloud, thing: str
) -> None:
    """S14: a second device with an invite of its own, and --new-key on the first one, are refused with what to do."""
    first, second = new_gateway("first"), new_gateway("second")
    enrolled = first.json("init", operator.invite(thing), "--thing", thing)
    before = invite_cloud.certificates()
    invite = operator.invite(thing)
    for error in (second.error("init", invite, "--thing", thing), first.error("init", invite, "--new-key")):
        assert error["exitStatus"] == 31
        assert "(thing-enrolled)" in error["message"]
        assert "hsm-enroll fleet replace" in error["hint"]
    assert invite_cloud.certificates() == before
    assert operator.json("fleet", "show", thing)["thing"]["certificateId"] == enrolled["certificate"]["id"]
    assert first.run("publish", f"device/{thing}/out", "x").returncode == 0


def test_a_thing_that_there_is_not(operator: Operator, thing: str) -> None:
    """show and revoke of an unknown Thing are exit 31 and say where to look; revoking unasked is exit 2."""
    for arguments in (("show", thing), ("revoke", thing, "--yes")):
        error = operator.error("fleet", *arguments)
        assert error["exitStatus"] == 31
        assert "hsm-enroll fleet list" in error["hint"]
    assert operator.refused("fleet", "revoke", thing) == (2, "usage")


@pytest.fixture
def near_cloud(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud in this process, where a test can move the time at which a certificate was made."""
    with LocalCloud(tmp_path / "cloud", options=Options("invite")) as cloud:
        yield Cloud(cloud.endpoints.to_json(), cloud.endpoints.exports())


def test_sweep_disables_what_the_ledger_does_not_know(near_cloud: Cloud, tmp_path: Path, thing: str) -> None:
    """S21: of certificates older than an hour, on several pages, it disables those of ours that nobody accounts for."""
    operator = Operator(tmp_path / "operator", near_cloud.environment)
    gateway = Device(tmp_path / "gateway", near_cloud.gateway_environment)
    gateway.create_token()
    document = gateway.json("init", operator.invite(thing), "--thing", thing, "--no-publish")
    enrolled = document["certificate"]["id"]
    iot = near_cloud.aws("iot")

    def stray(csr: str) -> dict[str, str]:
        made: dict[str, str] = iot.create_certificate_from_csr(certificateSigningRequest=csr, setAsActive=True)
        return made

    known_key = gateway.json("csr", "--key", document["key"]["uri"], "--subject", f"CN={thing}")["csr"]
    other_key = SoftwareDevice("stray", tmp_path / "stray").csr
    young, *orphans = (stray(known_key)["certificateId"] for _ in range(60))
    with_our_policy, foreign = stray(other_key), stray(other_key)["certificateId"]
    iot.attach_policy(policyName=near_cloud.output("PolicyName"), target=with_our_policy["certificateArn"])
    orphans.append(with_our_policy["certificateId"])
    for certificate_id in (enrolled, foreign, *orphans):
        _age(near_cloud, certificate_id)
    report = operator.json("fleet", "sweep")
    assert (report["checked"], report["foreign"]) == (len(orphans) + 2, 1)
    assert {one["certificateId"] for one in report["disabled"]} == set(orphans)
    inactive = {one for one, status in near_cloud.certificates().items() if status == "INACTIVE"}
    assert inactive == set(orphans)
    assert {enrolled, young, foreign}.isdisjoint(inactive)
    again = operator.run("fleet", "sweep")
    assert again.stdout == "2 certificates checked, 0 disabled, 1 not of this deployment\n"


def _age(cloud: Cloud, certificate_id: str) -> None:
    """Have a certificate be two hours older; AWS IoT has no call for that."""
    certificates: Any = iot_backends[ACCOUNT_ID][cloud.document["region"]].certificates
    certificates[certificate_id].creation_date -= timedelta(hours=2)
