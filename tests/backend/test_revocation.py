"""Revoking a Thing, whatever happens at the same time, and enrolling it anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.backend.fleet import LEASE, Device, Hook, between, going_wrong, iot, item, killed, lost, lost_once, throttled
from tests.backend.test_ledger_faults import STEPS
from tests.support.csr_factory import THING
from tests.support.deployment import Death, Deployment, assert_problem

pytestmark = pytest.mark.usefixtures("no_waiting")


def revoke(backend: Deployment) -> int:
    """Revoke the Thing; return the status."""
    return backend.operate("DELETE", "fleet", thing=THING).status


def test_the_ledger_is_written_first(backend: Deployment) -> None:
    """When AWS IoT is asked, the ledger says already that Thing and certificate are revoked."""
    device = Device(backend, THING)
    device.enroll()
    seen: list[bool] = []

    def interrupt(phase: str, operation: str) -> None:
        if (phase, operation) == ("before", "UpdateCertificate"):
            entries = [*backend.items("thing").values(), *backend.items("certificate").values()]
            seen.append(all("revoked" in entry for entry in entries))

    backend.interrupt = interrupt
    assert revoke(backend) == 204
    assert (seen, backend.certificates()) == ([True], ["INACTIVE"])


def test_done_again_it_does_no_harm_and_finishes_what_failed(backend: Deployment) -> None:
    """204 each time; where AWS IoT failed, the second one switches the certificate off."""
    device = Device(backend, THING)
    device.enroll()
    backend.interrupt = lambda _phase, _operation: None
    with going_wrong(device, throttled("UpdateCertificate 1")):
        assert revoke(backend) == 429
    when = item("thing", THING)["revoked"]
    backend.clock.ahead = 10
    assert [revoke(backend), revoke(backend)] == [204, 204]
    assert (item("thing", THING)["revoked"], device.usable()) == (when, [])


@pytest.mark.parametrize("fault", [lost, lost_once, throttled])
def test_a_revocation_that_failed_can_be_sent_again(backend: Deployment, fault: Callable[[str], Hook]) -> None:
    """Also where its first answer was lost."""
    device = Device(backend, THING)
    device.enroll()
    with going_wrong(device, fault("TransactWriteItems 1")):
        assert revoke(backend) in {204, 429, 503}
    assert revoke(backend) == 204
    assert device.usable() == []


@pytest.mark.parametrize(("phase", "step"), between(STEPS[1:]))  # without a code, there is none to look up
def test_a_revocation_in_the_middle_of_an_enrollment_leaves_nothing_usable(
    backend: Deployment, phase: str, step: str
) -> None:
    """Before or after any step: nothing that can connect is left, and no later request gets anything."""
    device, revoked = Device(backend, THING), list[int]()

    def hook(now: str, at: str) -> None:
        if (now, at) == (phase, step) and not revoked:
            revoked.append(0)
            revoked[0] = revoke(backend)

    with going_wrong(device, hook):
        answer = device.enroll()
    if revoked == [503]:  # the claim changed between its look and its write
        revoked[0] = revoke(backend)
    if (phase, step) == ("before", "TransactWriteItems 1") or revoked == [404]:
        assert (answer.status, revoked) == (201, [404])
        assert (phase, step) == ("before", "TransactWriteItems 1") or step == "UpdateItem 1"  # it runs at the same time
        return
    assert revoked == [204]
    assert device.usable() == []
    assert item("thing", THING)["revoked"]
    if answer.status != 201:  # the record came first: that certificate was good for a moment
        assert_problem(answer, 503, "enrollment-in-progress")
    assert_problem(device.enroll(), 409, "thing-revoked")
    assert "ACTIVE" not in backend.certificates()


def test_a_certificate_of_a_killed_enrollment_does_not_survive_the_revocation(backend: Deployment) -> None:
    """The ledger does not have its id yet: revoking the Thing switches it off nevertheless."""
    device = Device(backend, THING)
    with going_wrong(device, killed("before", "TransactWriteItems 2")), pytest.raises(Death):
        device.enroll()
    assert backend.certificates() == ["ACTIVE"]
    assert revoke(backend) == 204
    assert backend.certificates() == ["INACTIVE"]


@pytest.mark.parametrize("half_way", [False, True])
def test_a_thing_whose_certificate_was_deleted_can_be_revoked(backend: Deployment, half_way: bool) -> None:
    """204: somebody has deleted it in AWS IoT, before the revocation or when the ledger was just written."""
    device = Device(backend, THING)
    certificate_id = device.enroll().json["certificateId"]

    def hook(phase: str, step: str) -> None:
        if (phase, step) == ("before", "UpdateCertificate 1" if half_way else "TransactWriteItems 1"):
            del iot().certificates[certificate_id]

    with going_wrong(device, hook):
        assert revoke(backend) == 204
    assert revoke(backend) == 204
    assert item("thing", THING)["revoked"]
    assert item("certificate", certificate_id)["revoked"]


def test_a_revoked_thing_is_enrolled_again_with_a_new_key_and_a_new_invite(backend: Deployment) -> None:
    """Neither the same key, nor an invite of before, nor an open deployment alone will do."""
    first = Device(backend, THING, backend.invite(THING))
    first.enroll()
    early = backend.invite(THING)
    backend.clock.ahead = 1
    assert revoke(backend) == 204
    issued = len(iot().certificates)
    for refused in (
        first,
        Device(backend, THING),
        Device(backend, THING, early),
        Device(backend, THING, backend.invite(THING), first.key),
    ):
        backend.calls.clear()
        assert_problem(refused.enroll(), 409, "thing-revoked")
        assert set(backend.calls) - {"BatchGetItem"} == {"TransactWriteItems", "TransactGetItems", "UpdateItem"}
    assert len(iot().certificates) == issued
    second = Device(backend, THING, backend.invite(THING))
    second.assert_enrolled(second.enroll())
    assert first.usable() == []
    assert_problem(first.enroll(), 401, "invite-invalid")


@pytest.mark.parametrize("step", [f"TransactWriteItems {number}" for number in (1, 2, 3)])
def test_s15_enrolling_again_stands_a_lost_answer(backend: Deployment, step: str) -> None:
    """S15: the Thing stays the one that was made for its first claim, also when an answer is lost."""
    Device(backend, THING).enroll()
    assert revoke(backend) == 204
    device = Device(backend, THING, backend.invite(THING))
    with going_wrong(device, lost_once(step)):
        device.enroll()
    backend.clock.ahead += LEASE
    device.assert_enrolled(device.enroll())
