"""What is in place, or half done, and what a command line says that contradicts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.devices import Device
from tests.support.https_server import https_server, response

_OTHERS = [
    ("--api", "https://localhost:9"),
    ("--key-type", "ec-p384"),
    ("--token-label", "other"),
    ("--token", "pkcs11:token=gateway;serial=ff"),
    ("--module", "/usr/lib/other.so"),
]


@pytest.fixture
def half_done(device: Device, thing: str) -> Device:
    """A device whose enrollment with a P-384 key the API has refused, so that it can be resumed."""
    authority = Authority(device.folder / "authority")
    problem = json.dumps({"detail": "no", "code": "invite-required", "requestId": "r"})
    refused = response("401 Unauthorized", problem, content_type="application/problem+json")
    with https_server(authority, refused, is_ready=True) as server:
        device.extra.update(HSM_ENROLL_API_URL=server.url, HSM_ENROLL_CA_FILE=str(authority.certificate))
        assert device.refused("init", "--thing", thing, "--key-type", "ec-p384") == (31, "backend-refused")
    device.extra.clear()
    return device


def test_options_that_contradict_what_is_in_place_are_wrong_usage(device: Device, thing: str) -> None:
    """Each says what is in place and both ways on; the same options as before, and a new configuration, do not."""
    first = device.json("init", "--thing", thing, "--no-publish")
    for option, value in _OTHERS:
        error = device.error("init", option, value)
        assert (error["exitStatus"], error["code"]) == (2, "usage"), option
        assert error["message"].startswith("this device")
        assert "hsm-enroll init --new-key" in error["hint"]
    module = Path(first["token"]["module"])
    other_path = device.folder / "module.so"
    other_path.symlink_to(module)
    same = ("--api", first["api"] + "/", "--key-type", "ec-p256", "--token-label", "gateway")
    assert device.json("init", *same)["certificate"] == first["certificate"]
    assert device.json("init", "--module", str(other_path))["certificate"] == first["certificate"]
    (device.home / "config.toml").write_text('key_type = "rsa-4096"\ntoken = "pkcs11:token=other"\n')
    device.extra["HSM_ENROLL_API_URL"] = "https://localhost:9"
    assert device.json("init")["certificate"] == first["certificate"]
    assert len(device.key_ids()) == 1


def test_an_enrollment_that_is_not_finished_is_shown(half_done: Device, thing: str) -> None:
    """status is exit 3 still and has its Thing, key type and token; doctor has it too, with the way on."""
    error = half_done.error("status")
    assert (error["exitStatus"], error["code"]) == (3, "not-enrolled")
    pending = {"what": "enrollment", "thingName": thing, "keyType": "ec-p384", "token": "gateway"}
    assert error["pending"] == pending
    assert "run the same hsm-enroll init command again" in error["hint"]
    shown = f"an enrollment is not finished (ec-p384 key in token 'gateway' as {thing})"
    assert shown in half_done.run("status").stderr
    (found,) = [check for check in half_done.json("doctor")["checks"] if check["id"] == "identity"]
    assert found["status"] == "warning"
    assert shown in found["message"]


def test_a_plain_init_takes_the_key_type_of_the_journal(half_done: Device, thing: str) -> None:
    """It resumes with the key that there is and says so; another type that is asked for is wrong usage."""
    error = half_done.error("init", "--thing", thing, "--key-type", "rsa-2048")
    assert (error["exitStatus"], error["code"]) == (2, "usage")
    assert "a key of type ec-p384, not rsa-2048" in error["message"]
    assert "hsm-enroll init --new-key --key-type rsa-2048" in error["hint"]
    run = half_done.run("init", "--thing", thing, "--no-publish")
    assert run.returncode == 0, run.stderr
    assert "resuming an unfinished enrollment, whose key is of type ec-p384" in run.stderr
    assert half_done.json("status")["key"]["type"] == "ec-p384"
    assert len(half_done.key_ids()) == 1


def test_a_plain_init_takes_the_token_of_the_journal(half_done: Device, thing: str) -> None:
    """Where there are several tokens, and nothing names one, it resumes in its own."""
    half_done.softhsm.add_token("second")
    (half_done.home / "token.json").rename(half_done.folder / "token.json")
    half_done.extra["HSM_ENROLL_PIN"] = half_done.pin()
    assert half_done.refused("csr") == (11, "token-ambiguous")
    document = half_done.json("init", "--thing", thing, "--no-publish")
    assert (document["token"]["label"], document["key"]["type"]) == ("gateway", "ec-p384")


def test_an_enrollment_whose_token_is_gone_is_started_over_on_request(half_done: Device, thing: str) -> None:
    """Where the journal's token is not there, another one is not taken by the way; --new-key takes it."""
    journal = half_done.home / "journal.json"
    document = json.loads(journal.read_text())
    journal.write_text(json.dumps({**document, "token": {**document["token"], "label": "lost", "serial": "ff"}}))
    error = half_done.error("init", "--thing", thing)
    assert (error["exitStatus"], error["code"]) == (2, "usage")
    assert "an unfinished enrollment uses token 'lost'" in error["message"]
    assert "hsm-enroll init --new-key" in error["hint"]
    assert half_done.json("init", "--new-key", "--thing", thing, "--no-publish")["token"]["label"] == "gateway"


def test_a_replacement_that_is_not_finished_is_shown_once(device: Device, thing: str) -> None:
    """status and init name the replacement and the command that finishes it, and init says nothing of its invite."""
    api = device.json("init", "--thing", thing, "--no-publish")["api"]
    authority = Authority(device.folder / "authority")
    refused = response(
        "401 Unauthorized", '{"detail": "no.", "code": "other"}', content_type="application/problem+json"
    )
    with https_server(authority, refused, is_ready=True) as server:
        replace = ("init", "--new-key", "--thing", thing, "--api", server.url)
        device.extra["HSM_ENROLL_CA_FILE"] = str(authority.certificate)
        error = device.error(*replace)
    assert error["message"] == f"{server.url} refused: no (other)"
    device.extra.pop("HSM_ENROLL_CA_FILE")
    subject = f"the key's replacement (ec-p256 key in token 'gateway' as {thing})"
    advice = "To finish it: hsm-enroll init --new-key INVITE"
    shown = device.run("status").stdout
    assert f"\nUnfinished   {subject}\n             {advice}\n" in shown
    assert "not finished" not in shown
    told = device.run("init", f"{api}/#FQ18Y-B6CQX-NH07M-ZC77S-TCKYE", "--no-publish")
    assert (told.returncode, told.stderr) == (0, f"Unfinished: {subject}\n  {advice}\n\n")


def test_a_replaced_key_is_not_forgotten(device: Device, thing: str) -> None:
    """init --new-key says that the old key is still in the token, and what destroys it; another run does not."""
    device.json("init", "--thing", thing, "--no-publish")
    run = device.run("init", "--new-key", "--thing", f"{thing}-b", "--no-publish")
    assert "The old key is still in token 'gateway'." in run.stderr
    assert "hsm-enroll token prune" in run.stderr
    assert "old key" not in device.run("init").stderr


def test_an_api_that_is_configured_in_vain_is_named(device: Device, thing: str) -> None:
    """doctor --online asks the identity's API, and warns that another one is configured."""
    api = device.json("init", "--thing", thing, "--no-publish")["api"]
    device.extra["HSM_ENROLL_API_URL"] = "https://localhost:9"
    checks = device.json("doctor", "--online")["checks"]
    (found,) = [check for check in checks if check["id"] == "api.reachable"]
    assert found["status"] == "warning"
    assert f"enrolled with {api}, so the configured https://localhost:9 is not used" in found["message"]
    device.extra["HSM_ENROLL_API_URL"] = f"{api}/"
    (found,) = [check for check in device.json("doctor", "--online")["checks"] if check["id"] == "api.reachable"]
    assert found["status"] == "ok"


def test_a_damaged_journal_does_not_hide_the_identity(device: Device, thing: str) -> None:
    """status shows the identity and warns; doctor's check fails and names the file."""
    device.json("init", "--thing", thing, "--no-publish")
    (device.home / "journal.json").write_text("{")
    run = device.run("status", "--json")
    assert (run.returncode, json.loads(run.stdout)["pending"]) == (0, None)
    assert "journal.json is not JSON" in run.stderr
    (found,) = [check for check in device.json("doctor", status=1)["checks"] if check["id"] == "identity"]
    assert (found["status"], "journal.json" in found["message"]) == ("failed", True)


def test_a_device_that_becomes_another_thing_names_the_one_it_leaves(device: Device, thing: str) -> None:
    """--new-key --thing says that the old Thing stays active in the cloud, and how the operator ends that."""
    device.json("init", "--thing", thing, "--no-publish")
    run = device.run("init", "--new-key", "--thing", f"{thing}-b", "--no-publish", "--json")
    assert run.returncode == 0, run.stderr
    assert f"warning: the Thing {thing} stays active in the cloud" in run.stderr
    assert f"hsm-enroll fleet revoke {thing}" in run.stderr


@pytest.mark.parametrize("shift", ["-1790000000s", "+800000000s"])
def test_d14_with_a_wrong_clock_nothing_is_made(device: Device, thing: str, shift: str) -> None:
    """D14: with a clock in 1970 or 2052 an enrolled device says that the clock is wrong; so does a new one."""
    new = Device(device.folder / "new", device.cloud)
    new.take_token_of(device)
    device.json("init", "--thing", thing, "--no-publish")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    for machine in (device, new):
        machine.extra.update(LD_PRELOAD=str(library), FAKETIME=shift, HSM_ENROLL_API_URL="https://localhost:9")
        error = machine.error("init")
        assert (error["exitStatus"], error["code"]) == (1, "clock-wrong")
        assert "this machine's clock is wrong" in error["message"]
        machine.extra.clear()
    assert (len(device.key_ids()), new.key_ids()) == (1, [])


def test_create_token_makes_no_token_for_a_refused_invite(device: Device, thing: str) -> None:
    """The API is asked first: what it refuses leaves no token and no PIN behind."""
    bare = Device(device.folder / "bare", device.cloud)
    authority = Authority(bare.folder / "authority")
    problem = json.dumps({"detail": "no", "code": "invite-invalid", "requestId": "r"})
    refused = response("401 Unauthorized", problem, content_type="application/problem+json")
    with https_server(authority, refused) as server:
        bare.extra["HSM_ENROLL_CA_FILE"] = str(authority.certificate)
        samples = Path(__file__).parents[1] / "contract" / "samples" / "invite-codes.json"
        code = json.loads(samples.read_text("utf-8"))["valid"][0]["normalized"]
        assert bare.refused("init", f"{server.url}/#{code}", "--create-token") == (31, "backend-refused")
    assert list(bare.softhsm.tokens.iterdir()) == []
    assert not (bare.home / "pin").exists()
    bare.extra.clear()
    names = [step["name"] for step in bare.json("init", "--thing", thing, "--create-token", "--no-publish")["steps"]]
    assert names.index("create-token") == names.index("invite") + 1
