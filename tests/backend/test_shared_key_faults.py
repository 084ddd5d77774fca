"""S15, S17: whatever fails or dies in a run of the article's client, a retry gets the Thing its one certificate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, combinations, count

import pytest

from tests.backend.fleet import LEASE, Device, Hook, forget_everything, forget_turns, going_wrong, item, killed_with
from tests.backend.test_ledger_faults import FAULTS
from tests.backend.test_shared_keys import (
    FIRST_RUN,
    SECOND_RUN,
    assert_has_its_own,
    assert_nothing_loose,
    run,
)
from tests.backend.test_sweep import HOUR, by_route
from tests.support.deployment import Death, Deployment, deployed, without_pauses

RUNS = {"first": FIRST_RUN, "second": SECOND_RUN}
_numbers = count()


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployment]:
    """One deployment for all cases: each begins with an empty ledger."""
    with deployed() as deployment, without_pauses():
        yield deployment


@pytest.fixture
def backend(shared: Deployment) -> Deployment:
    """It, at the real time again."""
    shared.clock.ahead = 0
    return shared


def device_for(backend: Deployment, which: str) -> Device:
    """Return a first run, or a second one with a key that an enrolled Thing has."""
    number = next(_numbers)
    forget_everything()
    device = run(backend, f"faulty-{number}")
    if which == "second":
        earlier = run(backend, f"earlier-{number}", device)
        assert_has_its_own(earlier, earlier.enroll())
    forget_turns()
    return device


def assert_a_retry_makes_it(device: Device) -> None:
    """Assert that a retry ends with one certificate, when whoever was at work is dead, and the next changes nothing.

    What was lost on the way is attached to nothing, and is switched off an hour later.
    """
    device.backend.clock.ahead += LEASE
    answer = device.enroll()
    assert_has_its_own(device, answer)
    assert_nothing_loose(device)
    assert device.enroll().body == answer.body
    device.backend.clock.ahead += HOUR
    by_route(device.backend)
    assert_has_its_own(device, answer)
    active = [found for found in device.certificates() if found.status == "ACTIVE"]
    assert all("thing" in item("certificate", found.certificate_id) for found in active)


def steps_of(rounds: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Return the steps of some rounds."""
    return tuple(chain(*rounds))


def moments(rounds: tuple[tuple[str, ...], ...]) -> Iterator[tuple[str, ...]]:
    """Yield every set of steps that can have been done when the function is killed; some of one round, or all."""
    before: tuple[str, ...] = ()
    for steps in rounds:
        for size in range(len(steps)):
            yield from (before + some for some in combinations(steps, size))
        before += steps
    yield before


EVERY_STEP = [(which, step) for which, rounds in RUNS.items() for step in steps_of(rounds)]
EVERY_MOMENT = [(which, done) for which, rounds in RUNS.items() for done in moments(rounds)]


@pytest.mark.parametrize(("which", "step"), EVERY_STEP)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_s15_a_retry_after_a_failed_call_ends_with_one_certificate(
    backend: Deployment, which: str, step: str, fault: Callable[[str], Hook]
) -> None:
    """S15: each call throttled, 500, never sent, or done with its answer lost."""
    device = device_for(backend, which)
    with going_wrong(device, fault(step)):
        failed = device.enroll()
        assert_nothing_loose(device)
    assert failed.status in {200, 429, 503}, failed.body
    at_once = device.enroll()
    assert at_once.status in {200, 503}, at_once.body
    assert_nothing_loose(device)
    assert_a_retry_makes_it(device)


@pytest.mark.parametrize(("which", "done"), EVERY_MOMENT)
def test_s17_a_retry_after_the_function_was_killed_ends_with_one_certificate(
    backend: Deployment, which: str, done: tuple[str, ...]
) -> None:
    """S17: whichever steps were done, what could connect is in the ledger, and the retry finishes what is missing."""
    device = device_for(backend, which)
    with going_wrong(device, killed_with(done)):
        if done == steps_of(RUNS[which]):
            device.enroll()
        else:
            with pytest.raises(Death):
                device.enroll()
    assert_nothing_loose(device)
    assert_a_retry_makes_it(device)
