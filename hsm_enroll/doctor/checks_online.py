"""The network: DNS, the API, the broker, their TLS, and the API's clock."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

from hsm_enroll.backend_api.attestation import Policy
from hsm_enroll.backend_api.client import EnrollmentClient
from hsm_enroll.doctor import network
from hsm_enroll.doctor.api import advice
from hsm_enroll.doctor.patient import Finding, Patient, Status
from hsm_enroll.doctor.tls import Distrust
from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.iot import shared_port
from hsm_enroll.x509 import trust_anchors

_CONNECT_SECONDS = 10.0
# A new certificate is not yet valid for a clock that is a minute behind; an hour is more than drift.
_BEARABLE = timedelta(seconds=60)
_WRONG = timedelta(hours=1)
_WANTED = {
    Policy.OFF: "",
    Policy.PREFER: "; it prefers keys that a TPM attests",
    Policy.REQUIRE: "; it requires that a TPM attests keys",
}
_NO_API = "no API is known"
_NO_BROKER = "no broker is known before the device is enrolled"


def dns(patient: Patient) -> Finding:
    """Whether the host names can be resolved; behind a proxy, the proxy's instead of the API's.

    They are those of the API, of the broker, and of the credentials provider if a role alias is known.
    """
    name = "online.dns"
    if patient.api_url is None and patient.broker is None:
        return Finding(name, Status.SKIPPED, "no API and no broker is known")
    if patient.first_host is None and patient.broker is None:
        return Finding(name, Status.SKIPPED, "see api.reachable")
    for host, reason in patient.unresolved.items():
        message = f"the name {host} cannot be resolved: {reason}"
        return Finding(name, Status.FAILED, message, "Check the name and the network's DNS.")
    return Finding(name, Status.OK, "the names have addresses")


def api(patient: Patient) -> Finding:
    """Whether the enrollment API answers; and whether it is the one that is configured.

    The errors are those of requests: ``backend-unreachable``, ``unexpected-response`` and others.
    """
    finding, ignored = _reached(patient), patient.ignored_api_url
    if ignored is None:
        return finding
    why = f"this device is enrolled with {patient.api_url}, so the configured {ignored} is not used"
    message = f"{finding.message}; {why}"
    if finding.status is not Status.OK:
        return replace(finding, message=message)
    hint = "Remove HSM_ENROLL_API_URL or api_url, or enroll with that API: hsm-enroll init --new-key INVITE"
    return replace(finding, status=Status.WARNING, message=message, hint=hint)


def _reached(patient: Patient) -> Finding:
    name, url = "api.reachable", patient.api_url
    if url is None:
        return Finding(name, Status.SKIPPED, _NO_API, "Set HSM_ENROLL_API_URL.")
    if patient.first_host in patient.unresolved:
        return Finding(name, Status.SKIPPED, "see online.dns")
    if patient.api_answer is not None and isinstance(patient.api_answer.tls, Distrust):
        return Finding(name, Status.SKIPPED, "see online.api-tls")
    try:
        with closing(EnrollmentClient(url, ca_file=patient.settings.ca_file)) as client:
            health = client.health()
    except HsmEnrollError as error:
        return Finding(name, Status.FAILED, error.message, advice(error, patient.api_answer))
    return Finding(name, Status.OK, f"{url} answers, version {health.version}{_WANTED[health.attestation]}")


def api_tls(patient: Patient) -> Finding:
    """Which TLS the API negotiates, and whether its certificate is trusted: interception shows here."""
    name, answer = "online.api-tls", patient.api_answer
    if answer is None or answer.tls is None:
        return Finding(name, Status.SKIPPED, _NO_API if patient.api_url is None else "see api.reachable")
    if isinstance(answer.tls, Distrust):
        return distrusted(name, "the API", answer.tls, patient)
    return Finding(name, Status.OK, f"the API negotiates {answer.tls.version}, {answer.tls.cipher}")


def clock(patient: Patient) -> Finding:
    """Whether this clock agrees with the API's."""
    name, answer = "online.clock", patient.api_answer
    if answer is None or answer.clock_error is None:
        return Finding(name, Status.SKIPPED, "no API to compare the clock with")
    error = answer.clock_error
    if abs(error) <= _BEARABLE:
        return Finding(name, Status.OK, "the clock agrees with the API's")
    way = "ahead of" if error > timedelta(0) else "behind"
    status = Status.FAILED if abs(error) > _WRONG else Status.WARNING
    amount = timedelta(seconds=round(abs(error).total_seconds()))
    return Finding(name, status, f"the clock is {amount} {way} the API's", "Set the clock, or start NTP.")


def mqtt(patient: Patient) -> Finding:
    """Whether the broker accepts connections."""
    name = "mqtt.reachable"
    if patient.broker is None:
        return Finding(name, Status.SKIPPED, _NO_BROKER)
    host, port = patient.broker
    if host in patient.unresolved:
        return Finding(name, Status.SKIPPED, "see online.dns")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        hint = f"Check that this network allows outgoing connections to port {port}."
        why = error.strerror or "no answer"
        return Finding(name, Status.FAILED, f"{host}:{port} does not accept connections: {why}", hint)
    return Finding(name, Status.OK, f"{host}:{port} accepts connections")


def mqtt_tls(patient: Patient) -> Finding:
    """Which TLS the broker negotiates before it requests a certificate; using the device's key would take a login.

    It offers the versions that a connection would offer under the setting ``tls``, but OpenSSL's cipher suites.
    """
    name = "online.mqtt-tls"
    if patient.broker is None:
        return Finding(name, Status.SKIPPED, _NO_BROKER)
    if mqtt(patient).status is not Status.OK:
        return Finding(name, Status.SKIPPED, "see mqtt.reachable")
    host, port = patient.broker
    try:
        trust_anchors.pem(patient.settings.ca_file)
    except HsmEnrollError as error:
        return Finding(name, Status.FAILED, error.message, error.hint)
    alpn = shared_port.protocols(port)
    outcome = network.shake_hands(host, port, patient.settings.ca_file, tls13=patient.offers_tls13, alpn=alpn)
    refused = ""
    if isinstance(outcome, str) and patient.offers_tls13:
        # As a connection does under that setting.
        refused = f"; TLS 1.3 failed: {outcome}"
        outcome = network.shake_hands(host, port, patient.settings.ca_file, tls13=False, alpn=alpn)
    if isinstance(outcome, Distrust):
        return distrusted(name, f"{host}:{port}", outcome, patient)
    if isinstance(outcome, str):
        hint = "Something other than the broker may answer there: check the endpoint and port."
        return Finding(name, Status.FAILED, f"cannot negotiate TLS 1.2 or later with {host}:{port}: {outcome}", hint)
    message = f"{host}:{port} negotiates {outcome.version}, {outcome.cipher}, asked without the device's key{refused}"
    return Finding(name, Status.OK, message)


def distrusted(name: str, who: str, distrust: Distrust, patient: Patient) -> Finding:
    """Return the finding for a server that is not trusted; a wrong clock may be why."""
    answer = patient.api_answer
    error = answer.clock_error if answer is not None else None
    if distrust.is_untimely and error is not None and abs(error) > _WRONG:
        return Finding(name, Status.SKIPPED, "cannot tell while the clock is wrong: see online.clock")
    issuer = f"was issued by {distrust.issuer}" if distrust.issuer else "could not be seen"
    message = f"{who} is not trusted: {distrust.reason}; its certificate {issuer}"
    hint = "Check the address and the clock."
    if distrust.is_another_authority:
        hint = "Something in between may intercept TLS. If this is your own CA, name its file in HSM_ENROLL_CA_FILE."
    return Finding(name, Status.FAILED, message, hint)
