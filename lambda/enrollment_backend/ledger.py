"""The ledger: records in one DynamoDB table which Thing has which key, certificate and invite.

    kind         id                   content
    invite       its id               an `invites.Invite`; deleted by TTL some time after it has expired, unless it was
                                      revoked
    thing        the Thing's name     a `claims.Claim`
    tpm          its EK's SHA-256     the Thing that the TPM was enrolled as last, and the `others` that have it, joined
                                      by commas, see `claims.BoundTpm`; never deleted
    attestation  a session's id       a `sessions.Session`; deleted by TTL
    ek           a fingerprint        the Thing that the operator has listed the TPM for
    ek-ca        SHA-256 of its DER   the certificate of an authority for endorsement keys
    renewal      the Thing's name     a `claims.Claim` of the Thing's next key; deleted when that is the Thing's key, or
                                      when it is undone
    key          SHA-256 of the SPKI  the Thing that the key is, or was, bound to; `shareable` if other Things may have
                                      it too, `shared` once another one has had it; `superseded` once its Thing has
                                      another one, and then `replaced` if that came with an invite; `public_key`, the
                                      SPKI, if its claim has no certificate any more; deleted only when a claim is
                                      undone, and never if it is shared
    certificate  AWS IoT's id         the Thing and the key that it was issued for; for one that the sweep found, only
                                      that it is revoked, and `kept` if AWS IoT does not let it go; never deleted
    removal      AWS IoT's id         a `claims.Removal`; deleted when AWS IoT has the certificate no more
    proof        key and id           that a proof was used, see `proof.use_once`; deleted by TTL
    admission    next                 the counter of `turns`
    sweep        cursor               where the next scheduled run goes on, and what has been examined
    sweep        lists                how far `Ledger.complete_lists` has come

A claim is written in one transaction with its key and the use of its invite, each with a condition, before the first
call to AWS IoT, see `binding`. So for any certificate that can connect, the ledger has the Thing and the key.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from enrollment_backend import succession
from enrollment_backend.aws_errors import ConditionFailedError
from enrollment_backend.claims import Certificate, Claim, Removal, UndoneBecause
from enrollment_backend.invites import Invite, invite_id
from enrollment_backend.items import (
    certificate_to_values,
    claim_from_item,
    invite_from_item,
    removal_from_item,
)
from enrollment_backend.succession import Transaction
from enrollment_backend.table import Item, Key, Position, Selection, Table, Write

_LISTS = ("sweep", "lists")
_PAGE_SIZE = 1000
_MAX_COMPLETED = 100  # claims in one go: they take some seconds
_PAUSES = (0.1, 0.2, 0.4)  # seconds, until a transaction that is writing the same items has ended

_NEW = "attribute_not_exists(#id)"
_UNLISTED = "attribute_exists(#claimed) AND attribute_not_exists(#created)"
_LEASE_IS = "#lease = :lease"
_UNRECORDED = f"{_LEASE_IS} AND attribute_not_exists(#certificate_id)"
_IS_UNSHARED = "#thing = :thing AND attribute_not_exists(#shared)"
_IS_SHARED = "#shared = :shared"


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

    def find_invite(self, code_sha256: str) -> Invite | None:
        """Return the invite whose id matches a code's hash.

        The id is only a part of the hash; `Invite.invalid_reason` compares the rest.
        """
        key = ("invite", invite_id(code_sha256))
        item = self.table.get([key]).get(key)
        return invite_from_item(item) if item is not None else None

    def record(self, claim: Claim, certificate: Certificate) -> Sequence[Removal]:
        """Record that a certificate was issued for a claim; that of new hardware becomes the Thing's own at once.

        Returns:
            What is to be removed from AWS IoT now, see `removal`.

        Raises:
            ConditionFailedError: another request has taken the claim over, or the Thing has changed.
        """
        now = int(self.now())
        entry = {"thing": claim.thing, "spki_sha256": claim.spki_sha256, "enrolled": now}
        recorded = Write(("certificate", certificate.certificate_id), entry, _NEW, {}, replace=True)
        if claim.replaces_key:
            return self._carry_out(self._replacement(claim, certificate, now) + Transaction((recorded,)))
        issued = {
            **certificate_to_values(certificate),
            "enrolled": now,
            "adopted": claim.adopted or None,
            "spare": None,
            "turn": None,
            "attached": None,
        }
        self.table.transact((Write(claim.key, issued, _LEASE_IS, {"lease": claim.lease}), recorded))
        return ()

    def commit(self, claim: Claim, renewal: Claim, certificate: Certificate) -> Sequence[Removal]:
        """Make the key and the certificate of a Thing's renewal the Thing's own.

        Returns:
            What is to be removed from AWS IoT now.

        Raises:
            ConditionFailedError: the claim or the renewal has changed in the meantime.
        """
        return self._carry_out(succession.switch(claim, renewal, certificate, int(self.now())))

    def undo(self, claim: Claim, renewal: Claim, because: UndoneBecause | None) -> Sequence[Removal]:
        """Undo a renewal, so that the Thing's key stays the one that it has; otherwise as `commit`.

        Why is recorded with the Thing; None if the operator need not be told.
        """
        now = int(self.now())
        noted = succession.note_undone(claim, because, now) if because else Transaction(())
        return self._carry_out(succession.undo(claim, renewal, now) + noted)

    def forget_renewal(self, renewal: Claim) -> None:
        """Delete the item of a renewal that is over; otherwise as `commit`."""
        self._carry_out(succession.forget(renewal))

    def retire(self, claim: Claim, renewal: Claim | None, *, delete_thing: bool) -> Sequence[Removal]:
        """Record that a Thing's device gave up its key, and undo its renewal; otherwise as `commit`."""
        now = int(self.now())
        ended = succession.end_renewal(claim, renewal, now)
        return self._carry_out(succession.retire(claim, now, delete_thing=delete_thing) + ended)

    def record_as_attached(self, claim: Claim) -> None:
        """Record that a claim's certificate is attached, unless the claim has changed in the meantime."""
        self.try_write(Write(claim.key, {"attached": True, "undescribed": None}, _LEASE_IS, {"lease": claim.lease}))

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
        if self.try_write(Write(claim.key, released, _UNRECORDED, {"lease": claim.lease})):
            return spare is None
        current = self.find_claim(claim.thing, claim.kind)
        if current is None:  # perhaps a renewal that was recorded and became the Thing's, and the response was lost
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
        if not claim.reclaimed and any(self.try_write(*undo, key_write) for key_write in (free_key, keep_shared_key)):
            return
        self.release(claim, None, lost=False)

    def find_claim(self, thing: str, kind: Literal["thing", "renewal"] = "thing") -> Claim | None:
        """Return a Thing's claim, or its renewal."""
        item = self.table.get([(kind, thing)]).get((kind, thing))
        return claim_from_item(item) if item is not None else None

    def find_claims(self, thing: str) -> tuple[Claim | None, Claim | None]:
        """Return a Thing's claim and its renewal, as they were at one moment."""
        return _claims_in(self.snapshot(("thing", thing), ("renewal", thing)), thing)

    def find_key(self, spki_sha256: str) -> Item | None:
        """Return a key's item."""
        key = ("key", spki_sha256)
        return self.table.get([key]).get(key)

    def find_certificate(self, certificate_id: str) -> Item | None:
        """Return a certificate's item."""
        key = ("certificate", certificate_id)
        return self.table.get([key]).get(key)

    def find_holder(self, thing: str, spki_sha256: str) -> tuple[Item | None, Claim | None, Claim | None]:
        """Return a key's item, and the claim and the renewal of its Thing, as they were at one moment."""
        key = ("key", spki_sha256)
        found = self.snapshot(key, ("thing", thing), ("renewal", thing))
        return found.get(key), *_claims_in(found, thing)

    def snapshot(self, *keys: Key) -> dict[Key, Item]:
        """Read items as `Table.snapshot` does; while a transaction is writing them, wait for it.

        Raises:
            ConditionFailedError: that takes too long. Nothing is known about the items.
        """
        for pause in _PAUSES:
            try:
                return self.table.snapshot(*keys)
            except ConditionFailedError:
                self.sleep(pause)
        return self.table.snapshot(*keys)

    def renewing(self) -> set[str]:
        """Return the names of the Things that have a renewal, as the index has them."""
        return {item["id"] for item in self._all("renewal")}

    def overdue_renewals(self) -> Iterator[Claim]:
        """Yield the renewals that are to be committed or undone, see `Claim.is_overdue`."""
        for thing in self.renewing():
            renewal = self.find_claim(thing, "renewal")
            if renewal is not None and renewal.is_overdue(self.now()):
                yield renewal

    def removals(self) -> Iterator[Removal]:
        """Yield what is still to be removed from AWS IoT."""
        for listed in self._all("removal"):
            key = ("removal", listed["id"])
            item = self.table.get([key]).get(key)
            if item is not None:
                yield removal_from_item(item)

    def forget_removal(self, removal: Removal) -> None:
        """Record that AWS IoT has a certificate no more."""
        self.table.transact([Write(("removal", removal.certificate_id), {}, "", {}, delete=True)])

    def revoke(self, claim: Claim, renewal: Claim | None) -> Sequence[Removal]:
        """Record that a Thing and its certificate are revoked; an enrollment or a renewal in progress then fails.

        Of a Thing that is revoked already, only the renewal ends.

        The Thing's certificate is only to be deactivated, so that the operator can look at it; that of its renewal is
        to be removed.

        Returns:
            What is to be removed from AWS IoT now.

        Raises:
            ConditionFailedError: the claim or its renewal has changed in the meantime.
        """
        if claim.revoked_at is not None:
            return self.undo(claim, renewal, None) if renewal is not None else ()
        now = int(self.now())
        ended = succession.end_renewal(claim, renewal, now)
        revoked = {"revoked": now, "lease": uuid.uuid4().hex, "lease_ends": 0}
        if claim.certificate is None:
            return self._carry_out(
                Transaction((Write(claim.key, revoked, _UNRECORDED, {"lease": claim.lease}),)) + ended
            )
        certificate = ("certificate", claim.certificate.certificate_id)
        writes = (
            Write(claim.key, revoked, _LEASE_IS, {"lease": claim.lease}),
            Write(certificate, {"revoked": now}, "attribute_exists(#id)", {}),
        )
        return self._carry_out(Transaction(writes) + ended)

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
            self.try_write(Write(("thing", item["id"]), listed, _UNLISTED, {}))
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
        return self.try_write(Write(("certificate", certificate_id), entry, _NEW, {}, replace=True))

    def _replacement(self, renewal: Claim, certificate: Certificate, now: int) -> Transaction:
        claim = self.find_claim(renewal.thing)
        if claim is None:
            raise ConditionFailedError("BatchGetItem", "NoClaim")
        return succession.switch(claim, renewal, certificate, now)

    def _carry_out(self, transaction: Transaction) -> Sequence[Removal]:
        self.table.transact(transaction.writes)
        return transaction.removals

    def _all(self, kind: str) -> Iterator[Item]:
        """Yield all items of a kind that the index has."""
        after: Position | None = None
        while True:
            items, after = self.table.page(kind, Selection(), after, _PAGE_SIZE)
            yield from items
            if after is None:
                return

    def try_write(self, *writes: Write) -> bool:
        """Carry out all writes and return True, or return False if a condition does not hold."""
        try:
            self.table.transact(writes)
        except ConditionFailedError:
            return False
        return True


def _claims_in(found: dict[Key, Item], thing: str) -> tuple[Claim | None, Claim | None]:
    claim, renewal = (
        claim_from_item(found[kind, thing]) if (kind, thing) in found else None for kind in ("thing", "renewal")
    )
    return claim, renewal
