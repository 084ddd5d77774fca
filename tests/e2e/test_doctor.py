"""The doctor finds each fault that is put before it, and only that one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import NameOID

from tests.support import documents
from tests.support.authority import Authority
from tests.support.devices import Cloud, Device
from tests.support.screen import Screen
from tests.support.self_signed import pem, self_signed


def _findings(device: Device, *arguments: str) -> tuple[int, dict[str, str]]:
    run = device.run("doctor", "--json", *arguments)
    told = documents.read(["doctor"], run.stdout)
    statuses = {check["id"]: check["status"] for check in told["checks"]}
    assert told["ok"] is (run.returncode == 0)
    for check in told["checks"]:
        assert check["hint"] or check["status"] in {"ok", "skipped"}
    return run.returncode, statuses


@pytest.fixture
def enrolled(device: Device, thing: str) -> Device:
    """An enrolled device."""
    device.json("init", "--thing", thing, "--no-publish")
    return device


def test_a_healthy_device_has_no_finding(enrolled: Device) -> None:
    """On an enrolled device with a cloud every check is ok, but for those of what it does not use; exit status 0."""
    status, statuses = _findings(enrolled, "--online")
    assert status == 0
    not_tried = {
        "tpm.device", "tpm.resource-manager", "tpm.fapi", "key.attested", "outbox", "forward", "mqtt.login",
        "credentials.login",
    }  # fmt: skip
    assert statuses == dict.fromkeys(not_tried, "skipped") | dict.fromkeys(
        {
            "clock", "state.folder", "token", "token.module", "token.store", "token.duplicates", "token.mqtt",
            "token.pin-tries", "pin.source", "identity", "certificate.dates", "key.matches-certificate", "key.origin",
            "online.dns", "api.reachable", "online.api-tls", "online.clock", "mqtt.reachable", "online.mqtt-tls",
            "credentials.reachable",
        },
        "ok",
    )  # fmt: skip


def test_a_device_that_is_not_enrolled_is_told_so_and_is_not_ill(device: Device) -> None:
    """Not being enrolled is a warning with the next command, and the exit status is 0."""
    status, statuses = _findings(device)
    assert status == 0
    assert statuses["identity"] == "warning"
    assert "hsm-enroll init" in device.run("doctor").stdout


def _no_token(device: Device) -> None:
    shutil.rmtree(device.softhsm.tokens)
    device.softhsm.tokens.mkdir()


def _no_key(device: Device) -> None:
    identifier = json.loads((device.home / "identity.json").read_text())["key_id"]
    device.pkcs11_tool("--delete-object", "--type", "pubkey", "--id", identifier)


def _another_key(device: Device) -> None:
    file = device.home / "identity.json"
    document = json.loads(file.read_text())
    document["certificate_pem"] = pem(self_signed())
    file.write_text(json.dumps(document))


def _two_keys_of_one_label(device: Device) -> None:
    label = json.loads((device.home / "identity.json").read_text())["key_label"]
    new_pair = ["--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", "--id", "ff"]
    device.pkcs11_tool(*new_pair, "--token-label", "gateway", "--label", label)


def _two_tokens_of_one_label(device: Device) -> None:
    device.softhsm.add_token("gateway")


def _exposed_pin(device: Device) -> None:
    (device.home / "pin").chmod(0o644)


def _damaged_identity(device: Device) -> None:
    (device.home / "identity.json").write_text("{}")


def _key_that_can_leave(device: Device) -> None:
    file = device.home / "identity.json"
    document = json.loads(file.read_text())
    document["key_origin"]["extractable"] = True
    file.write_text(json.dumps(document))


def _no_backend(device: Device) -> None:
    file = device.home / "identity.json"
    document = json.loads(file.read_text())
    document["api"] = "https://localhost:9"
    file.write_text(json.dumps(document))


def _no_broker(device: Device) -> None:
    device.extra["HSM_ENROLL_MQTT_PORT"] = "9"


def _no_name(device: Device) -> None:
    device.extra["HSM_ENROLL_MQTT_ENDPOINT"] = "no-such-host.invalid"


def _no_provider(device: Device) -> None:
    device.extra["HSM_ENROLL_CREDENTIALS_PORT"] = "9"


def _no_name_of_the_provider(device: Device) -> None:
    device.extra["HSM_ENROLL_CREDENTIALS_ENDPOINT"] = "no-such-host.invalid"


def _without_an_alias(device: Device) -> None:
    file = device.home / "identity.json"
    document = json.loads(file.read_text())
    del document["role_alias"]
    file.write_text(json.dumps(document))


def _half_an_alias(device: Device) -> None:
    _without_an_alias(device)
    device.extra["HSM_ENROLL_ROLE_ALIAS"] = "gateways"


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (_no_token, "token"),
        (_no_key, "key.matches-certificate"),
        (_another_key, "key.matches-certificate"),
        (_two_keys_of_one_label, "token.duplicates"),
        (_two_tokens_of_one_label, "token.duplicates"),
        (_exposed_pin, "pin.source"),
        (_damaged_identity, "identity"),
        (_key_that_can_leave, "key.origin"),
        (_no_backend, "api.reachable"),
        (_no_broker, "mqtt.reachable"),
        (_no_name, "online.dns"),
        (_no_provider, "credentials.reachable"),
        (_no_name_of_the_provider, "online.dns"),
        (_half_an_alias, "credentials.reachable"),
    ],
)
def test_a_fault_fails_its_check_alone(enrolled: Device, fault: Callable[[Device], None], check: str) -> None:
    """Each fault fails its own check, with what to do, and the exit status is 1."""
    fault(enrolled)
    status, statuses = _findings(enrolled, "--online")
    assert status == 1
    assert [name for name, found in statuses.items() if found == "failed"] == [check]


def test_an_open_state_folder_is_a_warning(enrolled: Device) -> None:
    """A state folder that others can enter is told, with the command that closes it."""
    enrolled.home.chmod(0o755)
    status, statuses = _findings(enrolled)
    assert (status, statuses["state.folder"]) == (0, "warning")
    assert f"chmod 700 {enrolled.home}" in enrolled.run("doctor").stdout


def test_a_wrong_pin_that_was_given_is_told(enrolled: Device) -> None:
    """D1: after a wrong PIN the doctor says that one was given, and tries none itself."""
    wrong = enrolled.folder / "wrong"
    wrong.write_text("wrong-pin\n")
    wrong.chmod(0o600)
    enrolled.extra["HSM_ENROLL_PIN_FILE"] = str(wrong)
    assert enrolled.refused("csr") == (12, "pin-wrong")
    for _ in range(2):
        status, statuses = _findings(enrolled)
        assert (status, statuses["token.pin-tries"], statuses["pin.source"]) == (0, "warning", "ok")


@pytest.mark.parametrize("shift", ["-1790000000s", "+1000000000s"])
def test_a_wrong_clock_is_told_and_nothing_else_is_blamed(enrolled: Device, shift: str) -> None:
    """D14: a clock in 1970 or past 2049 fails the clocks' own checks; no certificate is called untimely."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    enrolled.extra.update(LD_PRELOAD=str(library), FAKETIME=shift)
    status, statuses = _findings(enrolled, "--online")
    assert status == 1
    assert [name for name, found in statuses.items() if found == "failed"] == ["clock", "online.clock"]
    untold = ["certificate.dates", "online.api-tls", "online.mqtt-tls", "credentials.reachable"]
    assert [statuses[name] for name in untold] == ["skipped"] * len(untold)


def test_another_authority_is_told_as_interception(enrolled: Device, tmp_path: Path) -> None:
    """D15: where neither end's chain leads to the CA that is trusted, both are told, each with the issuer seen."""
    authority = Authority(tmp_path / "another", "another CA")
    enrolled.extra["HSM_ENROLL_CA_FILE"] = str(authority.certificate)
    status, statuses = _findings(enrolled, "--online")
    assert status == 1
    failed = [name for name, found in statuses.items() if found == "failed"]
    assert failed == ["online.api-tls", "online.mqtt-tls", "credentials.reachable"]
    certificate = load_pem_x509_certificate(Path(enrolled.cloud["HSM_ENROLL_CA_FILE"]).read_bytes())
    issuer = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    assert f"issued by CN={issuer}" in enrolled.run("doctor", "--online").stdout


def test_the_setting_decides_which_tls_the_broker_is_offered(enrolled: Device) -> None:
    """What the doctor reports of the broker is TLS 1.2, and TLS 1.3 where ``tls`` is ``auto``."""
    for extra, version in (({}, "TLSv1.2"), ({"HSM_ENROLL_TLS": "auto"}, "TLSv1.3")):
        enrolled.extra.update(extra)
        checks = enrolled.json("doctor", "--online")["checks"]
        [message] = [check["message"] for check in checks if check["id"] == "online.mqtt-tls"]
        assert f"negotiates {version}, " in message


def test_without_a_role_alias_its_checks_are_skipped(enrolled: Device) -> None:
    """Not every backend has one, and nothing is wrong with a device that knows of none."""
    _without_an_alias(enrolled)
    status, statuses = _findings(enrolled, "--online", "--login")
    assert (status, statuses["mqtt.login"]) == (0, "ok")
    assert (statuses["credentials.reachable"], statuses["credentials.login"]) == ("skipped", "skipped")


def test_a_login_gets_aws_credentials_and_keeps_none(enrolled: Device, cloud: Cloud) -> None:
    """The provider is asked once, as aws-credentials asks it; the PIN is asked for once, and nothing is left behind."""
    (enrolled.home / "pin").rename(enrolled.folder / "pin")
    before = cloud.log("credentials").count("GET /role-aliases/")
    with Screen(enrolled, "doctor", "--login") as screen:
        screen.expect("PIN of token 'gateway': ")
        screen.type((enrolled.folder / "pin").read_text() + "\n")
        assert screen.end() == 0
    assert screen.text.count("PIN of token 'gateway': ") == 1
    assert "credentials.login: " in screen.text
    assert cloud.log("credentials").count("GET /role-aliases/") == before + 1
    assert not (enrolled.home / "aws-credentials.json").exists()


def test_a_refusal_of_aws_credentials_is_told_with_its_cause(enrolled: Device) -> None:
    """The broker accepts the certificate, so the hint is about the role alias and the policy, and not this command."""
    enrolled.extra["HSM_ENROLL_ROLE_ALIAS"] = "not-the-devices"
    checks = {check["id"]: check for check in enrolled.json("doctor", "--login", status=1)["checks"]}
    assert [name for name, check in checks.items() if check["status"] == "failed"] == ["credentials.login"]
    assert "'not-the-devices'" in checks["credentials.login"]["message"]
    assert "doctor" not in checks["credentials.login"]["hint"]


def test_a_pin_that_was_refused_is_not_tried_again(enrolled: Device, cloud: Cloud) -> None:
    """D1: mqtt.login tells of it, and the credentials provider is not asked."""
    enrolled.extra["HSM_ENROLL_PIN"] = "wrong"
    before = cloud.log("credentials").count("GET /role-aliases/")
    status, statuses = _findings(enrolled, "--login")
    assert (status, statuses["mqtt.login"], statuses["credentials.login"]) == (1, "failed", "skipped")
    assert cloud.log("credentials").count("GET /role-aliases/") == before
