"""The outermost layer: nothing escapes, nothing is told."""

from __future__ import annotations

import pytest

from tests.contract.test_backend_samples import assert_conforms
from tests.support.csr_factory import THING, pem_of, request
from tests.support.deployment import assert_hidden, assert_problem, deployed, event


@pytest.mark.parametrize("where", [{}, {"AWS_LAMBDA_FUNCTION_NAME": "hsm-enroll"}], ids=["here", "on Lambda"])
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
        ("CREDENTIALS_PORT", "0"),
        ("RENEWAL_DAYS", "never"),
        ("ATTESTATION", "always"),
    ],
)
def test_a_variable_that_is_missing_or_senseless_is_named_in_the_log_only(
    variable: str, value: str | None, where: dict[str, str]
) -> None:
    """Outside it is a 500 that says nothing; inside, one line names the variable. Lambda's INIT does not fail of it."""
    with deployed({variable: value, **where}) as backend:
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


def test_a_role_alias_reaches_the_device_with_its_provider() -> None:
    """By every answer about a certificate; without one, the answer has no such members."""
    with deployed({"ROLE_ALIAS": "gateways", "CREDENTIALS_ENDPOINT": "credentials.example.com"}) as backend:
        answer = backend.enroll(pem_of(request()), THING).json
        assert (answer["roleAlias"], answer["credentialsEndpoint"]) == ("gateways", "credentials.example.com")
        assert answer["credentialsPort"] == 443
        assert_conforms(answer, "Issued")
    with deployed() as backend:
        answer = backend.enroll(pem_of(request()), THING).json
        assert not {"roleAlias", "credentialsEndpoint", "credentialsPort"} & answer.keys()


def test_a_role_alias_without_a_provider_is_a_mistake_of_the_deployment() -> None:
    """It is named in the log."""
    with deployed({"ROLE_ALIAS": "gateways"}) as backend:
        assert_problem(backend.enroll(pem_of(request()), THING), 500, "internal")
        assert [line["variable"] for line in backend.log_lines()] == ["CREDENTIALS_ENDPOINT"]


def test_what_nobody_foresaw_is_a_500_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """S10 and all others: the log has the exception's type and place, not its text, which may quote the request."""
    csr = pem_of(request())
    with deployed() as backend:

        def explode(_binding: object, applicant: object) -> None:
            raise ZeroDivisionError(f"{applicant} and {csr}")

        monkeypatch.setattr("enrollment_backend.binding.Binding.claim", explode)
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
