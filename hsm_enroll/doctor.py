"""The doctor: checks, each a small function that returns one finding. It changes nothing and tries no PIN."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property

from hsm_enroll import device_token, pin
from hsm_enroll.api import EnrollmentClient
from hsm_enroll.errors import HsmEnrollError, NotEnrolledError, PinMissingError
from hsm_enroll.identity import Identity
from hsm_enroll.settings import Settings
from hsm_enroll.token import inventory, keypair, lockout, session
from hsm_enroll.token.inventory import TokenReport

# No gateway runs this program before it was written; a clock that says so has lost its battery.
_OLDEST_PLAUSIBLE_CLOCK = datetime(2026, 1, 1, tzinfo=UTC)
_NEWEST_PLAUSIBLE_CLOCK = datetime(2049, 1, 1, tzinfo=UTC)
_CONNECT_SECONDS = 10.0


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        id: stable name of the check.
        status: how it ended.
        message: what was seen; a sentence.
        hint: what to do, or "".
    """

    id: str
    status: Status
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Patient:
    """What the checks look at; each part is looked up once, and its error is every dependent check's answer.

    Attributes:
        settings: as resolved.
        environment: normally ``os.environ``.
    """

    settings: Settings
    environment: Mapping[str, str]

    @cached_property
    def identity(self) -> Identity | HsmEnrollError:
        """The identity in the state folder, or why there is none."""
        try:
            return Identity.load(self.settings.state)
        except HsmEnrollError as error:
            return error

    @cached_property
    def token(self) -> TokenReport | HsmEnrollError:
        """The identity's token, or else the one that the settings mean."""
        try:
            name = self.identity.token if isinstance(self.identity, Identity) else device_token.locate(self.settings)
            reports = inventory.inspect(name.module)
        except HsmEnrollError as error:
            return error
        for report in reports:
            if report.initialized and (report.name.label, report.name.serial) == (name.label, name.serial):
                return report
        return HsmEnrollError(f"token {name.label!r} is not there", hint="Reconnect it; see hsm-enroll tokens.")


Check = Callable[[Patient], Finding]


def examine(patient: Patient, *, online: bool) -> Iterator[Finding]:
    """Run the checks one after the other and yield what each found.

    Args:
        patient: what to look at.
        online: also ask whether the API and the broker can be reached.
    """
    for check in (*_OFFLINE, *(_ONLINE if online else ())):
        yield check(patient)


def _clock(_: Patient) -> Finding:
    now = datetime.now(UTC)
    if _OLDEST_PLAUSIBLE_CLOCK <= now <= _NEWEST_PLAUSIBLE_CLOCK:
        return Finding("clock", Status.OK, f"the clock says {now:%Y-%m-%d %H:%M} UTC")
    return Finding("clock", Status.FAILED, f"the clock is wrong: it says {now:%Y-%m-%d}", "Set it, or start NTP.")


def _state_folder(patient: Patient) -> Finding:
    name, folder = "state.folder", patient.settings.state
    if not folder.exists():
        return Finding(name, Status.SKIPPED, f"{folder} does not exist yet", "hsm-enroll init makes it.")
    if not folder.is_dir():
        return Finding(name, Status.FAILED, f"{folder} is not a folder", "Name a folder in HSM_ENROLL_HOME.")
    found = folder.stat()
    if found.st_uid != os.geteuid():
        hint = "Run hsm-enroll as that user."
        return Finding(name, Status.FAILED, f"{folder} belongs to user id {found.st_uid}", hint)
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding(name, Status.WARNING, f"{folder} is open to others", f"Close it: chmod 700 {folder}")
    if not os.access(folder, os.W_OK):
        return Finding(name, Status.FAILED, f"{folder} cannot be written", "Is it mounted read-only?")
    return Finding(name, Status.OK, f"{folder} is this user's alone")


def _token(patient: Patient) -> Finding:
    token = patient.token
    if isinstance(token, HsmEnrollError):
        return Finding("token", Status.FAILED, token.message, token.hint)
    return Finding("token", Status.OK, f"{token.name.uri} in {token.name.module}")


def _pin_tries(patient: Patient) -> Finding:
    name, token = "token.pin-tries", patient.token
    if isinstance(token, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no token to ask")
    if token.pin_locked:
        hint = "A TPM heals with time: leave it powered. Any other token is unlocked with its SO PIN."
        return Finding(name, Status.FAILED, "the PIN is locked", hint)
    if token.pin_final_try:
        hint = "Make sure of the PIN and log in once with the token's own tool."
        return Finding(name, Status.FAILED, "one more wrong PIN locks the token", hint)
    if token.pin_count_low:
        return Finding(
            name, Status.WARNING, "a wrong PIN was given since the last login", "Check where the PIN is kept."
        )
    tries = lockout.read(token.name)
    if tries is not None:
        return _tpm_tries(tries)
    return Finding(name, Status.OK, "no wrong PIN since the last login")


def _tpm_tries(tries: lockout.FailedTries) -> Finding:
    name = "token.pin-tries"
    if tries.failed_tries == 0:
        return Finding(name, Status.OK, "the TPM counts no failed try")
    counted = f"the TPM counts {tries.counted}"
    if tries.locked:
        return Finding(name, Status.FAILED, f"the PIN is locked: {counted}", f"{tries.healing} {tries.waiting}")
    if tries.one_before_lockout:
        message = f"one more wrong PIN locks the token: {counted}"
        return Finding(name, Status.FAILED, message, f"{tries.healing} {tries.waiting}")
    return Finding(name, Status.WARNING, counted, f"{tries.healing} If it was a PIN, check where that is kept.")


def _pin_source(patient: Patient) -> Finding:
    name, token = "pin.source", patient.token
    if isinstance(token, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no token whose PIN it would be")
    if not token.login_required:
        return Finding(name, Status.OK, "the token wants no PIN")
    settings = patient.settings
    try:
        pin.resolve(
            settings.pin_file,
            patient.environment,
            made_pin=lambda: pin.made(settings.state, token.name),
            ask=None,
        )
    except PinMissingError as error:
        return Finding(name, Status.WARNING, f"{error.message}; a person would be asked", error.hint)
    except HsmEnrollError as error:
        return Finding(name, Status.FAILED, error.message, error.hint)
    return Finding(name, Status.OK, "there is a PIN; it was not tried")


def _identity(patient: Patient) -> Finding:
    identity = patient.identity
    if isinstance(identity, NotEnrolledError):
        return Finding("identity", Status.WARNING, identity.message, identity.hint)
    if isinstance(identity, HsmEnrollError):
        return Finding("identity", Status.FAILED, identity.message, identity.hint)
    return Finding("identity", Status.OK, f"enrolled as {identity.thing_name}")


def _certificate_dates(patient: Patient) -> Finding:
    name, identity = "certificate.dates", patient.identity
    if isinstance(identity, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no certificate")
    now, certificate = datetime.now(UTC), identity.certificate
    if certificate.not_valid_before > now:
        return Finding(name, Status.FAILED, "the certificate is not valid yet", "Check the clock.")
    if certificate.not_valid_after <= now:
        hint = "Check the clock; if it is right: hsm-enroll init"
        return Finding(name, Status.FAILED, f"the certificate ended on {certificate.not_valid_after:%Y-%m-%d}", hint)
    if certificate.not_valid_after - now < timedelta(days=30):
        hint = "Run: hsm-enroll init --new-key"
        return Finding(name, Status.WARNING, f"the certificate ends on {certificate.not_valid_after:%Y-%m-%d}", hint)
    return Finding(name, Status.OK, f"the certificate is valid to {certificate.not_valid_after:%Y-%m-%d}")


def _key(patient: Patient) -> Finding:
    name, identity = "key.matches-certificate", patient.identity
    if isinstance(identity, HsmEnrollError) or isinstance(patient.token, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no certificate, or no token, to compare")
    try:
        with session.opened(identity.token, None) as opened:
            public = keypair.find_public(opened, label=identity.key_label, key_id=identity.key_id)
    except HsmEnrollError as error:
        return Finding(name, Status.FAILED, error.message, error.hint)
    if public.public_key_info != bytes(identity.certificate.public_key.dump()):
        hint = "Run: hsm-enroll init --new-key"
        return Finding(name, Status.FAILED, "the token's key is not the certificate's", hint)
    return Finding(name, Status.OK, "the token's key is the certificate's")


def _key_origin(patient: Patient) -> Finding:
    name, identity = "key.origin", patient.identity
    if isinstance(identity, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no key of ours")
    if not identity.key_origin.is_hardware_born:
        hint = "Run: hsm-enroll init --new-key"
        return Finding(name, Status.FAILED, "the key was not born in its token, or can leave it", hint)
    return Finding(name, Status.OK, "the key was born in its token and cannot leave it")


def _api(patient: Patient) -> Finding:
    identity = patient.identity
    url = identity.api if isinstance(identity, Identity) else patient.settings.api_url
    if url is None:
        return Finding("api.reachable", Status.SKIPPED, "no API is known", "Give HSM_ENROLL_API_URL.")
    try:
        version = EnrollmentClient(url, ca_file=patient.settings.ca_file).health()
    except HsmEnrollError as error:
        return Finding("api.reachable", Status.FAILED, error.message, error.hint)
    return Finding("api.reachable", Status.OK, f"{url} answers, version {version}")


def _mqtt(patient: Patient) -> Finding:
    name, settings = "mqtt.reachable", patient.settings
    identity = patient.identity if isinstance(patient.identity, Identity) else None
    host = settings.mqtt_endpoint or (identity.mqtt_endpoint if identity else None)
    port = settings.mqtt_port or (identity.mqtt_port if identity else None)
    if host is None or port is None:
        return Finding(name, Status.SKIPPED, "no broker is known before the device is enrolled")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except (socket.gaierror, UnicodeError):
        return Finding(name, Status.FAILED, f"the name {host} cannot be resolved", "Check the network's DNS.")
    except OSError as error:
        hint = f"Does this network let port {port} out?"
        return Finding(name, Status.FAILED, f"{host}:{port} does not accept connections: {error.strerror}", hint)
    return Finding(name, Status.OK, f"{host}:{port} accepts connections")


_OFFLINE: tuple[Check, ...] = (
    _clock,
    _state_folder,
    _token,
    _pin_tries,
    _pin_source,
    _identity,
    _certificate_dates,
    _key,
    _key_origin,
)
_ONLINE: tuple[Check, ...] = (_api, _mqtt)
