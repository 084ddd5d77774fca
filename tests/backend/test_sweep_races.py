"""S17, S21: a sweep and a device that comes back at the same time; whoever is first, one certificate is left."""

from __future__ import annotations

import pytest

from tests.backend.fleet import LEASE, Device, between, going_wrong, iot, item, killed
from tests.backend.test_sweep import HOUR, by_route
from tests.support.csr_factory import THING
from tests.support.deployment import Answer, Death, Deployment, assert_problem


def killed_before_the_record(backend: Deployment) -> tuple[Device, str]:
    """Return a device whose enrollment died more than an hour ago, and the certificate that nobody knows of."""
    device = Device(backend, THING)
    with going_wrong(device, killed("before", "TransactWriteItems 2")), pytest.raises(Death):
        device.enroll()
    backend.clock.ahead = HOUR + 1
    (orphan,) = device.certificates()
    assert orphan.status == "ACTIVE"
    return device, orphan.certificate_id


def assert_at_rest(device: Device, answer: Answer, orphan: str) -> None:
    """Assert that the device has one active certificate, which the ledger has, and that no sweep changes that."""
    kept = answer.json["certificateId"] == orphan
    for _ in range(2):
        issued = len(device.certificates())
        assert issued == 1 or (issued == 2 and not kept)  # an orphan that nobody has deleted is off
        device.assert_enrolled(answer, issued=issued)
        assert "revoked" not in item("certificate", answer.json["certificateId"])
        assert kept or "revoked" in item("certificate", orphan)
        device.backend.clock.ahead += HOUR
        assert by_route(device.backend) == []
    assert device.enroll().body == answer.body


# Of the sweep that finds a killed enrollment's certificate by its key, as they come.
OF_THE_SWEEP = (
    "BatchGetItem 1", "ListTargetsForPolicy 1", "BatchGetItem 2", "Query 1", "TransactWriteItems 1", "BatchGetItem 3",
    "ListCertificates 1", "BatchGetItem 4", "DescribeCertificate 1", "BatchGetItem 5", "ListPrincipalThings 1",
    "TransactWriteItems 2", "UpdateCertificate 1", "BatchGetItem 6",
)  # fmt: skip
# Of the device that comes back, likewise.
OF_THE_RETURN = (
    "TransactWriteItems 1", "TransactGetItems 1", "TransactWriteItems 2", "ListCertificates 1", "BatchGetItem 1",
    "DescribeCertificate 1", "UpdateCertificate 1", "CreateThing 1", "TransactWriteItems 3", "AttachPolicy 1",
    "AttachThingPrincipal 1",
)  # fmt: skip


@pytest.mark.parametrize(("phase", "step"), between(OF_THE_SWEEP))
def test_s21_a_device_may_come_back_during_the_sweep(backend: Deployment, step: str, phase: str) -> None:
    """S21, S17: before its certificate is entered as revoked, it keeps it; from then on it gets another one."""
    device, orphan = killed_before_the_record(backend)
    answers: list[Answer] = []

    def hook(now: str, at: str) -> None:
        if (now, at) == (phase, step) and not answers:
            answers.append(device.enroll())

    with going_wrong(device, hook) as steps:
        disabled = by_route(backend)
    revoked_first = OF_THE_SWEEP.index(step) + (phase == "after") > OF_THE_SWEEP.index("TransactWriteItems 2")
    (answer,) = answers
    assert answer.status == 201
    assert disabled == ([orphan] if revoked_first else [])
    assert (answer.json["certificateId"] == orphan) is not revoked_first
    assert step in steps
    assert_at_rest(device, answer, orphan)


@pytest.mark.parametrize(("phase", "step"), between(OF_THE_RETURN))
def test_s21_a_sweep_may_come_while_a_device_comes_back(backend: Deployment, step: str, phase: str) -> None:
    """S21, S17: the other way round; where the sweep wins, the device may be told to come again."""
    device, orphan = killed_before_the_record(backend)
    swept: list[list[str]] = []

    def hook(now: str, at: str) -> None:
        if (now, at) == (phase, step) and not swept:
            swept.append([])
            swept[0] = by_route(backend)

    with going_wrong(device, hook):
        answer = device.enroll()
    if answer.status == 503:
        assert_problem(answer, 503, "enrollment-in-progress")
        assert swept == [[orphan]]
        answer = device.enroll()
    assert swept == [[] if answer.json["certificateId"] == orphan else [orphan]]
    assert_at_rest(device, answer, orphan)


def test_s21_a_device_that_dies_while_the_sweep_wins_leaves_no_more_than_another_one(backend: Deployment) -> None:
    """S21, S17: it has made a revoked certificate ACTIVE again in that moment, and is killed: the next sweep sees."""
    device, orphan = killed_before_the_record(backend)
    found: list[list[str]] = []

    def hook(now: str, at: str) -> None:
        if (now, at) == ("before", "UpdateCertificate 1") and not found:
            found.append([])
            found[0] = by_route(backend)
        if found and (now, at) == ("before", "CreateThing 1"):
            raise Death

    with going_wrong(device, hook), pytest.raises(Death):
        device.enroll()
    assert (found, iot().certificates[orphan].status) == ([[orphan]], "ACTIVE")
    assert by_route(backend) == [orphan]
    backend.clock.ahead += LEASE
    assert_at_rest(device, device.enroll(), orphan)
