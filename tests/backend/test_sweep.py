"""S21: certificates that nobody should use are found, switched off and reported; those of others are left alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iot.models import FakeCertificate

from tests.backend.csr_factory import THING, request
from tests.backend.deployment import POLICY, REGION, Answer, Death, Deployment, assert_problem, certificate_for
from tests.backend.fleet import Device, going_wrong, iot, killed_with
from tests.backend.test_ledger_faults import ROUNDS

HOUR = 3600
SCHEDULED = {"hsm-enroll": "sweep"}
PEM = certificate_for(request())


def certificate(number: int, *, minutes_old: int = 61, policy: str | None = POLICY, thing: str | None = None) -> Any:
    """Put an active certificate into AWS IoT, past its API, which would take long for many."""
    made: Any = FakeCertificate(PEM, "ACTIVE", DEFAULT_ACCOUNT_ID, REGION)
    own_id = f"{number:064x}"
    made.arn, made.certificate_id = made.arn.replace(made.certificate_id, own_id), own_id
    made.creation_date -= timedelta(minutes=minutes_old)
    iot().certificates[made.certificate_id] = made
    if policy is not None:
        iot().attach_policy(policy, made.arn)
    if thing is not None:
        iot().attach_thing_principal(thing, made.arn)
    return made


@pytest.fixture
def other_policy(backend: Deployment) -> str:
    """Another system's policy in the same account."""
    backend.iot.create_policy(policyName="other", policyDocument="{}")
    return "other"


@pytest.fixture
def other_thing(backend: Deployment) -> str:
    """Another system's Thing."""
    backend.iot.create_thing(thingName="other")
    return "other"


def by_route(backend: Deployment) -> list[str]:
    """Sweep as the operator does; return the ids it reports."""
    more: dict[str, str] = {}
    found: list[str] = []
    while True:
        answer = backend.operate("POST", "sweep", more)
        assert answer.status == 200, answer.body
        found += [entry["certificateId"] for entry in answer.json["disabled"]]
        if answer.json["next"] is None:
            return found
        more = {"next": answer.json["next"]}


def scheduled(backend: Deployment, milliseconds: list[int] | None = None) -> list[str]:
    """Sweep as the schedule does, with what is left of the time after each page; return the ids the log reports."""
    left = iter(milliseconds or [])
    context = SimpleNamespace(
        aws_request_id="scheduled", get_remaining_time_in_millis=lambda: next(left, 60_000)
    )  # fmt: skip
    backend.log.truncate(backend.log.seek(0))
    assert backend.handler.lambda_handler(SCHEDULED, context) == {}
    assert all(line["requestId"] == "scheduled" for line in backend.log_lines())
    return [line["certificateId"] for line in backend.log_lines() if line["event"] == "orphan-disabled"]


WAYS = pytest.mark.parametrize("sweep", [by_route, scheduled])
Sweep = Callable[[Deployment], list[str]]


@WAYS
def test_s21_an_orphan_is_disabled_and_reported(backend: Deployment, sweep: Sweep) -> None:
    """S21: one with the device policy and one attached to nothing, by answer and log, once; in the log as errors."""
    orphans = [certificate(1), certificate(2, policy=None)]
    assert sweep(backend) == [orphan.certificate_id for orphan in orphans]
    lines = [line for line in backend.log_lines() if line["event"] == "orphan-disabled"]
    assert [(line["level"], line["certificateId"]) for line in lines] == [
        ("ERROR", orphan.certificate_id) for orphan in orphans
    ]
    assert [orphan.status for orphan in orphans] == ["INACTIVE", "INACTIVE"]
    assert sweep(backend) == []


@WAYS
def test_s21_what_is_enrolled_or_may_be_under_way_is_left(backend: Deployment, sweep: Sweep) -> None:
    """S21: neither a device's certificate, however old, nor an unknown one that is younger than an hour."""
    young = certificate(1, minutes_old=59)
    device = Device(backend, THING)
    device.enroll()
    device.certificates()[0].creation_date -= timedelta(days=365)
    assert sweep(backend) == []
    assert (young.status, len(device.usable())) == ("ACTIVE", 1)


@WAYS
def test_s21_a_killed_enrollments_certificate_is_disabled_after_an_hour(backend: Deployment, sweep: Sweep) -> None:
    """S21, S17: where nobody came back to finish it; if somebody does later, it is the same certificate again."""
    device = Device(backend, THING)
    attached = {*ROUNDS[0], *ROUNDS[1], "AttachPolicy 1", "AttachThingPrincipal 1"}
    with going_wrong(device, killed_with(attached)), pytest.raises(Death):
        device.enroll()
    backend.clock.ahead = 59 * 60
    assert sweep(backend) == []
    backend.clock.ahead = HOUR + 1
    assert len(sweep(backend)) == 1
    assert device.usable() == []
    backend.clock.ahead = HOUR + 60
    device.assert_enrolled(device.enroll())


@WAYS
def test_s21_a_revoked_certificate_that_is_active_is_disabled(backend: Deployment, sweep: Sweep) -> None:
    """S21: the ledger says revoked, AWS IoT was never told."""
    device = Device(backend, THING)
    device.enroll()
    with going_wrong(device, killed_with({"BatchGetItem 1", "TransactWriteItems 1"})), pytest.raises(Death):
        backend.operate("DELETE", "fleet", thing=THING)
    assert len(device.usable()) == 1
    backend.clock.ahead = HOUR + 1
    assert sweep(backend) == [found.certificate_id for found in device.certificates()]
    assert device.usable() == []


def test_s21_certificates_of_other_systems_are_left_and_counted(
    backend: Deployment, other_policy: str, other_thing: str
) -> None:
    """S21: another policy, or a Thing that the ledger does not know; one with the device policy too is ours."""
    Device(backend, THING).enroll()
    left = [
        certificate(1, policy=other_policy),
        certificate(2, policy=None, thing=other_thing),
        certificate(3, policy=other_policy, thing=other_thing),
    ]
    ours = [certificate(4, policy=other_policy, thing=THING), certificate(5, thing=other_thing)]
    iot().attach_policy(other_policy, ours[1].arn)
    answer = backend.operate("POST", "sweep", {}).json
    assert (answer["checked"], answer["foreign"], answer["next"]) == (5, 3, None)
    assert [entry["certificateId"] for entry in answer["disabled"]] == [found.certificate_id for found in ours]
    assert {found.status for found in left} == {"ACTIVE"}


@pytest.mark.parametrize("phase", ["before", "after"])
def test_s21_a_device_that_comes_back_during_the_sweep_keeps_its_certificate(backend: Deployment, phase: str) -> None:
    """S21, S17: the sweep has found the killed enrollment's certificate, and then the device finishes it."""
    device, answers = Device(backend, THING), list[Answer]()
    with going_wrong(device, killed_with({*ROUNDS[0], *ROUNDS[1], "AttachPolicy 1"})), pytest.raises(Death):
        device.enroll()
    backend.clock.ahead = HOUR + 1

    def hook(now: str, step: str) -> None:
        if (now, step) == (phase, "UpdateCertificate 1"):
            answers.append(device.enroll())

    with going_wrong(device, hook):
        by_route(backend)
    device.assert_enrolled(answers[0])


def test_s21_the_answer_says_when_an_orphan_was_made(backend: Deployment) -> None:
    """S21: in UTC, to the second."""
    orphan = certificate(1)
    answer = backend.operate("POST", "sweep", {}).json
    created = orphan.creation_date.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert answer["disabled"] == [{"certificateId": orphan.certificate_id, "created": created}]


def many(count: int, *orphans: int) -> list[str]:
    """Make certificates, all inactive but some; return the ids of those in their order."""
    made = [certificate(number, minutes_old=600) for number in range(count)]
    for number, each in enumerate(made):
        if number not in orphans:
            each.status = "INACTIVE"
    return [made[number].certificate_id for number in orphans]


def test_s21_all_pages_are_looked_at(backend: Deployment) -> None:
    """S21: the route answers page by page, a hundred certificates each, the oldest first."""
    orphans = many(230, 0, 99, 100, 229)
    assert by_route(backend) == orphans
    assert backend.calls.count("ListCertificates") == 3


def test_s21_the_schedule_goes_on_where_its_time_ran_out(backend: Deployment) -> None:
    """S21: a page at least per run; the next run begins with the next page, and after the last one with the first."""
    orphans = many(230, 0, 100, 229)
    assert scheduled(backend, [9_999]) == orphans[:1]
    assert scheduled(backend, [10_000]) == orphans[1:2]
    assert scheduled(backend, [10_001]) == orphans[2:]
    summary = backend.log_lines()[-1]
    assert (summary["event"], summary["level"], summary["finished"]) == ("sweep", "INFO", True)
    assert (summary["checked"], summary["disabled"], summary["foreign"]) == (1, 1, 0)
    iot().certificates[orphans[0]].status = "ACTIVE"
    assert scheduled(backend) == orphans[:1]
    assert backend.calls.count("ListCertificates") == 3 + 3


def test_s21_a_run_that_fails_is_followed_by_one_from_the_start(backend: Deployment) -> None:
    """S21: a marker that AWS IoT does not take any more stops no more than one run."""
    orphans = many(130, 0, 129)
    assert scheduled(backend, [0]) == orphans[:1]

    def lost(_request: Any) -> None:
        raise ReadTimeoutError(endpoint_url="https://iot.example.com")

    backend.inject("ListCertificates", lost)
    with pytest.raises(Exception, match="AWS does not answer"):
        scheduled(backend)
    backend.faults.clear()
    iot().certificates[orphans[0]].status = "ACTIVE"
    assert scheduled(backend) == orphans


def test_s21_a_fault_of_aws_is_told(backend: Deployment) -> None:
    """S21: what was disabled until then stays so; the next sweep does the rest."""
    orphans = [certificate(1), certificate(2)]
    second = iter([False, True])

    def fail_at_the_second(_request: Any) -> None:
        if next(second, True):
            raise ReadTimeoutError(endpoint_url="https://iot.example.com")

    backend.inject("UpdateCertificate", fail_at_the_second)
    assert_problem(backend.operate("POST", "sweep", {}), 503, "aws-unavailable")
    backend.faults.clear()
    assert [orphan.status for orphan in orphans] == ["INACTIVE", "ACTIVE"]
    assert by_route(backend) == [orphans[1].certificate_id]


@pytest.mark.parametrize(
    "event", [{"hsm-enroll": "sweep", "rawPath": "/"}, {"hsm-enroll": "Sweep"}, {"hsm-enroll": {}}]
)
def test_nothing_like_the_schedules_event_sweeps(backend: Deployment, event: dict[str, Any]) -> None:
    """Only the very event the template's schedule sends does; all others are requests."""
    assert (backend.send(event).status, backend.calls) == (404, [])
