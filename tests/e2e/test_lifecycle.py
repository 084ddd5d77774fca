"""A device's whole life with a real token, the real API and the real broker: renewed, recovered, revoked, retired."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.store.identity import Identity
from hsm_enroll.store.renewal import Renewal
from tests.support.devices import Cloud, Device, Observer
from tests.support.screen import Screen
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.under_test import LABEL

_STEPS = ["token", "key", "csr", "certificate", "message", "commit", "store", "cleanup"]


def _assert_whole(device: Device, cloud: Cloud, thing: str) -> dict[str, Any]:
    """One key in the token, one certificate of the Thing, active, with the policy, and an identity that has both."""
    shown = device.json("status")
    assert shown["key"]["matchesCertificate"] is True
    assert shown["pending"] is None
    device.assert_key_cannot_leave(Path(shown["certificate"]["file"]))
    iot = cloud.aws("iot")
    (principal,) = iot.list_thing_principals(thingName=thing)["principals"]
    assert principal.endswith(shown["certificate"]["id"])
    assert (
        iot.describe_certificate(certificateId=shown["certificate"]["id"])["certificateDescription"]["status"]
        == "ACTIVE"
    )
    assert len(iot.list_attached_policies(target=principal)["policies"]) == 1
    assert device.run("publish", f"certtest/{thing}", "hello").returncode == 0
    return shown


def _lose_state(device: Device) -> None:
    for name in ("identity.json", "certificate.pem", "config.toml"):
        (device.home / name).unlink(missing_ok=True)


def test_a_device_is_renewed_recovered_and_retired(
    device: Device, cloud: Cloud, thing: str, observe: Callable[[str], Observer]
) -> None:
    """D10: init, renew twice, lose the state, recover, retire: one key and one certificate all along, and then none."""
    device.json("init", "--thing", thing)
    first = _assert_whole(device, cloud, thing)
    observer = observe(f"certtest/{thing}")

    renewed = device.json("renew")
    assert [step["name"] for step in renewed["steps"]] == _STEPS
    assert (renewed["renewed"], renewed["due"], renewed["thingName"]) == (True, False, thing)
    assert json.loads(observer.message()[1])["message"] == "renewal"
    second = _assert_whole(device, cloud, thing)
    assert second["certificate"]["id"] == renewed["certificate"]["id"] != first["certificate"]["id"]
    assert second["key"]["uri"] != first["key"]["uri"]
    assert first["certificate"]["id"] not in cloud.certificates()

    shown = device.run("renew")
    assert shown.returncode == 0, shown.stderr
    assert "- making the new key the current one" in shown.stderr
    assert all(len(line) <= 80 for line in shown.stderr.splitlines())
    third = _assert_whole(device, cloud, thing)

    _lose_state(device)
    recovered = device.json("recover", "--api", cloud.document["apiUrl"])
    assert (recovered["recovered"], recovered["otherKeys"]) == (True, 0)
    assert recovered["certificate"] == third["certificate"]
    assert _assert_whole(device, cloud, thing) == third
    device.extra["HSM_ENROLL_THING"] = "another"  # says nothing about a device that has an identity
    again = device.json("recover")
    del device.extra["HSM_ENROLL_THING"]
    error = device.error("recover", "--thing", "another")
    assert (error["exitStatus"], f"of {thing}, but not of another" in error["message"]) == (14, True)
    assert (again["recovered"], again["steps"], again["certificate"]) == (False, [], third["certificate"])

    retired = device.json("retire", "--yes")
    assert (retired["retired"], retired["thingName"], retired["otherKeys"]) == (True, thing, 0)
    assert device.key_ids() == []
    assert third["certificate"]["id"] not in cloud.certificates()
    assert sorted(file.name for file in device.home.iterdir()) == ["lock", "pin", "token.json"]
    assert device.refused("status") == (3, "not-enrolled")


def test_what_is_not_due_is_said_by_the_exit_status(device: Device, cloud: Cloud, thing: str) -> None:
    """``--check`` exits with 4 if no renewal is due and with 0 if one is; ``--if-due`` with 0, and acts accordingly."""
    device.json("init", "--thing", thing)
    first = device.json("renew", "--check", status=4)
    assert (first["renewed"], first["due"], first["steps"]) == (False, False, [])
    assert device.json("renew", "--if-due")["certificate"] == first["certificate"]
    shown = device.run("renew", "--if-due")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == f"no renewal is due before {first['dueAt'][:10]}\n"

    device.extra["HSM_ENROLL_RENEW_AT_LIFETIME_SHARE"] = "0.00001"
    assert device.json("renew", "--check")["due"] is True
    assert device.run("renew", "--check").stdout.startswith("a renewal is due since ")
    second = device.json("renew", "--if-due")
    assert second["renewed"] is True
    assert second["certificate"]["id"] != first["certificate"]["id"]
    _assert_whole(device, cloud, thing)
    assert device.refused("renew", "--check", "--if-due") == (2, "usage")


def test_a_renewal_that_the_broker_interrupts_is_finished_later(device: Device, cloud: Cloud, thing: str) -> None:
    """Until the new key has worked the old identity stays in use; status and doctor say what is not finished."""
    device.json("init", "--thing", thing)
    first = device.json("status")
    device.extra["HSM_ENROLL_MQTT_PORT"] = "9"
    error = device.error("renew")
    assert (error["exitStatus"], error["code"]) == (40, "mqtt-unreachable")
    assert error["message"].startswith("the new certificate could not be used, and the old one stays in use: ")
    del device.extra["HSM_ENROLL_MQTT_PORT"]
    assert device.run("renew", "--check").stdout == "a renewal is due: an earlier one is not finished\n"
    pending = {"what": "renewal", "thingName": thing, "keyType": "ec-p256", "token": "gateway"}
    shown = device.json("status")
    assert (shown["pending"], shown["certificate"]) == (pending, first["certificate"])
    assert f"a renewal of {thing} is not finished (new ec-p256 key in token 'gateway')" in device.run("doctor").stdout
    assert f"\nUnfinished   a renewal of {thing} (new ec-p256 key in token 'gateway')\n" in device.run("status").stdout
    assert device.run("publish", f"certtest/{thing}", "as ever").returncode == 0
    assert device.json("token", "prune", "--yes")["destroyed"] == []
    skipped = [step["name"] for step in device.json("renew", "--if-due")["steps"] if step["skipped"]]
    assert skipped == ["key", "csr"]
    _assert_whole(device, cloud, thing)


def test_the_new_certificate_is_what_the_message_is_sent_with(device: Device, cloud: Cloud, thing: str) -> None:
    """If AWS IoT does not accept the new one, the renewal ends there, and the old one stays in use."""
    device.json("init", "--thing", thing, "--no-publish")
    first = device.json("status")["certificate"]["id"]
    killed = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_points", "renew"],
        env={**device.environment, "KILL_AT": "after step certificate"},
        check=False,
        start_new_session=True,
    )
    assert killed.returncode == -signal.SIGKILL
    iot = cloud.aws("iot")
    for principal in iot.list_thing_principals(thingName=thing)["principals"]:
        if not principal.endswith(first):
            iot.update_certificate(certificateId=principal.rsplit("/", 1)[1], newStatus="INACTIVE")
    assert device.error("renew")["exitStatus"] == 40
    assert device.json("status")["certificate"]["id"] == first
    assert device.run("publish", f"certtest/{thing}", "as ever").returncode == 0


def test_s19_a_revoked_device_gets_nothing_more(
    device: Device, thing: str, new_device: Callable[[str], Device]
) -> None:
    """S19: neither a renewal nor a recovery; the key that it has stays the only one."""
    operator = new_device("operator")
    device.json("init", "--thing", thing)
    operator.json("fleet", "revoke", thing, "--yes")
    error = device.error("renew")
    assert (error["exitStatus"], error["code"]) == (31, "backend-refused")
    assert "thing-revoked" in error["message"]
    assert len(device.key_ids()) == 1
    assert device.json("status")["pending"] is None
    _lose_state(device)
    error = device.error("recover")
    assert (error["exitStatus"], "thing-revoked" in error["message"]) == (31, True)


def test_s19_of_two_holders_of_one_key_one_wins(
    device: Device, cloud: Cloud, thing: str, new_device: Callable[[str], Device]
) -> None:
    """S19: a copy of token and state is told that its key was replaced, once the device has been renewed.

    A device whose broker refuses it in the middle of a renewal is sent to ``renew``, since the commit may be done.
    """
    device.json("init", "--thing", thing)
    thief = new_device("thief")
    thief.take_token_of(device)
    device.json("renew")
    error = thief.error("renew")
    assert (error["exitStatus"], "key-not-current" in error["message"]) == (31, True)
    assert "tell the operator" in error["hint"]
    assert len(thief.key_ids()) == 1
    assert "hsm-enroll renew" not in thief.error("publish", f"certtest/{thing}", "x")["hint"]
    Renewal.begin(Identity.load(thief.home)).save(thief.home)
    error = thief.error("publish", f"certtest/{thing}", "x")
    assert (error["code"], error["hint"].endswith("Finish it: hsm-enroll renew")) == ("mqtt-refused", True)
    _assert_whole(device, cloud, thing)


def test_a_device_without_a_network_retires_itself(device: Device, cloud: Cloud, thing: str) -> None:
    """Exit 34 and the operator's command; key and state are gone, the certificate is still there."""
    device.json("init", "--thing", thing)
    certificate = device.json("status")["certificate"]["id"]
    identity = device.home / "identity.json"
    document = json.loads(identity.read_text())
    identity.write_text(json.dumps({**document, "api": "https://localhost:9"}))
    error = device.error("retire", "--yes")
    assert (error["exitStatus"], error["code"]) == (34, "retired-locally")
    assert error["hint"] == f"Ask the operator to run: hsm-enroll fleet revoke {thing}"
    assert device.key_ids() == []
    assert not identity.exists()
    assert cloud.certificates()[certificate] == "ACTIVE"


def test_retire_asks_before_it_begins(device: Device, thing: str) -> None:
    """Without a terminal it wants ``--yes``, and has done nothing."""
    device.json("init", "--thing", thing)
    assert device.refused("retire") == (2, "usage")
    assert len(device.key_ids()) == 1
    assert device.json("status")["pending"] is None


@pytest.mark.parametrize("command", ["renew", "retire"])
def test_a_device_that_is_not_enrolled_is_told(device: Device, command: str) -> None:
    """Exit 3, as for every command that needs an identity."""
    assert device.refused(command, *(["--yes"] if command == "retire" else [])) == (3, "not-enrolled")


def test_recover_needs_to_know_the_api(device: Device) -> None:
    """The hint says where to find it."""
    device.extra["HSM_ENROLL_API_URL"] = ""
    shutil.rmtree(device.home / "config.toml", ignore_errors=True)
    error = device.error("recover")
    assert (error["exitStatus"], error["message"]) == (2, "no API given")
    assert "--api URL" in error["hint"]


def test_a_person_is_asked_before_a_device_retires(device: Device, thing: str) -> None:
    """The question names Thing and token; no is no error, and changes nothing; every line fits."""
    device.json("init", "--thing", thing, "--no-publish")
    with Screen(device, "retire") as screen:
        screen.expect("Retire this device for good? [y/N] ")
        screen.type("n\n")
        assert screen.end() == 130
    assert f"This retires {thing}: " in screen.text
    assert "nothing was changed" in screen.text
    assert all(len(line) <= 80 for line in screen.text.splitlines())
    assert device.json("status")["pending"] is None
    with Screen(device, "retire") as screen:
        screen.expect("[y/N] ")
        screen.type("y\n")
        assert screen.end() == 0
    assert f"{thing} is retired" in screen.text


def test_whoever_retires_a_device_is_told_what_waits_in_the_outbox(device: Device, thing: str) -> None:
    """The question counts the messages and says how to have them sent; with ``--yes`` a warning does; then they go."""
    device.json("init", "--thing", thing, "--no-publish")
    for number in range(2):
        device.json("publish", "--queue", f"device/{thing}/x", str(number))
    with Screen(device, "retire") as screen:
        screen.expect("Retire this device for good? [y/N] ")
        screen.type("n\n")
        assert screen.end() == 130
    told = " ".join(screen.text.split())
    assert "2 messages that wait in the outbox are lost. To have them sent first, answer no, and run:" in told
    assert device.json("status")["outbox"]["messages"] == 2
    run = device.run("retire", "--yes", "--json")
    assert run.returncode == 0
    assert json.loads(run.stdout)["lostMessages"] == 2
    assert "warning: 2 messages that wait in the outbox are lost" in run.stderr
    assert not list(device.home.glob("outbox.db*"))


def test_what_waits_outlasts_a_lost_identity(device: Device, cloud: Cloud, thing: str) -> None:
    """``recover`` keeps the outbox, and says that messages wait."""
    device.json("init", "--thing", thing, "--no-publish")
    device.json("publish", "--queue", f"device/{thing}/x", "21.5")
    _lose_state(device)
    run = device.run("recover", "--api", cloud.document["apiUrl"])
    assert run.returncode == 0, run.stderr
    told = " ".join(run.stderr.split())
    assert "In the outbox 1 message waits (" in told
    assert told.endswith("To send what is there: hsm-enroll forward")
    assert device.json("status")["outbox"]["messages"] == 1


def test_a_device_whose_token_is_gone_can_be_retired_by_a_person(device: Device, thing: str) -> None:
    """Only a person's word does it, and not ``--yes``, as the token may be unplugged; then the operator has to act."""
    device.json("init", "--thing", thing, "--no-publish")
    device.softhsm.tokens.rename(device.folder / "unplugged")
    device.softhsm.tokens.mkdir()
    error = device.error("retire", "--yes")
    assert (error["exitStatus"], "on a terminal" in error["hint"]) == (11, True)
    for answer, status in (("n", 11), ("y", 34)):
        with Screen(device, "retire", "--yes") as screen:
            screen.expect("leave the key in the token? [y/N] ")
            screen.type(f"{answer}\n")
            assert screen.end() == status
        assert (device.home / "identity.json").exists() is (status == 11)
    assert f"hsm-enroll fleet revoke {thing}" in screen.text
    assert all(len(line) <= 80 for line in screen.text.splitlines())


def test_a_program_renews_with_the_library(device: Device, cloud: Cloud, thing: str) -> None:
    """``renew(if_due=True)`` returns the identity as it is, and ``renew()`` the new one, with which it connects."""
    device.json("init", "--thing", thing)
    program = (
        "from hsm_enroll import Identity, connect, renew\n"
        "old = Identity.load()\n"
        "assert renew(if_due=True) == old\n"
        "new = renew()\n"
        "assert new == Identity.load() and new.certificate_id != old.certificate_id\n"
        "with connect(new) as connection:\n"
        f"    connection.publish('certtest/{thing}', b'hello')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env=device.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    _assert_whole(device, cloud, thing)


def test_a_pin_pad_is_used_as_often_as_for_init(device: Device, tmp_path: Path, thing: str) -> None:
    """Renewing logs in once for the token and once for the broker; recovering and retiring once each."""
    log = tmp_path / "logins"
    softhsm = SoftHsmUnderTest(tmp_path)
    softhsm.add_token(LABEL)
    module = softhsm.other_module(TYPED_PIN=f'"{softhsm.pin.reveal()}"', LOGIN_LOG=f'"{log}"')
    device.extra.update(softhsm.environment, HSM_ENROLL_MODULE=str(module), HSM_ENROLL_TOKEN=f"pkcs11:token={LABEL}")
    device.json("init", "--thing", thing)
    for command, logins in (("renew", 2), ("recover", 1), ("retire", 1)):
        log.write_text("")
        if command == "recover":
            (device.home / "identity.json").unlink()
        run = device.run(command, *(["--yes"] if command == "retire" else []))
        assert run.returncode == 0, run.stderr
        assert log.read_text().split() == ["typed"] * logins
        assert run.stderr.count("Enter the PIN of token") == logins
