"""The ledger: records in one DynamoDB table which Thing has which key, certificate and invite.

    kind         id                   content
    invite       its id               an `invites.Invite`; deleted by TTL some time after it has expired, unless it was
                                      revoked
    thing        the Thing's name     a `claims.Claim`
    key          SHA-256 of the SPKI  the Thing that the key is, or was, bound to; `shareable` if other Things may have
                                      it too, `shared` once another one has had it; deleted only when a claim is undone,
                                      and never if it is shared
    certificate  AWS IoT's id         the Thing and the key that it was issued for; for one that the sweep found, only
                                      that it is revoked, and `kept` if AWS IoT does not let it go; never deleted
    admission    next                 the counter of `turns`
    sweep        cursor               where the next scheduled run goes on, and what has been examined
    sweep        lists                how far `Ledger.complete_lists` has come

A claim is written in one transaction with its key and the use of its invite, each with a condition, before the first
call to AWS IoT. So for any certificate that can connect, the ledger has the Thing and the key.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from enrollment_backend.claims import Applicant, Certificate, Claim, Entries, Verdict, check_invite, decide
from enrollment_backend.errors import ConditionFailedError, EnrollmentInProgressError, InviteInvalidError
from enrollment_backend.invites import Invite, invite_id
from enrollment_backend.items import certificate_to_values, claim_from_item, claim_to_item, invite_from_item
from enrollment_backend.table import Item, Key, Table, Write

LEASE_SECONDS = 30  # longer than the function may run: once a lease has ended, the request that held it is dead
_MAX_WAIT_SECONDS = 8.0  # for another request; enough time must be left for this request's own calls
_POLL_SECONDS = 0.2

_LISTS = ("sweep", "lists")
_MAX_COMPLETED = 100  # claims in one go: they take some seconds

_NEW = "attribute_not_exists(#id)"
_UNLISTED = "attribute_exists(#claimed) AND attribute_not_exists(#created)"
_LEASE_IS = "#lease = :lease"
_UNRECORDED = f"{_LEASE_IS} AND attribute_not_exists(#certificate_id)"
# The same rules as `Invite.invalid_reason`; and an invite for one TPM cannot be used without proof.
_INVITE_IS_VALID = (
    "#code_sha256 = :code_sha256 AND #thing = :thing AND #uses_left > :none AND #expires > :now"
    " AND attribute_not_exists(#revoked) AND attribute_not_exists(#ek_sha256)"
)
_IS_UNSHARED = "#thing = :thing AND attribute_not_exists(#shared)"
_IS_SHAREABLE = "#shareable = :shareable"
_IS_SHARED = "#shared = :shared"


@dataclass(frozen=True)
class Claimed:
    """The result of `Ledger.claim`.

    Attributes:
        claim: the applicant's claim. If it has no certificate, the caller holds its lease.
        is_new: whether it was made for this request.
    """

    claim: Claim
    is_new: bool


@dataclass(frozen=True)
class Ledger:
    """The ledger's operations.

    Args:
        table: the ledger's table.
        now: the time, in seconds since the epoch.
        sleep: waits for a number of seconds.

    Every method raises the errors of `aws.call`.
    """

    table: Table
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def check_code(self, applicant: Applicant) -> None:
        """Refuse an applicant whose code cannot be used, with a single read if there is no such invite.

        `claim` checks it again; this comes first, so that a refused request costs no transaction and takes no turn.

        Args:
            applicant: the request, with a code.

        Raises:
            InviteInvalidError, AttestationRequiredError: see `claims.decide`.
        """
        thing, _, invite = _keys(applicant)
        found = self.table.get([invite, thing])
        try:
            check_invite(applicant, _entries(applicant, found), self.now())
        except InviteInvalidError:
            if invite not in found:
                raise
            # A read of several items is not one of a single moment: it may have the use of the invite, and not yet the
            # claim for which an earlier request of the same device used it.
            found |= self.table.get([thing])
            check_invite(applicant, _entries(applicant, found), self.now())

    def claim(self, applicant: Applicant) -> Claimed:
        """Bind a Thing to a key and use the invite, unless this has been done before.

        A first enrollment with an invite for exactly this Thing takes a single transaction.

        Args:
            applicant: the request.

        Raises:
            InviteInvalidError, AttestationRequiredError, ConflictError, EnrollmentQueuedError: see `claims.decide`.
            EnrollmentInProgressError: another request is working on the same claim, and does not finish in time.
        """
        claim = self._new_claim(applicant)
        if self._bind(applicant, claim, pattern=applicant.thing):
            return Claimed(claim, is_new=True)
        deadline = self.now() + _MAX_WAIT_SECONDS
        while True:
            claimed = self._claim_existing(applicant, claim)
            if claimed is not None:
                return claimed
            if self.now() >= deadline:
                raise EnrollmentInProgressError
            self.sleep(_POLL_SECONDS)
            claim = replace(claim, lease_ends=int(self.now()) + LEASE_SECONDS)

    def find_invite(self, code_sha256: str) -> Invite | None:
        """Return the invite whose id matches a code's hash.

        The id is only a part of the hash; `Invite.invalid_reason` compares the rest.
        """
        key = ("invite", invite_id(code_sha256))
        item = self.table.get([key]).get(key)
        return invite_from_item(item) if item is not None else None

    def record(self, claim: Claim, certificate: Certificate) -> None:
        """Record that a certificate was issued for a claim.

        Raises:
            ConditionFailedError: another request has taken the claim over.
        """
        now = int(self.now())
        issued = {
            **certificate_to_values(certificate),
            "enrolled": now,
            "adopted": claim.adopted or None,
            "spare": None,
            "turn": None,
            "attached": None,
        }
        entry = {"thing": claim.thing, "spki_sha256": claim.spki_sha256, "enrolled": now}
        self.table.transact(
            (
                Write(("thing", claim.thing), issued, _LEASE_IS, {"lease": claim.lease}),
                Write(("certificate", certificate.certificate_id), entry, _NEW, {}, replace=True),
            )
        )

    def record_as_attached(self, claim: Claim) -> None:
        """Record that a claim's certificate is attached, unless the claim has changed in the meantime."""
        self._try_write(Write(("thing", claim.thing), {"attached": True}, _LEASE_IS, {"lease": claim.lease}))

    def release(self, claim: Claim, spare: str | None, *, lost: bool, turn: float | None = None) -> bool:
        """End the lease of a claim without a certificate, so that the next request need not wait for it to end.

        A `record` that is still in flight can no longer succeed.

        Args:
            claim: a claim whose lease the caller holds.
            spare: AWS IoT's identifier of a certificate that was issued for it, for the next request to use.
            lost: whether another one may have been issued; the next request then searches for it.
            turn: when the next request may have a certificate issued, in seconds since the epoch; None for at once.

        Returns:
            Whether no other request will use the certificate that the caller has: there is no spare one, or the Thing
            was revoked or given another key.
        """
        released = {
            "lease": uuid.uuid4().hex,
            "lease_ends": 0,
            "spare": spare,
            "turn": None if turn is None else int(turn),
        } | ({} if lost else {"issuing_since": 0})
        if self._try_write(Write(("thing", claim.thing), released, _UNRECORDED, {"lease": claim.lease})):
            return spare is None
        current = self.find_claim(claim.thing)
        if current is not None and current.lease == released["lease"]:  # it was written, and the response was lost
            return spare is None
        return current is None or current.revoked_at is not None or current.spki_sha256 != claim.spki_sha256

    def abandon(self, claim: Claim) -> None:
        """Undo a claim that cannot succeed: free the Thing and the key, and give the invite its use back.

        A shared key stays bound to the other Things. If the Thing had another key before, the claim is only released.
        """
        key = ("key", claim.spki_sha256)
        undo = [Write(("thing", claim.thing), {}, _UNRECORDED, {"lease": claim.lease}, delete=True)]
        if claim.code_sha256 is not None:
            invite = ("invite", invite_id(claim.code_sha256))
            undo.append(Write(invite, {}, "attribute_exists(#id)", {}, add={"uses_left": 1}))
        free_key = Write(key, {}, _IS_UNSHARED, {"thing": claim.thing}, delete=True)
        keep_shared_key = Write(key, {"shared": True}, _IS_SHARED, {"shared": True})
        if not claim.reclaimed and any(self._try_write(*undo, key_write) for key_write in (free_key, keep_shared_key)):
            return
        self.release(claim, None, lost=False)

    def find_claim(self, thing: str) -> Claim | None:
        """Return a Thing's claim."""
        item = self.table.get([("thing", thing)]).get(("thing", thing))
        return claim_from_item(item) if item is not None else None

    def revoke(self, claim: Claim) -> None:
        """Record that a Thing and its certificate are revoked; an enrollment in progress then fails.

        Raises:
            ConditionFailedError: the claim has changed in the meantime.
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

    def allows_existing_thing(self, claim: Claim) -> bool:
        """Whether a Thing that was not created for this claim may be used: it was before, or the invite allows it."""
        if claim.adopted or claim.code_sha256 is None:
            return claim.adopted
        invite = self.find_invite(claim.code_sha256)
        return invite is not None and invite.existing_thing

    def complete_lists(self) -> None:
        """Add the next Things that an earlier version recorded, and the lists therefore miss, to the lists.

        Such a claim has neither ``thing`` nor ``created``, which the index needs. How far this has come is recorded;
        once all claims have been looked at, there is nothing to do any more.
        """
        done = self.table.get([_LISTS]).get(_LISTS, {})
        if "complete" in done:
            return
        items, after = self.table.lacking("thing", "created", done.get("after"), _MAX_COMPLETED)
        for item in items:
            listed = {"thing": item["id"], "created": item["claimed"]}
            self._try_write(Write(("thing", item["id"]), listed, _UNLISTED, {}))
        progress = {"complete": True} if after is None else {"after": after}
        self.table.transact([Write(_LISTS, progress, "", {}, replace=True)])

    def certificate_validity(self, certificate_ids: Iterable[str]) -> dict[str, bool]:
        """Return which of the certificates are recorded: True is valid, False is revoked; others are left out."""
        found = self.table.get(("certificate", certificate_id) for certificate_id in certificate_ids)
        return {certificate_id: "revoked" not in item for (_, certificate_id), item in found.items()}

    def record_as_revoked(self, certificate_id: str) -> bool:
        """Record an unknown certificate as revoked, so that no enrollment can record it any more.

        Returns:
            True; or False if the certificate has been recorded in the meantime.
        """
        entry = {"revoked": int(self.now())}
        return self._try_write(Write(("certificate", certificate_id), entry, _NEW, {}, replace=True))

    def _claim_existing(self, applicant: Applicant, claim: Claim) -> Claimed | None:
        """Read the applicant's entries and act on them; return None to be called again later.

        Args:
            applicant: the request.
            claim: the new claim to write.
        """
        try:
            entries = self._read_entries(applicant)
        except ConditionFailedError:
            return None  # another request is writing them
        if entries.claim is not None and entries.claim.lease == claim.lease:
            # An earlier write of ours succeeded, and its response was lost. With another claim id, it was a take-over.
            return Claimed(entries.claim, is_new=entries.claim.claim_id == claim.claim_id)
        return self._act_on(applicant, claim, entries)

    def _act_on(self, applicant: Applicant, claim: Claim, entries: Entries) -> Claimed | None:
        """Do what the verdict says; return None if the entries have to be read again."""
        verdict = decide(applicant, entries, self.now())
        current = entries.claim
        pattern = entries.invite.thing if entries.invite else applicant.thing
        if verdict in {Verdict.CLAIM, Verdict.SHARE}:
            share = verdict is Verdict.SHARE
            return Claimed(claim, is_new=True) if self._bind(applicant, claim, pattern, share=share) else None
        assert current is not None  # noqa: S101 - all other verdicts are about an existing claim
        if verdict is Verdict.ANSWER:
            return Claimed(current, is_new=False)
        if verdict is Verdict.RECLAIM:
            again = replace(claim, claim_id=current.claim_id, adopted=current.adopted, reclaimed=True)
            return Claimed(again, is_new=True) if self._bind(applicant, again, pattern, current) else None
        if verdict is Verdict.REBIND:
            self._rebind(applicant, pattern, current)
            return None
        if verdict is Verdict.TAKE_OVER:
            return self._take_over(current, claim)
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
            issuing_since=now,  # a request that gets its claim has a certificate issued at once
            shareable_key=applicant.shareable_key,
        )

    def _read_entries(self, applicant: Applicant) -> Entries:
        thing, key, invite = _keys(applicant)
        found = self.table.snapshot(thing, key, *([invite] if applicant.code_sha256 else []))
        return _entries(applicant, found)

    def _bind(
        self, applicant: Applicant, claim: Claim, pattern: str, revoked: Claim | None = None, *, share: bool = False
    ) -> bool:
        """Try to write a claim, with its key and the use of its invite.

        Args:
            applicant: the request.
            claim: the claim to write.
            pattern: what the invite says about the Thing, see `Invite.thing`.
            revoked: the claim to replace; None if the Thing has none.
            share: whether to share a key that other Things have; otherwise the key must be new.
        """
        condition, expected = (_NEW, {}) if revoked is None else (_LEASE_IS, {"lease": revoked.lease})
        key = ("key", claim.spki_sha256)
        key_values = {"thing": claim.thing, "shareable": claim.shareable_key or None}
        return self._try_write(
            *self._use_of_invite(applicant, pattern),
            Write(("thing", claim.thing), claim_to_item(claim), condition, expected, replace=True),
            Write(key, {"shared": True}, _IS_SHAREABLE, {"shareable": True})
            if share
            else Write(key, key_values, _NEW, {}, replace=True),
        )

    def _rebind(self, applicant: Applicant, pattern: str, current: Claim) -> bool:
        values = {"code_sha256": applicant.code_sha256}
        thing = Write(("thing", current.thing), values, _LEASE_IS, {"lease": current.lease})
        return self._try_write(*self._use_of_invite(applicant, pattern), thing)

    def _take_over(self, current: Claim, new: Claim) -> Claimed | None:
        """Take over the lease; the result says since when *earlier* requests may have had a certificate issued."""
        since = current.issuing_since or int(self.now())
        values = {"lease": new.lease, "lease_ends": new.lease_ends, "issuing_since": since}
        if not self._try_write(Write(("thing", current.thing), values, _LEASE_IS, {"lease": current.lease})):
            return None
        return Claimed(replace(current, lease=new.lease, lease_ends=new.lease_ends), is_new=False)

    def _use_of_invite(self, applicant: Applicant, pattern: str) -> tuple[Write, ...]:
        """Return the write that uses the invite once; no write if there is no invite."""
        if applicant.code_sha256 is None:
            return ()
        expected = {"code_sha256": applicant.code_sha256, "thing": pattern, "none": 0, "now": int(self.now())}
        key = ("invite", invite_id(applicant.code_sha256))
        return (Write(key, {}, _INVITE_IS_VALID, expected, add={"uses_left": -1}),)

    def _try_write(self, *writes: Write) -> bool:
        """Carry out all writes and return True, or return False if a condition does not hold."""
        try:
            self.table.transact(writes)
        except ConditionFailedError:
            return False
        return True


def _keys(applicant: Applicant) -> tuple[Key, Key, Key]:
    """Return the keys of an applicant's Thing, key and invite."""
    invite = ("invite", invite_id(applicant.code_sha256 or ""))
    return ("thing", applicant.thing), ("key", applicant.spki_sha256), invite


def _entries(applicant: Applicant, found: dict[Key, Item]) -> Entries:
    thing, key, invite = _keys(applicant)
    return Entries(
        invite=invite_from_item(found[invite]) if invite in found else None,
        claim=claim_from_item(found[thing]) if thing in found else None,
        key_thing=found[key]["thing"] if key in found else None,
        key_shareable=key in found and found[key].get("shareable", False),
    )
