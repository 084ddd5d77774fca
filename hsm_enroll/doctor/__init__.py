"""The doctor: checks that each return one finding. They change nothing, and try a PIN only if a login is requested."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hsm_enroll.doctor import (
    checks_credentials,
    checks_login,
    checks_online,
    checks_outbox,
    checks_state,
    checks_token,
    checks_tpm,
)
from hsm_enroll.doctor.checks_login import Login
from hsm_enroll.doctor.patient import Check, Finding, Machine, Patient, Status
from hsm_enroll.token.login import once

__all__ = ["CHECKS", "Finding", "Login", "Machine", "Patient", "Status", "examine"]

_OFFLINE: tuple[Check, ...] = (
    checks_state.clock,
    checks_state.state_folder,
    checks_tpm.device,
    checks_tpm.resource_manager,
    checks_tpm.fapi,
    checks_token.token,
    checks_token.module,
    checks_token.store,
    checks_token.duplicates,
    checks_token.mqtt,
    checks_token.pin_tries,
    checks_state.pin_source,
    checks_state.identity,
    checks_state.certificate_dates,
    checks_token.key,
    checks_token.key_origin,
    checks_token.key_attested,
    checks_outbox.outbox,
    checks_outbox.forward,
)
_ONLINE: tuple[Check, ...] = (
    checks_online.dns,
    checks_online.api,
    checks_online.api_tls,
    checks_online.clock,
    checks_online.mqtt,
    checks_online.mqtt_tls,
    checks_credentials.reachable,
)

CHECKS: tuple[Callable[..., Finding], ...] = (*_OFFLINE, *_ONLINE, checks_login.mqtt, checks_credentials.login)
"""All checks, in the order in which they are made."""


def examine(patient: Patient, *, online: bool, login: Login | None = None) -> Iterator[Finding]:
    """Run the checks in order and yield the finding of each.

    Args:
        patient: what to check.
        online: also check the network: DNS, the API, the broker, the credentials provider, and their TLS.
        login: where the PIN for connections with the device's own key comes from, which is asked for once; None makes
            no such connection.
    """
    for check in (*_OFFLINE, *(_ONLINE if online else ())):
        yield check(patient)
    access = login._replace(pin=once(login.pin)) if login else None
    mqtt = checks_login.mqtt(patient, access)
    yield mqtt
    yield checks_credentials.login(patient, access, mqtt)
