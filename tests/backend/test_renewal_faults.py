"""S15, S17: whatever fails or dies in a renewal, retirement or replacement, retries end with what was wanted, alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.backend.fleet import (
    LEASE,
    Device,
    Hook,
    forget_everything,
    forget_turns,
    going_wrong,
    iot,
    item,
    killed,
    lost,
    lost_once,
    throttled,
)
from tests.backend.test_sweep import scheduled
from tests.support.deployment import Answer, Death, Deployment, deployed, without_pauses

ALL: dict[str, Callable[[str], Hook]] = {
    # Killed before a step is killed after the one before it.
    "throttled": throttled, "lost": lost, "lost once": lost_once, "killed": lambda step: killed("after", step),
}  # fmt: skip
# What is left by a request that nobody repeats: one that succeeds in the end, as after "lost once", is not of interest.
NOT_REPEATED = {name: fault for name, fault in ALL.items() if name != "lost once"}
OF_A_PROOF = ("BatchGetItem 1", "TransactGetItems 1", "UpdateItem 1")
RENEWAL = (
    *OF_A_PROOF, "TransactWriteItems 1", "UpdateItem 2", "CreateCertificateFromCsr 1", "TransactWriteItems 2",
    "AttachPolicy 1", "AttachThingPrincipal 1",
)  # fmt: skip
REMOVAL = ("UpdateCertificate 1", "DetachThingPrincipal 1", "DeleteCertificate 1")
COMMIT = (*OF_A_PROOF, "TransactWriteItems 1", *REMOVAL, "TransactWriteItems 2")
RETIREMENT = (*COMMIT[:-1], "BatchGetItem 2", "DescribeThing 1", "DeleteThing 1", "TransactWriteItems 2")
REPLACEMENT = (
    "BatchGetItem 1", "TransactWriteItems 1", "UpdateItem 1", "TransactGetItems 1", "TransactWriteItems 2",
    "CreateCertificateFromCsr 1", "BatchGetItem 2", "TransactWriteItems 3", "AttachPolicy 1", "AttachThingPrincipal 1",
    "BatchGetItem 3", *REMOVAL, "TransactWriteItems 4",
)  # fmt: skip
_numbers = count()


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployment]:
    """One deployment for all cases: each has a Thing of its own."""
    with deployed({"DELETE_THING_ON_RETIREMENT": "yes"}) as deployment, without_pauses():
        yield deployment


@pytest.fixture
def device(shared: Deployment) -> Device:
    """An enrolled device, the only one."""
    shared.clock.ahead = 0
    forget_everything()
    enrolled = Device(shared, f"faulty-{next(_numbers)}")
    assert enrolled.enroll().status == 201
    return enrolled


def until_done(device: Device, request: Callable[[], Answer]) -> Answer:
    """Repeat a request as a device does, when whoever was at work is dead; assert that it need not do so often."""
    for _ in range(3):
        answer = request()
        if answer.status < 300:
            return answer
        assert answer.status in {429, 503}, answer.body
        device.backend.clock.ahead += LEASE
    raise AssertionError(answer.body)


def whatever_happens(device: Device, request: Callable[[], Answer], hook: Hook) -> None:
    """Send a request that a fault hits, and wait until whoever was at work must be dead."""
    with going_wrong(device, hook):
        try:
            answer = request()
        except Death:
            pass
        else:
            assert answer.status in {200, 201, 204, 429, 503}, answer.body
    device.backend.clock.ahead += LEASE


def steps_of(device: Device, request: Callable[[], Answer]) -> tuple[str, ...]:
    """Return the steps of a request that works, the simultaneous ones in alphabetical order."""
    forget_turns()  # so that one is due
    with going_wrong(device, lambda _phase, _step: None) as steps:
        assert request().status < 300
    return tuple(sorted(steps))


def finish(device: Device, successor: Device) -> None:
    """Commit, let the schedule run, and assert that only the successor's certificate is left."""
    until_done(successor, successor.commit)
    scheduled(device.backend)
    assert device.certificates() == []
    successor.assert_alone()


def test_the_steps_are_all_there_are(device: Device) -> None:
    """Those that the tests of this module let fail are the steps of a renewal, a commit, and so on."""
    successor, replacement = device.successor(), with_invite(device)
    assert steps_of(successor, lambda: device.renew(successor)) == tuple(sorted(RENEWAL))
    assert steps_of(successor, successor.commit) == tuple(sorted(COMMIT))
    assert steps_of(replacement, replacement.enroll) == tuple(sorted(REPLACEMENT))
    assert steps_of(replacement, replacement.retire) == tuple(sorted(RETIREMENT))


@pytest.mark.parametrize("step", RENEWAL)
@pytest.mark.parametrize("fault", ALL.values(), ids=ALL.keys())
def test_s15_s17_a_renewal_that_failed_is_continued(device: Device, step: str, fault: Callable[[str], Hook]) -> None:
    """S15, S17: each call failed, lost, or the last one: the retry gets the one certificate, and the commit ends it."""
    successor = device.successor()
    whatever_happens(successor, lambda: device.renew(successor), fault(step))
    assert len(device.usable()) == 1
    answer = until_done(device, lambda: device.renew(successor))
    (certificate,) = successor.certificates()
    assert answer.json["certificateId"] == certificate.certificate_id
    assert len(successor.usable()) == 1
    finish(device, successor)


@pytest.mark.parametrize("step", RENEWAL)
@pytest.mark.parametrize("fault", NOT_REPEATED.values(), ids=NOT_REPEATED.keys())
def test_s15_s17_a_renewal_that_failed_and_is_given_up_leaves_the_old_certificate(
    device: Device, step: str, fault: Callable[[str], Hook]
) -> None:
    """S15, S17: the schedule undoes it after an hour, and disables what got lost of it."""
    successor = device.successor()
    whatever_happens(successor, lambda: device.renew(successor), fault(step))
    device.backend.clock.ahead += 3600
    for _ in range(2):
        scheduled(device.backend)
    assert [one.status for one in successor.certificates()] in ([], ["INACTIVE"])
    assert [one.certificate_id for one in device.usable()] == [item("thing", device.thing)["certificate_id"]]
    device.assert_alone()


@pytest.mark.parametrize("step", COMMIT)
@pytest.mark.parametrize("fault", ALL.values(), ids=ALL.keys())
def test_s15_s17_a_commit_that_failed_is_repeated(device: Device, step: str, fault: Callable[[str], Hook]) -> None:
    """S15, S17: at each moment at least one of the two keys can connect; in the end it is the new one."""
    successor = device.successor()
    assert device.renew(successor).status == 201
    whatever_happens(successor, successor.commit, fault(step))
    current = successor if item("thing", device.thing)["spki_sha256"] == successor.spki_sha256 else device
    assert len(current.usable()) == 1
    finish(device, successor)


@pytest.mark.parametrize("step", RETIREMENT)
@pytest.mark.parametrize("fault", ALL.values(), ids=ALL.keys())
def test_s15_s17_a_retirement_that_failed_is_repeated(device: Device, step: str, fault: Callable[[str], Hook]) -> None:
    """S15, S17: in the end neither certificate nor Thing is left, nor anything to do."""
    whatever_happens(device, device.retire, fault(step))
    until_done(device, device.retire)
    scheduled(device.backend)
    assert (device.certificates(), device.backend.items("removal")) == ([], {})
    assert device.thing not in {thing.thing_name for thing in iot().things.values()}
    assert item("thing", device.thing)["retired"]


def with_invite(device: Device) -> Device:
    """Return new hardware for a device's Thing, with an invite that replaces the key."""
    return Device(device.backend, device.thing, device.backend.replacement(device.thing))


@pytest.mark.parametrize("step", REPLACEMENT)
@pytest.mark.parametrize("fault", ALL.values(), ids=ALL.keys())
def test_s15_s17_a_replacement_that_failed_is_repeated(device: Device, step: str, fault: Callable[[str], Hook]) -> None:
    """S15, S17: the old key works until the new one is recorded; the invite is used once, however often it failed."""
    replacement = with_invite(device)
    whatever_happens(replacement, replacement.enroll, fault(step))
    if item("thing", device.thing)["spki_sha256"] == device.spki_sha256:
        assert len(device.usable()) == 1
    answer = until_done(replacement, replacement.enroll)
    assert answer.json["certificateId"] == item("thing", device.thing)["certificate_id"]
    scheduled(device.backend)
    assert device.certificates() == []
    replacement.assert_alone()
    (used,) = [one for one in device.backend.items("invite").values() if one["thing"] == device.thing]
    assert used["uses_left"] == "0"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("CreateCertificateFromCsr 1", lost),
        ("CreateCertificateFromCsr 1", lost_once),
        ("CreateCertificateFromCsr 1", lambda step: killed("after", step)),
        ("TransactWriteItems 2", lambda step: killed("after", step)),
    ],
    ids=["lost", "lost once", "killed", "killed, the certificate recorded"],
)
def test_s15_s17_a_retry_may_fail_as_well(device: Device, first: str, second: Callable[[str], Hook]) -> None:
    """S15, S17: two failures in a row, the second one at each step of the retry: the third try makes it."""
    steps = RENEWAL[len(OF_A_PROOF) :]  # before them, nothing has changed
    for step in (*steps, "ListCertificates 1", "DescribeCertificate 1", "UpdateCertificate 1"):
        device.backend.clock.ahead = 0
        forget_turns()
        successor = device.successor()
        whatever_happens(successor, lambda: device.renew(successor), killed("after", first))  # noqa: B023
        whatever_happens(successor, lambda: device.renew(successor), second(step))  # noqa: B023
        until_done(device, lambda: device.renew(successor))  # noqa: B023
        assert len(successor.certificates()) == 1
        finish(device, successor)
        device = successor
