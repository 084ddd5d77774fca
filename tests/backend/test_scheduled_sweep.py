"""S21: the sweep's own function: it goes on where it stopped, and throttling slows it but does not end it."""

from __future__ import annotations

from typing import Any

import pytest

from enrollment_backend.aws_errors import AwsRefusedError
from tests.backend.fleet import Device, iot, item
from tests.backend.test_sweep import HOUR, certificate, lost, many, refused, scheduled, throttled
from tests.support.csr_factory import THING
from tests.support.deployment import POLICY, Deployment, Fault

PAGE = 250
DAY = 24 * HOUR
ONE_PAGE = 140  # seconds: 90 for what is found, and 31 for 250 calls


def lost_certificates(backend: Deployment, *numbers: int) -> list[str]:
    """Let certificates be active and for the key of an enrolled device; return their ids."""
    device = Device(backend, THING)
    device.enroll()
    (enrolled,) = device.certificates()
    for number in numbers:
        one = iot().certificates[f"{number:064x}"]
        one.status, one.certificate_pem = "ACTIVE", enrolled.certificate_pem
    return [f"{number:064x}" for number in numbers]


def summary(backend: Deployment) -> dict[str, Any]:
    """Return the line about the run."""
    (line,) = [line for line in backend.log_lines() if line["event"] == "sweep"]
    return line


def test_s21_the_schedule_goes_on_where_its_time_ran_out(backend: Deployment) -> None:
    """S21: the next run begins with the next page of 250, and after the last one with the first list again."""
    many(3 * PAGE)
    found = lost_certificates(backend, 0, PAGE, 3 * PAGE - 1)
    assert scheduled(backend, ONE_PAGE) == found[:1]
    assert not summary(backend)["finished"]
    assert scheduled(backend, ONE_PAGE) == found[1:2]
    assert scheduled(backend) == found[2:]
    line = summary(backend)
    assert (line["level"], line["finished"]) == ("INFO", True)
    assert (line["checked"], line["disabled"], line["foreign"]) == (1, 1, 0)
    assert backend.calls.count("ListTargetsForPolicy") == 1
    iot().certificates[found[0]].status = "ACTIVE"
    assert scheduled(backend) == found[:1]


def busy(answer: Fault, times: int) -> Fault:
    """Return a fault that stands before an operation so many times."""
    left = iter(range(times))
    return lambda sent: answer(sent) if next(left, None) is not None else None


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", [lost, throttled])
@pytest.mark.parametrize(
    "operation",
    [
        "ListTargetsForPolicy",
        "ListCertificates",
        "DescribeCertificate",
        "BatchGetItem",
        "Query",
        "TransactWriteItems",
        "UpdateCertificate",
    ],
)
def test_s21_a_busy_aws_slows_a_run_and_does_not_end_it(backend: Deployment, operation: str, fault: Fault) -> None:
    """S15, S21: it waits longer each time, and then does the rest in the same run."""
    orphan = certificate(1)
    backend.inject(operation, busy(fault, 9))
    begin = backend.clock.ahead
    assert scheduled(backend) == [orphan.certificate_id]
    assert sum(line.get("throttled", 0) for line in backend.log_lines()) > 3
    assert backend.clock.ahead - begin > 1 + 2 + 4 + 8


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("operation", ["ListCertificates", "UpdateCertificate"])
def test_s21_a_run_that_aws_keeps_waiting_ends_in_time_and_the_next_one_goes_on(
    backend: Deployment, operation: str
) -> None:
    """S15, S21: it is no failure of the function; what was found and not disabled is found again."""
    orphan = certificate(1)
    backend.inject(operation, throttled)
    begin = backend.clock.ahead
    found = scheduled(backend)
    assert backend.clock.ahead - begin < 900
    assert not summary(backend)["finished"]
    backend.faults.clear()
    assert found + scheduled(backend) == [orphan.certificate_id]


def test_s21_a_run_whose_marker_is_refused_begins_at_the_start(backend: Deployment) -> None:
    """S21: a marker that AWS IoT no longer accepts stops nothing."""
    many(2 * PAGE)
    found = lost_certificates(backend, 0, 2 * PAGE - 1)
    assert scheduled(backend, ONE_PAGE) == found[:1]
    iot().certificates[found[0]].status = "ACTIVE"
    backend.inject("ListCertificates", busy(refused, 1))
    assert scheduled(backend) == found


def test_s21_a_role_that_may_not_list_ends_the_run(backend: Deployment) -> None:
    """S21: what AWS refuses altogether is an error, not a run without an end."""
    backend.inject("ListCertificates", refused)
    with pytest.raises(AwsRefusedError):
        scheduled(backend)


def test_s21_foreign_certificates_are_described_once(backend: Deployment) -> None:
    """S21: later passes do not look at them again, but at what has been issued since."""
    for number in range(5):
        certificate(number, policy=None, minutes_old=600)
    assert (scheduled(backend), backend.calls.count("DescribeCertificate")) == ([], 5)
    backend.clock.ahead += HOUR
    certificate(6, policy=None, minutes_old=0)
    device = Device(backend, THING)
    device.enroll()
    found = certificate(7, policy=None, minutes_old=0, pem=device.certificates()[0].certificate_pem)
    backend.clock.ahead += 2 * HOUR
    backend.calls.clear()
    assert scheduled(backend) == [found.certificate_id]
    assert backend.calls.count("DescribeCertificate") == 2
    assert summary(backend)["foreign"] == 6


def test_s21_what_was_too_young_for_a_pass_is_looked_at_in_the_next(backend: Deployment) -> None:
    """S21: only what a pass has described is remembered as foreign, not what was issued shortly before it."""
    device = Device(backend, THING)
    device.enroll()
    young = certificate(1, policy=None, minutes_old=30, pem=device.certificates()[0].certificate_pem)
    assert scheduled(backend) == []
    backend.clock.ahead += HOUR
    assert scheduled(backend) == [young.certificate_id]


def test_s21_a_foreign_certificate_that_gets_the_device_policy_is_found_at_any_age(backend: Deployment) -> None:
    """S21: whether it can connect as a device is decided by the policy."""
    foreign = certificate(1, policy=None, minutes_old=10_000)
    assert scheduled(backend) == []
    iot().attach_policy(POLICY, foreign.arn)
    assert scheduled(backend) == [foreign.certificate_id]


def test_s21_an_orphan_is_deleted_after_a_day_unless_something_is_attached(backend: Deployment) -> None:
    """S21: and AWS IoT is asked about the attached one only once."""
    many(1)
    (found,) = lost_certificates(backend, 0)
    attached = certificate(1)
    assert scheduled(backend) == [attached.certificate_id, found]
    backend.clock.ahead += DAY - 11 * HOUR
    scheduled(backend)
    assert {found, attached.certificate_id} <= iot().certificates.keys()
    backend.clock.ahead += DAY
    backend.calls.clear()
    scheduled(backend)
    scheduled(backend)
    assert found not in iot().certificates
    assert attached.certificate_id in iot().certificates
    assert backend.calls.count("DeleteCertificate") == 2
    assert "revoked" in item("certificate", found)


def test_s21_an_inactive_certificate_that_got_lost_is_deleted_too(backend: Deployment) -> None:
    """S21: what a refused enrollment has left behind, and nothing else: neither foreign ones nor a device's."""
    many(2)
    (found,) = lost_certificates(backend, 0)
    iot().certificates[found].status = "INACTIVE"
    assert backend.operate("DELETE", "fleet", thing=THING).status == 204
    for _ in range(2):
        backend.clock.ahead += 2 * DAY
        assert scheduled(backend) == []
    assert len(iot().certificates) == 2
    assert found not in iot().certificates
