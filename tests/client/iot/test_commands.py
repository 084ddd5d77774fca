"""The commands that speak MQTT, as processes: what they connect as, what they warn of, and what the doctor sees."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from hsm_enroll import settings
from hsm_enroll.doctor import Finding, Login, Patient, Status, checks_login
from hsm_enroll.errors import MqttRefusedError, PinMissingError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tokens import Tokens
from tests.client.iot.device import EnrolledDevice, enrolled_device
from tests.support import broker as mosquitto
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.scripted import CONNECT, PUBLISH, Packet
from tests.support.softhsm import SoftHsm

_TIME_LIMIT = 60.0
_FELL_BACK = "connected with the Thing's name as client id, which ends any other connection that uses it: "


@pytest.fixture
def device(
    identity: Identity, broker: Broker, authority: Authority, softhsm: SoftHsm, tmp_path: Path
) -> EnrolledDevice:
    """An enrolled device whose broker is there."""
    return enrolled_device(identity, broker.port, authority, softhsm, tmp_path)


@contextmanager
def _refusing(authority: Authority, *, own: int, thing: int = 0) -> Iterator[int]:
    """A broker that answers CONNECT by whether the client id is the Thing's name, and takes what is published."""

    def script(packet: Packet) -> bytes:
        if packet.type == CONNECT:
            return scripted.connack(own if "/" in scripted.client_id(packet) else thing)
        return scripted.puback(packet) if packet.type == PUBLISH else b""

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port:
        yield port


def test_publish_does_not_disturb_subscribe(device: EnrolledDevice, broker: Broker) -> None:
    """D26: a subscriber gets what the same device publishes beside it, each under an id of its own."""
    topic = f"device/{device.thing}/x"
    with device.start("subscribe", topic, "--count", "2") as subscriber:
        broker.log.wait_for(f"Sending SUBACK to {device.thing}/subscribe-")
        for message in ("one", "two"):
            publish = device.run("publish", topic, message)
            assert (publish.returncode, publish.stdout) == (0, f"published 3 bytes to {topic}\n")
            assert "warning" not in publish.stderr
        output, errors = subscriber.communicate(timeout=_TIME_LIMIT)
    assert (subscriber.returncode, output) == (0, "one\ntwo\n")
    assert "warning" not in errors
    assert re.search(rf"{device.thing}/publish-[0-9a-f]{{8}} ", broker.log.wait_for(f"as {device.thing}/publish-"))


def test_publish_says_that_its_id_was_refused(device: EnrolledDevice, authority: Authority) -> None:
    """D26: where the id is refused the message goes out under the Thing's name, and one line on stderr says so."""
    with _refusing(authority, own=0x87) as port:
        run = device.at(port).run("publish", f"device/{device.thing}/x", "x", "--json")
    assert run.returncode == 0
    assert json.loads(run.stdout)["published"]["bytes"] == 1
    [line] = run.stderr.splitlines()
    assert line.startswith(f"warning: {_FELL_BACK}localhost:{port} refused client id '{device.thing}/publish-")


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish", "a/#", "x"),
        ("publish", "1/2/3/4/5/6/7/8/9", "x"),
        ("publish", "a" * 257, "x"),
        ("subscribe", "a/#/b"),
        ("subscribe", "1/2/3/4/5/6/7/8/9"),
    ],
    ids=["wildcard", "levels", "length", "filter", "filter's levels"],
)
def test_what_aws_iot_would_not_accept_is_refused_without_connecting(
    arguments: tuple[str, ...], device: EnrolledDevice
) -> None:
    """Exit status 2, although nothing listens where the broker should be: neither token nor broker is needed."""
    error = device.at(mosquitto.free_port()).with_environment(HSM_ENROLL_PIN="wrong").error(*arguments)
    assert error["exitStatus"] == 2


def test_a_refused_topic_is_told_with_the_devices_own(device: EnrolledDevice) -> None:
    """D19: who publishes to a topic of another is told which ones are this device's."""
    error = device.error("publish", "device/another/x", "x")
    assert (error["exitStatus"], error["code"]) == (40, "mqtt-refused")
    for topic in (f"certtest/{device.thing}", f"device/{device.thing}/#", f"$aws/things/{device.thing}/shadow/#"):
        assert topic in error["hint"]


def test_the_first_message_has_an_id_of_its_own(device: EnrolledDevice, broker: Broker) -> None:
    """D26: ``init``'s first message goes to the Thing's hello topic and throws nobody out."""
    attempt = Attempt(
        device.identity.token, KeyType.EC_P256, device.identity.key_label, device.identity.key_id, new_key=False
    )
    attempt.save(device.home)
    with broker.observed("#") as observer:
        run = device.run("init", "--json")
        observer.wait_for(f"certtest/{device.thing} ")
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["topics"]["hello"] == f"certtest/{device.thing}"
    broker.log.wait_for(f"as {device.thing}/init-")


def test_init_says_that_its_id_was_refused(device: EnrolledDevice, authority: Authority) -> None:
    """D26: ``init`` falls back and says so as ``publish`` does."""
    attempt = Attempt(
        device.identity.token, KeyType.EC_P256, device.identity.key_label, device.identity.key_id, new_key=False
    )
    attempt.save(device.home)
    with _refusing(authority, own=0x85) as port:
        run = device.at(port).run("init", "--json")
    assert run.returncode == 0
    assert f"warning: {_FELL_BACK}localhost:{port} refused client id '{device.thing}/init-" in run.stderr


def test_status_tells_the_topics(device: EnrolledDevice) -> None:
    """``status`` has the topics that are the device's by the built-in policy, as JSON and for a person."""
    own = {
        "hello": f"certtest/{device.thing}",
        "own": f"device/{device.thing}/#",
        "shadow": f"$aws/things/{device.thing}/shadow/#",
        "jobs": f"$aws/things/{device.thing}/jobs/#",
    }
    assert device.json("status")["topics"] == own
    told = device.run("status").stdout
    assert all(topic in told for topic in own.values())


def _must_not_be_asked(_: TokenName) -> Secret:
    pytest.fail("the PIN was asked for")


def _not_logged_in(device: EnrolledDevice, login: Login | None, tokens: Tokens | None = None) -> Finding:
    """What the doctor finds where no login is tried, so that this process may see it."""
    with tokens or Tokens() as there:
        return checks_login.mqtt(Patient(settings.load(device.environment, {}), device.environment, there), login)


class _Locking(Tokens):
    """Tokens whose PIN is locked, or would be by one more wrong one."""

    def __init__(self, *, locked: bool) -> None:
        super().__init__()
        self._locked = locked

    def listed(self, module: Path) -> list[TokenReport]:
        return [
            report._replace(pin_locked=self._locked, pin_final_try=not self._locked)
            for report in super().listed(module)
        ]


_NOT_ASKED = Login(_must_not_be_asked, lambda _: None)


def _doctor(device: EnrolledDevice, *options: str) -> tuple[int, dict[str, Any], str]:
    """Run the doctor; return its exit status, its finding about the login, and what the other ones have wrong."""
    run = device.run("doctor", "--json", *options)
    findings = {finding["id"]: finding for finding in json.loads(run.stdout)["checks"]}
    login = findings.pop("mqtt.login")
    return run.returncode, login, ", ".join(name for name, found in findings.items() if found["status"] == "failed")


def test_the_doctor_tries_no_login_unasked(device: EnrolledDevice, broker: Broker) -> None:
    """D1: without --login the doctor says that it tried no PIN, and how to have it tried; with it, it is let in."""
    assert _doctor(device) == (
        0,
        {
            "id": "mqtt.login",
            "status": "skipped",
            "message": "whether the broker accepts the device's certificate was not tried: that takes the PIN",
            "hint": "Run: hsm-enroll doctor --login",
        },
        "",
    )
    message = f"connected to localhost as {device.thing} with the token's key"
    expected = {"id": "mqtt.login", "status": "ok", "message": message, "hint": ""}
    assert _doctor(device, "--login") == (0, expected, "")
    broker.log.wait_for(f"as {device.thing}/doctor-")


def test_the_doctor_does_not_look_at_the_network_for_a_login(device: EnrolledDevice) -> None:
    """``--login`` makes the checks that are skipped without it, and none of those of ``--online``."""
    ids, ids_without = (
        [finding["id"] for finding in device.json("doctor", *options)["checks"]] for options in (["--login"], [])
    )
    assert ids == ids_without
    assert ids[-2:] == ["mqtt.login", "credentials.login"]


def test_the_doctor_sees_a_revoked_certificate(
    identity: Identity, authority: Authority, softhsm: SoftHsm, tmp_path: Path
) -> None:
    """D19: a certificate that the broker does not take any more fails the doctor with --login, and nothing else."""
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem.encode())
    with mosquitto.running(tmp_path / "strict", authority, crl=authority.revoke(certificate)) as broker:
        device = enrolled_device(identity, broker.port, authority, softhsm, tmp_path)
        status, login, failed = _doctor(device, "--login")
    assert (status, login["status"], failed) == (1, "failed", "")
    assert login["hint"] == MqttRefusedError.default_hint


def test_the_doctor_warns_of_a_policy_without_ids(device: EnrolledDevice, authority: Authority) -> None:
    """D26: where the Thing's name is the only id that is let in, the doctor warns, and says whom to ask for what."""
    with _refusing(authority, own=0x87) as port:
        status, login, _ = _doctor(device.at(port), "--login")
    assert (status, login["status"]) == (0, "warning")
    refused = rf"localhost:{port} refused client id '{device.thing}/doctor-[0-9a-f]{{8}}' \(NOT_AUTHORIZED\)"
    assert re.search(f"but not with its own client id: {refused}$", login["message"])
    assert f"{device.thing}/…" in login["hint"]


def test_the_doctor_tells_what_the_broker_says(device: EnrolledDevice, authority: Authority) -> None:
    """D19: a device that is let in under no name fails, with the error's own message and hint."""
    with _refusing(authority, own=0x87, thing=0x87) as port:
        _, login, failed = _doctor(device.at(port), "--login")
    assert (login["status"], failed) == ("failed", "")
    assert login["message"] == f"localhost:{port} refused client id '{device.thing}' (NOT_AUTHORIZED)"
    assert login["hint"] == MqttRefusedError.default_hint


def test_the_doctor_tells_of_a_wrong_pin(device: EnrolledDevice) -> None:
    """D1: a PIN that the token refuses is a failed check."""
    _, login, failed = _doctor(device.with_environment(HSM_ENROLL_PIN="123456-is-wrong"), "--login")
    assert (login["status"], login["message"], failed) == (
        "failed",
        "token 'gateway' refused the PIN (CKR_PIN_INCORRECT): it was the PIN in HSM_ENROLL_PIN",
        "",
    )
    assert "once" in login["hint"]


def test_the_doctor_tells_of_a_missing_pin(device: EnrolledDevice) -> None:
    """D4: where there is no PIN to be had the check fails, and says where it was looked for."""

    def missing(_: TokenName) -> Secret:
        raise PinMissingError("there is no PIN")

    finding = _not_logged_in(device, Login(missing, lambda _: None))
    assert finding == Finding("mqtt.login", Status.FAILED, "there is no PIN", PinMissingError.default_hint)


@pytest.mark.parametrize(
    ("locked", "message"),
    [
        (True, "token 'gateway' is locked and accepts no PIN now"),
        (False, "one more wrong PIN would lock token 'gateway', so no PIN was tried"),
    ],
)
def test_the_doctor_tries_no_pin_that_would_lock(locked: bool, message: str, device: EnrolledDevice) -> None:
    """D2: with the PIN locked, or before the try that would lock it, --login asks for none and tries none."""
    finding = _not_logged_in(device, _NOT_ASKED, _Locking(locked=locked))
    assert (finding.status, finding.message) == (Status.FAILED, message)


def test_the_doctor_has_nobody_to_log_in_as(device: EnrolledDevice) -> None:
    """A device that is not enrolled has no login to try; where one was asked for, that is a failed check."""
    (device.home / "identity.json").unlink()
    for login, status in ((None, Status.SKIPPED), (_NOT_ASKED, Status.FAILED)):
        finding = _not_logged_in(device, login)
        assert (finding.status, finding.message) == (status, "there is no certificate to connect with")
        assert ("hsm-enroll init" in finding.hint) is (status is Status.FAILED)


def test_the_doctor_does_not_log_in_with_another_key(
    device: EnrolledDevice, identities: dict[KeyType, Identity]
) -> None:
    """A key that is not the certificate's is told as that; a refusal of the broker would lead astray."""
    other = identities[KeyType.EC_P384]
    dataclasses.replace(device.identity, certificate_pem=other.certificate_pem).save(device.home)
    finding = _not_logged_in(device, _NOT_ASKED)
    assert finding == Finding("mqtt.login", Status.SKIPPED, "see key.matches-certificate")


def test_the_doctor_needs_the_token(device: EnrolledDevice) -> None:
    """Without the token there is nothing to log in to; that it is gone is another finding."""
    token = device.identity.token._replace(serial="0000000000000000")
    dataclasses.replace(device.identity, token=token).save(device.home)
    finding = _not_logged_in(device, _NOT_ASKED)
    assert finding == Finding("mqtt.login", Status.SKIPPED, "no token to log in to")
