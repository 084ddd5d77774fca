"""S15, S16: AWS IoT as it fails, and what is left behind when it does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from enrollment_backend.csr_policy import AcceptedCsr, accept
from enrollment_backend.errors import AwsRefusedError, CertificateForeignError
from enrollment_backend.issuer import IotClients, Issuer
from tests.backend.csr_factory import THING, pem_of, request
from tests.backend.deployment import (
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


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let AWS's library retry without its pauses."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _seconds: None))


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
    "no permission": (answering(403, "AccessDeniedException"), NEVER_502),
    "unauthorized": (answering(401, "UnauthorizedException"), NEVER_502),
    "invalid": (answering(400, "InvalidRequestException", '{"message": "Failed to decode CSR."}'), NEVER_502),
    "no such policy": (answering(404, "ResourceNotFoundException"), NEVER_502),
}


@EVERY_CALL
@pytest.mark.parametrize(("fault", "expected"), FAULTS.values(), ids=FAULTS.keys())
def test_s15_a_failing_call_is_a_problem_and_leaves_no_active_certificate(
    backend: Deployment, operation: str, fault: Callable[[Any], AWSResponse], expected: tuple[int, str, str | None]
) -> None:
    """S15: each call, each way of failing: status and code by AWS's error code, Retry-After where a retry helps."""
    status, code, retry_after = expected
    backend.inject(operation, fault)
    answer = backend.enroll(CSR, THING)
    assert_problem(answer, status, code)
    assert answer.headers.get("retry-after") == retry_after
    assert "ACTIVE" not in backend.certificates()
    line = backend.log_lines()[-1]
    assert (line["status"], line["code"], line["operation"]) == (status, code, operation)
    assert_hidden(backend.log.getvalue() + answer.body, CSR)


@EVERY_CALL
def test_s15_a_retry_after_a_throttled_call_ends_with_one_active_certificate(operation: str) -> None:
    """S15: what was throttled can be asked again; the certificate of the first try stays off."""
    with deployed() as backend:
        throttled = [True]
        backend.inject(operation, lambda _: aws_answer(400, "{}", "ThrottlingException") if throttled[0] else None)
        assert backend.enroll(CSR, THING).status == 429
        throttled[0] = False
        answer = backend.enroll(CSR, THING)
        assert answer.status == 201
        assert Counter(backend.certificates())["ACTIVE"] == 1
        assert backend.iot.list_thing_principals(thingName=THING)["principals"][-1] == answer.json["certificateArn"]


@EVERY_CALL
def test_s15_only_what_may_happen_twice_is_tried_twice(backend: Deployment, operation: str) -> None:
    """S15: AWS's library repeats a lost call once, but never CreateCertificateFromCsr."""
    attempts: list[Any] = []
    timeout = raising(ReadTimeoutError(endpoint_url=URL))

    def lost_once(sent: Any) -> AWSResponse | None:
        attempts.append(sent)
        return timeout(sent) if len(attempts) == 1 else None

    backend.inject(operation, lost_once)
    answer = backend.enroll(CSR, THING)
    single = operation == "CreateCertificateFromCsr"
    assert (answer.status, len(attempts)) == ((503, 1) if single else (201, 2))


def test_the_retries_do_not_depend_on_the_environment() -> None:
    """S15: AWS_MAX_ATTEMPTS of the deployment does not give CreateCertificateFromCsr a second attempt."""
    with deployed({"AWS_MAX_ATTEMPTS": "5", "AWS_RETRY_MODE": "standard"}) as backend:
        attempts: list[Any] = []

        def lost(sent: Any) -> AWSResponse:
            attempts.append(sent)
            raise ReadTimeoutError(endpoint_url=URL)

        backend.inject("CreateCertificateFromCsr", lost)
        assert (backend.enroll(CSR, THING).status, len(attempts)) == (503, 1)


def test_the_slowest_failure_still_answers_within_api_gateways_30_seconds(backend: Deployment) -> None:
    """Two rounds and the withdrawal, each call timing out on every attempt, with the longest pause in between."""
    clients = backend.handler._issuer(POLICY).iot

    def slowest(client: Any) -> int:
        config = client.meta.config
        attempts = config.retries["total_max_attempts"]
        pauses = attempts - 1  # the first pause of botocore's standard mode is at most a second
        seconds: int = attempts * (config.connect_timeout + config.read_timeout) + pauses
        return seconds

    first_round = max(slowest(clients.repeating), slowest(clients.single))
    assert first_round + 2 * slowest(clients.repeating) < 30


def test_a_thing_of_another_configuration_is_a_conflict(backend: Deployment) -> None:
    """ResourceAlreadyExists from CreateThing is 409, and the certificate made beside it is off again."""
    backend.inject("CreateThing", answering(409, "ResourceAlreadyExistsException"))
    assert_problem(backend.enroll(CSR, THING), 409, "thing-exists")
    assert backend.certificates() == ["INACTIVE"]


def test_a_withdrawn_certificate_is_named_in_the_log(backend: Deployment) -> None:
    """S15: the operator can find the certificate that was made for nothing."""
    backend.inject("AttachPolicy", answering(404, "ResourceNotFoundException"))
    backend.enroll(CSR, THING)
    (certificate,) = backend.iot.list_certificates()["certificates"]
    withdrawn, refused = backend.log_lines()
    assert (withdrawn["event"], withdrawn["certificateId"]) == ("certificate-withdrawn", certificate["certificateId"])
    assert (refused["level"], refused["cause"]) == ("ERROR", "ResourceNotFoundException")


def test_a_certificate_that_cannot_be_withdrawn_is_named_in_the_log_as_an_error(backend: Deployment) -> None:
    """S15: the withdrawal may fail too; the answer stays that of the first failure."""
    backend.inject("AttachPolicy", answering(400, "ThrottlingException"))
    backend.inject("UpdateCertificate", answering(503, "ServiceUnavailableException"))
    assert_problem(backend.enroll(CSR, THING), 429, "throttled")
    (certificate,) = backend.iot.list_certificates()["certificates"]
    line = backend.log_lines()[0]
    assert (line["level"], line["event"]) == ("ERROR", "certificate-left-active")
    assert line["certificateId"] == certificate["certificateId"]


def test_s16_a_certificate_for_another_key_is_not_passed_on() -> None:
    """S16: moto, left alone, certifies a key of its own; it is refused, switched off and never attached."""
    with deployed(certificates_for_csr=False) as backend:
        answer = backend.enroll(CSR, THING)
        assert_problem(answer, 502, "certificate-not-for-key")
        assert "BEGIN CERTIFICATE" not in answer.body
        assert backend.certificates() == ["INACTIVE"]
        assert set(backend.calls) == {"CreateThing", "CreateCertificateFromCsr", "UpdateCertificate"}


class FakeIot:
    """AWS IoT's calls, recorded; each round meets at a barrier, which only calls made at the same time can pass."""

    def __init__(self, certificate_pem: str) -> None:
        self.certificate_pem = certificate_pem
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.round = Barrier(2, timeout=10)

    def issuer(self) -> Issuer:
        """Return the issuer with this fake in the place of both clients."""
        client: Any = self
        return Issuer(IotClients(repeating=client, single=client), POLICY)

    def create_thing(self, **arguments: Any) -> None:
        self.calls.append(("create_thing", arguments))
        self.round.wait()

    def create_certificate_from_csr(self, **arguments: Any) -> dict[str, str]:
        self.calls.append(("create_certificate_from_csr", arguments))
        self.round.wait()
        return {"certificatePem": self.certificate_pem, "certificateId": "id", "certificateArn": "arn"}

    def attach_policy(self, **arguments: Any) -> None:
        self.calls.append(("attach_policy", arguments))
        self.round.wait()

    def attach_thing_principal(self, **arguments: Any) -> None:
        self.calls.append(("attach_thing_principal", arguments))
        self.round.wait()

    def update_certificate(self, **arguments: Any) -> None:
        self.calls.append(("update_certificate", arguments))


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


def test_both_calls_of_a_round_run_at_the_same_time(accepted: AcceptedCsr) -> None:
    """Each call waits for the other one of its round: one after the other, neither would ever return."""
    iot = FakeIot(certificate())
    issued = iot.issuer().issue(THING, accepted)
    assert (issued.pem, issued.certificate_id, issued.arn) == (iot.certificate_pem, "id", "arn")
    assert sorted(iot.calls[:2]) == [
        ("create_certificate_from_csr", {"certificateSigningRequest": accepted.pem, "setAsActive": True}),
        ("create_thing", {"thingName": THING}),
    ]
    assert sorted(iot.calls[2:]) == [
        ("attach_policy", {"policyName": POLICY, "target": "arn"}),
        ("attach_thing_principal", {"thingName": THING, "principal": "arn"}),
    ]


@pytest.mark.parametrize(
    "answer",
    ["", "junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", CSR, foreign(),
     foreign() + certificate(), certificate() + foreign(), certificate() * 2],
    ids=["empty", "junk", "broken", "the csr", "foreign", "foreign first", "foreign second", "twice"],
)  # fmt: skip
def test_s16_anything_but_one_certificate_for_the_key_is_refused(accepted: AcceptedCsr, answer: str) -> None:
    """S16: the answer is one certificate whose public key is the CSR's, or it is not passed on."""
    iot = FakeIot(answer)
    with pytest.raises(CertificateForeignError):
        iot.issuer().issue(THING, accepted)
    assert iot.calls[2:] == [("update_certificate", {"certificateId": "id", "newStatus": "INACTIVE"})]


def test_an_unforeseen_failure_withdraws_the_certificate_as_well(accepted: AcceptedCsr) -> None:
    """Even an exception of no known kind leaves no active certificate behind."""

    class Broken(FakeIot):
        def attach_policy(self, **arguments: Any) -> None:
            super().attach_policy(**arguments)
            raise ZeroDivisionError

    iot = Broken(certificate())
    with pytest.raises(ZeroDivisionError):
        iot.issuer().issue(THING, accepted)
    assert iot.calls[-1] == ("update_certificate", {"certificateId": "id", "newStatus": "INACTIVE"})


def test_errors_keep_what_caused_them(backend: Deployment) -> None:
    """The exception AWS's library raised is chained, and its facts name operation and code."""
    backend.inject("CreateThing", answering(400, "InvalidRequestException", json.dumps({"message": "no"})))
    with pytest.raises(AwsRefusedError) as caught:
        backend.handler._issuer(POLICY).issue(THING, accept(CSR, THING))
    assert caught.value.facts == {"operation": "CreateThing", "cause": "InvalidRequestException"}
    assert caught.value.__cause__ is not None
