"""What a technician can do about a refusal of the API; pure."""

from __future__ import annotations

from hsm_enroll.backend_api.answer import Problem

# By the API's problem code; for any other, the operator has to be asked.
_HINTS = {
    "invite-required": "Give the invite: hsm-enroll init INVITE. If you have none, ask the operator for one.",
    "invite-invalid": "Ask the operator for a new invite: this one is used, has expired, or is for another Thing.",
    "attestation-required": (
        "This version cannot attest its key. Ask the operator for an invite that is not bound to a TPM."
    ),
    "thing-enrolled": (
        "If this device is to take that Thing's place, ask the operator to run hsm-enroll fleet replace THING; then "
        "run the same command again with the invite that it prints."
    ),
    "key-enrolled": (
        "Give the name of the Thing that this key was enrolled for, or make a new key: "
        "hsm-enroll init --new-key INVITE."
    ),
    "thing-revoked": "Ask the operator for a new invite, then run: hsm-enroll init --new-key INVITE.",
    "thing-exists": (
        "Check the Thing's name. If it is right, ask the operator for an invite that may take over an existing Thing."
    ),
    "enrollment-in-progress": "Wait a minute, then run the same command again: it resumes.",
    "key-not-current": (
        "If this device's state is from a backup, run hsm-enroll recover: the token may have the newer key. If this "
        "board was replaced, it is out of service; to use it again, ask the operator for an invite (hsm-enroll fleet "
        "replace THING), then run: hsm-enroll init --new-key INVITE. If nobody replaced it, somebody else may have "
        "used its key: tell the operator."
    ),
    "key-reused": "Run the same command again: it makes another key.",
    "renewal-in-progress": (
        "It ends within an hour; run hsm-enroll renew again after that. If this device did not begin it, somebody else "
        "may have its key: tell the operator."
    ),
    "proof-invalid": (
        "Check that it is the right API. If it is, ask the operator for an invite (hsm-enroll fleet replace THING, if "
        "this device was enrolled here before), then run: hsm-enroll init --new-key INVITE."
    ),
}


def hint(_: int, problem: Problem | None) -> str | None:
    """Return the hint for a refusal, as ``answer.refusal`` takes it; None is the hint of the error's class."""
    return _HINTS.get(problem.code) if problem else None
