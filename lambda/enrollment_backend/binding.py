"""Binds Things to keys in the ledger, which is what every enrollment and every renewal begins with.

A claim, or a renewal, is written in one transaction with its key and the use of its invite, each with a condition. If
one does not hold, `claims` decides about what the ledger has.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from enrollment_backend import succession, undone_renewals
from enrollment_backend.aws_errors import ConditionFailedError
from enrollment_backend.claims import (
    Applicant,
    BoundTpm,
    Claim,
    Removal,
    UndoneBecause,
)
from enrollment_backend.decisions import (
    Entries,
    Verdict,
    check_current,
    check_invite,
    check_invited_tpm,
    decide,
    decide_renewal,
)
from enrollment_backend.errors import EnrollmentInProgressError, InviteInvalidError
from enrollment_backend.invites import invite_id
from enrollment_backend.items import bound_tpm_from_item, claim_from_item, claim_to_item, invite_from_item
from enrollment_backend.ledger import Ledger
from enrollment_backend.succession import Transaction
from enrollment_backend.table import Item, Key, Write

LEASE_SECONDS = 30  # longer than the function may run: once a lease has ended, the request that held it is dead
_MAX_WAIT_SECONDS = 8.0  # for another request; enough time must be left for this request's own calls
_POLL_SECONDS = 0.2

_NEW = "attribute_not_exists(#id)"
_LEASE_IS = "#lease = :lease"
# The same rules as `Invite.invalid_reason`; and what the invite says about TPMs, see `decisions.check_invited_tpm`.
_INVITE_IS_VALID = (
    "#code_sha256 = :code_sha256 AND #thing = :thing AND #uses_left > :none AND #expires > :now"
    " AND attribute_not_exists(#revoked)"
)
_WITHOUT_TPM = "attribute_not_exists(#ek_sha256) AND attribute_not_exists(#require_tpm)"
_FOR_THIS_TPM = "(attribute_not_exists(#ek_sha256) OR #ek_sha256 IN ({}))"
# A key that several Things share stays so, even if one of them has another key since.
_IS_SHAREABLE = "#shareable = :shareable AND (attribute_not_exists(#superseded) OR attribute_exists(#shared))"


@dataclass(frozen=True)
class Claimed:
    """The result of `Binding.claim` and `Binding.claim_renewal`.

    Attributes:
        claim: the applicant's claim, or renewal. If it has no certificate, the caller holds its lease.
        is_new: whether it was made for this request.
    """

    claim: Claim
    is_new: bool


@dataclass(frozen=True)
class Binding:
    """Binds Things to keys.

    Args:
        ledger: the ledger.
        remove: removes from AWS IoT what a renewal that is undone had, see `removal.Remover.remove_now`.

    Every method raises the errors of `aws.call`.
    """

    ledger: Ledger
    remove: Callable[[Sequence[Removal]], None]

    def check_code(self, applicant: Applicant, *, has_evidence: bool) -> None:
        """Refuse an applicant whose code cannot be used, with a single read if there is no such invite.

        `claim` checks it again; this comes first, so that a refused request writes nothing and takes no turn.

        Args:
            applicant: the request, with a code; its evidence has not been checked yet.
            has_evidence: whether it has any.

        Raises:
            InviteInvalidError, AttestationRequiredError: see `decisions.decide`.
        """
        thing, _, invite, renewal, *_ = _keys(applicant)
        found = self.ledger.table.get([invite, thing])
        try:
            check_invite(applicant, _entries(applicant, found), self.ledger.now())
        except InviteInvalidError:
            if invite not in found:
                raise
            # A read of several items is not one of a single moment: it may have the use of the invite, and not yet the
            # claim for which an earlier request of the same device used it.
            found |= self.ledger.snapshot(thing, renewal)
            check_invite(applicant, _entries(applicant, found), self.ledger.now())
        if not has_evidence:
            check_invited_tpm(applicant, _entries(applicant, found).invite)

    def claim(self, applicant: Applicant) -> Claimed:
        """Bind a Thing to a key and use the invite, unless this has been done before.

        A first enrollment with an invite for exactly this Thing takes a single transaction.

        Args:
            applicant: the request.

        Raises:
            InviteInvalidError, AttestationRequiredError, AttestationRefusedError, ConflictError, EnrollmentQueuedError:
                see `decisions.decide`.
            EnrollmentInProgressError: another request is working on the same claim, and does not finish in time.
        """
        claim = self._new_claim(applicant)
        may_be_new = applicant.listed is not None or not applicant.by_chip
        if may_be_new and self._bind(applicant, claim, pattern=applicant.thing):
            return Claimed(claim, is_new=True)
        return self._patiently(claim, lambda again: self._claim_existing(applicant, again))

    def claim_renewal(self, applicant: Applicant, current: Claim) -> Claimed:
        """Bind a Thing's next key to it, unless this has been done before.

        If the Thing has no renewal and the key is new, this takes a single transaction.

        Args:
            applicant: the request, without a code; `decisions.decide_renewal` has not refused it.
            current: the Thing's claim, whose key has signed the request.

        Raises:
            AttestationRequiredError, EkMismatchError, ConflictError, RenewalsLimitedError, EnrollmentQueuedError: see
                `decisions.check_current` and `decisions.decide_renewal`.
            EnrollmentInProgressError: as `claim`.
        """
        renewal = replace(self._new_claim(applicant), kind="renewal")
        if self._bind_renewal(applicant, renewal, current, None):
            return Claimed(renewal, is_new=True)
        return self._patiently(renewal, lambda again: self._claim_existing_renewal(applicant, again, current))

    def _patiently(self, claim: Claim, attempt: Callable[[Claim], Claimed | None]) -> Claimed:
        """Repeat an attempt until it returns something, for some seconds."""
        deadline = self.ledger.now() + _MAX_WAIT_SECONDS
        while True:
            claimed = attempt(claim)
            if claimed is not None:
                return claimed
            if self.ledger.now() >= deadline:
                raise EnrollmentInProgressError
            self.ledger.sleep(_POLL_SECONDS)
            claim = replace(claim, lease_ends=int(self.ledger.now()) + LEASE_SECONDS)

    def _claim_existing(self, applicant: Applicant, claim: Claim) -> Claimed | None:
        """Read the applicant's entries and act on them; return None to be called again later.

        Args:
            applicant: the request.
            claim: the new claim to write.
        """
        entries = self._read_entries(applicant)
        if entries is None:
            return None
        # An earlier write of ours may have succeeded, and its response have been lost.
        return _written(claim, entries.claim, entries.renewal) or self._act_on(applicant, claim, entries)

    def _claim_existing_renewal(self, applicant: Applicant, renewal: Claim, current: Claim) -> Claimed | None:
        """The same for a renewal by the key of the claim `current`."""
        entries = self._read_entries(applicant)
        if entries is None:
            return None
        if entries.claim is None:
            raise ConditionFailedError("TransactGetItems", "NoClaim")
        check_current(entries.claim, current.spki_sha256)
        written = _written(renewal, entries.renewal)
        return written or self._carry_out(
            decide_renewal(applicant, entries, self.ledger.now()), applicant, renewal, entries
        )

    def _act_on(self, applicant: Applicant, claim: Claim, entries: Entries) -> Claimed | None:
        """Do what the verdict says; return None if the entries have to be read again."""
        verdict = decide(applicant, entries, self.ledger.now())
        current = entries.claim
        pattern = _pattern(applicant, entries)
        if verdict in {Verdict.CLAIM, Verdict.SHARE}:
            share = verdict is Verdict.SHARE
            is_bound = self._bind(applicant, claim, pattern, share=share, tpm=entries.tpm)
            return Claimed(claim, is_new=True) if is_bound else None
        assert current is not None  # noqa: S101 - all other verdicts are about an existing claim
        if verdict is Verdict.ANSWER:
            return Claimed(current, is_new=False)
        if verdict is Verdict.RECLAIM:
            again = replace(claim, claim_id=current.claim_id, adopted=current.adopted, reclaimed=True, undescribed=True)
            return Claimed(again, is_new=True) if self._reclaim(applicant, again, current, entries) else None
        if verdict is Verdict.REBIND:
            self._rebind(applicant, pattern, current)
            return None
        if verdict is Verdict.ATTEST:
            attested = succession.attest(current, claim, entries.tpm, int(self.ledger.now()))
            self.ledger.try_write(*attested.writes)
            return None
        if verdict is Verdict.TAKE_OVER:
            return self._take_over(current, claim)
        return self._carry_out(verdict, applicant, replace(claim, kind="renewal"), entries)

    def _carry_out(self, verdict: Verdict, applicant: Applicant, new: Claim, entries: Entries) -> Claimed | None:
        """Do what a verdict about a renewal says; return None likewise."""
        current, renewal = entries.claim, entries.renewal
        if verdict is Verdict.RENEW and current is not None:
            return Claimed(new, is_new=True) if self._bind_renewal(applicant, new, current, entries) else None
        if renewal is None or verdict is Verdict.WAIT:
            return None
        if verdict is Verdict.ANSWER_RENEWAL:
            return Claimed(renewal, is_new=False)
        return self._take_over(renewal, new)

    def _new_claim(self, applicant: Applicant) -> Claim:
        now = int(self.ledger.now())
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
            attestation=applicant.attestation,
            by_chip=applicant.by_chip,
            by_est=applicant.by_est,
        )

    def _read_entries(self, applicant: Applicant) -> Entries | None:
        """Return what the ledger has about the applicant; None if another request is writing it."""
        thing, key, invite, renewal, *tpm = _keys(applicant)
        try:
            found = self.ledger.table.snapshot(thing, key, renewal, *([invite] if applicant.code_sha256 else []), *tpm)
            entries = _entries(applicant, found)
            if entries.tpm is None:
                return entries
            # Read later than the others: if one of them has got the TPM anew since, the mark is another one.
            names = [name for name in (entries.tpm.thing, *entries.tpm.others) if name != applicant.thing]
            others = tuple(name for name in names if self._has(name, tpm[0][1]))
        except ConditionFailedError:
            return None
        return replace(entries, tpm=replace(entries.tpm, others=others, in_use=bool(others)))

    def _has(self, thing: str, ek_sha256: str) -> bool:
        """Whether a Thing, or its renewal, has a key in a TPM."""
        return any(owner is not None and owner.is_in(ek_sha256) for owner in self.ledger.find_claims(thing))

    def _bind(
        self,
        applicant: Applicant,
        claim: Claim,
        pattern: str,
        *,
        share: bool = False,
        tpm: BoundTpm | None = None,
    ) -> bool:
        """Try to write a claim, with its key and the use of its invite.

        Args:
            applicant: the request.
            claim: the claim to write.
            pattern: what the invite says about the Thing, see `Invite.thing`.
            share: whether to share a key that other Things have; otherwise the key must be new.
            tpm: what the ledger has about its TPM; None if nothing is known.
        """
        shared = Write(("key", claim.spki_sha256), {"shared": True}, _IS_SHAREABLE, {"shareable": True})
        added = Write(claim.key, claim_to_item(claim), _NEW, {}, replace=True)
        key = shared if share else succession.key_of(claim, is_known=False)
        bound = succession.tpm_of(claim, None, tpm, int(self.ledger.now()))
        return self._write(applicant, pattern, Transaction((added, key, *bound)))

    def _reclaim(self, applicant: Applicant, claim: Claim, current: Claim, entries: Entries) -> bool:
        """Try to write a claim in place of the current one, with its key and the use of its invite."""
        is_known = entries.key_thing is not None
        now = int(self.ledger.now())
        reclaimed = succession.reclaim(current, claim, entries.renewal, now, key_is_known=is_known)
        tpm = Transaction(succession.tpm_of(claim, current, entries.tpm, now))
        return self._write(applicant, _pattern(applicant, entries), reclaimed + tpm)

    def _bind_renewal(self, applicant: Applicant, renewal: Claim, current: Claim, entries: Entries | None) -> bool:
        """Try to write a renewal, with its key and the use of its invite, as long as the Thing's claim is as it was.

        Args:
            applicant: the request.
            renewal: the renewal to write.
            current: the Thing's claim.
            entries: what the ledger has; None if it has not been read, and the key must be new.
        """
        known = entries or Entries(invite=None, claim=current, key_thing=None)
        is_known = known.key_thing is not None
        now = int(self.ledger.now())
        in_the_way, because = known.renewal, _undone_because(renewal, known.renewal)
        begun = succession.begin(current, renewal, in_the_way, now, key_is_known=is_known, undone_because=because)
        tpm = Transaction(succession.tpm_of(renewal, current, known.tpm, now))
        if not self._write(applicant, _pattern(applicant, known), begun + tpm):
            return False
        if in_the_way is not None and because is not None:
            undone_renewals.tell(in_the_way, because)
        return True

    def _write(self, applicant: Applicant, pattern: str, transaction: Transaction) -> bool:
        """Try to carry out a transaction together with the use of the invite, and then its removals."""
        if not self.ledger.try_write(*_together(self._use_of_invite(applicant, pattern), transaction.writes)):
            return False
        self.remove(transaction.removals)
        return True

    def _rebind(self, applicant: Applicant, pattern: str, current: Claim) -> bool:
        values = {"code_sha256": applicant.code_sha256}
        thing = Write(current.key, values, _LEASE_IS, {"lease": current.lease})
        return self.ledger.try_write(*self._use_of_invite(applicant, pattern), thing)

    def _take_over(self, current: Claim, new: Claim) -> Claimed | None:
        """Take over the lease; the result says since when *earlier* requests may have had a certificate issued."""
        since = current.issuing_since or int(self.ledger.now())
        values = {"lease": new.lease, "lease_ends": new.lease_ends, "issuing_since": since}
        if not self.ledger.try_write(Write(current.key, values, _LEASE_IS, {"lease": current.lease})):
            return None
        return Claimed(replace(current, lease=new.lease, lease_ends=new.lease_ends), is_new=False)

    def _use_of_invite(self, applicant: Applicant, pattern: str) -> tuple[Write, ...]:
        """Return the write that uses the invite once; no write if there is no invite."""
        if applicant.code_sha256 is None:
            return ()
        expected: dict[str, object] = {
            "code_sha256": applicant.code_sha256,
            "thing": pattern,
            "none": 0,
            "now": int(self.ledger.now()),
        }
        of_tpm = _WITHOUT_TPM
        if applicant.attestation is not None:
            fingerprints = {f"ek{number}": name for number, name in enumerate(applicant.attestation.fingerprints)}
            of_tpm = _FOR_THIS_TPM.format(", ".join(f":{name}" for name in fingerprints))
            expected |= fingerprints
        key = ("invite", invite_id(applicant.code_sha256))
        return (Write(key, {}, f"{_INVITE_IS_VALID} AND {of_tpm}", expected, add={"uses_left": -1}),)


def _pattern(applicant: Applicant, entries: Entries) -> str:
    return entries.invite.thing if entries.invite is not None else applicant.thing


def _together(use: Sequence[Write], writes: Sequence[Write]) -> list[Write]:
    """Return the use of an invite and other writes, without two for one item, which DynamoDB refuses.

    What an undone renewal gives back is what the next one uses, if both came with the same invite.
    """
    given_back = {write.key for write in writes} & {write.key for write in use}
    kept = [replace(write, add={"uses_left": 0}) if write.key in given_back else write for write in use]
    return kept + [write for write in writes if write.key not in given_back]


def _undone_because(renewal: Claim, in_the_way: Claim | None) -> UndoneBecause | None:
    """Return why a renewal undoes the one in its way; None if the operator need not be told."""
    if in_the_way is None or renewal.replaces_key or in_the_way.spki_sha256 == renewal.spki_sha256:
        return None
    return in_the_way.undone_because


def _written(new: Claim, *found: Claim | None) -> Claimed | None:
    """Return the claim that an earlier write of a new one has left. With another claim id, it was a take-over."""
    for claim in found:
        if claim is not None and claim.lease == new.lease:
            return Claimed(claim, is_new=claim.claim_id == new.claim_id)
    return None


def _keys(applicant: Applicant) -> tuple[Key, ...]:
    """Return the keys of an applicant's Thing, key, invite, renewal and, if it has one, TPM."""
    invite = ("invite", invite_id(applicant.code_sha256 or ""))
    tpm = () if applicant.attestation is None else (("tpm", applicant.attestation.ek_sha256),)
    return ("thing", applicant.thing), ("key", applicant.spki_sha256), invite, ("renewal", applicant.thing), *tpm


def _entries(applicant: Applicant, found: dict[Key, Item]) -> Entries:
    thing, key, invite, renewal, *tpm = _keys(applicant)
    return Entries(
        invite=invite_from_item(found[invite]) if invite in found else None,
        claim=claim_from_item(found[thing]) if thing in found else None,
        key_thing=found[key]["thing"] if key in found else None,
        key_shareable=key in found and found[key].get("shareable", False),
        key_shared=key in found and "shared" in found[key],
        key_superseded=key in found and "superseded" in found[key],
        renewal=claim_from_item(found[renewal]) if renewal in found else None,
        tpm=bound_tpm_from_item(found[tpm[0]]) if tpm and tpm[0] in found else None,
    )
