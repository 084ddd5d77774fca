"""What the log says about each request, what CloudWatch counts of it, and what is never in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from enrollment_backend import log
from tests.backend.fleet import Device, going_wrong, throttled
from tests.support.csr_factory import THING
from tests.support.deployment import OPERATOR, REQUEST_ID, Answer, Deployment, assert_hidden, event

METRIC_UNITS = {
    "AwsLatency": "Milliseconds", "Refusals": "Count", "Enrollments": "Count", "Renewals": "Count",
    "RenewalFailures": "Count",
}  # fmt: skip


def counted(line: dict[str, Any]) -> dict[str, object]:
    """Return what CloudWatch counts of a line, having checked that it is in the embedded metric format."""
    if "_aws" not in line:
        return {}
    assert line["_aws"].keys() == {"Timestamp", "CloudWatchMetrics"}
    assert isinstance(line["_aws"]["Timestamp"], int)
    values: dict[str, object] = {}
    for directive in line["_aws"]["CloudWatchMetrics"]:
        assert directive["Namespace"] == "hsm-enroll"
        (dimensions,) = directive["Dimensions"]
        assert all(isinstance(line[dimension], str) for dimension in dimensions)
        for metric in directive["Metrics"]:
            assert metric["Unit"] == METRIC_UNITS[metric["Name"]]
            values[metric["Name"]] = line[metric["Name"]]
            assert dimensions == (["outcome"] if metric["Name"] == "Refusals" else [])
    assert values.keys() == line.keys() & METRIC_UNITS.keys()
    for value in values.values():
        assert not isinstance(value, list) or 1 <= len(value) <= 100
    return values


def situations() -> dict[str, tuple[Callable[[Device], Answer], str]]:
    """Return what can come of an enrollment, with the outcome that the log has."""

    def after_another(device: Device) -> Answer:
        Device(device.backend, THING).enroll()
        return device.enroll()

    def twice(device: Device) -> Answer:
        device.enroll()
        return device.enroll()

    def while_failing(device: Device) -> Answer:
        with going_wrong(device, throttled("CreateThing 1")):
            return device.enroll()

    return {
        "new": (Device.enroll, "ok"),
        "repeated": (twice, "ok"),
        "conflict": (after_another, "thing-enrolled"),
        "throttled": (while_failing, "throttled"),
    }


@pytest.mark.parametrize(("situation", "outcome"), situations().values(), ids=situations().keys())
def test_every_line_about_an_enrollment_says_whose_it_is_and_nothing_secret(
    backend: Deployment, situation: Callable[[Device], Answer], outcome: str
) -> None:
    """Thing, hash of the key, request id and the outcome; never a code, a CSR or a certificate."""
    device = Device(backend, THING, backend.invite(THING))
    backend.log.truncate(backend.log.seek(0))
    answer = situation(device)
    lines = [line for line in backend.log_lines() if line["spkiSha256"] == device.spki_sha256]
    assert {(line["thing"], line["requestId"]) for line in lines} == {(THING, REQUEST_ID)}
    assert (lines[-1]["event"], lines[-1]["route"], lines[-1]["outcome"]) == ("request", "/v1/certificates", outcome)
    assert lines[-1]["status"] == answer.status
    assert lines[-1]["inviteId"] in backend.items("invite")
    shown = backend.log.getvalue()
    assert device.code is not None
    certificate = answer.json.get("certificatePem", "")
    assert_hidden(shown, device.csr, certificate, device.code, device.code.replace("-", ""))
    assert "-----BEGIN" not in shown


def test_an_enrollment_is_counted_once(backend: Deployment) -> None:
    """`Enrollments` counts new ones, not those asked for again; each line has the latency of its calls."""
    device = Device(backend, THING)
    device.enroll()
    device.enroll()
    new, repeated = backend.log_lines()
    assert (new["enrollment"], repeated["enrollment"]) == ("new", "repeated")
    assert counted(new).keys() == {"Enrollments", "AwsLatency"}
    assert counted(new)["Enrollments"] == 1
    assert counted(repeated).keys() == {"AwsLatency"}
    assert {call["operation"] for call in new["aws"][:2]} == {"TransactWriteItems", "UpdateItem"}  # at the same time
    assert sorted(call["operation"] for call in new["aws"] + repeated["aws"]) == sorted(backend.calls)
    assert counted(new)["AwsLatency"] == [call["ms"] for call in new["aws"]]
    assert new["certificateId"] == repeated["certificateId"]


def test_refusals_are_counted_by_their_code(backend: Deployment) -> None:
    """`Refusals` has the outcome as its dimension; a refusal without an AWS call has no latency."""
    backend.post("/v1/certificates", {})
    backend.send(event("GET", "/nowhere"))
    backend.send(event("GET", "/v1/operator/fleet"))
    backend.operate("DELETE", "fleet", thing="nobody")
    lines = backend.log_lines()
    assert [(line["outcome"], counted(line).get("Refusals")) for line in lines] == [
        ("field-missing", 1), ("not-found", 1), ("operator-required", 1), ("thing-unknown", 1)
    ]  # fmt: skip
    assert ["AwsLatency" in counted(line) for line in lines] == [False, False, False, True]


def test_renewals_are_counted_when_they_are_committed(backend: Deployment) -> None:
    """Once, and not when they begin or are repeated; the lines name both keys."""
    device = Device(backend, THING)
    device.enroll()
    successor = device.successor()
    device.renew(successor)
    for _ in range(2):
        successor.commit()
    _, begun, committed, repeated = [line for line in backend.log_lines() if line["event"] == "request"]
    assert [line["renewal"] for line in (begun, committed, repeated)] == ["issued", "committed", "repeated"]
    assert (begun["spkiSha256"], begun["nextSpkiSha256"]) == (device.spki_sha256, successor.spki_sha256)
    assert [counted(line).get("Renewals") for line in (begun, committed, repeated)] == [None, 1, None]


def test_only_a_device_can_fail_to_renew(backend: Deployment) -> None:
    """`RenewalFailures` counts what a device was refused; a stranger, who may send anything, raises no alarm."""
    device = Device(backend, THING)
    device.enroll()
    device.successor().renew(device.successor())
    device.successor().commit()
    device.renew(device)
    with going_wrong(device, throttled("CreateCertificateFromCsr 1")):
        device.renew(device.successor())
    outcomes = [(line["outcome"], counted(line).get("RenewalFailures")) for line in backend.log_lines()[1:]]
    assert outcomes == [("proof-invalid", None), ("proof-invalid", None), ("key-reused", 1), ("throttled", 1)]


def test_health_is_not_counted(backend: Deployment) -> None:
    """A line, and no metric."""
    backend.send(event("GET", "/v1/health"))
    (line,) = backend.log_lines()
    assert line == {
        "level": "INFO",
        "event": "request",
        "requestId": REQUEST_ID,
        "route": "/v1/health",
        "status": 200,
        "outcome": "ok",
    }


def test_what_an_operator_does_is_logged_with_the_name(backend: Deployment) -> None:
    """Who made or revoked what; never the codes that were made."""
    code = backend.invite(THING)
    Device(backend, THING).enroll()
    (identifier,) = backend.items("invite")
    backend.operate("DELETE", "invites", id=identifier)
    backend.operate("DELETE", "fleet", thing=THING)
    made, _, invite_revoked, thing_revoked = backend.log_lines()
    assert [line["caller"] for line in (made, invite_revoked, thing_revoked)] == [OPERATOR] * 3
    assert (made["invites"], invite_revoked["inviteId"], thing_revoked["thing"]) == ("1", identifier, THING)
    assert_hidden(backend.log.getvalue(), code, code.replace("-", ""))


def test_a_metric_has_a_hundred_values_at_the_most(backend: Deployment) -> None:
    """The embedded metric format takes no more of one metric; a long sweep makes more calls than that."""
    log.begin("long")
    for number in range(250):
        log.record_call("ListPrincipalThings", float(number))
    log.request(route="/v1/operator/sweep", status=200, outcome="ok", failed=False)
    (line,) = backend.log_lines()
    latencies = counted(line)["AwsLatency"]
    assert isinstance(latencies, list)
    assert len(latencies) == 100
