"""S24: a Thing that is renewed over and over is told to wait, and keeps the certificate that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from enrollment_backend.admission import (
    RENEWALS_AT_ONCE,
    SECONDS_PER_RENEWAL,
    count_renewal,
    seconds_to_next_renewal,
)
from tests.backend.fleet import Device, going_wrong, item, killed
from tests.support.csr_factory import THING
from tests.support.deployment import Answer, Death, Deployment, assert_problem
from tests.support.est import EstClient

One = TypeVar("One", Device, EstClient)

pytestmark = pytest.mark.usefixtures("no_waiting")


def by_proof(device: Device) -> tuple[Device, Answer]:
    """Renew a device's key, and commit that; return the device with the key that it has then, and the answer."""
    successor = device.successor()
    answer = device.renew(successor)
    if answer.status != 201:
        return device, answer
    assert successor.commit().status == 204
    return successor, answer


def by_est(client: EstClient) -> tuple[EstClient, Answer]:
    """The same for a client of EST, which commits by its next request."""
    successor = client.successor()
    answer = client.reenroll(successor.key)
    return (successor.take(answer), answer) if answer.status == 200 else (client, answer)


def limited(answer: Answer) -> int:
    """Return in how many seconds a device may come back whose Thing was renewed too often."""
    assert_problem(answer, 429, "renewals-limited")
    return int(answer.headers["retry-after"])


@pytest.mark.parametrize("way", ["proof", "est"])
def test_s24_a_device_in_a_loop_is_told_to_wait(backend: Deployment, way: str) -> None:
    """S24: ten at once, then one per hour; a refusal costs no call to AWS IoT, takes no turn, and raises an alarm."""
    if way == "proof":
        device = Device(backend, THING)
        assert device.enroll().status == 201
        _loop(backend, device, by_proof, lambda one: one.recover().status)
    else:
        client = EstClient(backend, THING)
        client.take(client.enroll())
        _loop(backend, client, by_est, lambda one: one.reenroll().status)


def _loop(
    backend: Deployment, one: One, renew: Callable[[One], tuple[One, Answer]], works: Callable[[One], int]
) -> None:
    for _ in range(RENEWALS_AT_ONCE):
        one, answer = renew(one)
        assert answer.status in {200, 201}
        backend.clock.ahead += 10
    one, answer = renew(one)
    waiting = limited(answer)
    assert waiting <= SECONDS_PER_RENEWAL - 10 * RENEWALS_AT_ONCE
    backend.clock.ahead += waiting - 600
    turn = item("admission", "next")
    backend.calls.clear()
    one, answer = renew(one)
    assert limited(answer) <= 600
    assert not {"CreateCertificateFromCsr", "AttachPolicy"} & set(backend.calls)
    assert item("admission", "next") == turn
    (_, line) = [line for line in backend.log_lines() if line.get("outcome") == "renewals-limited"]
    assert (line["thing"], line["RenewalFailures"]) == (THING, 1)
    assert works(one) == 200
    backend.clock.ahead += 600
    one, answer = renew(one)
    assert answer.status in {200, 201}
    assert limited(renew(one)[1]) <= SECONDS_PER_RENEWAL


def test_s24_a_renewal_that_has_begun_is_finished_whatever_came_before(backend: Deployment, device: Device) -> None:
    """S24: the last one that is allowed may be asked for again, also after the function died."""
    for _ in range(RENEWALS_AT_ONCE - 1):
        device, _ = by_proof(device)
    successor = device.successor()
    with going_wrong(device, killed("before", "CreateCertificateFromCsr 1")), pytest.raises(Death):
        device.renew(successor)
    assert_problem(device.renew(device.successor()), 409, "renewal-in-progress")
    backend.clock.ahead += 60
    assert device.renew(successor).status == 201
    assert device.renew(successor).status == 200
    assert successor.commit().status == 204
    successor.assert_alone()
    limited(successor.renew(successor.successor()))


def test_s24_what_comes_in_between_does_not_get_a_thing_past_its_limit(backend: Deployment) -> None:
    """S24: with one renewal left, of several requests at once a single one gets it, also if it is undone meanwhile."""
    client = EstClient(backend, THING)
    client.take(client.enroll())
    for _ in range(RENEWALS_AT_ONCE - 1):
        client, _ = by_est(client)
    assert client.reenroll().status == 200
    for undoing in (False, True):
        others: list[Answer] = []

        def first(
            phase: str,
            operation: str,
            others: list[Answer] = others,
            undoing: bool = undoing,
        ) -> None:
            if (phase, operation) == ("before", "TransactWriteItems") and not others:
                others.append(Answer(0, {}, ""))
                others.append(client.reenroll(client.successor().key))
                others.extend([client.reenroll()] if undoing else [])

        backend.interrupt = first
        limited(client.reenroll(client.successor().key))
        backend.interrupt = lambda _phase, _operation: None
        assert {answer.status for answer in others[1:]} == {200}
        backend.clock.ahead += SECONDS_PER_RENEWAL


def test_s24_two_holders_of_one_key_are_told_of_however_often_it_was_renewed(
    backend: Deployment, device: Device
) -> None:
    """S24: nobody hides behind the limit who renews another's key: that a renewal is in progress is said first."""
    for _ in range(RENEWALS_AT_ONCE - 1):
        device, _ = by_proof(device)
    assert device.renew(device.successor()).status == 201
    assert_problem(device.renew(device.successor()), 409, "renewal-in-progress")
    (told,) = [line for line in backend.log_lines() if line["event"] == "renewal-contended"]
    assert (told["level"], told["thing"]) == ("ERROR", THING)


def test_s24_the_operator_can_always_replace_a_key(backend: Deployment, device: Device) -> None:
    """S24: an invite is the operator's word, and leaves the count as it is."""
    for _ in range(RENEWALS_AT_ONCE):
        device, _ = by_proof(device)
    successor = device.successor()
    answer = backend.enroll(successor.csr, THING, backend.replacement(THING))
    assert answer.status == 201
    assert limited(successor.renew(successor.successor())) <= SECONDS_PER_RENEWAL
    successor.assert_alone()


def test_s24_things_do_not_share_a_limit(backend: Deployment, device: Device) -> None:
    """S24: a device in a loop keeps no other one from renewing."""
    for _ in range(RENEWALS_AT_ONCE):
        device, _ = by_proof(device)
    limited(device.renew(device.successor()))
    other = Device(backend, "press-18")
    assert other.enroll().status == 201
    assert by_proof(other)[1].status == 201


def test_the_count_is_of_the_last_hours_only() -> None:
    """What was long ago does not count, and nobody saves renewals up for later."""
    until, now = 0, 1_000_000
    for _ in range(RENEWALS_AT_ONCE):
        assert seconds_to_next_renewal(until, now) == 0
        until = count_renewal(until, now)
    assert seconds_to_next_renewal(until, now) == SECONDS_PER_RENEWAL
    assert seconds_to_next_renewal(until, now + SECONDS_PER_RENEWAL - 0.5) == 1
    now += RENEWALS_AT_ONCE * SECONDS_PER_RENEWAL
    assert count_renewal(until, now) == count_renewal(0, now)
