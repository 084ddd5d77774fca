"""Checks of this machine's clock, the state folder and its contents."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta

from hsm_enroll import softhsm
from hsm_enroll.device.clock import is_plausible
from hsm_enroll.device.pending import pending
from hsm_enroll.doctor.patient import Finding, Patient, Status
from hsm_enroll.errors import HsmEnrollError, NotEnrolledError
from hsm_enroll.iot.device_topics import DeviceTopics
from hsm_enroll.token.reports import NO_USER_PIN_HINT


def clock(_: Patient) -> Finding:
    """Whether the clock's time is plausible.

    See ``clock-wrong``; ``online.clock`` compares the clock with the API's.
    """
    now = datetime.now(UTC)
    if is_plausible(now):
        return Finding("clock", Status.OK, f"the clock says {now:%Y-%m-%d %H:%M} UTC")
    return Finding("clock", Status.FAILED, f"the clock is wrong: it says {now:%Y-%m-%d}", "Set it, or start NTP.")


def state_folder(patient: Patient) -> Finding:
    """Whether the state folder is private to this user and can be written."""
    name, folder = "state.folder", patient.settings.state
    if folder.is_symlink() and not folder.exists():
        hint = "Remove the link, or create the folder that it points to."
        return Finding(name, Status.FAILED, f"{folder} is a link to a folder that does not exist", hint)
    if not folder.exists():
        parent = next(each for each in folder.absolute().parents if each.exists())
        if parent.is_dir() and not os.access(parent, os.W_OK | os.X_OK, effective_ids=True):
            hint = "Set HSM_ENROLL_HOME to a folder of this user's own."
            return Finding(name, Status.FAILED, f"{folder} cannot be created: {parent} cannot be written", hint)
        return Finding(name, Status.SKIPPED, f"{folder} does not exist yet", "hsm-enroll init creates it.")
    if not folder.is_dir():
        return Finding(name, Status.FAILED, f"{folder} is not a folder", "Name a folder in HSM_ENROLL_HOME.")
    found = folder.stat()
    if found.st_uid != os.geteuid():
        hint = "Run hsm-enroll as that user."
        return Finding(name, Status.FAILED, f"{folder} belongs to user id {found.st_uid}", hint)
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        hint = f"Make it private: chmod 700 {folder}"
        return Finding(name, Status.WARNING, f"{folder} is accessible to other users", hint)
    if not os.access(folder, os.W_OK):
        return Finding(name, Status.FAILED, f"{folder} cannot be written", "Is it mounted read-only?")
    return Finding(name, Status.OK, f"{folder} is private to its owner")


def pin_source(patient: Patient) -> Finding:
    """Whether a PIN is available without a prompt; it is not tried.

    The errors are ``pin-missing`` and ``pin-file-exposed``.
    """
    name, token = "pin.source", patient.token
    if isinstance(token, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no token to check")
    if not token.login_required:
        return Finding(name, Status.OK, "the token requires no PIN")
    if token.protected_authentication_path:
        return Finding(name, Status.OK, "the PIN is entered at the token itself")
    if token.name.manufacturer == softhsm.MANUFACTURER and not token.has_user_pin:
        message = f"token {token.name.label!r} has no user PIN yet, so no command can log in"
        return Finding(name, Status.FAILED, message, NO_USER_PIN_HINT)
    found = patient.pin
    if not isinstance(found, HsmEnrollError):
        return Finding(name, Status.OK, f"{found.origin.text} is used; this check does not try it")
    if not patient.commands_prompt:
        return Finding(name, Status.FAILED, found.message, found.hint)
    encrypted = patient.machine.encrypted_pin
    if patient.service is not None and patient.service.enabled and os.path.lexists(encrypted):
        how = f"sudo systemd-run --pipe --wait --property=LoadCredentialEncrypted={encrypted.name} hsm-enroll …"
        message = f"the services use the PIN in {encrypted}; other commands prompt for it, or are run with it: {how}"
        return Finding(name, Status.OK, message)
    message = f"{found.message}; commands prompt for it on a terminal, and without one exit with {found.exit_status}"
    return Finding(name, Status.WARNING, message, found.hint)


def identity(patient: Patient) -> Finding:
    """Whether the device is enrolled; the message names its Thing and the topics that the built-in policy allows it.

    The errors are ``state-corrupt``, ``state-unusable`` and ``state-too-new``. It also says what is not finished: an
    enrollment, a renewal or a retirement.
    """
    name, found = "identity", patient.identity
    if isinstance(found, HsmEnrollError) and not isinstance(found, NotEnrolledError):
        return Finding(name, Status.FAILED, found.message, found.hint)
    try:
        unfinished = pending(patient.settings.state, None if isinstance(found, HsmEnrollError) else found)
    except HsmEnrollError as error:
        return Finding(name, Status.FAILED, error.message, error.hint)
    if isinstance(found, HsmEnrollError):
        message = found.message if unfinished is None else f"not enrolled: {unfinished.message}"
        return Finding(name, Status.WARNING, message, found.hint if unfinished is None else unfinished.advice)
    topics = DeviceTopics.of(found.thing_name)
    message = f"enrolled as {found.thing_name}; its topics: {topics.own}, {topics.hello}"
    if unfinished is not None:
        return Finding(name, Status.WARNING, f"{message}; {unfinished.message}", unfinished.advice)
    return Finding(name, Status.OK, message)


def certificate_dates(patient: Patient) -> Finding:
    """Whether the certificate is valid now and for another 30 days; skipped if the clock is wrong."""
    name, found, now = "certificate.dates", patient.identity, datetime.now(UTC)
    if isinstance(found, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no certificate")
    if not is_plausible(now):
        return Finding(name, Status.SKIPPED, "cannot tell while the clock is wrong: see clock")
    certificate = found.certificate
    if certificate.not_valid_before > now:
        return Finding(name, Status.FAILED, "the certificate is not valid yet", "Check the clock.")
    if certificate.not_valid_after <= now:
        hint = "Check the clock. If it is right, run: hsm-enroll init INVITE"
        return Finding(name, Status.FAILED, f"the certificate expired on {certificate.not_valid_after:%Y-%m-%d}", hint)
    if certificate.not_valid_after - now < timedelta(days=30):
        hint = "Run: hsm-enroll renew"
        return Finding(name, Status.WARNING, f"the certificate expires on {certificate.not_valid_after:%Y-%m-%d}", hint)
    return Finding(name, Status.OK, f"the certificate is valid until {certificate.not_valid_after:%Y-%m-%d}")
