"""S13: a device that repeats its request again and again takes nothing from the others."""

from __future__ import annotations

from tests.backend.fleet import Device
from tests.support.csr_factory import THING
from tests.support.deployment import Deployment

OF_AWS_IOT = {"AttachPolicy", "AttachThingPrincipal", "CreateThing", "CreateCertificateFromCsr", "ListThingPrincipals"}


def test_a_request_that_is_repeated_often_costs_aws_iot_nothing(backend: Deployment) -> None:
    """The first repetition attaches the certificate once more, in case the first request died; further ones do not."""
    device = Device(backend, THING)
    device.enroll()
    assert device.enroll().status == 200
    backend.calls.clear()
    for _ in range(5):
        assert device.enroll().status == 200
    assert OF_AWS_IOT.isdisjoint(backend.calls)
    assert len(device.usable()) == 1
