"""What a request to enroll means, given what the ledger holds. Values in, a verdict or a refusal out; no AWS.

A *claim* is a Thing's entry in the ledger. It is written before AWS IoT is asked for anything, and binds the Thing to
one key and to the invite that paid for it. Whoever works on it holds its *lease*: a name, and the time after which
whoever took it must be dead.

A key is one Thing's. The exception is a *shareable* key: the original article's client makes a new Thing at each run,
with one and the same CSR. Where an open deployment bound a key by that client's route, several Things may have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hmac import compare_digest

from enrollment_backend.errors import (
    AttestationRequiredError,
    InviteInvalidError,
    KeyEnrolledError,
    ThingEnrolledError,
    ThingRevokedError,
)
from enrollment_backend.invites import Invite


@dataclass(frozen=True)
class Certificate:
    """A certificate of AWS IoT.

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
    """Who asks, for what.

    Attributes:
        thing: a checked Thing's name.
        spki_sha256: SHA-256 of the key's DER SubjectPublicKeyInfo, in hexadecimal.
        code_sha256: hash of the enrollment code; None where none was given, which only an open deployment passes on.
        shareable_key: whether the key may be another Thing's too: asked by the article's route, and without a code.
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
        claim_id: a random name that the Thing bears as an attribute in AWS IoT, so that it is known as this ledger's.
        spki_sha256: the one key it is bound to.
        code_sha256: the invite's; None in an open deployment.
        lease: changes with everyone who takes the claim over.
        lease_ends: from when on it may be taken over.
        claimed: when the key was bound.
        certificate: what AWS IoT issued, once that is known.
        enrolled: when it was.
        revoked: when the operator revoked the Thing.
        adopted: whether the Thing existed before this ledger knew it, and an invite said that this is in order.
        reclaimed: whether the Thing had another key before, which was revoked.
        shareable_key: whether other Things may have the key as well.
    """

    thing: str
    claim_id: str
    spki_sha256: str
    code_sha256: str | None
    lease: str
    lease_ends: int
    claimed: int
    certificate: Certificate | None = None
    enrolled: int | None = None
    revoked: int | None = None
    adopted: bool = False
    reclaimed: bool = False
    shareable_key: bool = False

    @property
    def status(self) -> str:
        """``claimed``, ``issued`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "claimed" if self.certificate is None else "issued"


@dataclass(frozen=True)
class Entries:
    """What the ledger holds about an applicant.

    Attributes:
        invite: of the code.
        claim: of the Thing.
        key_thing: the Thing that the key is, or was, bound to; of several, the first.
        key_shareable: whether the key may be bound to further Things.
    """

    invite: Invite | None
    claim: Claim | None
    key_thing: str | None
    key_shareable: bool = False


class Verdict(Enum):
    """What to do next for an applicant who is not refused."""

    CLAIM = "bind the Thing to the key, and use the invite"
    SHARE = "bind the Thing to a key that is another Thing's as well"
    RECLAIM = "the same, for a Thing that was revoked before the invite was made"
    REBIND = "use this invite in the place of the one before, for the same Thing and key"
    TAKE_OVER = "go on where somebody stopped"
    WAIT = "somebody is at work"
    ANSWER = "the certificate is there"


def decide(applicant: Applicant, entries: Entries, now: float) -> Verdict:
    """Decide on a request to enroll.

    Raises:
        InviteInvalidError: the code is not valid, or not for this.
        AttestationRequiredError: the invite is for one TPM.
        ThingRevokedError, ThingEnrolledError, KeyEnrolledError: the ledger says no. Only who has a valid invite, or
            stands before an open deployment, ever learns that.
    """
    claim = entries.claim
    same_key = claim is not None and compare_digest(claim.spki_sha256, applicant.spki_sha256)
    bound = claim is not None and same_key and _same_invite(claim, applicant)
    _check_invite(applicant, entries.invite, now, bound=bound)
    if not same_key and _is_anothers_key(applicant, entries):
        raise KeyEnrolledError
    if claim is None:
        return Verdict.CLAIM if entries.key_thing is None else Verdict.SHARE
    if claim.revoked is not None:
        # An invite of before could be in the hands of whoever the Thing was revoked for.
        if same_key or entries.key_thing is not None or not _made_since(entries.invite, claim.revoked):
            raise ThingRevokedError
        return Verdict.RECLAIM
    if not same_key:
        raise ThingEnrolledError
    if not bound:
        return Verdict.REBIND
    if claim.certificate is not None:
        return Verdict.ANSWER
    return Verdict.WAIT if claim.lease_ends > now else Verdict.TAKE_OVER


def _is_anothers_key(applicant: Applicant, entries: Entries) -> bool:
    """Whether the key is another Thing's, and not to be shared; for an applicant whose Thing does not have it."""
    if entries.key_thing is None:
        return False
    # The key has to allow it too: anybody can send a device's CSR again, and would make a key that was bound by an
    # invite, or by /v1, a shared one.
    if applicant.shareable_key and entries.key_shareable:
        return False
    # A Thing whose claim was undone has left the key to those that it shared it with.
    return entries.key_thing != applicant.thing or entries.claim is None


def _same_invite(claim: Claim, applicant: Applicant) -> bool:
    """Whether the claim was made with the applicant's code; where none is given, the deployment is open to all."""
    if applicant.code_sha256 is None:
        return True
    return claim.code_sha256 is not None and compare_digest(claim.code_sha256, applicant.code_sha256)


def _check_invite(applicant: Applicant, invite: Invite | None, now: float, *, bound: bool) -> None:
    if applicant.code_sha256 is None:
        return
    fault = "unknown" if invite is None else invite.fault(applicant.code_sha256, applicant.thing, now)
    # Its own invite stays valid for a device that comes back, even when it has expired and left the ledger.
    if fault is not None and not (bound and fault != "revoked"):
        raise InviteInvalidError(reason=fault)
    if invite is not None and invite.ek_sha256 is not None:
        raise AttestationRequiredError


def _made_since(invite: Invite | None, moment: int) -> bool:
    return invite is not None and invite.created >= moment
