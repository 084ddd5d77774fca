"""The outermost layer: nothing escapes, nothing is told, nothing is loaded early."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.csr_factory import THING, pem_of, request
from tests.support.deployment import LAMBDA, assert_hidden, assert_problem, deployed, event


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("POLICY_NAME", None),
        ("POLICY_NAME", ""),
        ("TABLE_NAME", None),
        ("TABLE_NAME", ""),
        ("MQTT_ENDPOINT", None),
        ("MQTT_PORT", ""),
        ("MQTT_PORT", "0"),
        ("MQTT_PORT", "65536"),
        ("MQTT_PORT", "8883\n"),
        ("MQTT_PORT", "mqtt"),
    ],
)
def test_a_variable_that_is_missing_or_senseless_is_named_in_the_log_only(variable: str, value: str | None) -> None:
    """Outside it is a 500 that says nothing; inside, one line names the variable."""
    with deployed({variable: value}) as backend:
        answer = backend.enroll(pem_of(request()), THING)
        assert_problem(answer, 500, "internal")
        assert variable not in answer.body
        (line,) = backend.log_lines()
        assert (line["level"], line["event"], line["variable"]) == ("ERROR", "configuration-error", variable)
        assert backend.calls == []
        assert backend.send(event("GET", "/v1/health")).status == 500


def test_the_port_for_devices_can_be_chosen() -> None:
    """MQTT_PORT reaches the device as a number."""
    with deployed({"MQTT_PORT": "443"}) as backend:
        assert backend.enroll(pem_of(request()), THING).json["mqttPort"] == 443


def test_what_nobody_foresaw_is_a_500_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """S10 and all others: the log has the exception's type and place, not its text, which may quote the request."""
    csr = pem_of(request())
    with deployed() as backend:

        def explode(_ledger: object, applicant: object) -> None:
            raise ZeroDivisionError(f"{applicant} and {csr}")

        monkeypatch.setattr("enrollment_backend.ledger.Ledger.claim", explode)
        answer = backend.enroll(csr, THING)
        assert_problem(answer, 500, "internal")
        (line,) = backend.log_lines()
        assert (line["level"], line["event"], line["exception"]) == ("ERROR", "internal-error", "ZeroDivisionError")
        assert " explode < " in line["where"]
        assert_hidden(backend.log.getvalue() + answer.body, csr)


def test_every_line_carries_its_own_request_id() -> None:
    """Two requests to one warm function are told apart in the log."""
    with deployed() as backend:
        for request_id in ("first", "second"):
            made = event("GET", "/v1/health")
            made["requestContext"]["requestId"] = request_id
            backend.send(made)
        assert [line["requestId"] for line in backend.log_lines()] == ["first", "second"]


def test_a_refused_request_and_the_health_check_load_no_aws_library() -> None:
    """boto3 is a sixth of a second: only an enrollment that has passed every guard pays for it."""
    program = """
import json, os, sys
os.environ.update(POLICY_NAME="p", TABLE_NAME="t", MQTT_ENDPOINT="m")
import handler
for path, method in (("/v1/health", "GET"), ("/v1/certificates", "POST"), ("/v1/operator/fleet", "GET")):
    handler.lambda_handler({"rawPath": path, "requestContext": {"http": {"method": method}}}, None)
print(json.dumps(sorted(sys.modules)))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=LAMBDA, env={}, capture_output=True, text=True, check=True
    )  # fmt: skip
    loaded = set(json.loads(run.stdout))
    assert "enrollment_backend.http" in loaded
    assert loaded.isdisjoint({"boto3", "botocore", "enrollment_backend.issuer"})
