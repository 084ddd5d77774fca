"""Replaced hardware: an invite whose key takes the place of the Thing's, in one transaction."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.backend.fleet import LEASE, Device, going_wrong, iot, item, killed, throttled
from tests.backend.test_sweep import by_route, scheduled
from tests.support.csr_factory import THING
from tests.support.deployment import Answer, Death, Deployment, assert_problem

pytestmark = pytest.mark.usefixtures("no_waiting")
HOUR = 3600


def replacement(device: Device) -> Device:
    """Return new hardware for the same Thing, with an invite that replaces the key."""
    return replace(device.successor(), code=device.backend.replacement(device.thing))


def test_the_new_key_takes_the_place_of_the_old_one(backend: Deployment, device: Device) -> None:
    """One transaction records the new certificate and revokes the old one; then the old one is removed."""
    claim_id, old_id = item("thing", THING)["claim_id"], device.certificates()[0].certificate_id
    successor = replacement(device)
    seen: list[tuple[bool, bool]] = []

    def interrupt(phase: str, operation: str) -> None:
        if (phase, operation) == ("after", "TransactWriteItems"):
            new_id = item("thing", THING)["certificate_id"]
            seen.append((new_id != old_id, "revoked" in item("certificate", old_id)))

    backend.interrupt = interrupt
    answer = successor.enroll()
    assert answer.status == 201
    assert {is_new == is_revoked for is_new, is_revoked in seen} == {True}
    assert device.certificates() == []
    successor.assert_alone()
    assert item("thing", THING)["claim_id"] == claim_id
    (listed,) = backend.operate("GET", "fleet").json["things"]
    assert (listed["renewed"] is not None, listed["renewalPending"]) == (True, False)
    assert (successor.enroll().status, successor.enroll().json) == (200, answer.json)


def test_the_old_key_does_nothing_any_more(device: Device) -> None:
    """It is not enrolled, renewed or recovered, and nobody else may have it."""
    replacement(device).enroll()
    for answer in (device.renew(device.successor()), device.recover(), device.retire(), device.commit()):
        assert_problem(answer, 409, "key-not-current")
    assert_problem(device.enroll(), 409, "thing-enrolled")
    assert_problem(replace(device, code=replacement(device).code).enroll(), 409, "key-reused")
    assert_problem(Device(device.backend, "another", key=device.key).enroll(), 409, "key-enrolled")


def test_a_pending_renewal_of_the_old_key_is_undone(device: Device) -> None:
    """The operator's word counts: the pending certificate goes at once, and the old key's renewal is over."""
    pending = device.successor()
    device.renew(pending)
    successor = replacement(device)
    assert successor.enroll().status == 201
    assert (device.certificates(), pending.certificates()) == ([], [])
    assert_problem(pending.commit(), 409, "renewal-unknown")
    successor.assert_alone()


def test_an_invite_that_replaces_a_key_is_for_a_thing_that_is_known(backend: Deployment) -> None:
    """404 otherwise, and no invite is created."""
    assert_problem(backend.operate("POST", "replacements", {"thing": THING}), 404, "thing-unknown")
    assert backend.items("invite") == {}


def test_an_invite_that_replaces_a_key_is_used_once(device: Device) -> None:
    """By the device that used it as often as it asks; by nobody else."""
    successor = replacement(device)
    assert successor.enroll().status == 201
    assert_problem(replace(successor.successor(), code=successor.code).enroll(), 401, "invite-invalid")
    successor.assert_alone()


def test_without_such_an_invite_no_key_is_replaced(backend: Deployment, device: Device) -> None:
    """An ordinary invite, or an open deployment, is not enough."""
    for successor in (device.successor(), replace(device.successor(), code=backend.invite(THING))):
        assert_problem(successor.enroll(), 409, "thing-enrolled")
    device.assert_alone()


def test_the_key_of_another_thing_replaces_none(backend: Deployment, device: Device) -> None:
    """Every Thing needs a key of its own."""
    other = Device(backend, "other")
    other.enroll()
    assert_problem(replace(replacement(device), key=other.key).enroll(), 409, "key-enrolled")
    device.assert_alone()


def test_a_revoked_thing_gets_new_hardware_with_it_too(backend: Deployment, device: Device) -> None:
    """The invite is younger than the revocation: the Thing is enrolled again."""
    backend.operate("DELETE", "fleet", thing=THING)
    successor = replacement(device)
    assert successor.enroll().status == 201
    assert [one.certificate_id for one in successor.usable()] == [item("thing", THING)["certificate_id"]]
    assert device.usable() == []


def test_a_revoked_key_never_comes_back(backend: Deployment, device: Device) -> None:
    """Neither with an invite that replaces the key of the Thing's new hardware, nor as that one's next key."""
    backend.operate("DELETE", "fleet", thing=THING)
    again = replace(device.successor(), code=backend.invite(THING))
    assert again.enroll().status == 201
    assert_problem(replace(device, code=backend.replacement(THING)).enroll(), 409, "key-reused")
    assert_problem(again.renew(device), 409, "key-reused")
    assert device.usable() == []


def test_the_enrollment_of_hardware_that_never_got_a_certificate_is_replaced(backend: Deployment) -> None:
    """The first board died in the middle of its enrollment: what may have been issued for it can do nothing."""
    first = Device(backend, THING)
    with going_wrong(first, throttled("CreateCertificateFromCsr 1")):
        assert first.enroll().status == 429
    successor = replacement(first)
    assert successor.enroll().status == 201
    successor.assert_alone()
    assert_problem(first.enroll(), 409, "thing-enrolled")


def test_hardware_that_died_before_its_thing_was_created_is_replaced(backend: Deployment) -> None:
    """The new hardware is enrolled as if it were the first, once the first one's request is certainly dead."""
    first = Device(backend, THING, backend.invite(THING))
    with going_wrong(first, killed("before", "CreateThing 1")), pytest.raises(Death):
        first.enroll()
    claim_id = item("thing", THING)["claim_id"]
    successor = replacement(first)
    answer = successor.enroll()
    if answer.status == 503:  # after some seconds of waiting
        backend.clock.ahead += LEASE
        answer = successor.enroll()
    successor.assert_enrolled(answer)
    assert item("thing", THING)["claim_id"] == claim_id
    assert_problem(first.enroll(), 401, "invite-invalid")
    for refused in (first.recover(), first.commit(), first.retire(), first.renew(first.successor())):
        assert_problem(refused, 401, "proof-invalid")
    assert_problem(Device(backend, "another", key=first.key).enroll(), 409, "key-enrolled")


def test_hardware_whose_replacement_died_as_well_may_come_back(backend: Deployment) -> None:
    """With an invite of its own: neither key was ever the Thing's."""
    first = Device(backend, THING)
    with going_wrong(first, throttled("CreateCertificateFromCsr 1")):
        first.enroll()
    second = replacement(first)
    with going_wrong(second, throttled("CreateCertificateFromCsr 1")):
        assert second.enroll().status == 429
    back = replace(first, code=backend.replacement(THING))
    assert back.enroll().status == 201
    back.assert_alone()
    assert_problem(second.enroll(), 401, "invite-invalid")


def test_a_replacement_that_nobody_finished_is_undone_and_may_begin_anew(backend: Deployment, device: Device) -> None:
    """After an hour the invite gets its use back, and the old key may be renewed again."""
    successor = replacement(device)
    with going_wrong(successor, throttled("CreateCertificateFromCsr 1")):
        assert successor.enroll().status == 429
    assert_problem(device.renew(device.successor()), 409, "renewal-in-progress")
    backend.clock.ahead += HOUR + 1
    scheduled(backend)
    assert item("renewal", THING) == {}
    device.assert_alone()
    assert successor.enroll().status == 201
    successor.assert_alone()


def test_a_second_replacement_takes_the_place_of_one_that_is_not_finished(device: Device) -> None:
    """The first board did not work: the second one need not wait for an hour."""
    first, second = replacement(device), replacement(device)
    with going_wrong(first, throttled("CreateCertificateFromCsr 1")):
        assert first.enroll().status == 429
    device.backend.clock.ahead += 31
    assert second.enroll().status == 201
    second.assert_alone()


def test_a_second_replacement_waits_for_a_request_that_is_at_work_on_the_first(device: Device) -> None:
    """It does not take the renewal away from under it; it is told to come back."""
    first, second = replacement(device), replacement(device)
    answers: list[Answer] = []

    def hook(now: str, at: str) -> None:
        if (now, at) == ("before", "CreateCertificateFromCsr 1") and not answers:
            answers.append(second.enroll())

    with going_wrong(first, hook):
        assert first.enroll().status == 201
    assert_problem(answers[0], 503, "enrollment-in-progress")
    first.assert_alone()


def test_a_revocation_during_a_replacement_wins(backend: Deployment, device: Device) -> None:
    """The certificate was issued when the operator revoked the Thing: it is not recorded, and withdrawn."""
    successor, revoked = replacement(device), list[int]()

    def hook(now: str, at: str) -> None:
        if (now, at) == ("after", "CreateCertificateFromCsr 1") and not revoked:
            revoked.append(backend.operate("DELETE", "fleet", thing=THING).status)

    with going_wrong(successor, hook):
        successor.enroll()
    assert revoked == [204]
    assert (device.usable(), successor.usable()) == ([], [])
    assert "ACTIVE" not in backend.certificates()
    assert_problem(successor.enroll(), 409, "thing-revoked")


def test_a_things_shared_key_stays_with_the_other_things(backend: Deployment) -> None:
    """The article's client has one key for several Things; replacing it for one leaves the others as they are."""
    first = Device(backend, THING, article=True)
    second = replace(first, thing="second")
    assert (first.enroll().status, second.enroll().status) == (200, 200)
    successor = Device(backend, THING, backend.replacement(THING))
    assert successor.enroll().status == 201
    assert second.enroll().status == 200
    assert replace(first, thing="third").enroll().status == 200
    assert len(first.usable()) == 2
    attached = [arn for arn, thing in iot().principal_things if thing == THING]
    assert attached == [successor.certificates()[0].arn]


def test_a_shareable_key_whose_only_thing_replaced_it_is_out_of_use(backend: Deployment) -> None:
    """S14: the key on hardware that was replaced enrolls no other Thing, though the article's client may share keys."""
    first = Device(backend, THING, article=True)
    assert first.enroll().status == 200
    assert Device(backend, THING, backend.replacement(THING)).enroll().status == 201
    assert_problem(replace(first, thing="second").enroll(), 409, "key-enrolled")
    assert item("thing", "second") == {}


def test_the_sweep_finds_nothing_after_a_replacement(backend: Deployment, device: Device) -> None:
    """Everything that is left in AWS IoT is in the ledger."""
    replacement(device).enroll()
    backend.clock.ahead += 2 * HOUR
    assert by_route(backend) == []
