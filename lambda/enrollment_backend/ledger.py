"""Who was issued what: the claims of Things, the keys, the certificates and the invites, in one DynamoDB table.

    kind         id                   says
    invite       its id               what `invites.Invite` says; leaves by TTL some time after it has expired, unless
                                      it was revoked
    thing        the Thing's name     what `claims.Claim` says
    key          SHA-256 of the SPKI  the Thing that the key is, or was, bound to; `shareable` where others may have it
                                      too, `shared` once another has had it; leaves only with a claim undone, and not
                                      where it is shared
    certificate  AWS IoT's id         the Thing and the key that it was issued for; of one that `sweep` has found, only
                                      that it is revoked; stays for good

A claim is written in one transaction with its invite's use and its key, each under a condition, before AWS IoT is asked
for anything. So a certificate that may connect always has an entry for its Thing and key.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from enrollment_backend.claims import Applicant, Certificate, Claim, Entries, Verdict, decide
from enrollment_backend.errors import ConditionFailedError, EnrollmentInProgressError
from enrollment_backend.invites import Invite, invite_id
from enrollment_backend.table import Item, Table, Write

LEASE_SECONDS = 30  # longer than Lambda lets the function run: who held a lease that has ended is dead
_LONGEST_WAIT_SECONDS = 8.0  # for another request; what it leaves must do for the rounds of one's own
_LOOK_SECONDS = 0.2

_NEW = "attribute_not_exists(#id)"
_LEASE_IS = "#lease = :lease"
_UNRECORDED = f"{_LEASE_IS} AND attribute_not_exists(#certificate_id)"
# What `Invite.fault` says, and an enrollment without proof cannot use an invite for one TPM.
_INVITE_IS_VALID = (
    "#code_sha256 = :code_sha256 AND #thing = :thing AND #uses_left > :none AND #expires > :now"
    " AND attribute_not_exists(#revoked) AND attribute_not_exists(#ek_sha256)"
)
_ONE_THINGS = "#thing = :thing AND attribute_not_exists(#shared)"
_SHAREABLE = "#shareable = :shareable"
_SHARED = "#shared = :shared"


@dataclass(frozen=True)
class Claimed:
    """The claim of whoever asked.

    Attributes:
        claim: as it now stands. Without a certificate, its lease is the caller's.
        resumed: whether an earlier request may have had a certificate issued that the ledger does not know.
    """

    claim: Claim
    resumed: bool


@dataclass(frozen=True)
class Ledger:
    """Claims.

    Args:
        table: where everything is.
        now: the time, in seconds since the epoch.
        sleep: waits for some seconds.

    Every method raises the errors of `aws.call`.
    """

    table: Table
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def claim(self, applicant: Applicant) -> Claimed:
        """Bind a Thing to a key and use the invite; or find that this has been done.

        The first try is a single call, and nothing is read: it succeeds for whoever comes for the first time with an
        invite for this one Thing.

        Raises:
            InviteInvalidError, AttestationRequiredError, ConflictError: see `claims.decide`.
            EnrollmentInProgressError: another request is at work on the same, and takes its time.
        """
        claim = self._new_claim(applicant)
        if self._bind(applicant, claim, pattern=applicant.thing):
            return Claimed(claim, resumed=False)
        deadline = self.now() + _LONGEST_WAIT_SECONDS
        while True:
            claimed = self._look(applicant, claim)
            if claimed is not None:
                return claimed
            if self.now() >= deadline:
                raise EnrollmentInProgressError
            self.sleep(_LOOK_SECONDS)
            claim = replace(claim, lease_ends=int(self.now()) + LEASE_SECONDS)

    def invite(self, code_sha256: str) -> Invite | None:
        """Return the invite whose id a code has; whether it is the code's own, `Invite.fault` says."""
        key = ("invite", invite_id(code_sha256))
        item = self.table.get([key]).get(key)
        return to_invite(item) if item is not None else None

    def record(self, claim: Claim, certificate: Certificate) -> None:
        """Enter the certificate.

        Raises:
            ConditionFailedError: somebody else has taken the claim over.
        """
        now = int(self.now())
        issued = {**_of_certificate(certificate), "enrolled": now, "adopted": claim.adopted or None}
        entry = {"thing": claim.thing, "spki_sha256": claim.spki_sha256, "enrolled": now}
        self.table.transact(
            (
                Write(("thing", claim.thing), issued, _LEASE_IS, {"lease": claim.lease}),
                Write(("certificate", certificate.certificate_id), entry, _NEW, {}, replace=True),
            )
        )

    def release(self, claim: Claim, withdraw: Callable[[], None]) -> None:
        """Give the claim up without a certificate, so that the next request need not wait for the lease to end.

        Args:
            claim: one whose lease is the caller's.
            withdraw: is called if the caller's certificate, should it have one, is of no use: the ledger does not have
                it and, what is more, will not get it by a `record` that is still on its way; or the Thing is revoked.
                Nobody takes the claim over before that has returned, or the lease has ended.
        """
        thing, mine = ("thing", claim.thing), uuid.uuid4().hex
        if not self._written(Write(thing, {"lease": mine}, _UNRECORDED, {"lease": claim.lease})):
            held = self.look_up(claim.thing)
            if held is None or held.lease != mine:  # else it was written after all: its answer was lost
                if held is None or held.revoked is not None or held.spki_sha256 != claim.spki_sha256:
                    withdraw()
                return
        withdraw()
        self._written(Write(thing, {"lease_ends": 0}, _LEASE_IS, {"lease": mine}))

    def abandon(self, claim: Claim) -> None:
        """Undo a claim that can come to nothing: the Thing is free, the key too, and the invite has its use back.

        A shared key stays the others'. Of a Thing that had another key before, the claim is only released.
        """
        key = ("key", claim.spki_sha256)
        undone = [Write(("thing", claim.thing), {}, _UNRECORDED, {"lease": claim.lease}, delete=True)]
        if claim.code_sha256 is not None:
            invite = ("invite", invite_id(claim.code_sha256))
            undone.append(Write(invite, {}, "attribute_exists(#id)", {}, add={"uses_left": 1}))
        freed = Write(key, {}, _ONE_THINGS, {"thing": claim.thing}, delete=True)
        left = Write(key, {"shared": True}, _SHARED, {"shared": True})
        if not claim.reclaimed and any(self._written(*undone, of_key) for of_key in (freed, left)):
            return
        self.release(claim, lambda: None)

    def look_up(self, thing: str) -> Claim | None:
        """Return what the ledger says about a Thing."""
        item = self.table.get([("thing", thing)]).get(("thing", thing))
        return to_claim(item) if item is not None else None

    def revoke(self, claim: Claim) -> None:
        """Enter that a Thing and its certificate are revoked; whoever works on the claim fails from then on.

        Raises:
            ConditionFailedError: the claim has changed meanwhile.
        """
        now = int(self.now())
        revoked = {"revoked": now, "lease": uuid.uuid4().hex, "lease_ends": 0}
        thing, lease = ("thing", claim.thing), {"lease": claim.lease}
        if claim.certificate is None:
            self.table.transact([Write(thing, revoked, _UNRECORDED, lease)])
            return
        certificate = ("certificate", claim.certificate.certificate_id)
        self.table.transact(
            [
                Write(thing, revoked, _LEASE_IS, lease),
                Write(certificate, {"revoked": now}, "attribute_exists(#id)", {}),
            ]
        )

    def admits_existing_thing(self, claim: Claim) -> bool:
        """Whether a Thing not made for this claim may be enrolled: it was before, or the claim's invite says so."""
        if claim.adopted or claim.code_sha256 is None:
            return claim.adopted
        invite = self.invite(claim.code_sha256)
        return invite is not None and invite.existing_thing

    def standing(self, certificate_ids: Iterable[str]) -> dict[str, bool]:
        """Return, of the certificates that the ledger knows, whether each is valid; False is revoked."""
        found = self.table.get(("certificate", certificate_id) for certificate_id in certificate_ids)
        return {certificate_id: "revoked" not in item for (_, certificate_id), item in found.items()}

    def knows_key(self, spki_sha256: str) -> bool:
        """Whether a key is, or was, bound to a Thing."""
        return bool(self.table.get([("key", spki_sha256)]))

    def outlaw(self, certificate_id: str) -> bool:
        """Enter a certificate that the ledger does not know as revoked, so that no enrollment can record it any more.

        Returns:
            Whether it is so; False if it was recorded meanwhile.
        """
        entry = {"revoked": int(self.now())}
        return self._written(Write(("certificate", certificate_id), entry, _NEW, {}, replace=True))

    def _look(self, applicant: Applicant, claim: Claim) -> Claimed | None:
        """Look at the entries and do what they call for; None if they are to be looked at again."""
        try:
            entries = self._entries(applicant)
        except ConditionFailedError:
            return None  # somebody is writing them
        if entries.claim is not None and entries.claim.lease == claim.lease:
            # Written after all: the answer was lost. Another claim's id is that of one taken over.
            return Claimed(entries.claim, resumed=entries.claim.claim_id != claim.claim_id)
        return self._follow(applicant, claim, entries)

    def _follow(self, applicant: Applicant, claim: Claim, entries: Entries) -> Claimed | None:
        """Do what the verdict says; None if the ledger is to be looked at again."""
        verdict = decide(applicant, entries, self.now())
        held = entries.claim
        pattern = entries.invite.thing if entries.invite else applicant.thing
        if verdict in {Verdict.CLAIM, Verdict.SHARE}:
            shares = verdict is Verdict.SHARE
            return Claimed(claim, resumed=False) if self._bind(applicant, claim, pattern, shares=shares) else None
        assert held is not None  # noqa: S101 - every other verdict is about a claim that is there
        if verdict is Verdict.ANSWER:
            return Claimed(held, resumed=True)
        if verdict is Verdict.RECLAIM:
            again = replace(claim, claim_id=held.claim_id, adopted=held.adopted, reclaimed=True)
            return Claimed(again, resumed=False) if self._bind(applicant, again, pattern, held) else None
        if verdict is Verdict.REBIND:
            self._rebind(applicant, pattern, held)
            return None
        if verdict is Verdict.TAKE_OVER:
            return self._take_over(held, claim)
        return None

    def _new_claim(self, applicant: Applicant) -> Claim:
        now = int(self.now())
        return Claim(
            thing=applicant.thing,
            claim_id=uuid.uuid4().hex,
            spki_sha256=applicant.spki_sha256,
            code_sha256=applicant.code_sha256,
            lease=uuid.uuid4().hex,
            lease_ends=now + LEASE_SECONDS,
            claimed=now,
            shareable_key=applicant.shareable_key,
        )

    def _entries(self, applicant: Applicant) -> Entries:
        thing, key = ("thing", applicant.thing), ("key", applicant.spki_sha256)
        invite = ("invite", invite_id(applicant.code_sha256 or ""))
        found = self.table.snapshot(thing, key, *([invite] if applicant.code_sha256 else []))
        return Entries(
            invite=to_invite(found[invite]) if invite in found else None,
            claim=to_claim(found[thing]) if thing in found else None,
            key_thing=found[key]["thing"] if key in found else None,
            key_shareable=key in found and found[key].get("shareable", False),
        )

    def _bind(
        self, applicant: Applicant, claim: Claim, pattern: str, revoked: Claim | None = None, *, shares: bool = False
    ) -> bool:
        condition, expected = (_NEW, {}) if revoked is None else (_LEASE_IS, {"lease": revoked.lease})
        key = ("key", claim.spki_sha256)
        own = {"thing": claim.thing, "shareable": claim.shareable_key or None}
        return self._written(
            *self._use(applicant, pattern),
            Write(("thing", claim.thing), of_claim(claim), condition, expected, replace=True),
            Write(key, {"shared": True}, _SHAREABLE, {"shareable": True})
            if shares
            else Write(key, own, _NEW, {}, replace=True),
        )

    def _rebind(self, applicant: Applicant, pattern: str, held: Claim) -> bool:
        now_its = {"code_sha256": applicant.code_sha256}
        thing = Write(("thing", held.thing), now_its, _LEASE_IS, {"lease": held.lease})
        return self._written(*self._use(applicant, pattern), thing)

    def _take_over(self, held: Claim, mine: Claim) -> Claimed | None:
        lease = {"lease": mine.lease, "lease_ends": mine.lease_ends}
        if not self._written(Write(("thing", held.thing), lease, _LEASE_IS, {"lease": held.lease})):
            return None
        return Claimed(replace(held, lease=mine.lease, lease_ends=mine.lease_ends), resumed=True)

    def _use(self, applicant: Applicant, pattern: str) -> tuple[Write, ...]:
        """Return the write that uses the invite once; none where there is no invite."""
        if applicant.code_sha256 is None:
            return ()
        expected = {"code_sha256": applicant.code_sha256, "thing": pattern, "none": 0, "now": int(self.now())}
        key = ("invite", invite_id(applicant.code_sha256))
        return (Write(key, {}, _INVITE_IS_VALID, expected, add={"uses_left": -1}),)

    def _written(self, *writes: Write) -> bool:
        try:
            self.table.transact(writes)
        except ConditionFailedError:
            return False
        return True


def of_claim(claim: Claim) -> Item:
    """Return a claim as an item, without its key."""
    return {
        "claim_id": claim.claim_id,
        "spki_sha256": claim.spki_sha256,
        "code_sha256": claim.code_sha256,
        "lease": claim.lease,
        "lease_ends": claim.lease_ends,
        "claimed": claim.claimed,
        "enrolled": claim.enrolled,
        "revoked": claim.revoked,
        "adopted": claim.adopted or None,
        "reclaimed": claim.reclaimed or None,
        "shareable_key": claim.shareable_key or None,
        **(_of_certificate(claim.certificate) if claim.certificate else {}),
    }


def to_claim(item: Item) -> Claim:
    """Read what `of_claim` wrote."""
    certificate = None
    if "certificate_id" in item:
        certificate = Certificate(item["certificate_pem"], item["certificate_id"], item["certificate_arn"])
    return Claim(
        thing=item["id"],
        claim_id=item["claim_id"],
        spki_sha256=item["spki_sha256"],
        code_sha256=item.get("code_sha256"),
        lease=item["lease"],
        lease_ends=item["lease_ends"],
        claimed=item["claimed"],
        certificate=certificate,
        enrolled=item.get("enrolled"),
        revoked=item.get("revoked"),
        adopted=item.get("adopted", False),
        reclaimed=item.get("reclaimed", False),
        shareable_key=item.get("shareable_key", False),
    )


def _of_certificate(certificate: Certificate) -> dict[str, Any]:
    return {
        "certificate_id": certificate.certificate_id,
        "certificate_arn": certificate.arn,
        "certificate_pem": certificate.pem,
    }


def of_invite(invite: Invite, ttl: int) -> Item:
    """Return an invite as an item.

    Args:
        invite: the invite.
        ttl: when it may leave the table, in seconds since the epoch.
    """
    return {
        "kind": "invite",
        "id": invite.id,
        "code_sha256": invite.code_sha256,
        "thing": invite.thing,
        "uses": invite.uses,
        "uses_left": invite.uses_left,
        "created": invite.created,
        "expires": invite.expires,
        "created_by": invite.created_by,
        "existing_thing": invite.existing_thing or None,
        "ek_sha256": invite.ek_sha256,
        "revoked": invite.revoked or None,
        "ttl": ttl,
    }


def to_invite(item: Item) -> Invite:
    """Read what `of_invite` wrote."""
    return Invite(
        code_sha256=item["code_sha256"],
        thing=item["thing"],
        uses=item["uses"],
        uses_left=item["uses_left"],
        created=item["created"],
        expires=item["expires"],
        created_by=item["created_by"],
        existing_thing=item.get("existing_thing", False),
        ek_sha256=item.get("ek_sha256"),
        revoked=item.get("revoked", False),
    )
