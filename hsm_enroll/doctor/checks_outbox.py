"""Checks of the outbox, and of the forwarder that empties it."""

from __future__ import annotations

from hsm_enroll.device.outbox import what_waits, what_was_lost
from hsm_enroll.doctor.patient import Finding, Patient, Status
from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.service.systemd import UnitState

_NEARLY_FULL = 0.8


def outbox(patient: Patient) -> Finding:
    """Whether the outbox can be used and has room, and whether messages were lost.

    The error of an outbox that cannot be used is mostly ``state-unusable``.
    """
    name, found = "outbox", patient.outbox
    if isinstance(found, HsmEnrollError):
        return Finding(name, Status.FAILED, found.message, found.hint)
    if found.damaged_files:
        message = f"the outbox was damaged, and messages may be lost: {found.damaged_files[-1]} is what is left"
        return Finding(name, Status.WARNING, message, "Check the disk. Move the file away when you do not need it.")
    lost = what_was_lost(found)
    message = f"{what_waits(found)}{f'; {lost}' if lost else ''}"
    share = found.bytes / patient.settings.outbox_bytes
    if share > _NEARLY_FULL:
        hint = "See the check forward. HSM_ENROLL_OUTBOX_BYTES sets how much fits."
        return Finding(name, Status.WARNING, f"the outbox is {share:.0%} full: {message}", hint)
    if found.refused_bytes:
        hint = "Look: hsm-enroll outbox refused. The device's policy may not allow their topics: ask the operator."
        return Finding(name, Status.WARNING, message, hint)
    if found.messages or lost:
        return Finding(name, Status.OK, message)
    return Finding(name, Status.SKIPPED, "the outbox is empty")


def forward(patient: Patient) -> Finding:
    """Whether somebody sends what is in the outbox."""
    name, found, held = "forward", patient.forwarder, patient.outbox
    if isinstance(found, HsmEnrollError):
        return Finding(name, Status.FAILED, found.message, found.hint)
    message = f"hsm-enroll forward is {found.text}"
    if found.is_running and not found.is_responding:
        return Finding(name, Status.WARNING, message, "Restart it. If it happens again, check the disk and the token.")
    if found.is_running and found.report.connected_since is None:
        error = found.report.last_error
        why = f": {error.message}" if error else ""
        return Finding(name, Status.WARNING, f"{message}{why}", "Run: hsm-enroll doctor --online --login")
    if found.is_running:
        return Finding(name, Status.OK, message)
    service = patient.service
    if service is not None and service.enabled and service.failure:  # also if nothing waits: soon something will
        return _failed(service, name)
    if isinstance(held, HsmEnrollError) or not held.messages:
        return Finding(name, Status.SKIPPED, message)
    hint = (
        "Start it (hsm-enroll forward), or have systemd run it: sudo hsm-enroll service install. If that is done, run: "
        "hsm-enroll service status"
    )
    return Finding(name, Status.WARNING, f"{what_waits(held)}, and {message}", hint)


def _failed(service: UnitState, name: str) -> Finding:
    message, log = f"{service.unit} has failed: {service.failure}", f"Its log: journalctl --unit {service.unit}"
    if service.state != "failed":
        return Finding(name, Status.WARNING, f"{message}; systemd starts it again", log)
    hint = f"{log}. Once that is corrected: sudo systemctl restart {service.unit}"
    return Finding(name, Status.FAILED, message, hint)
