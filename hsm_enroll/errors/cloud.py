"""Errors of the enrollment API, the MQTT broker, AWS and the local cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsm_enroll.errors.base import HsmEnrollError

if TYPE_CHECKING:
    from datetime import datetime


class BackendUnreachableError(HsmEnrollError):
    """The enrollment API did not answer, or failed.

    A name that cannot be resolved, a connection that is refused or cut, a time-out, a proxy, or a failure in the
    backend, which the message shows by its status of 500 or more. A request that is repeated gets the same
    certificate.

    Attributes:
        sent: whether the request may have reached the API, and may have been carried out.
        abandoned: whether the request was abandoned at its deadline, and may still be on its way.
        answered: whether the API itself answered, with a failure of its own (a status of 500 or more).
    """

    code = "backend-unreachable"
    exit_status = 30
    retryable = True
    default_hint = "Check the network and the API's address, then run the same command again: it resumes."

    def __init__(
        self,
        message: str,
        *,
        sent: bool = True,
        abandoned: bool = False,
        answered: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent
        self.abandoned = abandoned
        self.answered = answered


class BackendRefusedError(HsmEnrollError):
    """The enrollment API refused the request; the same request will not succeed later.

    The message ends with the code of the refusal. If only the operator can help, the hint has the id of the request.

    Attributes:
        problem_code: the stable ``code`` of the API's problem document, or "" if there was none.
        request_id: finds the request in the backend's log, or "".
        api_time: what the API's clock showed, with a time zone; None if it did not say.
    """

    code = "backend-refused"
    exit_status = 31
    default_hint = "Ask the operator of the backend."

    def __init__(
        self,
        message: str,
        *,
        problem_code: str = "",
        request_id: str = "",
        api_time: datetime | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.problem_code = problem_code
        self.request_id = request_id
        self.api_time = api_time


class ThrottledError(HsmEnrollError):
    """The enrollment API is busy.

    Many devices are being enrolled, and each has its turn. ``hsm-enroll init --wait 2h`` waits by itself. Or this
    device was renewed too often, and the message says so: it may be ten times at once, and then once an hour.
    """

    code = "throttled"
    exit_status = 32
    retryable = True
    default_hint = "Wait a few minutes, then run the same command again: it resumes."


class UnexpectedResponseError(HsmEnrollError):
    """The response is not a valid response of the enrollment API.

    A captive portal, a proxy or another server answers at this address.
    """

    code = "unexpected-response"
    exit_status = 33
    default_hint = "Check the API's address, and whether a captive portal or a proxy answers in its place."


class ForeignCertificateError(HsmEnrollError):
    """The API returned a certificate that is unusable or not for this device's key. It was not stored."""

    code = "certificate-not-ours"
    exit_status = 33
    default_hint = "Nothing was stored. Check the API's address, and report this to the operator of the backend."


class ApiTlsError(HsmEnrollError):
    """The API's TLS certificate is not trusted.

    Its CA is not among those that this machine trusts, something in between intercepts TLS, the certificate is for
    another name, or the clock is wrong.

    Attributes:
        untimely: whether only because of its dates: by this machine's clock it has expired, or is not valid yet.
    """

    code = "api-not-trusted"
    exit_status = 33
    default_hint = "Check the API's address and this machine's clock; name a private CA in HSM_ENROLL_CA_FILE."

    def __init__(self, message: str, *, hint: str | None = None, untimely: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.untimely = untimely


class MqttError(HsmEnrollError):
    """The MQTT connection failed, and the broker gave no reason.

    Attributes:
        reason: name of the broker's reason code (MQTT 5.0 §2.4), if it gave one.
    """

    reason: str | None = None

    code = "mqtt-failed"
    exit_status = 40
    retryable = True
    default_hint = "Run hsm-enroll doctor --online --login, then try again."


class MqttUnreachableError(MqttError):
    """No broker can be reached at the endpoint.

    Many networks block port 8883. AWS IoT accepts MQTT on port 443 too: set HSM_ENROLL_MQTT_PORT to 443.
    """

    code = "mqtt-unreachable"
    default_hint = "Check the endpoint's name, and that this network allows outgoing connections to its port."


class MqttNotTrustedError(MqttError):
    """This device does not trust the broker's TLS certificate."""

    code = "mqtt-not-trusted"
    retryable = False
    default_hint = "Check the endpoint and the clock; name a private CA in HSM_ENROLL_CA_FILE."


class MqttRefusedError(MqttError):
    """The broker refused the connection or the request: inactive certificate, or not allowed by the policy.

    AWS IoT often ends the connection without saying why. What it then refuses is an inactive certificate, one
    without a policy, a client id, or a topic that is not this device's.

    Attributes:
        of_certificate: whether it rejected the certificate itself, in the TLS handshake.
    """

    code = "mqtt-refused"
    default_hint = (
        "The certificate may have been revoked, or its policy detached: ask the operator. If it was revoked, run "
        "hsm-enroll init --new-key INVITE with a new invite."
    )

    def __init__(self, message: str, *, hint: str | None = None, of_certificate: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.of_certificate = of_certificate


class MqttTakenOverError(MqttError):
    """Another client has connected with the same client id."""

    code = "mqtt-taken-over"
    default_hint = (
        "AWS IoT allows one connection per client id, and the library's connect() uses the Thing's name: stop the "
        "other program that uses it, or give one of them connect(…, purpose=…)."
    )


class RoleAliasMissingError(HsmEnrollError):
    """This device does not know where to get AWS credentials."""

    code = "role-alias-missing"
    exit_status = 31
    default_hint = (
        "Once the operator has deployed one (backend deploy --role-alias), run hsm-enroll recover, which asks the "
        "backend. Or set HSM_ENROLL_ROLE_ALIAS and HSM_ENROLL_CREDENTIALS_ENDPOINT."
    )


class CredentialsRefusedError(HsmEnrollError):
    """AWS IoT's credentials provider refused to give this device AWS credentials."""

    code = "credentials-refused"
    exit_status = 31
    default_hint = (
        "The certificate may have been revoked, or its policy may not allow iot:AssumeRoleWithCertificate on this role "
        "alias. Run hsm-enroll doctor --login, which shows whether the certificate was revoked."
    )


class LocalCloudError(HsmEnrollError):
    """The local cloud could not be started, found or stopped."""

    code = "local-cloud"
    default_hint = "Look at the logs in the local cloud's home folder."


class AwsError(HsmEnrollError):
    """AWS refused an operator's request, or failed to carry it out.

    Its own reason is in the message. The backend's operators need the permissions that docs/operator.md lists.
    """

    code = "aws-failed"
    default_hint = "See AWS's message above; your AWS identity may lack a permission."


class PackageError(HsmEnrollError):
    """The Lambda function's zip could not be built."""

    code = "package-failed"
    default_hint = "Building it requires pip, and a package index that pip can reach."
