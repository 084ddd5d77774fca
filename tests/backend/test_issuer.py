"""S15, S16: AWS IoT as it fails, what is answered then, and what is left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from threading import Barrier
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError
from botocore.parsers import ResponseParserError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from enrollment_backend.aws import Clients, concurrently, connect
from enrollment_backend.aws_errors import AwsRefusedError, CertificateNotForKeyError
from enrollment_backend.csr_policy import AcceptedCsr, accept
from enrollment_backend.issuer import Issuer
from tests.backend.fleet import Device, going_wrong, iot, lost
from tests.support.csr_factory import THING, pem_of, request
from tests.support.deployment import (
    POLICY,
    Deployment,
    assert_hidden,
    assert_problem,
    aws_answer,
    certificate_for,
    deployed,
)

CSR = pem_of(request())
CALLS = ["CreateThing", "CreateCertificateFromCsr", "AttachPolicy", "AttachThingPrincipal"]
EVERY_CALL = pytest.mark.parametrize("operation", CALLS)


pytestmark = pytest.mark.usefixtures("no_waiting")


def answering(status: int, error_type: str | None, body: str = "{}") -> Callable[[Any], AWSResponse]:
    """Return a fault that answers like AWS IoT does."""
    return lambda _request: aws_answer(status, body, error_type)


def raising(error: Exception) -> Callable[[Any], AWSResponse]:
    """Return a fault in which no answer comes."""

    def fault(_request: Any) -> AWSResponse:
        raise error

    return fault


URL = "https://iot.example.com"
LATER_429 = (429, "throttled", "5")
LATER_503 = (503, "aws-unavailable", "10")
NEVER_502 = (502, "aws-refused", None)
INVALID_502 = (502, "aws-response-invalid", None)
FAULTS = {
    "throttled": (answering(400, "ThrottlingException"), LATER_429),
    "too many requests": (answering(429, "TooManyRequestsException"), LATER_429),
    "limit": (answering(410, "LimitExceededException"), LATER_429),
    "internal failure": (answering(500, "InternalFailureException"), LATER_503),
    "unavailable": (answering(503, "ServiceUnavailableException"), LATER_503),
    "bare 500": (answering(500, None, ""), LATER_503),
    "a proxy's page": (answering(503, None, "<html>busy</html>"), LATER_503),
    "read timeout": (raising(ReadTimeoutError(endpoint_url=URL)), LATER_503),
    "connection closed": (raising(ConnectionClosedError(endpoint_url=URL)), LATER_503),
    "no connection": (raising(EndpointConnectionError(endpoint_url=URL)), LATER_503),
    "not parsable": (raising(ResponseParserError("unable to parse response")), INVALID_502),
    "no permission": (answering(403, "AccessDeniedException"), NEVER_502),
    "unauthorized": (answering(401, "UnauthorizedException"), NEVER_502),
    "invalid": (answering(400, "InvalidRequestException", '{"message": "Failed to decode CSR."}'), NEVER_502),
}


@EVERY_CALL
@pytest.mark.parametrize(("fault", "expected"), FAULTS.values(), ids=FAULTS.keys())
def test_s15_a_failing_call_is_a_problem_and_leaves_nothing_active_that_is_unknown(
    backend: Deployment, operation: str, fault: Callable[[Any], AWSResponse], expected: tuple[int, str, str | None]
) -> None:
    """S15: each call, each way of failing: status and code by AWS's error code, Retry-After where a retry helps."""
    status, code, retry_after = expected
    backend.inject(operation, fault)
    answer = backend.enroll(CSR, THING)
    assert_problem(answer, status, code)
    assert answer.headers.get("retry-after") == retry_after
    known = {*backend.items("certificate"), backend.items("thing")[THING].get("spare")}
    assert {found["certificateId"] for found in backend.iot.list_certificates()["certificates"]} <= known
    line = backend.log_lines()[-1]
    assert (line["status"], line["outcome"], line["operation"]) == (status, code, operation)
    assert_hidden(backend.log.getvalue() + answer.body, CSR)


@pytest.mark.parametrize("operation", [*CALLS, "TransactWriteItems"])
def test_s15_only_what_may_happen_twice_is_tried_twice(backend: Deployment, operation: str) -> None:
    """S15: AWS's library repeats a lost call once, but never CreateCertificateFromCsr."""
    attempts: list[Any] = []
    timeout = raising(ReadTimeoutError(endpoint_url=URL))

    def lost_once(sent: Any) -> AWSResponse | None:
        attempts.append(sent)
        return timeout(sent) if len(attempts) == 1 else None

    backend.inject(operation, lost_once)
    answer = backend.enroll(CSR, THING)
    expected = {"CreateCertificateFromCsr": (503, 1), "TransactWriteItems": (201, 3)}.get(operation, (201, 2))
    assert (answer.status, len(attempts)) == expected


def test_s15_a_transaction_sent_again_is_the_same_transaction(backend: Deployment) -> None:
    """S15: both attempts bear one token, so that DynamoDB does not take the second for another one."""
    tokens: list[str] = []

    def lost(sent: Any) -> AWSResponse:
        tokens.append(json.loads(sent.body)["ClientRequestToken"])
        raise ReadTimeoutError(endpoint_url=URL)

    backend.inject("TransactWriteItems", lost)
    assert backend.enroll(CSR, THING).status == 503
    assert (len(tokens), len(set(tokens))) == (2, 1)


@pytest.mark.parametrize(("operation", "most"), [("CreateCertificateFromCsr", 1), ("CreateThing", 2)])
def test_the_retries_do_not_depend_on_the_environment(operation: str, most: int) -> None:
    """S15: AWS_MAX_ATTEMPTS of the deployment gives no call more attempts."""
    with deployed({"AWS_MAX_ATTEMPTS": "5", "AWS_RETRY_MODE": "standard"}) as backend:
        attempts: list[Any] = []

        def lost(sent: Any) -> AWSResponse:
            attempts.append(sent)
            raise ReadTimeoutError(endpoint_url=URL)

        backend.inject(operation, lost)
        assert (backend.enroll(CSR, THING).status, len(attempts)) == (503, most)


@pytest.mark.usefixtures("backend")
def test_the_slowest_failure_still_answers_within_api_gateways_30_seconds() -> None:
    """All rounds in a row, each with the longest timeouts on every attempt, and the longest pauses in between."""
    clients = connect()

    def slowest(client: Any) -> int:
        config = client.meta.config
        attempts = config.retries["total_max_attempts"]
        pauses = attempts - 1  # the first pause of botocore's standard mode is at most a second
        seconds: int = attempts * (config.connect_timeout + config.read_timeout) + pauses
        return seconds

    claim, record = slowest(clients.dynamodb), slowest(clients.dynamodb)
    create, attach = max(slowest(clients.iot), slowest(clients.iot_once)), slowest(clients.iot)
    assert claim + create + record + attach < 30


@EVERY_CALL
def test_s15_a_refusal_for_good_leaves_no_certificate_that_is_not_recorded(backend: Deployment, operation: str) -> None:
    """S15: the device will not come back, so what was issued for it is deleted, unless it is in the ledger."""
    backend.inject(operation, answering(403, "AccessDeniedException"))
    assert_problem(backend.enroll(CSR, THING), 502, "aws-refused")
    recorded = operation in {"AttachPolicy", "AttachThingPrincipal"}
    assert backend.certificates() == ["ACTIVE"] * recorded
    assert len(backend.items("certificate")) == recorded


def test_a_withdrawn_certificate_is_named_in_the_log(backend: Deployment) -> None:
    """S15: the operator can find the certificate that was made for nothing."""
    backend.inject("CreateThing", answering(403, "AccessDeniedException"))
    backend.enroll(CSR, THING)
    assert backend.certificates() == []
    withdrawn, refused = backend.log_lines()
    assert withdrawn["event"] == "certificate-withdrawn"
    assert re.fullmatch("[0-9a-f]{64}", withdrawn["certificateId"])
    assert (refused["level"], refused["cause"]) == ("ERROR", "AccessDeniedException")


def test_a_certificate_that_cannot_be_withdrawn_is_named_in_the_log_as_an_error(backend: Deployment) -> None:
    """S15: the withdrawal may fail too; the answer stays that of the first failure."""
    backend.inject("CreateThing", answering(403, "AccessDeniedException"))
    backend.inject("UpdateCertificate", answering(503, "ServiceUnavailableException"))
    assert_problem(backend.enroll(CSR, THING), 502, "aws-refused")
    (certificate,) = backend.iot.list_certificates()["certificates"]
    line = backend.log_lines()[0]
    assert (line["level"], line["event"]) == ("ERROR", "certificate-left-active")
    assert line["certificateId"] == certificate["certificateId"]


def test_a_claim_that_cannot_be_given_up_is_named_in_the_log_as_an_error(backend: Deployment) -> None:
    """S15: then the retry has to wait for the lease to end."""
    backend.inject("CreateCertificateFromCsr", answering(503, "ServiceUnavailableException"))

    def from_then_on(_phase: str, operation: str) -> None:
        if operation == "CreateThing":
            backend.inject("TransactWriteItems", answering(503, "ServiceUnavailable"))

    backend.interrupt = from_then_on
    assert_problem(backend.enroll(CSR, THING), 503, "aws-unavailable")
    line = backend.log_lines()[0]
    assert (line["level"], line["event"], line["operation"]) == ("ERROR", "claim-not-released", "TransactWriteItems")


def test_s16_a_certificate_for_another_key_is_not_passed_on() -> None:
    """S16: moto, left alone, certifies a key of its own; it is refused, switched off and never attached."""
    with deployed(certificates_for_csr=False) as backend:
        answer = backend.enroll(CSR, THING)
        assert_problem(answer, 502, "certificate-not-for-key")
        assert "BEGIN CERTIFICATE" not in answer.body
        assert backend.certificates() == []
        assert set(backend.calls) == {
            "TransactWriteItems", "UpdateItem", "CreateThing", "CreateCertificateFromCsr", "UpdateCertificate",
            "DeleteCertificate",
        }  # fmt: skip


def test_s16_a_retry_after_a_foreign_certificate_works(backend: Deployment) -> None:
    """S16: AWS IoT answers with another key's certificate once: the next request gets one for its own key."""
    device = Device(backend, THING)
    issued = {
        "certificatePem": foreign(),
        "certificateId": "f" * 64,
        "certificateArn": "arn:aws:iot:::cert/" + "f" * 64,
    }
    backend.inject("CreateCertificateFromCsr", lambda _: aws_answer(200, json.dumps(issued)))
    assert_problem(device.enroll(), 502, "certificate-not-for-key")
    backend.faults.clear()
    device.assert_enrolled(device.enroll())


def test_s17_a_certificate_deleted_during_recovery_is_skipped(backend: Deployment) -> None:
    """S17: somebody deletes a killed enrollment's certificate just when the device comes back: it gets another one."""
    device = Device(backend, THING)
    with going_wrong(device, lost("CreateCertificateFromCsr 1")):
        assert device.enroll().status == 503

    def hook(phase: str, step: str) -> None:
        if (phase, step) == ("before", "DescribeCertificate 1"):
            iot().certificates.clear()

    with going_wrong(device, hook) as steps:
        answer = device.enroll()
    assert "DescribeCertificate 1" in steps
    device.assert_enrolled(answer)


def attach_as_before(backend: Deployment, device: Device) -> str:
    """Attach a device's certificate as a version did that gave no type; return its ARN."""
    (certificate,) = device.certificates()
    arn: str = certificate.arn
    backend.iot.detach_thing_principal(thingName=device.thing, principal=arn)
    backend.iot.attach_thing_principal(thingName=device.thing, principal=arn)
    return arn


def things_of(backend: Deployment, arn: str) -> list[dict[str, str]]:
    """Return the Things that a certificate is attached to, with the types."""
    things: list[dict[str, str]] = backend.iot.list_principal_things_v2(principal=arn)["principalThingObjects"]
    return things


def test_a_device_of_an_earlier_version_keeps_getting_its_answer(backend: Deployment) -> None:
    """AWS IoT does not make its attachment exclusive; that it is attached to this Thing alone is as good."""
    device = Device(backend, THING)
    first = device.enroll()
    arn = attach_as_before(backend, device)
    backend.calls.clear()
    again = device.enroll()
    assert (again.status, again.body) == (200, first.body)
    assert backend.calls.count("ListPrincipalThings") == 1
    assert things_of(backend, arn) == [{"thingName": THING, "thingPrincipalType": "NON_EXCLUSIVE_THING"}]


def test_a_certificate_that_is_anothers_as_well_is_an_error(backend: Deployment) -> None:
    """Somebody has attached it to another Thing, besides or instead: nothing is changed, and the operator is told."""
    device = Device(backend, THING)
    device.enroll()
    arn = attach_as_before(backend, device)
    backend.iot.create_thing(thingName="another")
    backend.iot.attach_thing_principal(thingName="another", principal=arn)
    assert_problem(device.enroll(), 502, "aws-refused")
    backend.iot.detach_thing_principal(thingName=THING, principal=arn)
    assert_problem(device.enroll(), 502, "aws-refused")
    assert [thing["thingName"] for thing in things_of(backend, arn)] == ["another"]
    line = backend.log_lines()[-1]
    assert (line["operation"], line["cause"]) == ("AttachThingPrincipal", "InvalidRequestException")
    backend.iot.detach_thing_principal(thingName="another", principal=arn)
    device.assert_enrolled(device.enroll())
    assert things_of(backend, arn) == [{"thingName": THING, "thingPrincipalType": "EXCLUSIVE_THING"}]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(answering(400, "ThrottlingException"), LATER_429), (answering(403, "AccessDeniedException"), NEVER_502)],
)
def test_s15_whether_the_attachment_is_good_may_not_be_known(
    backend: Deployment, fault: Callable[[Any], AWSResponse], expected: tuple[int, str, str | None]
) -> None:
    """S15: then the device is told to come again, or the operator what the role lacks."""
    device = Device(backend, THING)
    device.enroll()
    attach_as_before(backend, device)
    backend.inject("ListPrincipalThings", fault)
    status, code, _ = expected
    assert_problem(device.enroll(), status, code)
    assert backend.log_lines()[-1]["operation"] == "ListPrincipalThings"
    backend.faults.clear()
    assert device.enroll().status == 200


class FakeIot:
    """AWS IoT's calls that concern a new certificate, recorded."""

    def __init__(self, certificate_pem: str) -> None:
        self.certificate_pem = certificate_pem
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def issuer(self) -> Issuer:
        """Return the issuer with this fake in the place of both clients."""
        client: Any = self
        return Issuer(Clients(iot=client, iot_once=client, dynamodb=client), POLICY)

    def create_certificate_from_csr(self, **arguments: Any) -> dict[str, str]:
        self.calls.append(("create_certificate_from_csr", arguments))
        return {"certificatePem": self.certificate_pem, "certificateId": "id", "certificateArn": "arn"}

    def update_certificate(self, **arguments: Any) -> None:
        self.calls.append(("update_certificate", arguments))

    def delete_certificate(self, **arguments: Any) -> None:
        self.calls.append(("delete_certificate", arguments))


@pytest.fixture
def accepted() -> AcceptedCsr:
    """A CSR that has passed the policy."""
    return accept(CSR, THING)


def certificate() -> str:
    """Return a certificate for the key in `CSR`."""
    return certificate_for(x509.load_pem_x509_csr(CSR.encode("ascii")))


def foreign() -> str:
    """Return a certificate for another key."""
    return certificate_for(request(ec.generate_private_key(ec.SECP256R1())))


def test_a_certificate_is_asked_for_with_the_accepted_csr_and_is_active(accepted: AcceptedCsr) -> None:
    """What is passed on is the canonical form, and nothing else is done."""
    iot = FakeIot(certificate())
    issued = iot.issuer().create_certificate(accepted)
    assert (issued.pem, issued.certificate_id, issued.arn) == (iot.certificate_pem, "id", "arn")
    assert iot.calls == [
        ("create_certificate_from_csr", {"certificateSigningRequest": accepted.pem, "setAsActive": True})
    ]


def test_calls_of_one_round_are_made_at_the_same_time(backend: Deployment) -> None:
    """Each of two calls waits for the other one: one after the other, neither would ever return."""
    claiming, creating, attaching = (Barrier(2, timeout=10) for _ in range(3))
    barriers = {
        "TransactWriteItems": claiming, "UpdateItem": claiming,
        "CreateThing": creating, "CreateCertificateFromCsr": creating,
        "AttachPolicy": attaching, "AttachThingPrincipal": attaching,
    }  # fmt: skip

    def meet(phase: str, operation: str) -> None:
        if phase == "before" and operation in barriers:
            barriers.pop(operation).wait()

    backend.interrupt = meet
    assert backend.enroll(CSR, THING).status == 201
    assert barriers == {}


def test_calls_at_the_same_time_have_all_ended_when_the_first_error_is_raised() -> None:
    """The first in order is raised, whichever came first; what the others did is done by then."""
    barrier, done = Barrier(3, timeout=10), []

    def fail(error: Exception) -> None:
        barrier.wait()
        raise error

    def work() -> None:
        barrier.wait()
        done.append("work")

    with pytest.raises(KeyError):
        concurrently(lambda: fail(KeyError()), work, lambda: fail(ValueError()))
    assert done == ["work"]


@pytest.mark.parametrize(
    "answer",
    ["", "junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", CSR, foreign(),
     foreign() + certificate(), certificate() + foreign(), certificate() * 2],
    ids=["empty", "junk", "broken", "the csr", "foreign", "foreign first", "foreign second", "twice"],
)  # fmt: skip
def test_s16_anything_but_one_certificate_for_the_key_is_refused(accepted: AcceptedCsr, answer: str) -> None:
    """S16: the answer is one certificate whose public key is the CSR's, or it is not passed on."""
    iot = FakeIot(answer)
    with pytest.raises(CertificateNotForKeyError):
        iot.issuer().create_certificate(accepted)
    assert iot.calls[1:] == [
        ("update_certificate", {"certificateId": "id", "newStatus": "INACTIVE"}),
        ("delete_certificate", {"certificateId": "id", "forceDelete": True}),
    ]


def test_errors_keep_what_caused_them(backend: Deployment, accepted: AcceptedCsr) -> None:
    """The exception AWS's library raised is chained, and its facts name operation and code."""
    refusal = answering(400, "InvalidRequestException", json.dumps({"message": "no"}))
    backend.inject("CreateCertificateFromCsr", refusal)
    with pytest.raises(AwsRefusedError) as caught:
        Issuer(connect(), POLICY).create_certificate(accepted)
    assert caught.value.facts == {"operation": "CreateCertificateFromCsr", "cause": "InvalidRequestException"}
    assert caught.value.__cause__ is not None
