"""S15, S24: what a retry costs AWS IoT, and what a failed or refused enrollment leaves there."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    ReadTimeoutError,
)
from cryptography.hazmat.primitives.asymmetric import ec

from tests.backend.fleet import LEASE, Device, going_wrong, iot, item, killed, lost
from tests.backend.test_sweep import HOUR, by_route
from tests.support.csr_factory import THING, request
from tests.support.deployment import Death, Deployment, assert_problem, aws_answer, certificate_for, deployed

URL = "https://iot.example.com"
SEARCH = {"ListCertificates", "DescribeCertificate", "UpdateCertificate"}

pytestmark = pytest.mark.usefixtures("no_waiting")

Fault = Callable[[Any], AWSResponse]


def answering(status: int, code: str, body: str = "{}") -> Fault:
    """Return a fault: AWS IoT responds with an error, or with something that is no JSON."""
    return lambda _request: aws_answer(status, body, code or None)


def raising(error: Exception) -> Fault:
    """Return a fault: AWS's library raises."""

    def fault(_request: Any) -> AWSResponse:
        raise error

    return fault


NOT_CARRIED_OUT = {
    "throttled": answering(400, "ThrottlingException"),
    "limit": answering(410, "LimitExceededException"),
    "refused": answering(403, "AccessDeniedException"),
    "no connection": raising(EndpointConnectionError(endpoint_url=URL)),
    "no connection in time": raising(ConnectTimeoutError(endpoint_url=URL)),
    "no proxy": raising(ProxyConnectionError(proxy_url=URL)),
}
UNKNOWN = {
    "500": answering(500, "InternalFailureException"),
    "503": answering(503, "ServiceUnavailableException"),
    "no response": raising(ReadTimeoutError(endpoint_url=URL)),
    "closed": raising(ConnectionClosedError(endpoint_url=URL)),
    "a page": answering(200, "", "<html>Log in to the network</html>"),
}


def calls_of_a_retry(backend: Deployment, device: Device) -> Counter[str]:
    """Retry, assert that it works, and return the calls that it took."""
    backend.faults.clear()
    backend.calls.clear()
    answer = device.enroll()
    calls = Counter(backend.calls)
    device.assert_enrolled(answer)
    return calls


@pytest.mark.parametrize("fault", NOT_CARRIED_OUT.values(), ids=NOT_CARRIED_OUT.keys())
def test_s24_nothing_is_searched_for_if_it_is_known_that_nothing_was_issued(backend: Deployment, fault: Fault) -> None:
    """S24: AWS IoT refused, or was not reached: the retry takes the same four calls as a first request."""
    device = Device(backend, THING)
    backend.inject("CreateCertificateFromCsr", fault)
    assert device.enroll().status in {429, 502, 503}
    calls = calls_of_a_retry(backend, device)
    assert not SEARCH & calls.keys()
    assert calls["CreateCertificateFromCsr"] == calls["CreateThing"] == 1


@pytest.mark.parametrize("fault", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_s15_a_certificate_that_may_have_been_issued_is_searched_for_once(backend: Deployment, fault: Fault) -> None:
    """S15: with one page of the newest certificates. If it is not there, a new one is issued."""
    device = Device(backend, THING)
    backend.inject("CreateCertificateFromCsr", fault)
    assert device.enroll().status in {502, 503}
    calls = calls_of_a_retry(backend, device)
    assert (calls["ListCertificates"], calls["DescribeCertificate"], calls["CreateCertificateFromCsr"]) == (1, 0, 1)


def test_s15_what_was_searched_for_in_vain_is_not_searched_for_again(backend: Deployment) -> None:
    """S15: the outcome of the second try is known, so the third one does not search."""
    device = Device(backend, THING)
    backend.inject("CreateCertificateFromCsr", UNKNOWN["no response"])
    assert device.enroll().status == 503
    backend.inject("CreateCertificateFromCsr", NOT_CARRIED_OUT["throttled"])
    assert device.enroll().status == 429
    assert not SEARCH & calls_of_a_retry(backend, device).keys()


def test_s15_as_long_as_the_search_fails_it_is_repeated(backend: Deployment) -> None:
    """S15: throttled in its search, a retry issues nothing; the one after it finds the certificate."""
    device = Device(backend, THING)
    with going_wrong(device, lost("CreateCertificateFromCsr 1")):
        assert device.enroll().status == 503
    backend.inject("ListCertificates", NOT_CARRIED_OUT["throttled"])
    assert device.enroll().status == 429
    assert calls_of_a_retry(backend, device)["CreateCertificateFromCsr"] == 0


def others_around(device: Device, earlier: int, later: int) -> None:
    """Let another system have certificates issued, some just before the device's and some after it."""
    (own,) = device.certificates()
    pem = certificate_for(request(ec.generate_private_key(ec.SECP256R1())))
    for position in range(-earlier, later):
        other = copy.copy(own)
        other.certificate_id = f"{position + earlier:064x}"
        other.certificate_pem = pem
        other.creation_date = own.creation_date + timedelta(milliseconds=position + (position >= 0))
        iot().certificates[other.certificate_id] = other


@pytest.mark.parametrize(
    ("earlier", "later", "is_found"),
    [(0, 0, True), (10, 10, True), (0, 400, True), (0, 600, False), (30, 0, False)],
)
def test_s15_the_search_is_bounded(backend: Deployment, earlier: int, later: int, is_found: bool) -> None:
    """S15: two pages, and twenty certificates, at most; a lost certificate beyond that can do nothing."""
    device = Device(backend, THING)
    with going_wrong(device, lost("CreateCertificateFromCsr 1")):
        assert device.enroll().status == 503
    (lost_one,) = device.certificates()
    others_around(device, earlier, later)
    backend.calls.clear()
    answer = device.enroll()
    calls = Counter(backend.calls)
    assert answer.status == 201
    assert (calls["ListCertificates"] <= 2, calls["DescribeCertificate"] <= 20) == (True, True)
    assert calls["CreateCertificateFromCsr"] == (0 if is_found else 1)
    assert (answer.json["certificateId"] == lost_one.certificate_id) == is_found
    assert [one.certificate_id for one in device.usable()] == [answer.json["certificateId"]]


@pytest.mark.parametrize("phase", ["before", "after"])
def test_s17_a_device_of_a_killed_request_is_searched_for_from_the_first_one_on(
    backend: Deployment, phase: str
) -> None:
    """S17: killed when the certificate was there, and killed again in the retry: the third request still finds it."""
    device = Device(backend, THING)
    with going_wrong(device, killed("after", "CreateCertificateFromCsr 1")), pytest.raises(Death):
        device.enroll()
    backend.clock.ahead += LEASE
    with going_wrong(device, killed(phase, "ListCertificates 1")), pytest.raises(Death):
        device.enroll()
    backend.clock.ahead += LEASE
    device.assert_enrolled(device.enroll())


@pytest.mark.parametrize("operation", ["CreateThing", "TransactWriteItems"])
def test_s24_a_certificate_that_could_not_be_used_yet_is_kept_for_the_retry(
    backend: Deployment, operation: str
) -> None:
    """S24: CreateThing or the record failed: the retry takes the certificate, without a search or another one."""
    device = Device(backend, THING)
    seen: list[str] = []

    def throttled_once(_request: Any) -> AWSResponse | None:
        seen.append(operation)
        skipped = operation == "TransactWriteItems" and len(seen) == 1  # the claim
        throttled = aws_answer(400, '{"__type": "ThrottlingException"}', "ThrottlingException")
        return None if skipped or len(seen) > 3 else throttled

    backend.inject(operation, throttled_once)
    assert_problem(device.enroll(), 429, "throttled")
    (kept,) = device.certificates()
    assert item("thing", THING)["spare"] == kept.certificate_id
    calls = calls_of_a_retry(backend, device)
    assert (calls["CreateCertificateFromCsr"], calls["ListCertificates"], calls["DescribeCertificate"]) == (0, 0, 1)


def test_s24_a_kept_certificate_is_not_forgotten_if_the_retry_fails_too(backend: Deployment) -> None:
    """S24: the retry is throttled before it can look at it: the third request takes it."""
    device = Device(backend, THING)
    backend.inject("CreateThing", NOT_CARRIED_OUT["throttled"])
    assert device.enroll().status == 429
    backend.inject("DescribeCertificate", NOT_CARRIED_OUT["throttled"])
    assert device.enroll().status == 429
    assert calls_of_a_retry(backend, device)["CreateCertificateFromCsr"] == 0


def test_s21_a_kept_certificate_that_the_sweep_has_disabled_is_replaced(backend: Deployment) -> None:
    """S21: the device came back too late for it; the ledger has it as revoked."""
    device = Device(backend, THING)
    backend.inject("CreateThing", NOT_CARRIED_OUT["throttled"])
    assert device.enroll().status == 429
    backend.faults.clear()
    backend.clock.ahead += HOUR
    assert by_route(backend) == [found.certificate_id for found in device.certificates()]
    device.assert_enrolled(device.enroll(), issued=2)


def test_s15_a_kept_certificate_that_somebody_deleted_is_replaced(backend: Deployment) -> None:
    """S15: the sweep may have, or the operator."""
    device = Device(backend, THING)
    backend.inject("CreateThing", NOT_CARRIED_OUT["throttled"])
    assert device.enroll().status == 429
    iot().certificates.clear()
    assert calls_of_a_retry(backend, device)["CreateCertificateFromCsr"] == 1


def foreign_things(backend: Deployment, number: int) -> list[str]:
    """Create Things of another system."""
    names = [f"pump-{position}" for position in range(number)]
    for name in names:
        backend.iot.create_thing(thingName=name, attributePayload={"attributes": {"site": "Linz"}})
    return names


def test_s18_thirty_refusals_of_an_open_deployment_leave_no_certificate(backend: Deployment) -> None:
    """S18: each is for another Thing of another system."""
    for name in foreign_things(backend, 30):
        assert_problem(Device(backend, name).enroll(), 409, "thing-exists")
    assert (backend.certificates(), backend.items("thing"), backend.items("key")) == ([], {}, {})


def test_s18_thirty_refusals_of_one_invite_leave_no_certificate() -> None:
    """S18: each gives the invite its one use back."""
    with deployed({"AUTH_MODE": "invite"}) as backend:
        code = backend.invite("pump-*")
        for name in foreign_things(backend, 30):
            assert_problem(Device(backend, name, code).enroll(), 409, "thing-exists")
        assert (backend.certificates(), backend.items("thing")) == ([], {})
        assert [entry["uses_left"] for entry in backend.items("invite").values()] == ["1"]


def test_s18_a_refused_enrollment_whose_certificate_cannot_be_switched_off_is_finished_by_the_next(
    backend: Deployment,
) -> None:
    """S18: the claim stays until the certificate is gone, so that it is not forgotten."""
    (name,) = foreign_things(backend, 1)
    device = Device(backend, name)
    backend.inject("UpdateCertificate", NOT_CARRIED_OUT["throttled"])
    assert_problem(device.enroll(), 429, "throttled")
    assert backend.certificates() == ["ACTIVE"]
    backend.faults.clear()
    assert_problem(device.enroll(), 409, "thing-exists")
    assert (backend.certificates(), backend.items("thing")) == ([], {})


def test_s18_a_certificate_that_cannot_be_deleted_is_inactive_and_named_in_the_log(backend: Deployment) -> None:
    """S18: switched off first, so that a failure in between leaves nothing active."""
    (name,) = foreign_things(backend, 1)
    backend.inject("DeleteCertificate", NOT_CARRIED_OUT["throttled"])
    assert_problem(Device(backend, name).enroll(), 409, "thing-exists")
    assert backend.certificates() == ["INACTIVE"]
    line = backend.log_lines()[0]
    assert (line["level"], line["event"]) == ("ERROR", "certificate-not-deleted")


@pytest.mark.parametrize("operation", ["AttachPolicy", "AttachThingPrincipal"])
def test_what_aws_iot_does_not_know_yet_is_waited_for(backend: Deployment, operation: str) -> None:
    """AWS IoT is eventually consistent: it may not know a Thing or certificate that it has just created."""
    unknown = [answering(404, "ResourceNotFoundException")] * 3

    def fault(sent: Any) -> AWSResponse | None:
        return unknown.pop()(sent) if unknown else None

    backend.inject(operation, fault)
    before = backend.clock.ahead
    device = Device(backend, THING)
    device.assert_enrolled(device.enroll())
    assert backend.calls.count(operation) == 4
    assert backend.clock.ahead - before < 4


@pytest.mark.parametrize("operation", ["AttachPolicy", "AttachThingPrincipal"])
def test_what_aws_iot_does_not_know_for_long_is_try_later(backend: Deployment, operation: str) -> None:
    """Nothing is undone: the certificate is recorded, and the retry attaches it."""
    device = Device(backend, THING)
    backend.inject(operation, answering(404, "ResourceNotFoundException"))
    answer = device.enroll()
    assert_problem(answer, 503, "aws-unavailable")
    assert answer.headers["retry-after"] == "10"
    assert backend.certificates() == ["ACTIVE"]
    assert calls_of_a_retry(backend, device).keys() <= {
        "TransactWriteItems", "TransactGetItems", "UpdateItem", "AttachPolicy", "AttachThingPrincipal"
    }  # fmt: skip


@pytest.mark.parametrize("operation", ["CreateThing", "CreateCertificateFromCsr"])
def test_a_response_that_is_no_json_is_a_bad_gateway_with_its_own_code(backend: Deployment, operation: str) -> None:
    """Something in between answers in AWS's place: the operator has to look at it."""
    backend.inject(operation, UNKNOWN["a page"])
    assert_problem(Device(backend, THING).enroll(), 502, "aws-response-invalid")
    line = backend.log_lines()[-1]
    assert (line["level"], line["operation"]) == ("ERROR", operation)
