"""S13 to S15, S17, S18: the article's client, which makes a new Thing at each run, all with one key."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from enrollment_backend.errors import KeyEnrolledError
from tests.backend.fleet import (
    LEASE,
    Device,
    Hook,
    between,
    failing,
    going_wrong,
    iot,
    item,
    killed_with,
    lost,
    lost_once,
    throttled,
    unreachable,
)
from tests.backend.test_sweep import HOUR, by_route
from tests.support.csr_factory import THING
from tests.support.deployment import (
    POLICY,
    Answer,
    Death,
    Deployment,
    assert_problem,
    aws_answer,
    deployed,
    load_handler,
)

pytestmark = pytest.mark.usefixtures("no_waiting")

OTHER = "press-18"
FAULTS = {fault.__name__: fault for fault in (throttled, failing, unreachable, lost, lost_once)}
# Of a run with a key that no Thing has, and of one with a key that another Thing has.
FIRST_RUN = (
    ("TransactWriteItems 1", "UpdateItem 1"),
    ("CreateThing 1", "CreateCertificateFromCsr 1"),
    ("TransactWriteItems 2",),
    ("AttachPolicy 1", "AttachThingPrincipal 1"),
)
COUNTED = "UpdateItem 1"  # at the same time as the first look at the ledger
SECOND_RUN = (
    ("TransactWriteItems 1", COUNTED),
    ("TransactGetItems 1",),
    ("TransactWriteItems 2",),
    ("CreateThing 1", "CreateCertificateFromCsr 1"),
    ("TransactWriteItems 3",),
    ("AttachPolicy 1", "AttachThingPrincipal 1"),
)


def run(backend: Deployment, thing: str, before: Device | None = None, code: str | None = None) -> Device:
    """Return one run of the article's client; with the key and the CSR's subject of the run before it."""
    new = Device(backend, thing, code, article=True)
    return new if before is None else Device(backend, thing, code, before.key, article=True)


def by_v1(device: Device, thing: str | None = None, code: str | None = None) -> Device:
    """Return who asks /v1 with a device's key."""
    return Device(device.backend, thing or device.thing, code, device.key)


def attached_to(thing: str) -> list[Any]:
    """Return moto's certificates that are attached to a Thing, in any way."""
    arns = {arn for arn, name in iot().principal_things if name == thing}
    return [certificate for certificate in iot().certificates.values() if certificate.arn in arns]


def assert_has_its_own(device: Device, answer: Answer) -> None:
    """Assert that an answer holds the one certificate that is the Thing's: exclusively, usable, and in the ledger."""
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain"), answer.body
    (certificate,) = attached_to(device.thing)
    assert (certificate.status, certificate.certificate_pem) == ("ACTIVE", answer.body)
    assert (certificate.arn, POLICY) in iot().principal_policies
    assert [name for arn, name in iot().principal_things if arn == certificate.arn] == [device.thing]
    assert (certificate.arn, device.thing) in iot().exclusive_attachments
    claim, entry = item("thing", device.thing), item("certificate", certificate.certificate_id)
    assert (claim["certificate_id"], claim["shareable_key"]) == (certificate.certificate_id, True)
    assert (entry["thing"], entry["spki_sha256"]) == (device.thing, device.spki_sha256)
    assert claim["spki_sha256"] == device.spki_sha256
    assert "revoked" not in {*claim, *entry}
    assert item("key", device.spki_sha256)["shareable"] is True


def assert_nothing_loose(device: Device) -> None:
    """Assert that each certificate for a device's key is in the ledger, or attached to nothing."""
    for certificate in device.certificates():
        policies = [policy for arn, policy in iot().principal_policies if arn == certificate.arn]
        things = [name for arn, name in iot().principal_things if arn == certificate.arn]
        if policies or things:
            assert item("certificate", certificate.certificate_id)["thing"] in (things or [device.thing])


def is_shared(device: Device) -> bool:
    """Whether the ledger says that several Things have, or had, a device's key."""
    entry = item("key", device.spki_sha256)
    return "shared" in entry


# --- who may ----------------------------------------------------------------------------------------------------------


def test_s14_a_further_run_with_the_same_key_gets_a_further_thing(backend: Deployment) -> None:
    """S14: each Thing has a certificate of its own; the ledger says that the key is shared as soon as it is."""
    first, answers, shared = run(backend, "run-1"), list[Answer](), list[bool]()
    runs = [first, *(run(backend, f"run-{number}", first) for number in (2, 3))]
    for device in runs:
        answers.append(device.enroll())
        shared.append(is_shared(first))
    assert shared == [False, True, True]
    for device, answer in zip(runs, answers, strict=True):
        assert_has_its_own(device, answer)
        assert device.enroll().body == answer.body
    assert len(first.certificates()) == 3


def test_the_first_run_takes_seven_calls_and_reads_nothing(backend: Deployment) -> None:
    """Who comes for the first time is bound by one transaction, without a look at the ledger; the record is alone."""
    device = run(backend, THING)
    with going_wrong(device, lambda _phase, _step: None) as steps:
        assert_has_its_own(device, device.enroll())
    assert_rounds(steps, FIRST_RUN)


def test_the_second_run_looks_once(backend: Deployment) -> None:
    """It finds that the key may be shared."""
    first = run(backend, THING)
    first.enroll()
    device = run(backend, OTHER, first)
    backend.clock.ahead += 1  # another device's turn
    with going_wrong(device, lambda _phase, _step: None) as steps:
        assert_has_its_own(device, device.enroll())
    steps.remove(COUNTED)
    assert_rounds(steps, (("TransactWriteItems 1",), *SECOND_RUN[1:]))


def assert_rounds(steps: list[str], rounds: tuple[tuple[str, ...], ...]) -> None:
    """Assert that the steps are those of the rounds, one round after the other."""
    left = list(steps)
    for expected in rounds:
        assert set(left[: len(expected)]) == set(expected)
        del left[: len(expected)]
    assert left == []


def bound_by_v1(device: Device) -> None:
    """Bind a key by /v1, in an open deployment."""
    assert by_v1(device).enroll().status == 201


def bound_by_invite(device: Device) -> None:
    """Bind a key by the article's route, with an invite."""
    assert run(device.backend, device.thing, device, device.backend.invite(device.thing)).enroll().status == 200


@pytest.mark.parametrize("bind", [bound_by_v1, bound_by_invite])
def test_s14_a_key_of_one_thing_stays_that_things(backend: Deployment, bind: Callable[[Device], None]) -> None:
    """S14: who sends a device's CSR again to an open deployment gets nothing by it, and leaves the key as it is.

    Its entry is that of a version which did not know of shared keys: what was bound by one is not shared either.
    """
    device = run(backend, THING)
    bind(device)
    before = item("key", device.spki_sha256)
    backend.calls.clear()
    for _ in range(2):
        assert_problem(run(backend, OTHER, device).enroll(), 409, "key-enrolled")
    assert set(backend.calls) == {"TransactWriteItems", "TransactGetItems", "UpdateItem"}
    assert item("key", device.spki_sha256) == before
    assert before.keys() == {"kind", "id", "thing"}
    assert item("thing", OTHER) == {}
    assert run(backend, THING, device).enroll().status == 200


@pytest.mark.parametrize("shared", [False, True])
def test_s14_a_shareable_key_serves_no_other_thing_by_v1_or_by_invite(backend: Deployment, shared: bool) -> None:
    """S14: 409, and the invite keeps its use; the Things that have the key keep their certificates."""
    runs = [run(backend, "run-1")]
    if shared:
        runs.append(run(backend, "run-2", runs[0]))
    answers = [device.enroll() for device in runs]
    codes = [backend.invite(OTHER) for _ in range(2)]
    refused = [
        by_v1(runs[0], OTHER),
        by_v1(runs[0], OTHER, codes[0]),
        run(backend, OTHER, runs[0], codes[1]),
    ]
    for device in refused:
        assert_problem(device.enroll(), 409, "key-enrolled")
    assert {entry["uses_left"] for entry in backend.items("invite").values()} == {"1"}
    assert is_shared(runs[0]) is shared
    for device, answer in zip(runs, answers, strict=True):
        assert_has_its_own(device, answer)
        assert by_v1(device).enroll().json["certificatePem"] == answer.body


def test_s14_where_invites_are_needed_the_second_run_is_told_what_to_do() -> None:
    """S14: the article's reader learns why the run before worked and this one does not, and how to go on."""
    with deployed({"AUTH_MODE": "invite"}) as backend:
        first = run(backend, THING, code=backend.invite(THING))
        assert first.enroll().status == 200
        answer = run(backend, OTHER, first, backend.invite(OTHER)).enroll()
        assert "shareable" not in item("key", first.spki_sha256)
    assert_problem(answer, 409, "key-enrolled")
    assert answer.json["detail"] == KeyEnrolledError.detail
    assert "create a new key and CSR" in KeyEnrolledError.detail


def test_s14_a_deployment_that_is_open_no_more_shares_no_key(
    backend: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S14: the key was bound while it was open; its Thing can come back with an invite, another cannot have it."""
    first = run(backend, THING)
    answer = first.enroll()
    monkeypatch.setenv("AUTH_MODE", "invite")
    backend.handler = load_handler()
    assert_problem(run(backend, OTHER, first).enroll(), 401, "invite-required")
    assert_problem(run(backend, OTHER, first, backend.invite(OTHER)).enroll(), 409, "key-enrolled")
    assert run(backend, THING, first, backend.invite(THING)).enroll().body == answer.body


def test_s14_a_thing_keeps_its_key_and_a_revoked_one_stays_out(backend: Deployment) -> None:
    """S14: a shareable key changes nothing about Things; and what a revocation ends is one Thing's certificate."""
    first = run(backend, THING)
    second = run(backend, OTHER, first)
    first.enroll()
    kept = second.enroll()
    assert_problem(run(backend, THING).enroll(), 409, "thing-enrolled")
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    assert_problem(first.enroll(), 409, "thing-revoked")
    assert [certificate.status for certificate in attached_to(THING)] == ["INACTIVE"]
    assert_has_its_own(second, kept)
    assert second.enroll().body == kept.body


# --- at once ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [2, 10])
def test_s13_the_same_run_at_once_gets_one_certificate(backend: Deployment, times: int) -> None:
    """S13: all answers are the same."""
    backend.clock.waits = True
    device = run(backend, THING)
    with ThreadPoolExecutor(times) as pool:
        answers = list(pool.map(lambda _: device.enroll(), range(times)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
    assert_has_its_own(device, answers[0])
    assert len(device.certificates()) == 1
    assert not is_shared(device)


@pytest.mark.parametrize("things", [2, 6])
def test_s13_several_things_at_once_with_one_key_all_get_their_own(backend: Deployment, things: int) -> None:
    """S13: whoever comes first binds the key, the others share it; each Thing asks twice."""
    backend.clock.waits = True
    first = run(backend, "at-once-0")
    runs = [first, *(run(backend, f"at-once-{number}", first) for number in range(1, things))]
    with ThreadPoolExecutor(2 * things) as pool:
        answers = list(pool.map(lambda device: device.enroll(), runs + runs))
    for device, answer, again in zip(runs, answers, answers[things:], strict=False):
        assert_has_its_own(device, answer)
        assert again.body == answer.body
    assert len(first.certificates()) == things
    assert is_shared(first)
    assert backend.items("certificate").keys() == {found.certificate_id for found in first.certificates()}


# --- what is lost -----------------------------------------------------------------------------------------------------


LOST = ("TransactWriteItems 1", "UpdateItem 1", "CreateThing 1", "CreateCertificateFromCsr 1")


def test_a_lost_certificate_of_a_shareable_key_is_left_to_the_sweep(backend: Deployment) -> None:
    """S15, S21: a new one is issued; the lost one could be another Thing's, and is switched off after an hour."""
    device = run(backend, THING)
    with going_wrong(device, killed_with(LOST)), pytest.raises(Death):
        device.enroll()
    (orphan,) = device.certificates()
    backend.clock.ahead = LEASE
    backend.calls.clear()
    answer = device.enroll()
    assert not {"ListCertificates", "DescribeCertificate", "UpdateCertificate"} & set(backend.calls)
    assert_has_its_own(device, answer)
    assert orphan.status == "ACTIVE"
    backend.clock.ahead = HOUR + LEASE
    assert by_route(backend) == [orphan.certificate_id]
    assert orphan.status == "INACTIVE"
    assert_has_its_own(device, answer)


@pytest.mark.parametrize("what", ["retried", "revoked"])
@pytest.mark.parametrize(("phase", "step"), between(list(chain(*SECOND_RUN))[4:]))
def test_another_things_certificate_is_not_touched_while_it_is_issued(
    backend: Deployment, what: str, phase: str, step: str
) -> None:
    """S17: a Thing whose own certificate was lost is enrolled again, or revoked, while another with its key enrolls."""
    stuck, answers = run(backend, THING), list[Answer]()
    with going_wrong(stuck, killed_with(LOST)), pytest.raises(Death):
        stuck.enroll()
    backend.clock.ahead = LEASE
    other = run(backend, OTHER, stuck)

    def hook(now: str, at: str) -> None:
        if (now, at) == (phase, step) and not answers:
            answers.append(Answer(0, {}, ""))
            answers[0] = stuck.enroll() if what == "retried" else backend.operate("DELETE", "fleet", thing=THING)

    with going_wrong(other, hook):
        assert_has_its_own(other, other.enroll())
    if what == "retried":
        assert_has_its_own(stuck, answers[0])
    else:
        assert (answers[0].status, attached_to(THING)) == (204, [])
    assert_nothing_loose(stuck)


# --- what comes to nothing --------------------------------------------------------------------------------------------


def test_s18_a_refused_run_frees_a_key_that_no_other_thing_has(backend: Deployment) -> None:
    """S18: the ledger is as before; the key can be bound in any way."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    refused = run(backend, THING)
    assert_problem(refused.enroll(), 409, "thing-exists")
    assert (backend.items("thing"), backend.items("key")) == ({}, {})
    renamed = by_v1(refused, OTHER)
    renamed.assert_enrolled(renamed.enroll())


def test_s18_a_key_that_was_not_freed_at_once_is_freed_by_the_next_request(backend: Deployment) -> None:
    """S13, S18: DynamoDB was at it; that is not taken for a key that others have."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    refused = run(backend, THING)
    body = {"__type": "TransactionCanceledException", "CancellationReasons": [{"Code": "TransactionConflict"}]}

    def hook(phase: str, step: str) -> AWSResponse | None:
        return aws_answer(400, json.dumps(body)) if (phase, step) == ("before", "TransactWriteItems 2") else None

    with going_wrong(refused, hook):
        assert_problem(refused.enroll(), 409, "thing-exists")
    assert not is_shared(refused)
    assert_problem(refused.enroll(), 409, "thing-exists")
    assert (backend.items("thing"), backend.items("key")) == ({}, {})


def test_s18_a_refused_run_leaves_the_key_to_the_things_that_have_it(backend: Deployment) -> None:
    """S18: the Thing is free, and the key stays shared: another had it, if only for a moment."""
    first = run(backend, OTHER)
    answer = first.enroll()
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    for _ in range(2):
        assert_problem(run(backend, THING, first).enroll(), 409, "thing-exists")
    assert backend.items("thing").keys() == {OTHER}
    assert (item("key", first.spki_sha256)["thing"], is_shared(first)) == (OTHER, True)
    assert_has_its_own(first, answer)
    assert first.enroll().body == answer.body


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("step", ["CreateThing 1", "DescribeThing 1", "UpdateCertificate 1", "TransactWriteItems 2"])
def test_s18_a_refused_run_leaves_the_key_to_a_thing_that_comes_in_the_middle(
    backend: Deployment, phase: str, step: str
) -> None:
    """S13, S18: whether the key is freed before the other Thing takes it or not, that Thing has it."""
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    refused, answers = run(backend, THING), list[Answer]()
    other = run(backend, OTHER, refused)

    def hook(now: str, at: str) -> None:
        if (now, at) == (phase, step) and not answers:
            answers.append(Answer(0, {}, ""))
            answers[0] = other.enroll()

    with going_wrong(other, hook):
        assert_problem(refused.enroll(), 409, "thing-exists")
    assert_has_its_own(other, answers[0])
    assert backend.items("thing").keys() == {OTHER}
    in_between = (phase, step) != ("after", "TransactWriteItems 2")
    assert (item("key", other.spki_sha256)["thing"], is_shared(other)) == (
        (THING, True) if in_between else (OTHER, False)
    )
    backend.iot.delete_thing(thingName=THING)
    assert_problem(by_v1(refused).enroll(), 409, "key-enrolled")
    assert_has_its_own(refused, refused.enroll())


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("step", ["TransactWriteItems 3", "TransactWriteItems 4"])
def test_s18_a_refusal_may_fail_to_be_cleared_up(backend: Deployment, step: str, fault: Callable[[str], Hook]) -> None:
    """S15, S18: 409 whatever DynamoDB does to the clearing up; a later request does what is missing, and no more."""
    first = run(backend, OTHER)
    answer = first.enroll()
    backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
    refused = run(backend, THING, first)
    with going_wrong(refused, fault(step)):
        assert_problem(refused.enroll(), 409, "thing-exists")
    backend.clock.ahead += LEASE
    assert_problem(refused.enroll(), 409, "thing-exists")
    assert backend.items("thing").keys() == {OTHER}
    assert is_shared(first)
    assert_has_its_own(first, answer)
