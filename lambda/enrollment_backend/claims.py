"""What to do about a request to enroll, given what the ledger holds. Pure: values in, a verdict or an error out.

A *claim* is a Thing's entry in the ledger. It is written before the first call to AWS IoT, and binds the Thing to one
key and to the invite that was used. The request that works on a claim holds its *lease*: a random name, and a time
after which that request must be dead.

A key belongs to one Thing. The exception is a *shareable* key: the client of the original article creates a new Thing
in each run, always with the same CSR. So a key that an open deployment bound through that client's route may belong to
several Things.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hmac import compare_digest

from enrollment_backend import admission
from enrollment_backend.errors import (
    AttestationRequiredError,
    EnrollmentQueuedError,
    InviteInvalidError,
    KeyEnrolledError,
    ThingEnrolledError,
    ThingRevokedError,
)
from enrollment_backend.invites import Invite


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
    """A Thing's entry in the ledger. Times are in seconds since the epoch.

    Attributes:
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
        revoked_at: when the operator revoked the Thing, in seconds since the epoch; None if it is not revoked.
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
    adopted: bool = False
    reclaimed: bool = False
    shareable_key: bool = False
    attached: bool = False


@dataclass(frozen=True)
class Entries:
    """What the ledger holds about an applicant's invite, Thing and key.

    Attributes:
        invite: the invite with the code; None if there is none.
        claim: the Thing's claim; None if there is none.
        key_thing: the Thing that the key is, or was, bound to; the first one, if there are several.
        key_shareable: whether the key may be bound to other Things too.
    """

    invite: Invite | None
    claim: Claim | None
    key_thing: str | None
    key_shareable: bool = False


class Verdict(Enum):
    """What to do next for an applicant who is not refused."""

    CLAIM = "bind the Thing to the key, and use the invite"
    SHARE = "bind the Thing to a key that another Thing has too"
    RECLAIM = "bind a revoked Thing to a new key, with an invite created since then"
    REBIND = "replace the claim's invite by this one, for the same Thing and key"
    TAKE_OVER = "continue an enrollment whose request died"
    WAIT = "wait for another request that is working on the claim"
    ANSWER = "return the certificate in the claim"


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
        raise ThingEnrolledError
    if not _same_invite(claim, applicant):
        return Verdict.REBIND
    if claim.certificate is not None:
        return Verdict.ANSWER
    return _take_over(claim, now)


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
    invite, claim = entries.invite, entries.claim
    reason = "unknown" if invite is None else invite.invalid_reason(applicant.code_sha256, applicant.thing, now)
    # A device that repeats its request may use the same invite, even if it has expired and left the ledger.
    bound = claim is not None and _same_key(claim, applicant) and _same_invite(claim, applicant)
    if reason is not None and not (bound and reason != "revoked"):
        raise InviteInvalidError(reason=reason)
    if invite is not None and invite.ek_sha256 is not None:
        raise AttestationRequiredError


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
    if applicant.shareable_key and entries.key_shareable:
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
