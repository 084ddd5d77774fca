"""AWS credentials, where a role alias is known: the credentials provider, and whether it gives this device any."""

from __future__ import annotations

from hsm_enroll.backend_api.transport import proxy_for
from hsm_enroll.device import wiring
from hsm_enroll.doctor import network
from hsm_enroll.doctor.checks_login import Login
from hsm_enroll.doctor.checks_online import distrusted
from hsm_enroll.doctor.patient import Finding, Patient, Status
from hsm_enroll.doctor.tls import Distrust
from hsm_enroll.errors import CredentialsRefusedError, HsmEnrollError
from hsm_enroll.token import login as logins
from hsm_enroll.x509 import trust_anchors

_NO_ALIAS = "no role alias is known"
_REFUSED_HINT = (
    "The certificate was not revoked: the broker accepts it. Ask the operator whether its policy allows "
    "iot:AssumeRoleWithCertificate on this role alias, and whether the endpoint is that of the same account."
)


def reachable(patient: Patient) -> Finding:
    """Whether AWS IoT's credentials provider answers, and is trusted; it is asked for nothing.

    It is skipped where no role alias is known, and behind a proxy. The error is ``role-alias-missing``.
    """
    name, alias = "credentials.reachable", patient.role_alias
    if alias is None:
        return Finding(name, Status.SKIPPED, _NO_ALIAS)
    if isinstance(alias, HsmEnrollError):
        return Finding(name, Status.FAILED, alias.message, alias.hint)
    if alias.endpoint in patient.unresolved:
        return Finding(name, Status.SKIPPED, "see online.dns")
    if proxy_for(f"https://{alias.provider}") is not None:
        return Finding(name, Status.SKIPPED, "the credentials provider is behind a proxy: see credentials.login")
    try:
        trust_anchors.pem(patient.settings.ca_file)
    except HsmEnrollError as error:
        return Finding(name, Status.FAILED, error.message, error.hint)
    outcome = network.shake_hands(alias.endpoint, alias.port, patient.settings.ca_file, tls13=True)
    if isinstance(outcome, Distrust):
        return distrusted(name, f"the credentials provider at {alias.provider}", outcome, patient)
    if isinstance(outcome, str):
        hint = f"Check the endpoint's name, and that this network allows outgoing connections to port {alias.port}."
        return Finding(name, Status.FAILED, f"cannot negotiate TLS with {alias.provider}: {outcome}", hint)
    return Finding(name, Status.OK, f"{alias.provider} negotiates {outcome.version}, {outcome.cipher}")


def login(patient: Patient, access: Login | None, mqtt: Finding) -> Finding:
    """Whether the credentials provider gives this device AWS credentials; they are not kept.

    It is skipped where no role alias is known, and if ``mqtt.login`` failed: whatever is wrong with the PIN, the key or
    the certificate shows there. The errors are those of ``hsm-enroll aws-credentials``, such as
    ``credentials-refused``.
    """
    name, alias = "credentials.login", patient.role_alias
    if alias is None or isinstance(alias, HsmEnrollError):
        return Finding(name, Status.SKIPPED, _NO_ALIAS if alias is None else "see credentials.reachable")
    if access is None:
        return Finding(name, Status.SKIPPED, "whether this device gets AWS credentials was not tried: see mqtt.login")
    identity, token = patient.identity, patient.token
    has_connected = mqtt.status in {Status.OK, Status.WARNING}
    if not has_connected or isinstance(identity, HsmEnrollError) or isinstance(token, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "see mqtt.login")
    try:
        pin = logins.credentials(token, access.pin, access.at_pin_pad)
        wiring.aws_credentials(identity, alias, pin, patient.settings)
    except CredentialsRefusedError as error:
        # Its own advice is this command, and the broker has accepted the certificate.
        hint = _REFUSED_HINT if error.hint == error.default_hint else error.hint
        return Finding(name, Status.FAILED, error.message, hint)
    except HsmEnrollError as error:
        return Finding(name, Status.FAILED, error.message, error.hint)
    return Finding(name, Status.OK, f"{alias.provider} gives AWS credentials by the role alias {alias.name!r}")
