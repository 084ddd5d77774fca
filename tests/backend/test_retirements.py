"""Retiring: a device gives its key up; and getting a lost identity back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.backend.fleet import Device, going_wrong, iot, item, lost, throttled
from tests.backend.test_sweep import scheduled
from tests.support.csr_factory import THING
from tests.support.deployment import Deployment, assert_problem, deployed

pytestmark = pytest.mark.usefixtures("no_waiting")


def things() -> set[str]:
    """Return the names of the Things in AWS IoT."""
    return {thing.thing_name for thing in iot().things.values()}


def test_a_retired_thing_is_revoked_and_its_certificate_removed(backend: Deployment, device: Device) -> None:
    """The Thing stays in AWS IoT, unless the deployment says otherwise; the operator sees it as revoked."""
    certificate_id = device.certificates()[0].certificate_id
    answer = device.retire()
    assert (answer.status, answer.body) == (204, "")
    assert (device.certificates(), things()) == ([], {THING})
    assert "revoked" in item("certificate", certificate_id)
    (listed,) = backend.operate("GET", "fleet").json["things"]
    assert (listed["status"], listed["renewalDue"]) == ("revoked", False)
    assert backend.items("removal") == {}


def test_a_repeated_retirement_changes_nothing(device: Device) -> None:
    """204 each time: an answer may have been lost."""
    assert device.retire().status == 204
    before = item("thing", THING)
    device.backend.clock.ahead += 60
    assert device.retire().status == 204
    assert item("thing", THING) == before


def test_a_retired_key_does_nothing_any_more(device: Device) -> None:
    """It neither renews nor recovers, and is never enrolled again."""
    device.retire()
    assert_problem(device.renew(device.successor()), 409, "thing-revoked")
    assert_problem(device.recover(), 409, "thing-revoked")
    assert_problem(device.enroll(), 409, "thing-revoked")
    assert_problem(Device(device.backend, "another", key=device.key).enroll(), 409, "key-enrolled")


def test_a_retirement_ends_a_pending_renewal(backend: Deployment, device: Device) -> None:
    """In the same transaction: neither certificate is left, and the next key cannot commit."""
    successor = device.successor()
    device.renew(successor)
    backend.calls.clear()
    assert device.retire().status == 204
    assert (device.certificates(), successor.certificates(), item("renewal", THING)) == ([], [], {})
    assert backend.calls.count("TransactWriteItems") == 3  # of which two forget the removals
    assert_problem(successor.commit(), 409, "thing-revoked")


def test_a_retired_thing_is_enrolled_again_with_a_new_key_and_a_new_invite(backend: Deployment, device: Device) -> None:
    """As one that the operator revoked."""
    early = backend.invite(THING)
    backend.clock.ahead += 1
    device.retire()
    assert_problem(replace(device.successor(), code=early).enroll(), 409, "thing-revoked")
    again = replace(device.successor(), code=backend.invite(THING))
    assert again.enroll().status == 201
    again.assert_alone()


def test_the_thing_is_deleted_where_the_deployment_says_so() -> None:
    """With DELETE_THING_ON_RETIREMENT; it can be enrolled again."""
    with deployed({"DELETE_THING_ON_RETIREMENT": "yes"}) as backend:
        device = Device(backend, THING)
        device.enroll()
        assert device.retire().status == 204
        assert THING not in things()
        again = Device(backend, THING, backend.invite(THING))
        assert again.enroll().status == 201
        again.assert_alone()


def test_a_thing_that_was_not_created_here_is_never_deleted() -> None:
    """It was adopted, and does not bear the id of a claim."""
    with deployed({"DELETE_THING_ON_RETIREMENT": "yes"}) as backend:
        backend.iot.create_thing(thingName=THING, attributePayload={"attributes": {"site": "Linz"}})
        device = Device(backend, THING, backend.invite(THING, existingThing=True))
        device.enroll()
        assert device.retire().status == 204
        assert (things(), device.certificates(), backend.items("removal")) == ({THING}, [], {})


def test_a_thing_that_was_enrolled_again_meanwhile_is_not_deleted() -> None:
    """The removal failed, and before the schedule comes to it, the Thing has a new device."""
    with deployed({"DELETE_THING_ON_RETIREMENT": "yes"}) as backend:
        device = Device(backend, THING)
        device.enroll()
        with going_wrong(device, throttled("UpdateCertificate 1")):
            assert device.retire().status == 204
        again = Device(backend, THING, backend.invite(THING))
        assert again.enroll().status == 201
        scheduled(backend)
        assert things() == {THING}
        again.assert_alone()


def test_a_thing_with_other_certificates_is_left_after_a_day() -> None:
    """AWS IoT does not delete it while something is attached; the log says so at the end."""
    with deployed({"DELETE_THING_ON_RETIREMENT": "yes"}) as backend:
        device, other = Device(backend, THING), Device(backend, "other")
        device.enroll()
        other.enroll()
        (foreign,) = other.certificates()
        iot().principal_things[foreign.arn, THING] = iot().principal_things[foreign.arn, "other"]
        assert device.retire().status == 204
        assert (device.certificates(), THING in things()) == ([], True)
        backend.clock.ahead += 25 * 3600
        scheduled(backend)
        left = [line for line in backend.log_lines() if line["event"].endswith("-not-deleted")]
        assert [(line["event"], line["operation"]) for line in left] == [("thing-not-deleted", "DeleteThing")]
        assert backend.items("removal") == {}


def test_a_thing_that_the_operator_revoked_cannot_be_retired(backend: Deployment, device: Device) -> None:
    """409 thing-revoked, which a device takes for done: its certificate is off."""
    backend.operate("DELETE", "fleet", thing=THING)
    assert_problem(device.retire(), 409, "thing-revoked")


# --- recoveries -----------------------------------------------------------------------------------------------------


def test_a_key_gets_its_certificate_again(backend: Deployment, device: Device) -> None:
    """The same answer as for the enrollment, and nothing is issued or written but that the proof was used."""
    enrolled = device.enroll().json
    backend.calls.clear()
    answer = device.recover()
    assert (answer.status, answer.json) == (200, enrolled)
    assert sorted(backend.calls) == ["BatchGetItem", "TransactGetItems", "UpdateItem"]


def test_a_recovery_finishes_an_enrollment_that_was_not_attached(backend: Deployment) -> None:
    """The record was made, and the function failed before the certificate was attached."""
    device = Device(backend, THING)
    with going_wrong(device, throttled("AttachPolicy 1")):
        assert device.enroll().status == 429
    assert device.recover().status == 200
    device.assert_alone()


def test_a_key_without_a_certificate_proves_nothing(backend: Deployment) -> None:
    """Its enrollment was interrupted: the ledger has its hash only."""
    device = Device(backend, THING)
    with going_wrong(device, lost("CreateCertificateFromCsr 1")):
        assert device.enroll().status == 503
    assert_problem(device.recover(), 401, "proof-invalid")


def test_of_two_keys_in_a_token_the_current_one_recovers(device: Device) -> None:
    """Before the commit the old one, after it the new one; asking with the other one raises no alarm."""
    successor = device.successor()
    device.renew(successor)
    assert [device.recover().status, successor.recover().status] == [200, 409]
    successor.commit()
    assert [device.recover().status, successor.recover().status] == [409, 200]
    assert [line for line in device.backend.log_lines() if line["event"] == "renewal-contended"] == []
