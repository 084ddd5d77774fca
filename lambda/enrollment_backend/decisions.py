"""What to do about a request to enroll or to renew, given what the ledger holds. Pure: values in, a verdict or an error
out. The values are those of `claims`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hmac import compare_digest

from enrollment_backend import admission
from enrollment_backend.attestation.errors import EkMismatchError, EkUnknownError, TpmEnrolledError
from enrollment_backend.claims import Applicant, Attestation, BoundTpm, Claim
from enrollment_backend.errors import (
    AttestationRequiredError,
    EnrollmentQueuedError,
    InviteInvalidError,
    KeyEnrolledError,
    KeyNotCurrentError,
    KeyReusedError,
    RenewalInProgressError,
    RenewalsLimitedError,
    ThingEnrolledError,
    ThingRevokedError,
)
from enrollment_backend.invites import Invite


@dataclass(frozen=True)
class Entries:
    """What the ledger holds about an applicant's invite, Thing and key.

    Attributes:
        invite: the invite with the code; None if there is none.
        claim: the Thing's claim; None if there is none.
        key_thing: the Thing that the key is, or was, bound to; the first one, if there are several.
        key_shareable: whether the key may be bound to other Things too.
        key_shared: whether several Things have, or had, the key.
        key_superseded: whether the Thing had the key, and has another one since.
        renewal: the Thing's renewal; None if there is none.
        tpm: what there is about the TPM that the applicant's key is in; None if there is nothing, or no such TPM.
    """

    invite: Invite | None
    claim: Claim | None
    key_thing: str | None
    key_shareable: bool = False
    key_shared: bool = False
    key_superseded: bool = False
    renewal: Claim | None = None
    tpm: BoundTpm | None = None


class Verdict(Enum):
    """What to do next for an applicant who is not refused."""

    CLAIM = "bind the Thing to the key, and use the invite"
    SHARE = "bind the Thing to a key that another Thing has too"
    RECLAIM = "bind a Thing that is revoked, or was never enrolled, to a new key; a renewal of it is undone"
    ATTEST = "record in the claim that its key is in a TPM"
    REBIND = "replace the claim's invite by this one, for the same Thing and key"
    TAKE_OVER = "continue an enrollment whose request died"
    WAIT = "wait for another request that is working on the claim"
    ANSWER = "return the certificate in the claim"
    RENEW = "claim a renewal: bind the Thing's next key to it; a renewal that is in the way is undone"
    TAKE_OVER_RENEWAL = "continue a renewal whose request died"
    ANSWER_RENEWAL = "return the certificate in the renewal"


def decide(applicant: Applicant, entries: Entries, now: float) -> Verdict:
    """Decide what to do about a request to enroll.

    Args:
        applicant: the request.
        entries: what the ledger holds about it.
        now: the time, in seconds since the epoch.

    Raises:
        InviteInvalidError: the code is not valid, or not valid for this Thing.
        AttestationRequiredError: the invite requires proof that the key is in a TPM.
        EkMismatchError: the key is in another TPM than the invite, or the Thing's claim, is for.
        EkUnknownError: the TPM stood for a Thing that the ledger has no more.
        TpmEnrolledError: the TPM is another Thing's.
        ThingRevokedError, ThingEnrolledError, KeyEnrolledError: the request contradicts the ledger. Only a caller with
            a valid invite, or of an open deployment, gets to see these.
        RenewalInProgressError: the Thing's TPM asks for a new key, and the operator is having that TPM replaced.
        EnrollmentQueuedError: it is not yet the device's turn.
    """
    claim = entries.claim
    same_key = _same_key(claim, applicant)
    check_invite(applicant, entries, now)
    check_invited_tpm(applicant, entries.invite)
    if not same_key and _belongs_to_another_thing(applicant, entries):
        raise KeyEnrolledError
    _check_tpm(applicant, entries)
    if claim is None:
        return _decide_first(applicant, entries)
    if claim.revoked_at is not None:
        # An older invite may be in the hands of the very person because of whom the Thing was revoked.
        if same_key or entries.key_thing is not None or not _allowed_since(applicant, entries, claim.revoked_at):
            raise ThingRevokedError
        return Verdict.RECLAIM
    return _decide_repeated(applicant, claim, now) if same_key else _decide_replacement(applicant, entries, now)


def decide_renewal(applicant: Applicant, entries: Entries, now: float) -> Verdict:
    """Decide what to do about a device's request to renew, which its current key has signed.

    Args:
        applicant: the request, with the Thing's next key and without a code.
        entries: what the ledger holds about it; the Thing has a claim.
        now: the time, in seconds since the epoch.

    Raises:
        AttestationRequiredError, EkMismatchError: the Thing's key is in a TPM, and the next one is not proven to be.
        TpmEnrolledError: the next key's TPM is another Thing's.
        KeyReusedError, KeyEnrolledError: the next key is one that this Thing, or another one, has or had.
        RenewalInProgressError: another key's renewal of this Thing is pending, and it was not asked for by EST.
        RenewalsLimitedError: there were too many; the one that the Thing has is gone on with, however many there were.
        EnrollmentQueuedError: it is not yet the device's turn.
    """
    _check_same_tpm(applicant, entries.claim)
    if _same_key(entries.claim, applicant):
        raise KeyReusedError
    _check_tpm(applicant, entries)
    if entries.key_thing is not None and (entries.key_thing != applicant.thing or entries.key_shareable):
        raise KeyEnrolledError
    if entries.key_superseded:
        raise KeyReusedError
    verdict = _decide_pending(applicant, entries, now)
    if verdict is Verdict.RENEW and entries.claim is not None and not _same_key(entries.renewal, applicant):
        _check_frequency(entries.claim, now)
    return verdict


def check_current(claim: Claim, spki_sha256: str) -> None:
    """Check that a key is the one that a Thing has now.

    Raises:
        KeyNotCurrentError: the Thing has another one.
        ThingRevokedError: the Thing is revoked, or was retired.
    """
    if not compare_digest(claim.spki_sha256, spki_sha256):
        raise KeyNotCurrentError
    if claim.revoked_at is not None:
        raise ThingRevokedError


def check_invite(applicant: Applicant, entries: Entries, now: float) -> None:
    """Check the applicant's code, if there is one; the key's entry plays no part in it.

    Args:
        applicant: the request.
        entries: what the ledger holds about it.
        now: the time, in seconds since the epoch.

    Raises:
        InviteInvalidError: see `decide`.
    """
    if applicant.code_sha256 is None:
        return
    invite = entries.invite
    reason = "unknown" if invite is None else invite.invalid_reason(applicant.code_sha256, applicant.thing, now)
    # A device that repeats its request may use the same invite, even if it has expired and left the ledger.
    bound = any(
        claim is not None and _same_key(claim, applicant) and _same_invite(claim, applicant)
        for claim in (entries.claim, entries.renewal)
    )
    if reason is not None and not (bound and reason != "revoked"):
        raise InviteInvalidError(reason=reason)


def check_invited_tpm(applicant: Applicant, invite: Invite | None) -> None:
    """Check what an invite, if there is one, says about the TPM that the applicant's key has to be in.

    Raises:
        AttestationRequiredError, EkMismatchError: see `decide`.
    """
    if applicant.code_sha256 is None or invite is None or not invite.requires_tpm:
        return
    if applicant.attestation is None:
        raise AttestationRequiredError
    if invite.ek_sha256 not in {None, *applicant.attestation.fingerprints}:
        raise EkMismatchError


def _check_same_tpm(applicant: Applicant, claim: Claim | None) -> None:
    """Check that the next key of a Thing with a key in a TPM is in the same TPM."""
    if claim is None or claim.attestation is None:
        return
    if applicant.attestation is None:
        raise AttestationRequiredError
    _check_own_tpm(applicant.attestation, claim)


def _check_tpm(applicant: Applicant, entries: Entries) -> None:
    """Check that the TPM is not another Thing's; the operator may allow that, by an invite or a later list."""
    tpm = entries.tpm
    if applicant.attestation is None or tpm is None or tpm.thing == applicant.thing or not tpm.in_use:
        return
    if entries.claim is not None and entries.claim.is_in(applicant.attestation.ek_sha256):
        return  # it was allowed before
    is_allowed = entries.invite is not None and entries.invite.reuse_tpm
    if not is_allowed and (applicant.listed is None or applicant.listed < tpm.since):
        raise TpmEnrolledError


def _decide_first(applicant: Applicant, entries: Entries) -> Verdict:
    """Decide about a Thing without a claim."""
    if applicant.by_chip and applicant.listed is None:
        raise EkUnknownError
    return Verdict.CLAIM if entries.key_thing is None else Verdict.SHARE


def _check_own_tpm(tpm: Attestation, claim: Claim) -> None:
    if claim.attestation is not None and claim.attestation.ek_sha256 != tpm.ek_sha256:
        raise EkMismatchError


def _decide_repeated(applicant: Applicant, claim: Claim, now: float) -> Verdict:
    """Decide about a request with the Thing's own key."""
    if applicant.attestation is not None:
        _check_own_tpm(applicant.attestation, claim)
    if not _same_invite(claim, applicant):
        return Verdict.REBIND
    if applicant.attestation is not None and claim.attestation is None:
        return Verdict.ATTEST
    return Verdict.ANSWER if claim.certificate is not None else _take_over(claim, now)


def _decide_replacement(applicant: Applicant, entries: Entries, now: float) -> Verdict:
    """Decide about a request with another key than the Thing's.

    An invite may replace the key, see `fleet replace`; and a TPM that has lost its key, the one it had.
    """
    claim, renewal = entries.claim, entries.renewal
    is_own = renewal is not None and _same_key(renewal, applicant) and _same_invite(renewal, applicant)
    if renewal is not None and renewal.replaces_key and is_own:
        return _take_over_renewal(renewal, now)
    replaces_key = entries.invite is not None and entries.invite.replaces_key
    if not replaces_key and not _is_same_device(applicant, claim):
        raise ThingEnrolledError
    if not replaces_key and renewal is not None and _is_of_other_hardware(renewal, applicant, now):
        raise RenewalInProgressError(reason="replacement")
    if entries.key_superseded:
        raise KeyReusedError
    if entries.key_shareable:
        raise KeyEnrolledError
    if claim is not None and claim.certificate is None:  # a renewal would create no Thing
        return Verdict.WAIT if claim.lease_ends > now else Verdict.RECLAIM
    return Verdict.WAIT if renewal is not None and _is_under_work(renewal, now) else Verdict.RENEW


def _is_under_work(renewal: Claim, now: float) -> bool:
    return renewal.certificate is None and renewal.lease_ends > now


def _is_of_other_hardware(renewal: Claim, applicant: Applicant, now: float) -> bool:
    """Whether the operator has the Thing's key replaced by one that is not in the applicant's TPM.

    That may be stolen; so it must not undo the renewal.
    """
    tpm = applicant.attestation
    is_in_it = tpm is not None and renewal.is_in(tpm.ek_sha256)
    return renewal.replaces_key and not is_in_it and not renewal.is_overdue(now)


def _check_frequency(claim: Claim, now: float) -> None:
    if seconds := admission.seconds_to_next_renewal(claim.renewals_until, now):
        raise RenewalsLimitedError(seconds)


def _decide_pending(applicant: Applicant, entries: Entries, now: float) -> Verdict:
    """Decide about a renewal by the Thing's own key, given the renewal that the Thing has, if any."""
    claim, renewal = entries.claim, entries.renewal
    if renewal is None or renewal.is_overdue(now):
        return Verdict.RENEW
    if claim is not None and renewal.leaves_tpm_of(claim):  # it can never be committed
        return Verdict.RENEW
    if renewal.replaces_key:
        raise RenewalInProgressError(reason="replacement")
    if not _same_key(renewal, applicant):
        if renewal.by_est:  # whose response got lost: the device still has the key that it had before
            return Verdict.WAIT if _is_under_work(renewal, now) else Verdict.RENEW
        raise RenewalInProgressError(reason="renewal")
    if applicant.attestation is not None and renewal.attestation is None:  # now it comes with evidence
        return Verdict.WAIT if _is_under_work(renewal, now) else Verdict.RENEW
    if renewal.certificate is not None:
        return Verdict.ANSWER_RENEWAL
    return _take_over_renewal(renewal, now)


def _take_over_renewal(renewal: Claim, now: float) -> Verdict:
    return Verdict.TAKE_OVER_RENEWAL if _take_over(renewal, now) is Verdict.TAKE_OVER else Verdict.WAIT


def _take_over(claim: Claim, now: float) -> Verdict:
    """Decide whether a claim without a certificate may be taken over."""
    if claim.lease_ends > now:
        return Verdict.WAIT
    if claim.turn is not None and (seconds := admission.seconds_to_wait(claim.turn, now)):
        raise EnrollmentQueuedError(seconds)
    return Verdict.TAKE_OVER


def _belongs_to_another_thing(applicant: Applicant, entries: Entries) -> bool:
    """Whether the key belongs to another Thing and may not be shared; the applicant's Thing must not have it."""
    if entries.key_thing is None:
        return False
    # The key must be marked as well: anyone can send a device's CSR again, and could otherwise turn a key that was
    # bound with an invite, or through /v1, into a shared one.
    # And a key whose one Thing has replaced it is out of use for good.
    is_in_use = entries.key_shared or not entries.key_superseded
    if applicant.shareable_key and entries.key_shareable and is_in_use:
        return False
    # If the Thing's claim was undone, the key now belongs to the Things that shared it.
    return entries.key_thing != applicant.thing or entries.claim is None


def _same_key(claim: Claim | None, applicant: Applicant) -> bool:
    return claim is not None and compare_digest(claim.spki_sha256, applicant.spki_sha256)


def _same_invite(claim: Claim, applicant: Applicant) -> bool:
    """Whether the claim was made with the applicant's code; true without a code, as in an open deployment."""
    if applicant.code_sha256 is None:
        return True
    return claim.code_sha256 is not None and compare_digest(claim.code_sha256, applicant.code_sha256)


def _is_same_device(applicant: Applicant, claim: Claim | None) -> bool:
    """Whether the Thing's own TPM asks for the Thing, and is not merely one that anybody may use to enroll."""
    if claim is None or applicant.attestation is None or not claim.is_in(applicant.attestation.ek_sha256):
        return False
    return applicant.by_chip or applicant.code_sha256 is not None


def _allowed_since(applicant: Applicant, entries: Entries, moment: int) -> bool:
    """Whether the operator has allowed a Thing since a moment, by an invite or by listing the TPM."""
    if applicant.listed is not None and applicant.listed >= moment:
        return True
    return entries.invite is not None and entries.invite.created >= moment
