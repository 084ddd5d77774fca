"""S13, S14: what a claim binds. Who comes twice, who comes with another key, who comes back after a revocation."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from hypothesis import given
from hypothesis import strategies as st
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType

from enrollment_backend.claims import Applicant, Certificate, Claim
from enrollment_backend.decisions import Entries, Verdict, decide
from enrollment_backend.errors import (
    AttestationRequiredError,
    ConflictError,
    EnrollmentError,
    InviteInvalidError,
    KeyEnrolledError,
)
from enrollment_backend.invites import Invite
from tests.backend.fleet import Device, going_wrong, iot, item, let_items_expire, throttled
from tests.support.csr_factory import THING
from tests.support.deployment import REGION, TABLE, Answer, Deployment, assert_problem, aws_answer

NOW = 1_000
HASHES = st.sampled_from(["a" * 64, "b" * 64])
KEYS = st.sampled_from(["k" * 64, "l" * 64])
THINGS = st.sampled_from(["line3-1", "line3-2"])
TIMES = st.integers(NOW - 2, NOW + 2)

applicants = st.builds(Applicant, thing=THINGS, spki_sha256=KEYS, code_sha256=st.none() | HASHES) | st.builds(
    Applicant, thing=THINGS, spki_sha256=KEYS, code_sha256=st.none(), shareable_key=st.just(True)
)
recorded_invites = st.builds(
    Invite,
    code_sha256=HASHES,
    thing=THINGS | st.sampled_from(["line3-*", "line4-*", "*"]),
    uses=st.just(2),
    uses_left=st.integers(0, 2),
    created=TIMES,
    expires=TIMES,
    created_by=st.just("operator"),
    existing_thing=st.booleans(),
    ek_sha256=st.none() | st.just("e" * 64),
    revoked=st.booleans(),
)
claims = st.builds(
    Claim,
    thing=THINGS,
    claim_id=st.just("id"),
    spki_sha256=KEYS,
    code_sha256=st.none() | HASHES,
    lease=st.just("lease"),
    lease_ends=TIMES,
    claimed=TIMES,
    certificate=st.none() | st.just(Certificate("pem", "id", "arn")),
    enrolled=st.none(),
    revoked_at=st.none() | TIMES,
    shareable_key=st.booleans(),
)
ledgers = st.builds(
    Entries,
    invite=st.none() | recorded_invites,
    claim=st.none() | claims,
    key_thing=st.none() | THINGS,
    key_shareable=st.booleans(),
    key_shared=st.booleans(),
    key_superseded=st.booleans(),
)


def outcome(applicant: Applicant, entries: Entries) -> Verdict | EnrollmentError:
    """Return the verdict or the refusal."""
    try:
        return decide(applicant, entries, NOW)
    except EnrollmentError as refusal:
        return refusal


def invalid_reason(applicant: Applicant, entries: Entries) -> str | None:
    """Return what is wrong with the applicant's invite, by its description; None if nothing is, or none is needed."""
    code, invite = applicant.code_sha256, entries.invite
    if code is None:
        return None
    return "unknown" if invite is None else invite.invalid_reason(code, applicant.thing, NOW)


def is_bound(applicant: Applicant, entries: Entries) -> bool:
    """Whether the Thing is bound to this very key and code."""
    claim = entries.claim
    return claim is not None and (claim.spki_sha256, claim.code_sha256) == (
        applicant.spki_sha256,
        applicant.code_sha256,
    )


@given(applicants, ledgers)
def test_only_the_key_of_a_claim_gets_anything_out_of_it(applicant: Applicant, entries: Entries) -> None:
    """S14: no certificate, no lease and no new invite for another key; no claim on another Thing's key."""
    result = outcome(applicant, entries)
    if result in {Verdict.ANSWER, Verdict.TAKE_OVER, Verdict.WAIT, Verdict.REBIND}:
        assert entries.claim is not None
        assert entries.claim.spki_sha256 == applicant.spki_sha256
        assert entries.claim.revoked_at is None
    if result in {Verdict.CLAIM, Verdict.RECLAIM}:
        assert entries.key_thing is None
        assert entries.claim is None or entries.claim.revoked_at is not None


@given(applicants, ledgers)
def test_a_key_is_shared_only_where_both_sides_allow_it(applicant: Applicant, entries: Entries) -> None:
    """S14: a Thing without a claim gets a key that is known only if the key, and the way it is asked for, permit it.

    And its only Thing has not given the key up since.
    """
    if outcome(applicant, entries) is Verdict.SHARE:
        assert (applicant.shareable_key, entries.key_shareable, entries.claim) == (True, True, None)
        assert entries.key_shared or not entries.key_superseded
    known = entries.claim is None and entries.key_thing is not None and invalid_reason(applicant, entries) is None
    if known and not (
        applicant.shareable_key and entries.key_shareable and (entries.key_shared or not entries.key_superseded)
    ):
        assert isinstance(outcome(applicant, entries), KeyEnrolledError | AttestationRequiredError)


@given(applicants, ledgers)
def test_an_invalid_code_learns_nothing_about_the_ledger(applicant: Applicant, entries: Entries) -> None:
    """S12: whatever the ledger holds about Thing and key, a code that is not valid is answered as not valid."""
    reason = invalid_reason(applicant, entries)
    if reason is not None and (reason == "revoked" or not is_bound(applicant, entries)):
        result = outcome(applicant, entries)
        assert isinstance(result, InviteInvalidError)
        assert result.facts == {"reason": reason}


@given(applicants, ledgers)
def test_a_valid_code_is_refused_for_what_the_ledger_says_alone(applicant: Applicant, entries: Entries) -> None:
    """S12, S14: and the one it came with stays valid for the device that comes back."""
    if invalid_reason(applicant, entries) is None:
        for_tpm = applicant.code_sha256 is not None and entries.invite is not None and bool(entries.invite.ek_sha256)
        result = outcome(applicant, entries)
        assert isinstance(result, AttestationRequiredError) == for_tpm
        assert isinstance(result, Verdict | ConflictError | AttestationRequiredError)


@given(applicants, ledgers)
def test_a_revoked_thing_is_enrolled_with_a_new_key_and_an_invite_of_after_that(
    applicant: Applicant, entries: Entries
) -> None:
    """Neither the same key nor an older invite, nor no invite at all."""
    claim, invite = entries.claim, entries.invite
    if claim is not None and claim.revoked_at is not None and isinstance(outcome(applicant, entries), Verdict):
        assert claim.spki_sha256 != applicant.spki_sha256
        assert invite is not None
        assert invite.created >= claim.revoked_at


@given(applicants, ledgers)
def test_a_lease_that_has_not_ended_is_respected(applicant: Applicant, entries: Entries) -> None:
    """S13, S17: nobody takes over from who may be alive, nobody waits for who must be dead."""
    result, claim = outcome(applicant, entries), entries.claim
    if claim is not None and result in {Verdict.WAIT, Verdict.TAKE_OVER}:
        assert (result is Verdict.WAIT) == (claim.lease_ends > NOW)


@pytest.mark.parametrize("mode", ["open", "invite"])
@pytest.mark.parametrize("times", [2, 10])
def test_s13_the_same_request_at_once_gets_one_certificate(backend: Deployment, times: int, mode: str) -> None:
    """S13: one answer is 201, the others are 200, and all of them are the same."""
    backend.clock.waits = True
    device = Device(backend, THING, backend.invite(THING) if mode == "invite" else None)
    with ThreadPoolExecutor(times) as pool:
        answers = list(pool.map(lambda _: device.enroll(), range(times)))
    assert sorted(answer.status for answer in answers) == [200] * (times - 1) + [201]
    assert len({answer.body for answer in answers}) == 1
    device.assert_enrolled(answers[0])
    assert backend.calls.count("CreateCertificateFromCsr") == 1


@pytest.mark.parametrize("operation", ["CreateThing", "CreateCertificateFromCsr", "AttachPolicy"])
def test_s13_s15_the_same_request_at_once_while_a_call_fails_makes_one_certificate(
    backend: Deployment, operation: str
) -> None:
    """S13, S15: of five at once the one at work is refused by AWS; the next one goes on with its certificate."""
    backend.clock.waits = True
    device, refusals = Device(backend, THING), iter([aws_answer(403, "{}", "AccessDeniedException")])
    backend.inject(operation, lambda _request: next(refusals, None))
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: device.enroll(), range(5)))
    assert sorted(answer.status for answer in answers) in ([200, 200, 200, 200, 502], [200, 200, 200, 201, 502])
    device.assert_enrolled(device.enroll())


def test_s13_the_same_request_again_gets_the_same_answer(backend: Deployment) -> None:
    """S13: also much later, when the invite has expired, and when it has left the table."""
    device = Device(backend, THING, backend.invite(THING))
    first = device.enroll()
    backend.clock.ahead = 365 * 24 * 3600
    later = device.enroll()
    invites = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items.pop(DynamoType({"S": "invite"}))
    assert len(invites) == 1
    last = device.enroll()
    assert [answer.status for answer in (first, later, last)] == [201, 200, 200]
    assert first.body == later.body == last.body
    assert len(iot().certificates) == 1


def test_s13_who_waits_too_long_is_told_to_come_again(backend: Deployment) -> None:
    """S13: while a request is stuck at AWS, another for the same ends within seconds, with 503."""
    device, waited = Device(backend, THING), list[int]()

    def second(phase: str, operation: str) -> None:
        if (phase, operation) == ("before", "CreateThing"):
            waited.append(device.enroll().status)

    backend.interrupt = second
    first = device.enroll()
    assert (first.status, waited) == (201, [503])
    assert 3 < backend.clock.ahead < 9  # on a slow machine the rest passes by itself


def test_s14_the_same_thing_with_another_key_is_a_conflict(backend: Deployment) -> None:
    """S14: 409, whichever valid invite comes with it; AWS IoT hears nothing of it."""
    device = Device(backend, THING)
    assert device.enroll().status == 201
    for code in (None, backend.invite(THING), backend.invite("*")):
        backend.calls.clear()
        assert_problem(Device(backend, THING, code).enroll(), 409, "thing-enrolled")
        assert set(backend.calls) - {"BatchGetItem"} == {"TransactWriteItems", "TransactGetItems", "UpdateItem"}
    assert {entry["uses_left"] for entry in backend.items("invite").values()} == {"1"}


def test_s14_the_same_key_for_another_thing_is_a_conflict(backend: Deployment) -> None:
    """S14: 409 as well, also after the first Thing was revoked."""
    device = Device(backend, THING)
    assert device.enroll().status == 201
    other = Device(backend, "another", backend.invite("another"), device.key)
    for _ in range(2):
        backend.calls.clear()
        assert_problem(other.enroll(), 409, "key-enrolled")
        assert set(backend.calls) == {"BatchGetItem", "TransactWriteItems", "TransactGetItems", "UpdateItem"}
        assert backend.operate("DELETE", "fleet", thing=THING).status == 204


def test_s14_two_keys_at_once_for_one_thing_are_one_enrollment(backend: Deployment) -> None:
    """S14: the first one binds the Thing; the other one is refused, not kept waiting."""
    backend.clock.waits = True
    devices = [Device(backend, THING) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(lambda device: device.enroll().status, devices))
    assert statuses == [201, 409, 409, 409]
    assert len(iot().certificates) == 1


@pytest.mark.parametrize("gone", ["expired", "revoked"])
def test_a_new_invite_goes_on_where_the_old_one_stopped(backend: Deployment, gone: str) -> None:
    """An invite that is gone before the enrollment was finished is replaced by a new one for the same Thing and key."""
    device = Device(backend, THING, backend.invite(THING, ttlSeconds=60))
    with going_wrong(device, throttled("CreateCertificateFromCsr 1")):
        assert device.enroll().status == 429
    backend.clock.ahead = 61
    if gone == "revoked":
        assert backend.operate("DELETE", "invites", id=next(iter(backend.items("invite")))).status == 204
        assert_problem(device.enroll(), 401, "invite-invalid")
    again = Device(backend, THING, backend.invite(THING), device.key)
    again.assert_enrolled(again.enroll())
    assert again.enroll().status == 200
    assert sorted(entry["uses_left"] for entry in backend.items("invite").values()) == ["0", "0"]
    assert device.enroll().status == 401


def test_a_revoked_invite_stays_revoked_for_the_device_that_is_bound_to_it(backend: Deployment) -> None:
    """S12: also long after its end, when DynamoDB's TTL removes the invites that nobody has taken back."""
    kept, taken_back = (Device(backend, name, backend.invite(name, ttlSeconds=60)) for name in ("kept", "taken-back"))
    for device in (kept, taken_back):
        with going_wrong(device, throttled("CreateCertificateFromCsr 1")):
            assert device.enroll().status == 429
    identifier = item("thing", taken_back.thing)["code_sha256"][:16]
    assert backend.operate("DELETE", "invites", id=identifier).status == 204
    backend.clock.ahead = 91 * 24 * 3600
    let_items_expire(backend.clock.time())
    assert_problem(taken_back.enroll(), 401, "invite-invalid")
    kept.assert_enrolled(kept.enroll())
    assert taken_back.certificates() == []


def canceled(times: int, reason: str) -> Callable[[Any], AWSResponse | None]:
    """Return a fault: DynamoDB cancels the transaction for that reason, so many times."""
    body = {"__type": "TransactionCanceledException", "CancellationReasons": [{"Code": "None"}, {"Code": reason}]}
    refusals = iter([json.dumps(body)] * times)

    def fault(_sent: Any) -> AWSResponse | None:
        refusal = next(refusals, None)
        return None if refusal is None else aws_answer(400, refusal)

    return fault


def test_s13_the_entries_are_those_of_one_moment(backend: Deployment) -> None:
    """S13: all of them are read in one transaction: single reads could show half of another's write."""
    read: list[list[dict[str, Any]]] = []
    backend.inject("TransactGetItems", lambda sent: read.append(json.loads(sent.body)["TransactItems"]))
    device = Device(backend, THING, backend.invite("*"))
    backend.calls.clear()
    device.assert_enrolled(device.enroll())
    keys = [[(part["Get"]["Key"]["kind"]["S"], part["Get"]["Key"]["id"]["S"]) for part in items] for items in read]
    (invite,) = backend.items("invite")
    assert keys == [[("thing", THING), ("key", device.spki_sha256), ("renewal", THING), ("invite", invite)]]
    assert backend.calls.count("BatchGetItem") == 1  # the look at the code before
    assert not {"GetItem", "Query"} & set(backend.calls)


def test_s13_a_use_that_is_seen_before_its_claim_refuses_nobody(backend: Deployment) -> None:
    """S13: a read of several items may show the invite used, and not yet the claim of the device that used it."""
    device = Device(backend, THING, backend.invite(THING))
    assert device.enroll().status == 201
    (used,) = backend.items("invite").values()
    numbers = {"uses", "uses_left", "created", "expires"}
    seen = {name: {"N" if name in numbers else "S": value} for name, value in used.items() if isinstance(value, str)}
    torn = iter([aws_answer(200, json.dumps({"Responses": {TABLE: [seen]}}))])
    backend.inject("BatchGetItem", lambda _sent: next(torn, None))
    device.assert_enrolled(device.enroll())
    assert next(torn, None) is None


@pytest.mark.parametrize("pattern", [THING, "*"])
def test_s13_a_read_in_the_middle_of_a_write_is_done_again(backend: Deployment, pattern: str) -> None:
    """S13: where DynamoDB says so, it is no reason to refuse anybody."""
    device = Device(backend, THING, backend.invite(pattern))
    for expected in (201, 200):
        backend.calls.clear()
        backend.inject("TransactGetItems", canceled(3, "TransactionConflict"))
        answer = device.enroll()
        assert answer.status == expected, answer.body
        looks_at_all = pattern != THING or expected == 200
        assert backend.calls.count("TransactGetItems") == (4 if looks_at_all else 0)
    device.assert_enrolled(answer)


def test_s13_s15_who_can_never_read_is_told_to_come_again(backend: Deployment) -> None:
    """S13, S15: with 503 after some seconds of conflicts, at once with 429 where DynamoDB throttles."""
    device = Device(backend, THING, backend.invite("*"))
    backend.inject("TransactGetItems", canceled(1_000, "TransactionConflict"))
    assert_problem(device.enroll(), 503, "enrollment-in-progress")
    assert 3 < backend.clock.ahead < 9  # on a slow machine the rest passes by itself
    backend.inject("TransactGetItems", canceled(1_000, "ThrottlingError"))
    assert_problem(device.enroll(), 429, "throttled")
    assert iot().certificates == {}
    backend.faults.clear()
    device.assert_enrolled(device.enroll())


def test_a_retry_while_the_failed_request_gives_up_keeps_its_certificate(backend: Deployment) -> None:
    """S13, S15: what the failed request gives up is what the retry gets in that very moment."""
    device, retried = Device(backend, THING), list[Answer]()
    failing_record = throttled("TransactWriteItems 2")

    def hook(phase: str, step: str) -> AWSResponse | None:
        if (phase, step) == ("after", "TransactWriteItems 3"):
            retried.append(device.enroll())
        return failing_record(phase, step)

    with going_wrong(device, hook):
        assert device.enroll().status == 429
    (answer,) = retried
    if answer.status == 503:  # it may be told to wait
        answer = device.enroll()
    device.assert_enrolled(answer)
