"""What to do about a request to enroll, given what the ledger holds. Pure: values in, a verdict or an error out.

A *claim* is a Thing's entry in the ledger. It is written before the first call to AWS IoT, and binds the Thing to one
key and to the invite that was used. The request that works on a claim holds its *lease*: a random name, and a time
after which that request must be dead.

A *renewal* is a claim too, of a second key for a Thing that has one: the device's own, which becomes the Thing's key
when the device commits it, or that of new hardware, with an invite that replaces the Thing's key as soon as the
certificate is recorded. A Thing has one renewal at a time.

A key belongs to one Thing. The exception is a *shareable* key: the client of the original article creates a new Thing
in each run, always with the same CSR. So a key that an open deployment bound through that client's route may belong to
several Things.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hmac import compare_digest
from typing import Literal

from enrollment_backend import admission
from enrollment_backend.errors import (
    AttestationRequiredError,
    EnrollmentQueuedError,
    InviteInvalidError,
    KeyEnrolledError,
    KeyNotCurrentError,
    KeyReusedError,
    RenewalInProgressError,
    ThingEnrolledError,
    ThingRevokedError,
)
from enrollment_backend.invites import Invite

RENEWAL_SECONDS = 3600  # within which a device has to commit its renewal, once it has the certificate


@dataclass(frozen=True)
class Certificate:
    """A certificate that AWS IoT issued.

    Attributes:
        pem: X.509 in PEM.
        certificate_id: AWS IoT's identifier, 64 hexadecimal digits.
        arn: its ARN.
    """

    pem: str
    certificate_id: str
    arn: str


@dataclass(frozen=True)
class Applicant:
    """A request to enroll, after its CSR and its names have been checked.

    Attributes:
        thing: the Thing's name.
        spki_sha256: SHA-256 of the key's DER SubjectPublicKeyInfo, in hexadecimal.
        code_sha256: hash of the invite's code; None if the request has none, as an open deployment allows.
        shareable_key: whether the key may belong to other Things too: the request came by the article's route, and
            without a code.
    """

    thing: str
    spki_sha256: str
    code_sha256: str | None
    shareable_key: bool = False


@dataclass(frozen=True)
class Claim:
    """A Thing's entry in the ledger, or that of its renewal. Times are in seconds since the epoch.

    Attributes:
        kind: which of the two it is; also the kind of its item.
        thing: the Thing's name.
        claim_id: a random name; as an attribute of the Thing in AWS IoT, it shows that the Thing was created for this
            claim.
        spki_sha256: SHA-256 of the SubjectPublicKeyInfo of the one key that the Thing is bound to, in hexadecimal.
        code_sha256: hash of the invite's code; None if no invite was used.
        lease: a random name; each request that takes the claim over sets a new one.
        lease_ends: when the claim may be taken over.
        issuing_since: since when a request may have had a certificate issued that is not recorded, and whose identifier
            is not known; 0 if it is certain that there is none.
        spare: AWS IoT's identifier of a certificate that was issued and is not recorded; None if there is none.
        turn: when the device may be issued a certificate, see `admission`; None if it need not wait.
        claimed: when the key was bound.
        certificate: the issued certificate, once it is recorded.
        enrolled: when it was recorded.
        revoked_at: when the operator revoked the Thing, or its device retired it; None if neither has happened.
        retired: whether it was the device that did.
        adopted: whether the Thing existed in AWS IoT before, and an invite allowed it to be enrolled.
        reclaimed: whether the Thing was revoked and enrolled again with another key.
        shareable_key: whether other Things may have the key too.
        attached: whether a repeated request has attached the certificate again. Further ones then need not: each would
            use up AWS IoT's quotas, which every other device needs.
    """

    thing: str
    claim_id: str
    spki_sha256: str
    code_sha256: str | None
    lease: str
    lease_ends: int
    claimed: int
    issuing_since: int = 0
    spare: str | None = None
    turn: int | None = None
    certificate: Certificate | None = None
    enrolled: int | None = None
    revoked_at: int | None = None
    retired: bool = False
    adopted: bool = False
    reclaimed: bool = False
    shareable_key: bool = False
    attached: bool = False
    kind: Literal["thing", "renewal"] = "thing"

    @property
    def key(self) -> tuple[str, str]:
        """The key of its item."""
        return self.kind, self.thing

    @property
    def replaces_key(self) -> bool:
        """Whether it is a renewal by new hardware, which needs no commit: it was claimed with an invite."""
        return self.kind == "renewal" and self.code_sha256 is not None

    def is_overdue(self, now: float) -> bool:
        """Whether it is a renewal that should have been committed or recorded by now, and whose request is dead."""
        since = self.enrolled or max(self.claimed, self.turn or 0)
        return self.kind == "renewal" and now >= since + RENEWAL_SECONDS and now >= self.lease_ends


@dataclass(frozen=True)
class Removal:
    """A certificate that the ledger has revoked for good, and that AWS IoT is to have no more.

    Attributes:
        certificate_id: AWS IoT's identifier.
        thing: the Thing that it was issued for.
        created: when it was revoked, in seconds since the epoch.
        certificate_arn: its ARN; None if it was never recorded, and so is attached to nothing.
        delete_thing_of: the claim that the Thing was created for, if the Thing is to be deleted too; otherwise None.
    """

    certificate_id: str
    thing: str
    created: int
    certificate_arn: str | None
    delete_thing_of: str | None = None


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
    """

    invite: Invite | None
    claim: Claim | None
    key_thing: str | None
    key_shareable: bool = False
    key_shared: bool = False
    key_superseded: bool = False
    renewal: Claim | None = None


class Verdict(Enum):
    """What to do next for an applicant who is not refused."""

    CLAIM = "bind the Thing to the key, and use the invite"
    SHARE = "bind the Thing to a key that another Thing has too"
    RECLAIM = "bind a Thing that is revoked, or was never enrolled, to a new key; a renewal of it is undone"
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
        AttestationRequiredError: the invite is for one TPM.
        ThingRevokedError, ThingEnrolledError, KeyEnrolledError: the request contradicts the ledger. Only a caller with
            a valid invite, or of an open deployment, gets to see these.
        EnrollmentQueuedError: it is not yet the device's turn.
    """
    claim = entries.claim
    same_key = _same_key(claim, applicant)
    check_invite(applicant, entries, now)
    if not same_key and _belongs_to_another_thing(applicant, entries):
        raise KeyEnrolledError
    if claim is None:
        return Verdict.CLAIM if entries.key_thing is None else Verdict.SHARE
    if claim.revoked_at is not None:
        # An older invite may be in the hands of the very person because of whom the Thing was revoked.
        if same_key or entries.key_thing is not None or not _created_since(entries.invite, claim.revoked_at):
            raise ThingRevokedError
        return Verdict.RECLAIM
    if not same_key:
        return _decide_replacement(applicant, entries, now)
    if not _same_invite(claim, applicant):
        return Verdict.REBIND
    if claim.certificate is not None:
        return Verdict.ANSWER
    return _take_over(claim, now)


def decide_renewal(applicant: Applicant, entries: Entries, now: float) -> Verdict:
    """Decide what to do about a device's request to renew, which its current key has signed.

    Args:
        applicant: the request, with the Thing's next key and without a code.
        entries: what the ledger holds about it; the Thing has a claim.
        now: the time, in seconds since the epoch.

    Raises:
        KeyReusedError, KeyEnrolledError: the next key is one that this Thing, or another one, has or had.
        RenewalInProgressError: another key's renewal of this Thing is pending.
        EnrollmentQueuedError: it is not yet the device's turn.
    """
    if _same_key(entries.claim, applicant):
        raise KeyReusedError
    if entries.key_thing is not None and (entries.key_thing != applicant.thing or entries.key_shareable):
        raise KeyEnrolledError
    if entries.key_superseded:
        raise KeyReusedError
    renewal = entries.renewal
    if renewal is None or renewal.is_overdue(now):
        return Verdict.RENEW
    if renewal.replaces_key:
        raise RenewalInProgressError(reason="replacement")
    if not _same_key(renewal, applicant):
        raise RenewalInProgressError(reason="renewal")
    if renewal.certificate is not None:
        return Verdict.ANSWER_RENEWAL
    return _take_over_renewal(renewal, now)


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
        InviteInvalidError, AttestationRequiredError: see `decide`.
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
    if invite is not None and invite.ek_sha256 is not None:
        raise AttestationRequiredError


def _decide_replacement(applicant: Applicant, entries: Entries, now: float) -> Verdict:
    """Decide about a request with another key than the Thing's: an invite may replace the key, see `fleet replace`."""
    claim, renewal = entries.claim, entries.renewal
    is_own = renewal is not None and _same_key(renewal, applicant) and _same_invite(renewal, applicant)
    if renewal is not None and renewal.replaces_key and is_own:
        return _take_over_renewal(renewal, now)
    if entries.invite is None or not entries.invite.replaces_key:
        raise ThingEnrolledError
    if entries.key_superseded:
        raise KeyReusedError
    if entries.key_shareable:
        raise KeyEnrolledError
    if claim is not None and claim.certificate is None:  # a renewal would create no Thing
        return Verdict.WAIT if claim.lease_ends > now else Verdict.RECLAIM
    is_under_work = renewal is not None and renewal.certificate is None and renewal.lease_ends > now
    return Verdict.WAIT if is_under_work else Verdict.RENEW


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


def _created_since(invite: Invite | None, moment: int) -> bool:
    return invite is not None and invite.created >= moment
