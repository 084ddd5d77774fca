"""S24: more devices than AWS IoT allows at once: each gets a turn, is told when to come back, and keeps its place."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from enrollment_backend import admission
from tests.backend.fleet import Device, iot, item
from tests.support.csr_factory import THING
from tests.support.deployment import Answer, Deployment, assert_problem, aws_answer, deployed

RATE = 0.1  # turns per second: ten seconds from one to the next
PERIOD = 10
OF_AWS_IOT = {"CreateThing", "CreateCertificateFromCsr", "AttachPolicy", "AttachThingPrincipal", "ListCertificates"}

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """An open deployment in which a certificate may be issued every ten seconds."""
    with deployed({"CERTIFICATE_RATE": str(RATE)}) as deployment:
        yield deployment


def throttling(_request: Any) -> AWSResponse:
    """Answer as AWS does when it is asked too often."""
    return aws_answer(400, '{"__type": "ThrottlingException"}', "ThrottlingException")


def retry_after(answer: Answer) -> int:
    """Return in how many seconds a queued device has to come back."""
    assert_problem(answer, 429, "enrollment-queued")
    return int(answer.headers["retry-after"])


def in_a_queue(backend: Deployment, number: int) -> list[Device]:
    """Return devices of which the first is enrolled, and the others are told to come back."""
    devices = [Device(backend, f"gateway-{position}") for position in range(number)]
    first, *others = [device.enroll() for device in devices]
    assert first.status == 201
    assert all(answer.status == 429 for answer in others)
    return devices


@pytest.mark.parametrize(("free_at", "now", "expected"), [(5.0, 7.0, (7.0, 7.5)), (9.0, 7.0, (9.0, 9.5))])
def test_a_turn_is_the_next_free_one_and_never_in_the_past(
    free_at: float, now: float, expected: tuple[float, float]
) -> None:
    """The turn after it is one period later."""
    assert admission.turn(free_at, now, rate=2) == expected


@pytest.mark.parametrize(
    ("turn", "seconds"), [(90.0, 0), (100.0, 0), (101.0, 0), (101.01, 2), (102.0, 2), (102.5, 3), (7000.0, 6900)]
)
def test_a_device_waits_until_its_turn_in_whole_seconds(turn: float, seconds: int) -> None:
    """For less than a second nobody is sent away; whoever comes back when told does not come too early."""
    assert admission.seconds_to_wait(turn, now=100.0) == seconds


def test_turns_follow_each_other_at_the_rate(backend: Deployment) -> None:
    """Five at once: the first goes on, and the others get one turn after the other."""
    answers = [Device(backend, f"gateway-{position}").enroll() for position in range(5)]
    assert answers[0].status == 201
    for position, answer in enumerate(answers[1:], start=1):
        # Each request takes some milliseconds, so the whole seconds that are left may be one less.
        assert retry_after(answer) in {PERIOD * position - 1, PERIOD * position}


def test_a_queued_device_costs_aws_iot_nothing(backend: Deployment) -> None:
    """Neither when it is sent away nor when it comes too early: the ledger alone is asked."""
    _, second, third = in_a_queue(backend, 3)
    backend.calls.clear()
    for device in (second, third, Device(backend, "another")):
        assert retry_after(device.enroll()) > 1
    assert not OF_AWS_IOT & set(backend.calls)


def test_whoever_comes_too_early_is_told_what_is_left_and_keeps_the_turn(backend: Deployment) -> None:
    """It takes no other turn, so a client that does not wait makes nobody's queue longer."""
    _, second = in_a_queue(backend, 2)
    before = item("admission", "next")["free_at"]
    backend.clock.ahead += 4
    assert retry_after(second.enroll()) in {PERIOD - 5, PERIOD - 4}
    assert item("admission", "next")["free_at"] == before
    backend.clock.ahead += 6
    second.assert_enrolled(second.enroll())


def test_a_device_whose_turn_has_come_goes_on_although_others_wait(backend: Deployment) -> None:
    """In one request, without a search for a certificate; the device behind it waits on."""
    _, second, third = in_a_queue(backend, 3)
    backend.clock.ahead += PERIOD
    backend.calls.clear()
    second.assert_enrolled(second.enroll())
    assert "ListCertificates" not in backend.calls
    assert retry_after(third.enroll()) in {PERIOD - 1, PERIOD}


def test_a_late_device_has_not_lost_its_turn(backend: Deployment) -> None:
    """A day later, with a new queue of others."""
    _, second = in_a_queue(backend, 2)
    backend.clock.ahead += 24 * 3600
    others = [Device(backend, f"other-{position}") for position in range(3)]
    assert [device.enroll().status for device in others] == [201, 429, 429]
    second.assert_enrolled(second.enroll())


def test_a_certificate_that_is_issued_is_returned_at_once(backend: Deployment) -> None:
    """Repeating a request takes no turn, however long the queue is."""
    first, *_ = in_a_queue(backend, 4)
    before = item("admission", "next")["free_at"]
    assert first.enroll().status == 200
    assert item("admission", "next")["free_at"] == before


def test_a_queue_that_is_empty_again_keeps_nobody_waiting(backend: Deployment) -> None:
    """The counter of turns that nobody waits for is behind the time."""
    in_a_queue(backend, 3)
    backend.clock.ahead += 3 * PERIOD
    assert Device(backend, "another").enroll().status == 201


def test_a_new_invite_does_not_change_the_turn(backend: Deployment) -> None:
    """The claim stays the same, with another invite."""
    _, second = in_a_queue(backend, 2)
    again = Device(backend, second.thing, backend.invite(second.thing), second.key)
    assert retry_after(again.enroll()) in {PERIOD - 1, PERIOD}
    backend.clock.ahead += PERIOD
    again.assert_enrolled(again.enroll())


def test_the_articles_client_gets_a_429_too(backend: Deployment) -> None:
    """It knows nothing of turns: any answer but a certificate makes it try again."""
    in_a_queue(backend, 2)
    device = Device(backend, THING, article=True)
    assert_problem(device.enroll(), 429, "enrollment-queued")


def test_a_refused_request_takes_no_turn_that_others_wait_for(backend: Deployment) -> None:
    """A code that is not valid, and a key that is another Thing's, make no queue longer."""
    first, _ = in_a_queue(backend, 2)
    before = item("admission", "next")["free_at"]
    assert Device(backend, "another", "00000-00000-00000-00000-00000").enroll().status == 401
    assert Device(backend, "another", key=first.key).enroll().status == 409
    assert item("admission", "next")["free_at"] == before


@pytest.mark.parametrize("waiting", [False, True])
def test_a_table_that_does_not_count_stops_nobody(backend: Deployment, waiting: bool) -> None:
    """Without the counter a device goes on at once, and the log says so."""
    if waiting:
        in_a_queue(backend, 2)
    counted = iter([None] * waiting)  # that it is not due is still found out

    def fault(request: Any) -> AWSResponse | None:
        return next(counted, throttling(request))

    backend.inject("UpdateItem", fault)
    assert Device(backend, "another").enroll().status == 201
    (line,) = [line for line in backend.log_lines() if line["event"] == "turn-not-counted"]
    assert (line["level"], line["operation"]) == ("ERROR", "UpdateItem")


def test_a_turn_that_cannot_be_recorded_is_still_given(backend: Deployment) -> None:
    """Then the device may go on when it comes back; the lease of its request is over by then."""
    in_a_queue(backend, 5)
    device = Device(backend, "another")
    backend.calls.clear()
    backend.interrupt = lambda _phase, _operation: (  # the claim is made while the first of the two looks for a turn
        backend.inject("TransactWriteItems", throttling) if backend.calls.count("UpdateItem") == 2 else None
    )
    backend.faults["UpdateItem"] = lambda _request: None
    queued = device.enroll()
    backend.interrupt = lambda _phase, _operation: None
    backend.faults.clear()
    backend.clock.ahead += retry_after(queued)
    device.assert_enrolled(device.enroll())


@pytest.mark.parametrize("operation", ["CreateCertificateFromCsr", "CreateThing"])
def test_a_device_that_aws_iot_throttles_takes_a_new_turn(backend: Deployment, operation: str) -> None:
    """Coming back between the others, it would have them throttled as well; so it comes after them."""
    _, second, third = in_a_queue(backend, 3)
    backend.inject(operation, throttling)
    backend.clock.ahead += PERIOD
    throttled = second.enroll()
    assert_problem(throttled, 429, "throttled")
    backend.faults.clear()
    assert int(throttled.headers["retry-after"]) in {2 * PERIOD - 1, 2 * PERIOD}
    assert retry_after(third.enroll()) in {PERIOD - 1, PERIOD}
    assert retry_after(second.enroll()) in {2 * PERIOD - 1, 2 * PERIOD}
    backend.clock.ahead += 2 * PERIOD
    second.assert_enrolled(second.enroll())
    assert backend.calls.count("DeleteCertificate") == 0


@pytest.mark.parametrize("rate", ["", "0", "0.0", "-1", "1e3", "nan", "fast", "14,25"])
def test_a_rate_that_is_no_number_is_a_configuration_error(rate: str) -> None:
    """The log names the variable."""
    with deployed({"CERTIFICATE_RATE": rate}) as backend:
        assert_problem(Device(backend, THING).enroll(), 500, "internal")
        assert backend.log_lines()[0]["variable"] == "CERTIFICATE_RATE"


class Quota:
    """AWS IoT's quota for one operation: so many calls per second, and a second's calls at once."""

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self.rate, self.now = rate, now
        self.left, self.asked = rate, now()
        self.refused = 0

    def __call__(self, request: Any) -> AWSResponse | None:
        now = self.now()
        self.left = min(self.rate, self.left + (now - self.asked) * self.rate)
        self.asked = now
        if self.left < 1:
            self.refused += 1
            return throttling(request)
        self.left -= 1
        return None


def test_s24_three_hundred_devices_at_once_are_enrolled_at_the_rate_of_the_quota() -> None:
    """S24: each comes back when it is told to; nothing is issued twice, and nothing is left over."""
    with deployed() as backend:
        begin = backend.clock.time()
        quotas = {operation: Quota(15, backend.clock.time) for operation in OF_AWS_IOT}
        backend.faults.update(quotas)
        devices = [Device(backend, f"gateway-{position}") for position in range(300)]
        waiting = [(begin, position) for position in range(300)]
        requests = 0
        while waiting:
            moment, position = heapq.heappop(waiting)
            backend.clock.ahead += max(0.0, moment - backend.clock.time())
            requests += 1
            answer = devices[position].enroll()
            if answer.status not in {200, 201}:
                assert answer.status == 429, answer.body
                heapq.heappush(waiting, (backend.clock.time() + int(answer.headers["retry-after"]), position))
        seconds = backend.clock.time() - begin
        assert sum(quota.refused for quota in quotas.values()) == 0
        assert backend.calls.count("CreateCertificateFromCsr") == len(iot().certificates) == 300
        assert "ListCertificates" not in backend.calls
        assert requests <= 600
        assert seconds <= 300 / 15 * 1.5 + 3


def test_s24_devices_throttled_everywhere_are_not_searched_for() -> None:
    """S24: AWS IoT refuses every call for a while; afterwards each device gets its first and only certificate."""
    with deployed({"CERTIFICATE_RATE": "1000"}) as backend:
        backend.faults.update(dict.fromkeys(OF_AWS_IOT | {"DescribeCertificate", "UpdateCertificate"}, throttling))
        devices = [Device(backend, f"gateway-{position}") for position in range(10)]
        for _ in range(3):
            assert {device.enroll().status for device in devices} == {429}
        backend.faults.clear()
        for device in devices:
            device.assert_enrolled(device.enroll())
        assert not {"ListCertificates", "DescribeCertificate", "UpdateCertificate"} & set(backend.calls)
