"""Removals: what is left to remove from AWS IoT is removed once an hour, however much that is and whatever fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.backend.fleet import Device, iot
from tests.backend.test_sweep import certificate, refused, scheduled, throttled
from tests.support.csr_factory import THING
from tests.support.deployment import Deployment, assert_problem

pytestmark = pytest.mark.usefixtures("no_waiting")


def left_to_remove(backend: Deployment, number: int = 1) -> list[Any]:
    """Retire devices while AWS IoT deactivates nothing; return their certificates."""
    devices = [Device(backend, f"{THING}-{position}") for position in range(number)]
    for device in devices:
        assert device.enroll().status == 201
    backend.inject("UpdateCertificate", throttled)
    for device in devices:
        assert device.retire().status == 204
    backend.faults.clear()
    return [one for device in devices for one in device.certificates()]


def test_what_is_left_is_removed_by_the_next_run(backend: Deployment) -> None:
    """All of it, before the sweep looks, so that it raises no alarm."""
    left = left_to_remove(backend, 3)
    assert [one.status for one in left] == ["ACTIVE"] * 3
    for one in left:
        one.creation_date = one.creation_date.replace(year=2020)
    assert scheduled(backend) == []
    assert (iot().certificates, backend.items("removal")) == ({}, {})


@pytest.mark.parametrize("operation", ["UpdateCertificate", "DetachThingPrincipal", "DeleteCertificate"])
def test_a_busy_aws_slows_a_run_down_and_does_not_end_it(backend: Deployment, operation: str) -> None:
    """It waits, and then does the rest in the same run."""
    left_to_remove(backend, 2)
    failures = iter(range(6))
    backend.inject(operation, lambda sent: throttled(sent) if next(failures, None) is not None else None)
    scheduled(backend)
    assert (iot().certificates, backend.items("removal")) == ({}, {})


def test_a_certificate_that_cannot_be_deactivated_is_an_alarm_and_holds_up_no_other(backend: Deployment) -> None:
    """AWS IoT refuses one: the log names it, the others are removed, and the next run tries again."""
    left = left_to_remove(backend, 3)
    stuck = left[1].certificate_id
    backend.inject("UpdateCertificate", lambda sent: refused(sent) if stuck in sent.url else None)
    scheduled(backend)
    lines = [line for line in backend.log_lines() if line["event"] == "certificate-left-active"]
    assert [(line["level"], line["certificateId"]) for line in lines] == [("ERROR", stuck)]
    assert list(iot().certificates) == [stuck]
    backend.faults.clear()
    scheduled(backend)
    assert (iot().certificates, backend.items("removal")) == ({}, {})


def test_a_run_leaves_time_for_the_sweep(backend: Deployment) -> None:
    """Removals take a share of the function's time at most; the sweep runs in the rest."""
    left_to_remove(backend)
    orphan = certificate(1)
    backend.inject("DetachThingPrincipal", throttled)
    begin = backend.clock.ahead
    assert scheduled(backend) == [orphan.certificate_id]
    assert backend.clock.ahead - begin < 900
    assert len(backend.items("removal")) == 1


def test_the_sweep_runs_also_if_the_removals_fail(backend: Deployment) -> None:
    """Then the function fails nevertheless, so that Lambda counts an error."""
    orphan = certificate(1)
    queried: list[Any] = []

    def refuse_the_first(sent: Any) -> Any:
        queried.append(sent)
        return refused(sent) if len(queried) == 1 else None

    backend.inject("Query", refuse_the_first)
    context = SimpleNamespace(aws_request_id="scheduled", get_remaining_time_in_millis=lambda: 900_000)
    with pytest.raises(Exception, match="AWS refused"):
        backend.handler.sweep_handler({}, context)
    assert orphan.status == "INACTIVE"


def test_what_somebody_has_removed_already_is_forgotten(backend: Deployment) -> None:
    """The certificate, or the Thing, was deleted by hand."""
    (left,) = left_to_remove(backend)
    backend.iot.detach_thing_principal(thingName=f"{THING}-0", principal=left.arn)
    iot().certificates.clear()
    iot().principal_policies.clear()
    scheduled(backend)
    assert backend.items("removal") == {}
    assert_problem(Device(backend, f"{THING}-0").enroll(), 409, "thing-revoked")
