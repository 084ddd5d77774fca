"""Checks whether the broker accepts the device's own key: the only check that tries a PIN, and only if requested."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from hsm_enroll.device import wiring
from hsm_enroll.doctor import checks_token
from hsm_enroll.doctor.patient import Finding, Patient, Status
from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.token import login

if TYPE_CHECKING:
    from hsm_enroll.key import TokenName
    from hsm_enroll.secret import Secret


class Login(NamedTuple):
    """What a login requires.

    Attributes:
        pin: returns a token's PIN.
        at_pin_pad: called if the PIN is entered at the token itself.
    """

    pin: Callable[[TokenName], Secret]
    at_pin_pad: Callable[[TokenName], None]


def mqtt(patient: Patient, access: Login | None) -> Finding:
    """Whether the broker accepts this device: no other check detects a revoked certificate, or one without a policy.

    It connects with its own client id, which does not disconnect other programs, and disconnects at once. Where a login
    was requested and there is no certificate, the check failed. The errors are those of a connection, such as
    ``mqtt-refused`` and ``mqtt-unreachable``, and those of a login, such as ``pin-wrong``.
    """
    name, identity = "mqtt.login", patient.identity
    if isinstance(identity, HsmEnrollError):
        status = Status.SKIPPED if access is None else Status.FAILED
        return Finding(name, status, "there is no certificate to connect with", "" if access is None else identity.hint)
    if access is None:
        message = "whether the broker accepts the device's certificate was not tried: that takes the PIN"
        return Finding(name, Status.SKIPPED, message, "Run: hsm-enroll doctor --login")
    if isinstance(patient.token, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no token to log in to")
    if checks_token.key(patient).status is Status.FAILED:
        return Finding(name, Status.SKIPPED, "see key.matches-certificate")
    settings = patient.settings
    try:
        pin = login.credentials(patient.token, access.pin, access.at_pin_pad)
        with wiring.connect(identity, pin, settings, purpose="doctor") as connection:
            fallbacks = connection.fallbacks
    except HsmEnrollError as error:
        return Finding(name, Status.FAILED, error.message, error.hint)
    host = settings.mqtt_endpoint or identity.mqtt_endpoint
    connected = f"connected to {host} as {identity.thing_name} with the token's key"
    tls = f"; TLS 1.3 failed: {fallbacks.tls}" if fallbacks.tls else ""
    if fallbacks.client_id is None:
        return Finding(name, Status.OK, connected + tls)
    message = f"{connected}, but not with its own client id: {fallbacks.client_id}{tls}"
    hint = (
        f"Ask the operator for a policy that allows the client ids {identity.thing_name}/…, as the built-in one does. "
        "Without it, publish and subscribe disconnect a program whose client id is the Thing's name."
    )
    return Finding(name, Status.WARNING, message, hint)
