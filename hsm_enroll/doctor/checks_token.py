"""Checks of the token, its module and its key, without a login."""

from __future__ import annotations

from collections import Counter

from hsm_enroll import softhsm
from hsm_enroll.doctor import checks_tpm
from hsm_enroll.doctor.patient import Finding, Patient, Status
from hsm_enroll.errors import HsmEnrollError, KeyMissingError, PinLockedError, TokenRefusedError
from hsm_enroll.store.identity import Identity
from hsm_enroll.token import diagnosis, softhsm_access
from hsm_enroll.token.tpm2 import attestation, is_tpm2, lockout
from hsm_enroll.uri import Pkcs11Uri

# tpm2-pkcs11's changelog: 1.3.1 fixes a double free, 1.4.0 memory corruption in C_DestroyObject.
_FIXED_TPM2_PKCS11 = (1, 4)
_NOTHING_TO_CHECK = "no token to check"


def token(patient: Patient) -> Finding:
    """Whether the token is present.

    It is the identity's, or else the one that the settings select. Otherwise the error is the one that a command would
    end with, such as ``token-not-found``, ``token-ambiguous``, ``module-missing`` or ``module-unusable``.
    """
    found = patient.token
    if isinstance(found, HsmEnrollError):
        return Finding("token", Status.FAILED, found.message, found.hint)
    name = found.name
    return Finding("token", Status.OK, f"{name.label!r}, serial {name.serial}, in {name.module}")


def module(patient: Patient) -> Finding:
    """Which version the module has (PKCS#11 v2.40 §3.1, CK_INFO), and whether it has a known bug."""
    name, found = "token.module", patient.token
    if isinstance(found, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no module in use")
    try:
        described = patient.modules.describe(found.name.module)
    except HsmEnrollError as error:
        return Finding(name, Status.FAILED, error.message, error.hint)
    text = f"{described.description} {_dotted(described.version)}, Cryptoki {_dotted(described.cryptoki)}"
    if is_tpm2(found.name) and described.version < _FIXED_TPM2_PKCS11:
        message = f"{text}: tpm2-pkcs11 before {_dotted(_FIXED_TPM2_PKCS11)} may corrupt its memory"
        return Finding(name, Status.WARNING, message, "Install a newer tpm2-pkcs11.")
    return Finding(name, Status.OK, text)


def store(patient: Patient) -> Finding:
    """Whether what holds the tokens is in order: tpm2-pkcs11's store, or SoftHSM's folder."""
    tokens = patient.tokens
    if isinstance(tokens, HsmEnrollError) or tokens[0].name.manufacturer != softhsm.MANUFACTURER:
        return checks_tpm.store(patient)
    name = "token.store"
    try:
        softhsm.refuse_without_room()
    except TokenRefusedError as error:
        return Finding(name, Status.FAILED, error.message, error.hint)
    lost = diagnosis.lost(report.name for report in tokens[1])
    if lost:
        return Finding(name, Status.WARNING, "; ".join(fault.message for fault in lost), lost[0].hint)
    if (fault := softhsm_access.fault()) is not None:
        message = f"{fault.message}: a key that is there can be used, but none can be generated"
        return Finding(name, Status.WARNING, message, fault.hint)
    return Finding(name, Status.OK, "the disk has room for a login to SoftHSM, which writes to it")


def duplicates(patient: Patient) -> Finding:
    """Whether the labels that MQTT selects by are unique: the token's in its module, the keys' in the token."""
    name, tokens = "token.duplicates", patient.tokens
    if isinstance(tokens, HsmEnrollError):
        return Finding(name, Status.SKIPPED, _NOTHING_TO_CHECK)
    ours, _ = tokens
    hint = "MQTT selects by label alone: relabel all but one with the token's own tool."
    if (count := _tokens_with_our_label(patient)) > 1:
        return Finding(name, Status.FAILED, f"{count} tokens are labelled {ours.name.label!r}", hint)
    labels = Counter(Pkcs11Uri.parse(uri).object for uri in ours.public_keys)
    twice = sorted(label for label, count in labels.items() if label is not None and count > 1)
    if not twice:
        return Finding(name, Status.OK, "the labels of token and keys are unique")
    own = patient.identity.key_label if isinstance(patient.identity, Identity) else None
    label = own if own in twice else twice[0]
    status = Status.FAILED if label == own else Status.WARNING
    return Finding(name, status, f"{labels[label]} keys in the token are labelled {label!r}", hint)


def mqtt(patient: Patient) -> Finding:
    """Whether the MQTT client's library can use the token.

    It needs more than an enrollment does: docs/tokens.md says what.
    """
    name, found = "token.mqtt", patient.token
    if isinstance(found, HsmEnrollError):
        return Finding(name, Status.SKIPPED, _NOTHING_TO_CHECK)
    if _tokens_with_our_label(patient) > 1:
        return Finding(name, Status.SKIPPED, "see token.duplicates")
    if found.mqtt_obstacle:
        return Finding(name, Status.FAILED, found.mqtt_obstacle["message"], found.mqtt_obstacle["hint"])
    key_type = patient.key_type
    if key_type in set(found.key_types) - set(found.mqtt_key_types):
        hint = "Enroll with a key of another type: hsm-enroll init --new-key --key-type TYPE INVITE"
        message = f"MQTT cannot use the token's keys of type {key_type}: the token lacks {key_type.tls_mechanism}"
        return Finding(name, Status.FAILED, message, hint)
    return Finding(name, Status.OK, "MQTT can use the token")


def pin_tries(patient: Patient) -> Finding:
    """How close the token is to locking its PIN."""
    name, found = "token.pin-tries", patient.token
    if isinstance(found, HsmEnrollError):
        return Finding(name, Status.SKIPPED, _NOTHING_TO_CHECK)
    if found.pin_locked:
        return Finding(name, Status.FAILED, "the PIN is locked", PinLockedError.default_hint)
    if found.pin_final_try:
        hint = "Make sure that you have the right PIN, and log in once with the token's own tool."
        return Finding(name, Status.FAILED, "one more wrong PIN will lock the token", hint)
    if found.pin_count_low:
        return Finding(name, Status.WARNING, "a wrong PIN was tried since the last login", "Check the configured PIN.")
    tries = lockout.read(found.name)
    if tries is not None:
        pin = patient.pin
        return _tpm_tries(tries, pin_is_certain=not isinstance(pin, HsmEnrollError) and pin.origin.is_certain)
    if is_tpm2(found.name):
        hint = "Install tpm2-tools and give this user access to the TPM, so that a wrong PIN cannot lock the TPM."
        return Finding(name, Status.WARNING, "the TPM's count of failed tries cannot be read", hint)
    return Finding(name, Status.OK, "no wrong PIN since the last login")


def key(patient: Patient) -> Finding:
    """Whether the token's key is the certificate's.

    The error of a key that cannot be read is ``key-missing`` or ``key-ambiguous``, or one of the token's.
    """
    name, identity = "key.matches-certificate", patient.identity
    if isinstance(identity, HsmEnrollError) or isinstance(patient.token, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no certificate, or no token, to compare")
    try:
        shown = patient.modules.public_key(identity.token, label=identity.key_label, key_id=identity.key_id)
    except HsmEnrollError as error:
        return Finding(name, Status.FAILED, error.message, error.hint)
    if shown != bytes(identity.certificate.public_key.dump()):
        hint = KeyMissingError.default_hint
        return Finding(name, Status.FAILED, "the token's key does not match the certificate", hint)
    return Finding(name, Status.OK, "the token's key matches the certificate")


def key_origin(patient: Patient) -> Finding:
    """Whether the key was generated in its token and cannot leave it, as the token reported at enrollment."""
    name, identity = "key.origin", patient.identity
    if isinstance(identity, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no key to check")
    if not identity.key_origin.is_hardware_born:
        hint = "Run: hsm-enroll init --new-key INVITE"
        return Finding(name, Status.FAILED, "the key was not generated in its token, or can leave it", hint)
    return Finding(name, Status.OK, "the key was generated in its token and cannot leave it")


def key_attested(patient: Patient) -> Finding:
    """Whether the API has proof that the key is in a TPM, and if so, whether its renewal can bring the same."""
    name, identity = "key.attested", patient.identity
    if isinstance(identity, HsmEnrollError):
        return Finding(name, Status.SKIPPED, "no key to check")
    obstacle = attestation.is_possible(identity.token)
    if identity.attested and obstacle is not None:
        message = f"the API has proof that the key is in a TPM, but its renewal will be refused: {obstacle.message}"
        return Finding(name, Status.WARNING, message, obstacle.hint)
    if identity.attested:
        return Finding(name, Status.OK, "the API has proof that the key is in a TPM")
    if obstacle is None:
        return Finding(name, Status.OK, "the API has no proof that the key is in a TPM; it may get one by a renewal")
    hint = obstacle.hint if is_tpm2(identity.token) else ""
    return Finding(name, Status.SKIPPED, f"the key cannot be attested: {obstacle.message}", hint)


def _tokens_with_our_label(patient: Patient) -> int:
    """Return how many of the module's tokens have our token's label."""
    if isinstance(patient.tokens, HsmEnrollError):
        return 0
    ours, reports = patient.tokens
    return sum(report.name.label == ours.name.label for report in reports)


def _tpm_tries(tries: lockout.FailedTries, *, pin_is_certain: bool) -> Finding:
    name = "token.pin-tries"
    if tries.failed_tries == 0:
        return Finding(name, Status.OK, "the TPM counts no failed tries")
    count = f"the TPM counts {tries.summary}"
    if tries.locked:
        return Finding(name, Status.FAILED, f"the PIN is locked: {count}", f"{tries.recovery} {tries.next_try}")
    if tries.one_before_lockout and pin_is_certain:
        message = f"one more failed try will lock the token: {count}; the PIN is tried, since token create saved it"
        return Finding(name, Status.WARNING, message, tries.recovery)
    if tries.one_before_lockout:
        message = f"one more wrong PIN will lock the token: {count}"
        return Finding(name, Status.FAILED, message, f"{tries.recovery} {tries.next_try}")
    return Finding(name, Status.WARNING, count, f"{tries.recovery} If a PIN was wrong, check the configured PIN.")


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
