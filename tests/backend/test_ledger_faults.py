"""S15, S17: whatever fails or dies, and wherever, a retry ends with one active certificate; no one has to repair it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, combinations, count

import pytest

from enrollment_backend.errors import EnrollmentInProgressError
from tests.backend.fleet import (
    LEASE,
    Device,
    Hook,
    failing,
    forget_turns,
    going_wrong,
    iot,
    item,
    killed,
    killed_with,
    lost,
    lost_once,
    throttled,
    unreachable,
)
from tests.support.deployment import Answer, Death, Deployment, assert_problem, deployed, without_pauses

ROUNDS = (
    ("BatchGetItem 1",),
    ("TransactWriteItems 1", "UpdateItem 1"),
    ("CreateThing 1", "CreateCertificateFromCsr 1"),
    ("TransactWriteItems 2",),
    ("AttachPolicy 1", "AttachThingPrincipal 1"),
)
STEPS = tuple(chain(*ROUNDS))
FAULTS = {fault.__name__: fault for fault in (throttled, failing, unreachable, lost, lost_once)}
_numbers = count()


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployment]:
    """One deployment for all cases: each has a Thing and a key of its own."""
    with deployed({"AUTH_MODE": "invite"}) as deployment, without_pauses():
        yield deployment


@pytest.fixture
def backend(shared: Deployment) -> Deployment:
    """It, at the real time again: a claim's time is compared with that of moto's certificates."""
    shared.clock.ahead = 0
    return shared


def new_device(backend: Deployment, pattern: str = "{}", **invite: object) -> Device:
    """Return a device with an invite for it; the certificates of others go, since a retry looks at all new ones."""
    for kept in (iot().certificates, iot().principal_things, iot().principal_policies):
        kept.clear()
    forget_turns()
    thing = f"faulty-{next(_numbers)}"
    return Device(backend, thing, backend.invite(pattern.format(thing), **invite))


def moments() -> Iterator[tuple[str, ...]]:
    """Yield every set of steps that can have been done when the function is killed.

    The steps of one round run at the same time: any of them may have been done, and any not.
    """
    before: tuple[str, ...] = ()
    for steps in ROUNDS:
        for size in range(len(steps)):
            yield from (before + some for some in combinations(steps, size))
        before += steps
    yield before


def retry_at_once(device: Device) -> Answer:
    """Try again, and assert that this is fit to be: an answer, or a request to wait."""
    again = device.enroll()
    if again.status == 503:
        assert_problem(again, 503, "enrollment-in-progress")
        assert again.headers["retry-after"] == str(EnrollmentInProgressError.retry_after)
    else:
        device.assert_enrolled(again)
    assert len(device.certificates()) <= 1
    return again


def retry(device: Device) -> None:
    """Try again when whoever was at work must be dead, and assert that it works; and that once more changes nothing."""
    device.backend.clock.ahead += LEASE
    recorded = "certificate_id" in item("thing", device.thing)
    answer = device.enroll()
    assert answer.status == (200 if recorded else 201), answer.body
    device.assert_enrolled(answer)
    again = device.enroll()
    assert (again.status, again.body) == (200, answer.body)


def test_an_enrollment_takes_eight_calls_in_five_rounds(backend: Deployment) -> None:
    """The steps that the tests of this module let fail are all there are, and in these rounds."""
    device = new_device(backend)
    with going_wrong(device, lambda _phase, _step: None) as steps:
        assert device.enroll().status == 201
    rounds = [steps[:1], steps[1:3], steps[3:5], steps[5:6], steps[6:]]
    assert [sorted(calls) for calls in rounds] == [sorted(calls) for calls in ROUNDS]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_s15_a_retry_after_a_failed_call_ends_with_one_certificate(
    backend: Deployment, step: str, fault: Callable[[str], Hook]
) -> None:
    """S15: each call throttled, 500, never sent, or done with its answer lost: at once or later, a retry makes it."""
    device = new_device(backend)
    with going_wrong(device, fault(step)):
        failed = device.enroll()
    single = step == "CreateCertificateFromCsr 1" or fault is not lost_once
    failure = {429} if fault is throttled else {503}
    # Without the counter, nothing is queued.
    assert failed.status in ({201} if step == "UpdateItem 1" else failure | (set() if single else {201}))
    retry_at_once(device)
    retry(device)
    assert item("invite", _invite_of(device))["uses_left"] == "0"


@pytest.mark.parametrize("done", list(moments()), ids=lambda done: "+".join(done) or "nothing")
def test_s17_a_retry_after_the_function_was_killed_ends_with_one_certificate(
    backend: Deployment, done: tuple[str, ...]
) -> None:
    """S17: whichever steps were done when the function was killed, the device's retry finishes what is missing."""
    device = new_device(backend)
    with going_wrong(device, killed_with(done)):
        if done == STEPS:
            device.enroll()
        else:
            with pytest.raises(Death):
                device.enroll()
    retry_at_once(device)
    retry(device)


@pytest.mark.parametrize("done", list(moments())[:6], ids=lambda done: "+".join(done) or "nothing")
def test_s17_it_is_the_same_with_an_invite_for_many(backend: Deployment, done: tuple[str, ...]) -> None:
    """S17: an invite for several Things takes two more calls at the beginning, and one use, however often it failed."""
    device = new_device(backend, "{}*", uses=3)
    shifted = {"TransactWriteItems 1", "TransactGetItems 1"} | {step.replace("Items 1", "Items 2") for step in done}
    with going_wrong(device, killed_with(shifted)), pytest.raises(Death):
        device.enroll()
    retry_at_once(device)
    retry(device)
    assert item("invite", _invite_of(device))["uses_left"] == "2"


FIRST: dict[str, Hook] = {
    "killed when all but the record was done": killed_with(set(STEPS) - {"TransactWriteItems 2"}),
    "killed when all but the attachments was done": killed_with(set(chain(*ROUNDS[:-1]))),
    "the certificate's answer was lost": lost("CreateCertificateFromCsr 1"),
    "withdrawn": throttled("AttachPolicy 1"),
}
SECOND: dict[str, Callable[[str], Hook]] = {
    "lost once": lost_once,
    "killed": lambda step: killed("after", step),
    "throttled": throttled,
}
PAIRS = [(first, second) for first in FIRST for second in SECOND if second != "throttled" or first == "withdrawn"]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_s15_s17_a_retry_may_fail_as_well(backend: Deployment, first: str, second: str) -> None:
    """S15, S17: two failures in a row, the second one at each step of the retry: the third try makes it."""

    def after_the_first() -> Device:
        backend.clock.ahead = 0
        device = new_device(backend)
        with going_wrong(device, FIRST[first]):
            _whatever_happens(device)
        backend.clock.ahead += LEASE
        return device

    device = after_the_first()
    with going_wrong(device, lambda _phase, _step: None) as steps:
        device.assert_enrolled(device.enroll())
    for step in steps:
        device = after_the_first()
        with going_wrong(device, SECOND[second](step)):
            _whatever_happens(device)
        assert len(device.certificates()) == 1
        backend.clock.ahead += LEASE
        device.assert_enrolled(device.enroll())


def _whatever_happens(device: Device) -> None:
    try:
        device.enroll()
    except Death:
        return


def _invite_of(device: Device) -> str:
    claim: str = item("thing", device.thing)["code_sha256"]
    return claim[:16]
