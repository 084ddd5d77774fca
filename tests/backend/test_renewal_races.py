"""S13, S19: what happens beside a renewal at that very moment: a commit, a revocation, a thief who keeps asking."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ReadTimeoutError
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType

from tests.backend.fleet import LEASE, Device, going_wrong, item, throttled
from tests.backend.test_claims import canceled
from tests.support.csr_factory import THING
from tests.support.deployment import REGION, TABLE, Answer, Deployment, assert_problem, aws_answer

pytestmark = pytest.mark.usefixtures("no_waiting")
HOUR = 3600


def moto_items(kind: str) -> dict[DynamoType, Any]:
    """Return moto's items of a kind, which a test may change."""
    items: dict[DynamoType, Any] = (
        dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[TABLE].items[DynamoType({"S": kind})]
    )
    return items


def as_stored(kind: str, name: str) -> dict[str, Any]:
    """Return an item as DynamoDB answers it."""
    attributes = moto_items(kind)[DynamoType({"S": name})].attrs
    return {attribute: value.to_json() for attribute, value in attributes.items()}


def half_written(*seen: dict[str, Any]) -> Callable[[Any], AWSResponse | None]:
    """Return a fault: reads that are not of one moment see these items and no others; those of one item are correct."""

    def fault(sent: Any) -> AWSResponse | None:
        keys = json.loads(sent.body)["RequestItems"][TABLE]["Keys"]
        if len(keys) == 1:
            return None
        found = [one for one in seen if {"kind": one["kind"], "id": one["id"]} in keys]
        return aws_answer(200, json.dumps({"Responses": {TABLE: found}}))

    return fault


def hardware(device: Device) -> Device:
    """Return new hardware for the same Thing, with an invite that replaces the key."""
    return replace(device.successor(), code=device.backend.replacement(device.thing))


def revoke(device: Device) -> Answer:
    """Have the operator revoke the device's Thing."""
    return device.backend.operate("DELETE", "fleet", thing=device.thing)


# --- what is read ---------------------------------------------------------------------------------------------------


def test_s13_a_commit_beside_its_repetition_is_not_taken_for_an_unknown_renewal(
    backend: Deployment, device: Device
) -> None:
    """S13: the device would destroy its new key. Reads of one moment wait for the write, and see it as a whole."""
    successor = device.successor()
    device.renew(successor)
    backend.inject("BatchGetItem", half_written(as_stored("thing", THING)))  # and the renewal is deleted already
    backend.inject("TransactGetItems", canceled(3, "TransactionConflict"))
    assert successor.commit().status == 204
    backend.faults.clear()
    successor.assert_alone()


@pytest.mark.parametrize("ask", [Device.commit, Device.retire, revoke], ids=["commit", "retire", "revoke"])
def test_s13_who_cannot_read_because_of_conflicts_is_told_to_come_again(
    backend: Deployment, device: Device, ask: Callable[[Device], Answer]
) -> None:
    """S13: 503, never a verdict; nothing is written, and the repeated request succeeds."""
    successor = device.successor()
    device.renew(successor)
    caller = successor if ask is Device.commit else device
    backend.inject("TransactGetItems", canceled(1_000, "TransactionConflict"))
    assert_problem(ask(caller), 503, "enrollment-in-progress")
    assert (len(device.usable()), len(successor.usable())) == (1, 1)
    backend.faults.clear()
    assert ask(caller).status == 204


def test_s13_new_hardware_that_asks_again_is_not_refused_because_of_a_read_in_the_middle_of_its_record(
    backend: Deployment, device: Device
) -> None:
    """S13: its invite is used by then; half of the record shows neither its renewal nor its claim."""
    successor, old = hardware(device), as_stored("thing", THING)
    assert successor.enroll().status == 201
    (invite,) = backend.items("invite")
    backend.inject("BatchGetItem", half_written(old, as_stored("invite", invite)))
    assert successor.enroll().status == 200
    successor.assert_alone()


def test_s13_s15_a_request_that_lost_its_answer_does_not_withdraw_what_was_committed_meanwhile(device: Device) -> None:
    """S13, S15: the device has repeated its request and committed before the first request gave up."""
    successor, statuses = device.successor(), list[int]()

    def hook(phase: str, step: str) -> None:
        if (phase, step) == ("after", "TransactWriteItems 2") and not statuses:
            statuses.append(0)
            statuses[:] = [device.renew(successor).status, successor.commit().status]
            raise ReadTimeoutError(endpoint_url="https://aws.example.com")

    with going_wrong(successor, hook):
        device.renew(successor)
    assert statuses == [200, 204]
    successor.assert_alone()


# --- what outlives a revocation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [revoke, Device.retire], ids=["revoke", "retire"])
def test_s19_a_renewal_that_begins_while_its_thing_is_revoked_ends_with_it(
    backend: Deployment, device: Device, end: Callable[[Device], Answer]
) -> None:
    """S19: between the read and the write of the revocation. Otherwise it could be committed once the Thing is back."""
    successor, renewed = device.successor(), list[Answer]()

    def hook(phase: str, step: str) -> None:
        if (phase, step) == ("before", "TransactWriteItems 1") and not renewed:
            renewed.append(Answer(0, {}, ""))
            renewed[0] = device.renew(successor)

    with going_wrong(device, hook):
        assert end(device).status == 204
    assert renewed[0].status == 201
    assert item("renewal", THING) == {}
    assert (device.usable(), successor.usable()) == ([], [])
    again = replace(device.successor(), code=backend.invite(THING))
    assert again.enroll().status == 201
    assert_problem(successor.commit(), 409, "renewal-unknown")
    assert [one.certificate_id for one in again.usable()] == [item("thing", THING)["certificate_id"]]


def left_over(device: Device) -> Device:
    """Revoke a device's Thing, and leave a renewal of it behind, as earlier versions could; return its next device."""
    successor = device.successor()
    device.renew(successor)
    entry = moto_items("renewal")[DynamoType({"S": THING})]
    assert revoke(device).status == 204
    moto_items("renewal")[DynamoType({"S": THING})] = entry
    return successor


def test_s19_revoking_again_ends_a_renewal_that_is_left(device: Device) -> None:
    """S19: whatever has left it behind; the operator, who ended it, is not told of a renewal that failed."""
    left_over(device)
    assert revoke(device).status == 204
    assert item("renewal", THING) == {}
    assert "renewal_undone" not in item("thing", THING)


def test_s19_enrolling_again_ends_a_renewal_that_is_left(backend: Deployment, device: Device) -> None:
    """S19: in the same transaction; the key from before the revocation cannot commit."""
    successor = left_over(device)
    again = replace(device.successor(), code=backend.invite(THING))
    assert again.enroll().status == 201
    assert item("renewal", THING) == {}
    assert_problem(successor.commit(), 409, "renewal-unknown")
    assert [one.certificate_id for one in again.usable()] == [item("thing", THING)["certificate_id"]]


# --- a thief who keeps asking ---------------------------------------------------------------------------------------


def test_s19_who_has_a_copy_of_the_old_key_cannot_get_between_a_replacement_and_its_renewal(device: Device) -> None:
    """S19: it asks after every write. The replacement takes the place of its renewal in one transaction."""
    successor, answers = hardware(device), list[Answer]()
    assert device.renew(device.successor()).status == 201
    is_asking = False

    def hook(phase: str, step: str) -> None:
        nonlocal is_asking
        if phase == "before" or not step.startswith("TransactWriteItems") or is_asking:
            return
        is_asking = True
        answers.append(device.renew(device.successor()))
        is_asking = False

    with going_wrong(successor, hook):
        assert successor.enroll().status == 201
    assert {answer.status for answer in answers} == {409}
    assert device.certificates() == []
    successor.assert_alone()


def test_a_device_that_begins_its_overdue_renewal_anew_keeps_its_place(device: Device) -> None:
    """S19: the same for the device itself; one transaction undoes the old renewal and begins the new one."""
    overdue, successor = device.successor(), device.successor()
    device.renew(overdue)
    device.backend.clock.ahead += HOUR + 1
    device.backend.calls.clear()
    seen: list[bool] = []
    device.backend.interrupt = lambda _phase, _operation: seen.append(item("renewal", THING) != {})
    assert device.renew(successor).status == 201
    assert all(seen)
    device.backend.interrupt = lambda _phase, _operation: None
    assert overdue.certificates() == []
    assert_problem(overdue.commit(), 409, "renewal-unknown")
    assert successor.commit().status == 204
    successor.assert_alone()


def test_the_same_hardware_with_another_invite_begins_anew(backend: Deployment, device: Device) -> None:
    """Its key is written once in the transaction; the first invite gets its use back."""
    first = hardware(device)
    with going_wrong(first, throttled("CreateCertificateFromCsr 1")):
        assert first.enroll().status == 429
    backend.clock.ahead += LEASE
    second = replace(first, code=backend.replacement(THING))
    assert second.enroll().status == 201
    second.assert_alone()
    assert sorted(one["uses_left"] for one in backend.items("invite").values()) == ["0", "1"]


# --- what raises the alarm ------------------------------------------------------------------------------------------


def test_the_old_board_of_a_replaced_thing_raises_no_alarm(backend: Deployment, device: Device) -> None:
    """Its timer still asks every day; it is the operator who replaced it, not a copy of its key."""
    successor = hardware(device)
    with going_wrong(successor, throttled("CreateCertificateFromCsr 1")):
        assert successor.enroll().status == 429
    assert_problem(device.renew(device.successor()), 409, "renewal-in-progress")
    backend.clock.ahead += LEASE
    assert successor.enroll().status == 201
    refused = device.renew(device.successor())
    assert_problem(refused, 409, "key-not-current")
    assert [line for line in backend.log_lines() if line["event"] == "renewal-contended"] == []
