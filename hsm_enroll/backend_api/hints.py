"""What a technician can do about a refusal of the API; pure."""

from __future__ import annotations

from hsm_enroll.backend_api.answer import RENEWALS_LIMITED, Problem

# By the API's problem code; for any other, the operator has to be asked.
_HINTS = {
    "invite-required": "Give the invite: hsm-enroll init INVITE. If you have none, ask the operator for one.",
    "invite-invalid": "Ask the operator for a new invite: this one is used, has expired, or is for another Thing.",
    "attestation-required": (
        "The key has to be in a TPM 2.0, in a token of tpm2-pkcs11, and hsm-enroll needs its extra tpm: hsm-enroll tpm "
        "info says which of them is missing, and hsm-enroll tokens which token is one of tpm2-pkcs11."
    ),
    "thing-enrolled": (
        "If this device is to take that Thing's place, ask the operator to run hsm-enroll fleet replace THING; then "
        "run the same command again with the invite that it prints."
    ),
    "key-enrolled": (
        "Give the name of the Thing that this key was enrolled for, or make a new key: "
        "hsm-enroll init --new-key INVITE."
    ),
    "thing-revoked": (
        "Ask the operator for a new invite, then run: hsm-enroll init --new-key INVITE. If the operator listed this "
        "device's TPM, listing it anew does too (hsm-enroll fleet forget-ek, then import-ek)."
    ),
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
    RENEWALS_LIMITED: (
        "This device goes on with the key that it has. Run hsm-enroll renew again after that time: it resumes. If "
        "nothing here renews over and over, somebody else may have its key: tell the operator."
    ),
    "proof-invalid": (
        "Check that it is the right API. If it is, ask the operator for an invite (hsm-enroll fleet replace THING, if "
        "this device was enrolled here before), then run: hsm-enroll init --new-key INVITE."
    ),
}

_LIST_TPM = (
    "Send the operator what hsm-enroll tpm info --json prints: with it, hsm-enroll fleet import-ek lists this TPM."
)
_SUSPECT = "Run the same command again. If it is refused again, tell the operator: what this TPM says does not add up."
_AGAIN = "Run the same command again: it starts a new attestation."
_OTHER_KEY = "Make a new key, in the token of this device's TPM: hsm-enroll init --new-key INVITE"
_OTHER_AK = "Remove the setting tpm_ak, or name a restricted signing key of this TPM with it."
_VENDOR = (
    "Send the operator what hsm-enroll tpm info --json prints. They can trust the TPM's vendor (hsm-enroll fleet ek-ca "
    "add), or name this TPM in an invite (hsm-enroll invite create --ek-sha256) or in their list (hsm-enroll fleet "
    "import-ek)."
)
_HINTS |= {
    "attestation-expired": _AGAIN,
    "attestation-unknown": _AGAIN,
    "attestation-used": _AGAIN,
    "attestation-other-thing": _AGAIN,
    "attestation-secret-wrong": _SUSPECT,
    "attestation-signature-wrong": _SUSPECT,
    "attestation-statement-wrong": _SUSPECT,
    "attestation-other-request": _SUSPECT,
    "attestation-other-object": _SUSPECT,
    "attestation-other-key": _SUSPECT,
    "attestation-malformed": _SUSPECT,
    "attestation-algorithm": _OTHER_AK,
    "ak-not-restricted": _OTHER_AK,
    "ak-unsuitable": _OTHER_AK,
    "key-duplicable": _OTHER_KEY,
    "key-imported": _OTHER_KEY,
    "key-restricted": _OTHER_KEY,
    "ek-unknown": f"{_LIST_TPM} Or ask for an invite: hsm-enroll init INVITE. An open API only needs --thing NAME.",
    "ek-untrusted": _VENDOR,
    "ek-expired": _VENDOR,
    "ek-unsuitable": _VENDOR,
    "ek-key-mismatch": _VENDOR,
    "ek-certificate-malformed": _VENDOR,
    "ek-mismatch": (
        "Check the invite, and the Thing's name. If this board was replaced, ask the operator to run hsm-enroll fleet "
        "replace THING; hsm-enroll tpm info shows which TPM this is."
    ),
    "tpm-enrolled": (
        "Check the Thing's name. If this TPM is to become another Thing, ask the operator to revoke the one that it "
        "is, or for an invite that may use it again (hsm-enroll invite create --reuse-tpm)."
    ),
}


def hint(status: int, problem: Problem | None) -> str | None:
    """Return the hint for a refusal, as ``answer.refusal`` takes it; None is the hint of the error's class."""
    if problem is None:
        return None
    if problem.code in _HINTS or not problem.request_id:
        return _HINTS.get(problem.code)
    first = "Run the same command again: it resumes. If that does not help, ask" if status >= 500 else "Ask"
    return f"{first} the operator of the backend, and tell them the request id: {problem.request_id}"
