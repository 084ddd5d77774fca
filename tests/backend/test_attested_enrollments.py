"""Enrollments whose keys are proven to be in a TPM: what is recorded, what is required, and which sessions count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.backend.chips import ChipDevice, tpm, trusting, vendor
from tests.backend.fleet import LEASE, Device, Hook, going_wrong, iot, item, killed, lost, lost_once, throttled
from tests.support.csr_factory import THING
from tests.support.deployment import Answer, Death, Deployment, assert_hidden, assert_problem, deployed
from tests.support.software_tpm import (
    EVIDENCE_LIES,
    FIRMWARE,
    REQUEST_LIES,
    EkType,
    EvidenceLie,
    RequestLie,
    SoftwareTpm,
)

OF_THE_LEDGER = {"BatchGetItem", "Query", "UpdateItem", "TransactGetItems", "TransactWriteItems"}
FAULTS: dict[str, Callable[[str], Hook]] = {
    "throttled": throttled, "lost": lost, "killed": lambda step: killed("after", step),
}  # fmt: skip
STEPS = (
    "BatchGetItem 1", "UpdateItem 1", "TransactWriteItems 1", "CreateThing 1", "CreateCertificateFromCsr 1",
    "TransactWriteItems 2", "AttachThingPrincipal 1",
)  # fmt: skip
FIRMWARE_VERSION = ".".join(str(FIRMWARE >> shift & 0xFFFF) for shift in (48, 32, 16, 0))


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """A deployment that takes invites and trusts the TPMs' vendor."""
    with trusting({"AUTH_MODE": "invite"}) as deployment:
        yield deployment


def invited(backend: Deployment, thing: str = THING, **invite: object) -> ChipDevice:
    """Return a device with a TPM and an invite that requires it."""
    device = ChipDevice(backend, thing, backend.invite(thing, **{"requireTpm": True, **invite}))
    backend.calls.clear()
    return device


def refused(device: ChipDevice, answer: Answer, status: int, code: str) -> None:
    """Assert that a request was refused, that AWS IoT heard nothing of it, and that nothing is bound."""
    assert_problem(answer, status, code)
    assert set(device.backend.calls) <= OF_THE_LEDGER
    assert "TransactWriteItems" not in device.backend.calls
    assert iot().certificates == {}
    assert item("thing", device.thing) == item("tpm", device.ek_sha256) == {}


@pytest.mark.parametrize("ek", ["rsa-2048", "ec-p256", "ec-p384"])
def test_a_key_in_a_tpm_is_attested(backend: Deployment, ek: EkType) -> None:
    """The answer, the ledger and the Thing's attributes in AWS IoT say so, and which TPM it is; the log too."""
    device = replace(invited(backend), tpm=SoftwareTpm(ek, vendor()))
    answer = device.enroll()
    device.assert_enrolled(answer)
    assert answer.json["attested"] is True
    claim = item("thing", THING)
    assert (claim["ek_sha256"], claim["ek_certificate_sha256"]) == (device.ek_sha256, device.ek_certificate_sha256)
    assert (claim["tpm_manufacturer"], claim["tpm_firmware"]) == ("IFX", FIRMWARE_VERSION)
    assert item("tpm", device.ek_sha256)["thing"] == THING
    key = f"ec-p256,ek={device.ek_sha256},manufacturer=IFX,firmware={FIRMWARE_VERSION}"
    assert device.attributes() == {"attested": "true", "key": key}
    line = backend.log_lines()[-1]
    assert (line["attested"], line["ekSha256"], line["outcome"]) == ("true", device.ek_sha256, "ok")


def test_what_an_attested_enrollment_asks_of_the_table(backend: Deployment) -> None:
    """One more request, with three reads and a write; and one write more in the enrollment itself."""
    device = invited(backend)
    session = device.session()
    assert backend.calls == ["BatchGetItem", "BatchGetItem", "Query", "UpdateItem"]
    request = device.request(session)
    backend.calls.clear()
    assert device.send(request).status == 201
    attested, backend.calls[:] = sorted(backend.calls), []
    plain = Device(backend, "plain", backend.invite("plain"))
    backend.clock.ahead += 60  # its turn is due
    backend.calls.clear()
    assert plain.enroll().status == 201
    assert attested == sorted([*backend.calls, "UpdateItem"])


def test_secrets_of_a_session_are_nowhere(backend: Deployment) -> None:
    """Neither the secret nor the nonce nor the code is in the log; the table has only the secret's hash."""
    device = invited(backend)
    session = device.session()
    request = device.request(session)
    device.assert_enrolled(device.send(request))
    secrets = (request["evidence"]["secret"], session["nonce"], str(device.code), request["csr"])
    assert_hidden(backend.log.getvalue(), *secrets)
    assert request["evidence"]["secret"] not in str(item("attestation", session["sessionId"]))


@pytest.mark.parametrize("policy", ["off", "prefer"])
def test_evidence_is_welcome_where_it_is_not_required(policy: str) -> None:
    """Without it the certificate is not attested, and says so; what is given is checked, and never ignored."""
    with trusting({"ATTESTATION": policy}) as backend:
        plain, attested, liar = Device(backend, "plain"), ChipDevice(backend, "attested"), ChipDevice(backend, "liar")
        assert plain.enroll().json["attested"] is False
        assert ChipDevice.attributes(ChipDevice(backend, "plain")) == {"attested": "false", "key": "ec-p256"}
        assert attested.enroll().json["attested"] is True
        assert_problem(liar.enroll("key-imported"), 403, "key-imported")
        assert item("thing", "liar") == {}


def test_who_requires_attestation_issues_nothing_without() -> None:
    """With and without an invite, and on the article's route, which takes no evidence; AWS IoT hears nothing of it."""
    with deployed({"ATTESTATION": "require"}) as backend:
        invited_device = Device(backend, THING, backend.invite(THING))
        backend.calls.clear()
        for device in (Device(backend, THING), Device(backend, THING, article=True), invited_device):
            assert_problem(device.enroll(), 403, "attestation-required")
        assert backend.calls == ["BatchGetItem"]
        assert_problem(Device(backend, THING, "0000-0000").enroll(), 401, "invite-invalid")


def test_an_invite_may_require_it_where_the_deployment_does_not(backend: Deployment) -> None:
    """Without evidence it is refused, and stays unused."""
    device = invited(backend)
    assert_problem(Device(backend, THING, device.code).enroll(), 403, "attestation-required")
    assert_problem(Device(backend, THING, device.code, article=True).enroll(), 403, "attestation-required")
    assert backend.calls == ["BatchGetItem", "BatchGetItem"]
    device.assert_enrolled(device.enroll())


@pytest.mark.parametrize("lie", EVIDENCE_LIES)
def test_s20_a_lie_in_the_evidence_is_refused(backend: Deployment, lie: EvidenceLie) -> None:
    """S20: each with its own code, before anything is bound, and before AWS IoT hears of it."""
    device = invited(backend)
    answer = device.enroll(lie)
    refused(device, answer, 400 if lie == "leftover" else 403, EVIDENCE_LIES[lie])
    (invite,) = backend.items("invite").values()
    assert invite["uses_left"] == "1"


@pytest.mark.parametrize("lie", REQUEST_LIES)
def test_s20_a_lie_about_the_tpm_starts_no_session(backend: Deployment, lie: RequestLie) -> None:
    """S20: each with its own code; nothing is written."""
    device = invited(backend)
    refused(device, device.start(lie), 403, REQUEST_LIES[lie])
    assert backend.items("attestation") == {}


def test_s20_a_tpm_of_a_vendor_whom_nobody_trusts_starts_no_session(backend: Deployment) -> None:
    """S20: also without any certificate."""
    device = invited(backend)
    refused(device, device.start(certified=False), 403, "ek-untrusted")
    foreign = replace(device, tpm=SoftwareTpm("ec-p256"))
    refused(foreign, foreign.start(), 403, "ek-untrusted")


def test_s20_a_session_is_used_once(backend: Deployment) -> None:
    """S20: for one CSR; another one, of the same device and with honest evidence, is refused."""
    device = invited(backend)
    session = device.session()
    first, second = device.request(session), device.request(session)
    device.assert_enrolled(device.send(first))
    assert_problem(device.send(second), 403, "attestation-used")
    device.assert_enrolled(device.send(first))


def test_s20_of_two_requests_at_once_one_gets_the_session(backend: Deployment) -> None:
    """S20: the other one is refused, whoever comes first."""
    backend.clock.waits = True
    device = invited(backend)
    session = device.session()
    requests = [device.request(session) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(device.send, requests))
    assert sorted(answer.status for answer in answers) == [201, 403, 403, 403]
    assert {answer.json["code"] for answer in answers if answer.status == 403} == {"attestation-used"}
    assert backend.calls.count("CreateCertificateFromCsr") == 1


def test_s20_a_session_expires_and_an_unknown_one_is_none(backend: Deployment) -> None:
    """S20: five minutes after it was started, unless it has been used."""
    device = invited(backend)
    request = device.request(device.session())
    backend.clock.ahead = 301
    refused(device, device.send(request), 403, "attestation-expired")
    request["evidence"]["sessionId"] = "never-started"
    refused(device, device.send(request), 403, "attestation-unknown")
    device.assert_enrolled(device.enroll())


def test_a_session_lasts_for_five_minutes(backend: Deployment) -> None:
    """A slow TPM, or a person who looks for the PIN, has all of that time."""
    device = invited(backend)
    request = device.request(device.session())
    backend.clock.ahead = 285
    device.assert_enrolled(device.send(request))


def test_the_same_request_is_answered_alike_an_hour_later(backend: Deployment) -> None:
    """A device that lost the answer, or that waited in the queue, sends the same bytes again."""
    device = invited(backend)
    request = device.request(device.session())
    first = device.send(request)
    backend.clock.ahead = 3600
    again = device.send(request)
    assert (first.status, again.status) == (201, 200)
    assert first.body == again.body


def test_a_fresh_session_for_the_same_key_gets_the_same_certificate(backend: Deployment) -> None:
    """A device that crashed in between starts a new session, also with an invite that is used up or has expired."""
    device = invited(backend, ttlSeconds=60)
    first = device.enroll()
    for ahead in (30, 90):
        backend.clock.ahead = ahead
        again = device.enroll()
        assert (again.status, again.body) == (200, first.body)
    other = replace(device, thing="another")
    assert_problem(other.start(), 401, "invite-invalid")


def test_s20_sessions_are_not_exchanged_between_devices(backend: Deployment) -> None:
    """S20: a session is for one Thing and one invite, and its evidence is its TPM's."""
    victim, thief = invited(backend), invited(backend, "thief")
    session = victim.session()
    request = thief.request(thief.session())
    stolen = request | {"evidence": request["evidence"] | {"sessionId": session["sessionId"]}}
    refused(thief, thief.send(stolen), 403, "attestation-other-thing")
    # The victim's Thing and invite, the thief's TPM.
    disguised = replace(thief, thing=THING, code=victim.code)
    mixed = disguised.request(disguised.session())
    mixed["evidence"]["sessionId"] = victim.session()["sessionId"]
    refused(disguised, disguised.send(mixed), 403, "attestation-secret-wrong")
    # Another invite for the same Thing.
    request = victim.request(victim.session())
    other = replace(victim, code=backend.invite(THING))
    backend.calls.clear()
    refused(other, other.send(request), 403, "attestation-other-thing")
    refused(victim, replace(victim, code=None).send(request), 403, "attestation-other-thing")


def test_an_invite_for_several_things_leaves_the_name_to_the_request(backend: Deployment) -> None:
    """The session names no Thing; whichever the invite allows is enrolled."""
    device = invited(backend, "gw-*", uses=2)
    device = replace(device, thing="gw-7")
    session = device.session(named=False)
    assert "thingName" not in session
    device.assert_enrolled(device.send(device.request(session)))
    assert device.session()["thingName"] == "gw-7"
    # A session that names a Thing is not for another one, which the invite allows too.
    other = replace(device, thing="gw-8")
    assert_problem(other.send(other.request(device.session())), 403, "attestation-other-thing")


def test_an_invite_for_one_thing_tells_its_name(backend: Deployment) -> None:
    """A device that does not know its name learns it with the session."""
    assert invited(backend).session(named=False)["thingName"] == THING


@pytest.mark.parametrize("fingerprint", ["ek_sha256", "ek_certificate_sha256"])
def test_an_invite_for_one_tpm_is_for_that_one(backend: Deployment, fingerprint: str) -> None:
    """Named by its key or by its certificate, whoever made it; another TPM gets no session."""
    chosen = SoftwareTpm("ec-p256")  # of a vendor whom nobody trusts
    wanted = getattr(ChipDevice(backend, THING, tpm=chosen), fingerprint)
    device = invited(backend, ekSha256=wanted, requireTpm=False)
    refused(device, device.start(), 403, "ek-mismatch")
    device = replace(device, tpm=chosen)
    device.assert_enrolled(device.enroll())
    assert "tpm_manufacturer" not in item("thing", THING)  # nobody but its certificate says who made it


def test_a_key_that_is_enrolled_already_is_attested_later(backend: Deployment) -> None:
    """A device that had no TPM support when it enrolled repeats its request with evidence: the same certificate."""
    plain = Device(backend, THING, backend.invite(THING))
    first = plain.enroll()
    device = ChipDevice(backend, THING, plain.code, plain.key, tpm=tpm())
    again = device.enroll()
    assert (again.status, again.json) == (200, first.json | {"attested": True})
    assert device.attributes()["attested"] == "true"
    assert item("tpm", device.ek_sha256)["thing"] == THING
    impostor = replace(device, tpm=tpm())  # a key is in one TPM
    assert_problem(impostor.enroll(), 403, "ek-mismatch")
    assert plain.enroll().json["attested"] is True


def test_an_attested_enrollment_waits_for_its_turn_like_any_other() -> None:
    """It is told to come back, and the same request succeeds then, though its session is long over."""
    with trusting({"CERTIFICATE_RATE": "0.001"}) as backend:
        assert Device(backend, "first").enroll().status == 201
        device = ChipDevice(backend, THING)
        request = device.request(device.session())
        answer = device.send(request)
        assert_problem(answer, 429, "enrollment-queued")
        backend.clock.ahead += int(answer.headers["retry-after"]) + 1
        device.assert_enrolled(device.send(request))
        assert device.attributes()["attested"] == "true"


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("step", STEPS)
def test_s15_s17_an_attested_enrollment_that_failed_is_continued(
    backend: Deployment, step: str, fault: Callable[[str], Hook]
) -> None:
    """S15, S17: each call failed, lost, or the last one: the same bytes again end with one certificate, attested."""
    device = invited(backend)
    request = device.request(device.session())
    with going_wrong(device, fault(step)), suppress(Death):
        device.send(request)
    backend.clock.ahead += LEASE
    answer = device.send(request)
    device.assert_enrolled(answer)
    assert answer.json["attested"] is True
    assert device.attributes()["attested"] == "true"
    assert item("tpm", device.ek_sha256)["thing"] == THING


@pytest.mark.usefixtures("no_waiting")
def test_s15_a_session_that_was_not_started_is_started_again(backend: Deployment) -> None:
    """S15: whatever failed; what is left of the first tries does no harm, and a lost response is no failure."""
    device = invited(backend)
    for step in ("BatchGetItem 1", "BatchGetItem 2", "Query 1", "UpdateItem 1"):
        for fault, status in ((throttled, 429), (lost, 503), (lost_once, 201)):
            with going_wrong(device, fault(step)):
                assert device.start().status == status
    device.assert_enrolled(device.enroll())


def test_claims_of_earlier_versions_are_read(backend: Deployment) -> None:
    """They have none of the attributes that are about TPMs; neither have their Things in AWS IoT."""
    plain = Device(backend, THING, backend.invite(THING))
    assert plain.enroll().status == 201
    assert not item("thing", THING).keys() & {"ek_sha256", "by_chip", "undescribed", "tpm_firmware"}
    backend.iot.update_thing(
        thingName=THING, attributePayload={"attributes": {"attested": "", "key": ""}, "merge": True}
    )
    assert plain.enroll().json["attested"] is False
    successor = plain.successor()
    assert plain.renew(successor).status == 201
    assert successor.commit().status == 204
