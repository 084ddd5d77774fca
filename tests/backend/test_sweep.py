"""S21: certificates that nobody should use are found, switched off and reported; those of others are left alone."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ReadTimeoutError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iot.models import FakeCertificate

from tests.backend.fleet import Device, going_wrong, iot, item, killed, killed_with
from tests.support.csr_factory import THING, request
from tests.support.deployment import (
    POLICY,
    REGION,
    Death,
    Deployment,
    assert_problem,
    aws_answer,
    certificate_for,
)

HOUR = 3600
PEM = certificate_for(request())


def certificate(
    number: int, *, minutes_old: int = 61, policy: str | None = POLICY, thing: str | None = None, pem: str = PEM
) -> Any:
    """Put an active certificate into AWS IoT, past its API, which would take long for many."""
    made: Any = FakeCertificate(pem, "ACTIVE", DEFAULT_ACCOUNT_ID, REGION)
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


def scheduled(backend: Deployment, seconds: float = 900) -> list[str]:
    """Sweep as the schedule does, in a function that may run so long; return the ids the log reports."""
    end = backend.clock.time() + seconds
    context = SimpleNamespace(
        aws_request_id="scheduled",
        get_remaining_time_in_millis=lambda: max(end - backend.clock.time(), 0) * 1000,
    )
    backend.log.truncate(backend.log.seek(0))
    backend.handler.sweep_handler({}, context)
    assert all(line["requestId"] == "scheduled" for line in backend.log_lines())
    return [line["certificateId"] for line in backend.log_lines() if line["event"] == "orphan-disabled"]


WAYS = pytest.mark.parametrize("sweep", [by_route, scheduled])
Sweep = Callable[[Deployment], list[str]]


@WAYS
def test_s21_an_orphan_is_disabled_and_reported(backend: Deployment, sweep: Sweep) -> None:
    """S21: one with the device policy, one for a device's key, by answer and log, once; in the log as errors."""
    device = Device(backend, THING)
    device.enroll()
    (enrolled,) = device.certificates()
    orphans = [certificate(1), certificate(2, policy=None, pem=enrolled.certificate_pem)]
    assert sweep(backend) == [orphan.certificate_id for orphan in orphans]
    lines = [line for line in backend.log_lines() if line["event"] == "orphan-disabled"]
    assert [(line["level"], line["certificateId"]) for line in lines] == [
        ("ERROR", orphan.certificate_id) for orphan in orphans
    ]
    assert [orphan.status for orphan in orphans] == ["INACTIVE", "INACTIVE"]
    assert enrolled.status == "ACTIVE"
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
    """S21, S17: where nobody came back to finish it; if somebody does later, it is another certificate."""
    device = Device(backend, THING)
    with going_wrong(device, killed("before", "TransactWriteItems 2")), pytest.raises(Death):
        device.enroll()
    backend.clock.ahead = 59 * 60
    assert sweep(backend) == []
    backend.clock.ahead = HOUR + 1
    (disabled,) = sweep(backend)
    assert [found.status for found in device.certificates()] == ["INACTIVE"]
    backend.clock.ahead = HOUR + 60
    answer = device.enroll()
    device.assert_enrolled(answer, issued=2)
    assert disabled != answer.json["certificateId"]
    assert "revoked" in item("certificate", disabled)


@WAYS
def test_s21_a_revoked_certificate_that_is_active_is_disabled(backend: Deployment, sweep: Sweep) -> None:
    """S21: the ledger says revoked, AWS IoT was never told."""
    device = Device(backend, THING)
    device.enroll()
    with going_wrong(device, killed_with({"TransactGetItems 1", "TransactWriteItems 1"})), pytest.raises(Death):
        backend.operate("DELETE", "fleet", thing=THING)
    assert len(device.usable()) == 1
    backend.clock.ahead = HOUR + 1
    assert sweep(backend) == [found.certificate_id for found in device.certificates()]
    assert device.usable() == []


def test_s21_certificates_of_other_systems_are_left_and_counted(
    backend: Deployment, other_policy: str, other_thing: str
) -> None:
    """S21: what has neither the device policy nor a device's key, whatever it is attached to, and stock that is not."""
    device = Device(backend, THING)
    device.enroll()
    left = [
        certificate(1, policy=None),
        certificate(2, policy=other_policy),
        certificate(3, policy=None, thing=other_thing),
        certificate(4, policy=other_policy, thing=other_thing),
        certificate(5, policy=other_policy, thing=THING),
    ]
    pem = device.certificates()[0].certificate_pem
    ours = [certificate(6, thing=other_thing), certificate(7, policy=other_policy, thing=other_thing, pem=pem)]
    iot().attach_policy(other_policy, ours[0].arn)
    first = backend.operate("POST", "sweep", {}).json
    last = backend.operate("POST", "sweep", {"next": first["next"]}).json
    assert (first["checked"] + last["checked"], first["foreign"] + last["foreign"], last["next"]) == (7, 5, None)
    disabled = [entry["certificateId"] for answer in (first, last) for entry in answer["disabled"]]
    assert disabled == [found.certificate_id for found in ours]
    assert {found.status for found in left} == {"ACTIVE"}


def with_other_octets(old: str, new: str) -> str:
    """Return a certificate in which some octets, given in hexadecimal, are exchanged where they first occur."""
    der = x509.load_pem_x509_certificate(PEM.encode("ascii")).public_bytes(Encoding.DER)
    assert bytes.fromhex(old) in der
    return ssl.DER_cert_to_PEM_cert(der.replace(bytes.fromhex(old), bytes.fromhex(new), 1))


UNREADABLE = {
    "no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "unknown kind of key": with_other_octets("2a8648ce3d0201", "2a8648ce3d0203"),  # id-ecPublicKey
    "unknown curve": with_other_octets("2a8648ce3d030107", "2a8648ce3d030104"),  # prime256v1, prime239v1
    "no point of the curve": with_other_octets("03420004", "03420005"),
}


@WAYS
@pytest.mark.parametrize("pem", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_s21_another_systems_certificate_that_cannot_be_read_stops_nothing(
    backend: Deployment, other_policy: str, sweep: Sweep, pem: str
) -> None:
    """S21: it is left, since no device has such a key, unless it has the device policy; and the others are seen."""
    foreign, ours, last = certificate(1, policy=other_policy), certificate(2), certificate(3)
    foreign.certificate_pem = ours.certificate_pem = pem
    assert sweep(backend) == [ours.certificate_id, last.certificate_id]
    assert foreign.status == "ACTIVE"


@WAYS
@pytest.mark.parametrize("existing_thing", [False, True])
def test_s18_s21_the_certificate_of_a_thing_that_was_there_before_is_left(
    backend: Deployment, other_policy: str, other_thing: str, sweep: Sweep, existing_thing: bool
) -> None:
    """S18, S21: a device that asked for the name of another system's Thing, refused or not, does it no harm."""
    foreign = certificate(1, policy=other_policy, thing=other_thing)
    backend.iot.update_thing(thingName=other_thing, attributePayload={"attributes": {"site": "Linz"}})
    device = Device(backend, other_thing, backend.invite(other_thing, existingThing=existing_thing))
    assert device.enroll().status == (201 if existing_thing else 409)
    backend.clock.ahead = HOUR + 1
    assert sweep(backend) == []
    assert (foreign.status, len(device.usable())) == ("ACTIVE", int(existing_thing))
    assert backend.items("certificate").keys() == {found.certificate_id for found in device.usable()}


def test_s21_the_answer_says_when_an_orphan_was_made(backend: Deployment) -> None:
    """S21: in UTC, to the second."""
    orphan = certificate(1)
    answer = backend.operate("POST", "sweep", {}).json
    created = orphan.creation_date.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert answer["disabled"] == [{"certificateId": orphan.certificate_id, "created": created}]


def many(count: int) -> None:
    """Make certificates that are inactive and foreign, numbered in the order of their creation."""
    for number in range(count):
        certificate(number, minutes_old=600, policy=None).status = "INACTIVE"


def test_s21_all_pages_are_looked_at(backend: Deployment) -> None:
    """S21: the route answers page by page, 50 certificates each, the oldest first."""
    device = Device(backend, THING)
    device.enroll()
    many(120)
    (enrolled,) = device.certificates()
    lost = [iot().certificates[f"{number:064x}"] for number in (0, 49, 50, 119)]
    for one in lost:
        one.status, one.certificate_pem = "ACTIVE", enrolled.certificate_pem
    assert by_route(backend) == [one.certificate_id for one in lost]
    assert backend.calls.count("ListCertificates") == 3


def lost(_request: Any) -> AWSResponse:
    """Answer nothing."""
    raise ReadTimeoutError(endpoint_url="https://iot.example.com")


def throttled(_request: Any) -> AWSResponse:
    """Answer that AWS is being asked too often, as AWS IoT and as DynamoDB do."""
    return aws_answer(400, '{"__type": "ThrottlingException"}', "ThrottlingException")


def refused(_request: Any) -> AWSResponse:
    """Answer that AWS IoT will not do it."""
    return aws_answer(400, "{}", "InvalidRequestException")


@WAYS
@pytest.mark.parametrize("step", ["DescribeCertificate 2", "UpdateCertificate 2"])
def test_s21_a_certificate_that_is_deleted_meanwhile_stops_nothing(
    backend: Deployment, sweep: Sweep, step: str
) -> None:
    """S21: the others of its page are looked at and disabled all the same."""
    orphans = [certificate(number) for number in range(3)]

    def hook(phase: str, at: str) -> None:
        if (phase, at) == ("before", step):
            del iot().certificates[orphans[1].certificate_id]

    with going_wrong(Device(backend, THING), hook):
        found = sweep(backend)
    assert set(found) >= {orphans[0].certificate_id, orphans[2].certificate_id}
    assert [orphans[0].status, orphans[2].status] == ["INACTIVE", "INACTIVE"]
    assert orphans[1].certificate_id not in iot().certificates


@WAYS
@pytest.mark.parametrize(
    ("operation", "told"),
    [
        ("DescribeCertificate", "certificate-not-looked-at"),
        ("UpdateCertificate", "orphan-left-active"),
    ],
)
def test_s21_a_certificate_that_aws_does_not_let_go_is_named_and_stops_nothing(
    backend: Deployment, sweep: Sweep, operation: str, told: str
) -> None:
    """S21: the log names it as an error, the others of its page are disabled, and the next sweep tries again."""
    orphans = [certificate(number) for number in range(3)]

    def refuse_the_second(sent: Any) -> AWSResponse | None:
        return refused(sent) if orphans[1].certificate_id in sent.url else None

    backend.inject(operation, refuse_the_second)
    assert sweep(backend) == [orphans[0].certificate_id, orphans[2].certificate_id]
    line = next(line for line in backend.log_lines() if line["event"] == told)
    assert (line["level"], line["certificateId"]) == ("ERROR", orphans[1].certificate_id)
    assert (line["operation"], line["cause"]) == (operation, "InvalidRequestException")
    assert [orphan.status for orphan in orphans] == ["INACTIVE", "ACTIVE", "INACTIVE"]
    backend.faults.clear()
    assert sweep(backend) == [orphans[1].certificate_id]


@pytest.mark.usefixtures("no_waiting")
def test_s21_a_fault_of_aws_is_told(backend: Deployment) -> None:
    """S21: what was disabled until then stays so; the next sweep does the rest."""
    orphans = [certificate(1), certificate(2)]
    first = iter([None])

    def fail_at_the_second(sent: Any) -> AWSResponse | None:
        return next(first, sent) and lost(sent)

    backend.inject("UpdateCertificate", fail_at_the_second)
    assert_problem(backend.operate("POST", "sweep", {}), 503, "aws-unavailable")
    backend.faults.clear()
    assert [orphan.status for orphan in orphans] == ["INACTIVE", "ACTIVE"]
    assert by_route(backend) == [orphans[1].certificate_id]
