"""Renewals: a new key and certificate beside the old ones, and the switch from one to the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType

from enrollment_backend.claims import Applicant, Certificate, Claim
from enrollment_backend.decisions import Entries, Verdict, decide_renewal
from enrollment_backend.errors import (
    EnrollmentError,
    EnrollmentQueuedError,
    KeyEnrolledError,
    KeyReusedError,
    RenewalInProgressError,
    RenewalsLimitedError,
)
from tests.backend.fleet import Device, forget_turns, going_wrong, iot, item, throttled
from tests.backend.test_sweep import by_route, scheduled
from tests.support.csr_factory import THING, ec_key, pem_of, request, rsa_key
from tests.support.deployment import REGION, TABLE, Deployment, assert_problem, aws_answer, certificate_for, deployed
from tests.support.proofs import API, header, prove, send, sign

HOUR = 3600

pytestmark = pytest.mark.usefixtures("no_waiting")


def events(backend: Deployment, name: str) -> list[dict[str, Any]]:
    """Return the lines of the log about an event."""
    return [line for line in backend.log_lines() if line["event"] == name]


def test_a_renewal_ends_with_the_new_key_and_certificate_alone(device: Device) -> None:
    """Both can connect until the commit; after it the old certificate is gone, and so is all that was for the way."""
    successor = device.successor()
    answer = device.renew(successor)
    assert answer.status == 201
    assert answer.json["certificateId"] == successor.certificates()[0].certificate_id
    assert answer.json["thingName"] == THING
    assert answer.json.keys() == device.enroll().json.keys()
    assert (len(device.usable()), len(successor.usable())) == (1, 1)
    assert item("thing", THING)["spki_sha256"] == device.spki_sha256
    old_id = device.certificates()[0].certificate_id

    committed = successor.commit()
    assert (committed.status, committed.body) == (204, "")
    assert device.certificates() == []
    successor.assert_alone()
    assert "revoked" in item("certificate", old_id)
    assert "superseded" in item("key", device.spki_sha256)
    assert (successor.recover().status, successor.recover().json) == (200, answer.json)


def test_the_calls_of_a_renewal(backend: Deployment, device: Device) -> None:
    """The proof takes two reads and a write; one certificate is issued, and no Thing created."""
    successor = device.successor()
    forget_turns()  # so that one is due
    assert device.renew(successor).status == 201
    assert sorted(backend.calls) == sorted(
        ["BatchGetItem", "TransactGetItems"] + ["UpdateItem"] * 2 + ["TransactWriteItems"] * 2
        + ["CreateCertificateFromCsr", "AttachPolicy", "AttachThingPrincipal"]
    )  # fmt: skip
    backend.calls.clear()
    assert successor.commit().status == 204
    assert backend.calls == [
        "BatchGetItem", "TransactGetItems", "UpdateItem", "TransactWriteItems",
        "UpdateCertificate", "DetachThingPrincipal", "DeleteCertificate", "TransactWriteItems",
    ]  # fmt: skip


def test_the_ledger_has_switched_before_the_old_certificate_is_touched(backend: Deployment, device: Device) -> None:
    """The old certificate is valid until the new one is the Thing's."""
    successor = device.successor()
    device.renew(successor)
    seen: list[bool] = []

    def interrupt(phase: str, operation: str) -> None:
        if (phase, operation) == ("before", "UpdateCertificate"):
            seen.append(item("thing", THING)["spki_sha256"] == successor.spki_sha256)

    backend.interrupt = interrupt
    assert successor.commit().status == 204
    assert seen == [True]


def test_only_the_next_key_commits(device: Device) -> None:
    """A commit by the key that the Thing has changes nothing; that by the next one does."""
    successor = device.successor()
    device.renew(successor)
    assert device.commit().status == 204
    assert item("thing", THING)["spki_sha256"] == device.spki_sha256
    assert (len(device.usable()), len(successor.usable())) == (1, 1)
    assert successor.commit().status == 204
    successor.assert_alone()


def test_a_repeated_renewal_gets_the_same_answer_and_a_repeated_commit_too(device: Device) -> None:
    """200 with the same certificate, 204 and 204: an answer may have been lost."""
    successor = device.successor()
    first, again = device.renew(successor), device.renew(successor)
    assert (first.status, again.status, again.json) == (201, 200, first.json)
    assert [successor.commit().status for _ in range(3)] == [204] * 3
    successor.assert_alone()


@pytest.mark.parametrize("key", [ec_key(ec.SECP384R1), rsa_key(2048)], ids=["P-384", "RSA"])
def test_a_renewal_may_change_the_type_of_the_key(backend: Deployment, device: Device, key: Any) -> None:
    """The list shows the new type; the next renewal is signed with the new key."""
    successor = replace(device, key=key)
    assert device.renew(successor).status == 201
    assert successor.commit().status == 204
    (listed,) = backend.operate("GET", "fleet").json["things"]
    assert listed["keyType"] == ("rsa-2048" if key is rsa_key(2048) else "ec-p384")
    third = device.successor()
    assert successor.renew(third).status == 201
    assert third.commit().status == 204
    third.assert_alone()


def test_things_can_be_renewed_again_and_again(device: Device) -> None:
    """Each renewal leaves one certificate; every key before stays known, and out."""
    keys = [device]
    for _ in range(3):
        successor = device.successor()
        assert keys[-1].renew(successor).status == 201
        assert successor.commit().status == 204
        keys.append(successor)
    keys[-1].assert_alone()
    for old in keys[:-1]:
        assert_problem(old.renew(device.successor()), 409, "key-not-current")
        assert_problem(old.commit(), 409, "key-not-current")
        assert_problem(old.recover(), 409, "key-not-current")
        assert_problem(old.retire(), 409, "key-not-current")
        assert_problem(keys[-1].renew(old), 409, "key-reused")


def test_s16_a_certificate_for_another_key_is_not_passed_on(backend: Deployment, device: Device) -> None:
    """S16: it is withdrawn, and the retry gets the right one."""
    wrong = certificate_for(request())
    content = {"certificatePem": wrong, "certificateId": "0" * 64, "certificateArn": "arn:aws:iot:::cert/0"}
    backend.inject("CreateCertificateFromCsr", lambda _sent: aws_answer(200, json.dumps(content)))
    successor = device.successor()
    assert_problem(device.renew(successor), 502, "certificate-not-for-key")
    backend.faults.clear()
    assert device.renew(successor).status == 201
    assert successor.commit().status == 204
    successor.assert_alone()


NOW = 1_790_000_000
OWN, NEXT, OTHER = "0" * 64, "1" * 64, "2" * 64
HELD = Certificate("PEM", "id", "arn")


def entries(renewal: Claim | None = None, **more: Any) -> Entries:
    """Return what the ledger holds of an enrolled Thing."""
    claim = Claim(THING, "claim", OWN, None, "lease", 0, 0, certificate=HELD)
    return Entries(None, claim, key_thing=None, renewal=renewal, **more)


def limited(renewal: Claim | None = None) -> Entries:
    """Return the same of one that was renewed too often."""
    found = entries(renewal)
    assert found.claim is not None
    return replace(found, claim=replace(found.claim, renewals_until=NOW + 10 * HOUR))


def renewing(spki_sha256: str = NEXT, **more: Any) -> Claim:
    """Return a renewal that began ten seconds ago."""
    values = {"lease_ends": NOW + 20, "claimed": NOW - 10, "code_sha256": None, **more}
    return Claim(THING, "renewal", spki_sha256, lease="lease", kind="renewal", **values)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (entries(), Verdict.RENEW),
        (entries(renewing()), Verdict.WAIT),
        (entries(renewing(lease_ends=NOW)), Verdict.TAKE_OVER_RENEWAL),
        (entries(renewing(lease_ends=NOW, turn=NOW + 60)), EnrollmentQueuedError),
        (entries(renewing(certificate=HELD)), Verdict.ANSWER_RENEWAL),
        (entries(renewing(claimed=NOW - HOUR)), Verdict.WAIT),
        (entries(renewing(claimed=NOW - HOUR, turn=NOW - 10, lease_ends=0)), Verdict.TAKE_OVER_RENEWAL),
        (entries(renewing(claimed=NOW - HOUR, enrolled=NOW - 10, certificate=HELD)), Verdict.ANSWER_RENEWAL),
        (entries(renewing(certificate=HELD, claimed=NOW - HOUR, lease_ends=NOW)), Verdict.RENEW),
        (entries(renewing(OTHER, certificate=HELD)), RenewalInProgressError),
        (entries(renewing(OTHER, lease_ends=0)), RenewalInProgressError),
        (entries(renewing(OTHER, claimed=NOW - HOUR, lease_ends=0)), Verdict.RENEW),
        (entries(renewing(code_sha256="code", lease_ends=0)), RenewalInProgressError),
        (entries(key_superseded=True), KeyReusedError),
        (replace(entries(), key_thing=THING), Verdict.RENEW),
        (replace(entries(key_superseded=True), key_thing=THING), KeyReusedError),
        (replace(entries(key_shareable=True), key_thing=THING), KeyEnrolledError),
        (replace(entries(), key_thing="other"), KeyEnrolledError),
        (replace(entries(renewing(OTHER)), key_thing="other"), KeyEnrolledError),
        (limited(), RenewalsLimitedError),
        (limited(renewing(certificate=HELD)), Verdict.ANSWER_RENEWAL),
        (limited(renewing(certificate=HELD, claimed=NOW - HOUR, lease_ends=NOW)), Verdict.RENEW),
        (limited(renewing(OTHER, certificate=HELD)), RenewalInProgressError),
        (limited(renewing(OTHER, certificate=HELD, by_est=True)), RenewalsLimitedError),
    ],
)
def test_what_is_to_be_done_about_a_request_to_renew(found: Entries, expected: Verdict | type[EnrollmentError]) -> None:
    """Each case of what the ledger may hold has one verdict, or is one refusal."""
    applicant = Applicant(THING, NEXT, None)
    if isinstance(expected, Verdict):
        assert decide_renewal(applicant, found, NOW) is expected
        return
    with pytest.raises(expected):
        decide_renewal(applicant, found, NOW)


def test_a_key_that_the_thing_has_is_not_its_next_one() -> None:
    """Whatever else there is."""
    with pytest.raises(KeyReusedError):
        decide_renewal(Applicant(THING, OWN, None), entries(renewing()), NOW)


# --- S19: who may not ---------------------------------------------------------------------------------------------


def test_s19_a_revoked_thing_renews_nothing(backend: Deployment, device: Device) -> None:
    """S19: whoever has its key is told that it is revoked; nothing is issued."""
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    for answer in (device.renew(device.successor()), device.recover(), device.retire(), device.commit()):
        assert_problem(answer, 409, "thing-revoked")
    assert backend.certificates() == ["INACTIVE"]


def test_s19_a_key_that_was_never_enrolled_proves_nothing(backend: Deployment, device: Device) -> None:
    """S19: the same answer as for a wrong signature, and nothing is written."""
    stranger = device.successor()
    backend.calls.clear()
    for answer in (stranger.renew(device.successor()), stranger.commit(), stranger.recover(), stranger.retire()):
        assert_problem(answer, 401, "proof-invalid")
        assert answer.headers["www-authenticate"] == "Proof"
    assert set(backend.calls) == {"BatchGetItem"}


def test_s19_a_foreign_key_renews_its_own_thing_only(backend: Deployment, device: Device) -> None:
    """S19: the proof says nothing of a Thing; a CSR for another one is refused."""
    foreign = Device(backend, "other")
    foreign.enroll()
    answer = prove(backend, foreign.key, "/v1/renewals", {"csr": device.successor().csr})
    assert_problem(answer, 400, "csr-common-name-mismatch")
    assert item("renewal", THING) == item("renewal", "other") == {}


def test_s19_a_key_that_is_another_things_is_refused(backend: Deployment, device: Device) -> None:
    """S19: neither its current one, nor its next one, nor one that it had; nor the Thing's own."""
    other = Device(backend, "other")
    other.enroll()
    pending = other.successor()
    other.renew(pending)
    for key in (other.key, pending.key):
        assert_problem(device.renew(replace(device, key=key)), 409, "key-enrolled")
    pending.commit()
    assert_problem(device.renew(replace(device, key=other.key)), 409, "key-enrolled")
    assert_problem(device.renew(device), 409, "key-reused")
    assert len(iot().certificates) == 2


def test_s19_a_replayed_proof_is_refused(backend: Deployment, device: Device) -> None:
    """S19: the same bytes a second time, whatever came of the first."""
    protected = header(device.key, f"{API}/v1/recoveries", backend.clock.time())
    body = sign(device.key, protected)
    assert send(backend, "/v1/recoveries", body).status == 200
    assert_problem(send(backend, "/v1/recoveries", body), 401, "proof-replayed")


@pytest.mark.parametrize("path", ["/v1/renewals", "/v1/renewals/commit", "/v1/recoveries", "/v1/retirements"])
def test_s19_a_body_that_was_swapped_or_sent_elsewhere_is_refused(
    backend: Deployment, device: Device, path: str
) -> None:
    """S19: a payload that the key did not sign, and a proof for another path; the ledger is not written."""
    protected = header(device.key, f"{API}{path}", backend.clock.time())
    head, _, signature = sign(device.key, protected).split(b".")
    _, payload, _ = sign(device.key, protected, b'{"csr": "x"}').split(b".")
    backend.calls.clear()
    assert_problem(send(backend, path, b".".join((head, payload, signature))), 401, "proof-invalid")
    elsewhere = header(device.key, f"{API}/v1/elsewhere", backend.clock.time())
    assert_problem(send(backend, path, sign(device.key, elsewhere)), 400, "proof-malformed")
    assert set(backend.calls) == {"BatchGetItem", "TransactGetItems"}


@pytest.mark.parametrize(
    ("path", "payload", "code"),
    [
        ("/v1/renewals", b"{}", "field-missing"),
        ("/v1/renewals", b'{"csr": 1}', "field-type"),
        ("/v1/renewals", b'{"csr": "x", "thingName": "y"}', "field-unknown"),
        ("/v1/renewals", b'{"csr": "x"}', "csr-pem-invalid"),
        ("/v1/renewals", b"[]", "json-not-object"),
        ("/v1/renewals/commit", b'{"csr": "x"}', "field-unknown"),
        ("/v1/recoveries", b'{"a": 1}', "field-unknown"),
        ("/v1/retirements", b'{"a": 1}', "field-unknown"),
        ("/v1/retirements", b"", "body-empty"),
    ],
)
def test_what_is_signed_is_read_as_strictly_as_any_body(
    backend: Deployment, device: Device, path: str, payload: bytes, code: str
) -> None:
    """400 for an object that the route does not take."""
    body = sign(device.key, header(device.key, f"{API}{path}", backend.clock.time()), payload)
    assert_problem(send(backend, path, body), 400, code)
    device.assert_alone()


def test_a_proof_is_declared_as_one(backend: Deployment, device: Device) -> None:
    """415 for JSON's media type."""
    body = sign(device.key, header(device.key, f"{API}/v1/recoveries", backend.clock.time()))
    assert_problem(send(backend, "/v1/recoveries", body, "application/json"), 415, "media-type-unsupported")


def test_a_key_that_several_things_have_proves_nothing(backend: Deployment) -> None:
    """The article's client may share a key among its Things; it does not say which of them is meant."""
    first = Device(backend, THING, article=True)
    second = replace(first, thing="second")
    assert (first.enroll().status, second.enroll().status) == (200, 200)
    assert_problem(first.recover(), 401, "proof-invalid")


# --- two at once --------------------------------------------------------------------------------------------------


def test_s13_ten_renewals_at_once_with_the_same_keys_get_equal_answers(backend: Deployment, device: Device) -> None:
    """S13: one certificate, all answers equal."""
    backend.clock.waits = True
    successor = device.successor()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: device.renew(successor), range(10)))
    assert {answer.status for answer in answers} <= {200, 201}
    assert len({answer.json["certificateId"] for answer in answers}) == 1
    assert len(successor.certificates()) == 1
    with ThreadPoolExecutor(5) as pool:
        assert {answer.status for answer in pool.map(lambda _: successor.commit(), range(5))} == {204}
    successor.assert_alone()


def test_s19_of_two_holders_of_one_key_one_wins_and_the_operator_is_told(backend: Deployment, device: Device) -> None:
    """S19: a cloned token: both renew at once; the other one is told so, then and after the commit."""
    backend.clock.waits = True
    successors = [device.successor(), device.successor()]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(device.renew, successors))
    (won,) = [position for position, answer in enumerate(answers) if answer.status == 201]
    assert_problem(answers[1 - won], 409, "renewal-in-progress")
    assert len(iot().certificates) == 2
    assert successors[won].commit().status == 204
    assert_problem(device.renew(successors[1 - won]), 409, "key-not-current")
    lines = events(backend, "renewal-contended")
    assert [(line["level"], line["thing"], line["code"]) for line in lines] == [
        ("ERROR", THING, "renewal-in-progress"), ("ERROR", THING, "key-not-current")
    ]  # fmt: skip
    successors[won].assert_alone()


def test_a_key_whose_renewal_is_pending_is_not_the_things_yet(device: Device) -> None:
    """It may only commit; that raises no alarm."""
    successor = device.successor()
    device.renew(successor)
    for answer in (successor.renew(device.successor()), successor.recover(), successor.retire()):
        assert_problem(answer, 409, "key-not-current")
    assert events(device.backend, "renewal-contended") == []
    assert device.recover().status == 200


# --- renewals that nobody commits -----------------------------------------------------------------------------------


def test_a_renewal_is_undone_after_an_hour(backend: Deployment, device: Device) -> None:
    """By the schedule: the certificate is removed, the log says so, and the commit comes too late."""
    successor = device.successor()
    device.renew(successor)
    backend.clock.ahead += HOUR - 5
    scheduled(backend)
    assert len(successor.usable()) == 1
    backend.clock.ahead += 10
    assert scheduled(backend) == []
    (told,) = events(backend, "renewal-undone")
    assert (told["level"], told["thing"], told["because"]) == ("ERROR", THING, "not-committed")
    shown = backend.operate("GET", "fleet", thing=THING).json["thing"]
    assert (shown["renewalUndone"] is not None, shown["renewalUndoneBecause"]) == (True, "not-committed")
    device.assert_alone()
    assert successor.certificates() == []
    assert_problem(successor.commit(), 409, "renewal-unknown")
    again = device.successor()
    assert device.renew(again).status == 201
    assert again.commit().status == 204
    again.assert_alone()


def test_a_commit_after_an_hour_comes_too_late_even_if_nothing_was_undone_yet(
    backend: Deployment, device: Device
) -> None:
    """S19: a renewal that has expired is one, whatever the schedule; another renewal undoes what is in its way."""
    successor, again = device.successor(), device.successor()
    device.renew(successor)
    backend.clock.ahead += HOUR + 1
    assert_problem(successor.commit(), 409, "renewal-unknown")
    assert device.renew(again).status == 201
    assert successor.certificates() == []
    assert again.commit().status == 204
    again.assert_alone()


def test_the_same_key_may_be_renewed_to_again_after_it_was_undone(backend: Deployment, device: Device) -> None:
    """It is still this Thing's, and was never its current one."""
    successor = device.successor()
    device.renew(successor)
    backend.clock.ahead += HOUR + 1
    assert device.renew(successor).status == 201
    assert successor.commit().status == 204
    successor.assert_alone()


def test_the_sweep_leaves_a_pending_renewal_alone(backend: Deployment, device: Device) -> None:
    """However old its certificate is; the ledger knows it."""
    successor = device.successor()
    device.renew(successor)
    for certificate in (*device.certificates(), *successor.certificates()):
        certificate.creation_date = certificate.creation_date.replace(year=2020)
    assert (by_route(backend), scheduled(backend)) == ([], [])
    assert successor.commit().status == 204
    successor.assert_alone()


def test_what_could_not_be_removed_at_the_commit_is_removed_within_the_hour(
    backend: Deployment, device: Device
) -> None:
    """The commit stands: 204; the ledger remembers what is left to do."""
    successor = device.successor()
    device.renew(successor)
    with going_wrong(successor, throttled("UpdateCertificate 1")):
        assert successor.commit().status == 204
    assert [line["level"] for line in events(backend, "removal-postponed")] == ["INFO"]
    assert len(device.usable()) == 1
    assert scheduled(backend) == []
    assert device.certificates() == []
    successor.assert_alone()


def test_a_certificate_that_is_in_use_elsewhere_is_left_inactive_after_a_day(
    backend: Deployment, device: Device
) -> None:
    """Somebody attached it to another Thing: it is deactivated at once; after a day the log names it."""
    backend.iot.create_thing(thingName="other")
    successor = device.successor()
    device.renew(successor)
    (old,) = device.certificates()
    iot().principal_things[old.arn, "other"] = iot().principal_things[old.arn, THING]
    assert successor.commit().status == 204
    assert old.status == "INACTIVE"
    scheduled(backend)
    assert [line["level"] for line in events(backend, "removal-postponed")] == ["INFO"]
    backend.clock.ahead += 24 * HOUR
    scheduled(backend)
    assert [line["certificateId"] for line in events(backend, "certificate-not-deleted")] == [old.certificate_id]
    assert backend.items("removal") == {}


# --- together with everything else --------------------------------------------------------------------------------


def test_revoking_a_thing_ends_its_pending_renewal(backend: Deployment, device: Device) -> None:
    """Neither key can connect any more, and the new one cannot commit."""
    successor = device.successor()
    device.renew(successor)
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    assert (device.usable(), successor.usable()) == ([], [])
    assert successor.certificates() == []
    assert_problem(successor.commit(), 409, "thing-revoked")
    assert item("renewal", THING) == backend.items("removal") == {}


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("step", ["TransactWriteItems 1", "CreateCertificateFromCsr 1", "TransactWriteItems 2"])
def test_a_revocation_in_the_middle_of_a_renewal_leaves_nothing_usable(
    backend: Deployment, device: Device, phase: str, step: str
) -> None:
    """Whichever comes first: nothing that can connect is left once both are over."""
    successor, revoked = device.successor(), list[int]()

    def hook(now: str, at: str) -> None:
        if (now, at) == (phase, step) and not revoked:
            revoked.append(0)
            revoked[0] = backend.operate("DELETE", "fleet", thing=THING).status

    with going_wrong(successor, hook):
        device.renew(successor)
    assert revoked == [204]
    assert (device.usable(), successor.usable()) == ([], [])
    assert_problem(device.renew(successor), 409, "thing-revoked")


def test_an_adopted_thing_is_renewed_like_any_other(backend: Deployment) -> None:
    """Its invite deactivates what the Thing had before, which is not the renewal's certificate."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    device = Device(backend, THING, backend.invite(THING, existingThing=True, deactivateExisting=True))
    assert device.enroll().status == 201
    successor = device.successor()
    assert device.renew(successor).status == 201
    assert device.enroll().status == 200
    assert len(successor.usable()) == 1
    assert successor.commit().status == 204
    successor.assert_alone()


def test_an_invite_does_not_get_in_the_way_of_a_pending_renewal(backend: Deployment, device: Device) -> None:
    """One that replaces no key enrolls nobody as this Thing: neither a stranger nor the next key."""
    successor = device.successor()
    device.renew(successor)
    code = backend.invite(THING)
    for one in (device.successor(), successor):
        assert_problem(replace(one, code=code).enroll(), 409, "thing-enrolled")
    assert successor.commit().status == 204
    successor.assert_alone()


def test_an_invite_of_the_first_enrollment_still_answers_the_current_key(backend: Deployment) -> None:
    """The same code, Thing and key get the same certificate, the renewed one."""
    device = Device(backend, THING, backend.invite(THING))
    device.enroll()
    successor = device.successor()
    issued = device.renew(successor).json
    successor.commit()
    assert (successor.enroll().status, successor.enroll().json) == (200, issued)


def test_what_an_earlier_version_wrote_can_be_renewed(backend: Deployment, device: Device) -> None:
    """Items without a key type, a kind of claim or a public key."""
    entry = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items
    attributes = entry[DynamoType({"S": "thing"})][DynamoType({"S": THING})].attrs
    for name in ("key_type", "issuing_since"):
        del attributes[name]
    (listed,) = backend.operate("GET", "fleet").json["things"]
    assert (listed["keyType"], listed["renewed"], listed["renewalPending"]) == ("ec-p256", None, False)
    assert backend.operate("GET", "fleet", thing=THING).json["thing"] == listed
    successor = device.successor()
    assert device.renew(successor).status == 201
    assert successor.commit().status == 204
    successor.assert_alone()
    assert_problem(device.recover(), 409, "key-not-current")


def test_the_fleet_shows_what_is_pending_and_what_is_due(backend: Deployment, device: Device) -> None:
    """By the age of the certificate that the Thing has now; a revoked Thing is never due."""

    def shown() -> tuple[object, ...]:
        (listed,) = backend.operate("GET", "fleet").json["things"]
        assert backend.operate("GET", "fleet", things=THING).json["things"] == [listed]
        return listed["renewed"] is not None, listed["renewalDue"], listed["renewalPending"]

    assert shown() == (False, False, False)
    backend.clock.ahead += 365 * 24 * HOUR + 1
    assert shown() == (False, True, False)
    successor = device.successor()
    device.renew(successor)
    assert shown() == (False, True, True)
    successor.commit()
    assert shown() == (True, False, False)
    backend.clock.ahead += 365 * 24 * HOUR + 1
    assert shown() == (True, True, False)
    backend.operate("DELETE", "fleet", thing=THING)
    assert shown() == (True, False, False)


@pytest.mark.parametrize(("days", "is_due"), [("0", False), ("1", True), ("3", False)])
def test_the_age_from_which_a_renewal_is_due_is_a_setting(days: str, is_due: bool) -> None:
    """RENEWAL_DAYS; 0 is never."""
    with deployed({"RENEWAL_DAYS": days}) as backend:
        Device(backend, THING).enroll()
        backend.clock.ahead += 2 * 24 * HOUR
        (listed,) = backend.operate("GET", "fleet").json["things"]
        assert listed["renewalDue"] == is_due


@pytest.fixture
def queueing() -> Iterator[Deployment]:
    """A deployment in which a certificate may be issued every ten seconds."""
    with deployed({"CERTIFICATE_RATE": "0.1"}) as deployment:
        yield deployment


def test_s24_a_renewal_takes_its_turn_like_an_enrollment(queueing: Deployment) -> None:
    """S24: it is told when to come back, keeps its place, and is not undone meanwhile."""
    device = Device(queueing, THING)
    device.enroll()
    successor = device.successor()
    queued = device.renew(successor)
    assert_problem(queued, 429, "enrollment-queued")
    assert device.recover().status == 200
    queueing.clock.ahead += int(queued.headers["retry-after"])
    assert device.renew(successor).status == 201
    assert successor.commit().status == 204
    successor.assert_alone()


def test_the_csr_of_a_renewal_may_be_of_any_form(backend: Deployment, device: Device) -> None:
    """As for an enrollment: Windows' line ends, text around it."""
    successor = device.successor()
    text = "A request\n" + pem_of(request(successor.key)).replace("\n", "\r\n")
    assert prove(backend, device.key, "/v1/renewals", {"csr": text}).status == 201
