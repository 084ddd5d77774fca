"""Restores ledger entries from AWS IoT, after the table was emptied or restored to an earlier moment.

AWS IoT knows the certificates with the device policy, their keys, and the Things that they are attached to. A Thing
that was created here has the id of its claim as an attribute. Nobody knows the invites any more: a device that repeats
its request needs a new one, and then gets the same certificate.

A Thing may have two active certificates, the newer one of a renewal that is not committed: that is restored as such,
so that its device can go on with either key. AWS IoT does not say which one it has: a certificate by EST may have been
delivered long ago, and has no commit; another one may never have arrived. So neither goes by itself: what the device
does next decides, see `reenrolling` and `lifecycle`.

No entry that exists is changed, except that an enrollment that had just begun is completed, and that a Thing whose
certificate is gone gets the newer one that it has: the ledger was restored to a moment before a renewal, or before it
was committed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from enrollment_backend import log
from enrollment_backend.aws_errors import AwsRefusedError, ConditionFailedError
from enrollment_backend.claims import Certificate, Claim
from enrollment_backend.errors import FieldInvalidError
from enrollment_backend.inspection import Described, Found, Inspection, Origin
from enrollment_backend.items import (
    attestation_from_item,
    attestation_to_values,
    certificate_to_values,
    claim_from_item,
    claim_to_item,
)
from enrollment_backend.late_commits import committed_certificate
from enrollment_backend.ledger import Ledger
from enrollment_backend.succession import switch, tpm_of
from enrollment_backend.table import Item, Write

_WITH_POLICY = "p:"  # what a marker begins with; AWS IoT's own marker follows
_PAGE_SIZE = 25  # certificates; a missing one costs up to five calls
_MAX_PAGES = 20  # in one request, where no certificate is missing
_CONCURRENTLY = 3  # certificates at a time: AWS IoT allows ten calls per second of some operations
_NEW = "attribute_not_exists(#id)"
_LEASE_IS = "#lease = :lease"

Reason = Literal["key-unknown", "not-attached", "several-things", "thing-existed", "other-key", "other-certificate"]


@dataclass(frozen=True)
class Restored:
    """An entry that was made, or would be.

    Attributes:
        thing: the Thing's name.
        certificate_id: the certificate that was missing, or that was the Thing's only as a renewal.
        status: what the Thing is with it: ``issued``, or ``revoked`` if the certificate is not active.
    """

    thing: str
    certificate_id: str
    status: Literal["issued", "revoked"]


@dataclass(frozen=True)
class Left:
    """A certificate with the device policy for which no entry can be made.

    Attributes:
        certificate_id: its id.
        reason: why: its key cannot be read; it is attached to no Thing or to several; its Thing was not created here,
            and `Rebuilder.rebuild` was not told to adopt such Things; its key belongs to another Thing; or the ledger
            has another certificate or key for its Thing.
    """

    certificate_id: str
    reason: Reason


@dataclass(frozen=True)
class Rebuilt:
    """The outcome of a part.

    Attributes:
        examined: number of certificates that were compared with the ledger.
        restored: the entries that were made, or would be.
        left: the certificates that were left.
        next: marker of the next part; None if this is the last one.
    """

    examined: int
    restored: list[Restored]
    left: list[Left]
    next: str | None


@dataclass
class _Entry:
    """What there is about a certificate, the writes that restore what is missing, and the one that binds its TPM."""

    outcome: Restored | Left
    writes: list[Write] = field(default_factory=list)
    of_tpm: Sequence[Write] = ()


@dataclass(frozen=True)
class Rebuilder:
    """Compares AWS IoT with the ledger, part by part.

    Args:
        ledger: the ledger.
        inspection: AWS IoT.
        concurrently: see `aws.concurrently`.
        now: the time, in seconds since the epoch.

    Every method raises the errors of `aws.call`.
    """

    ledger: Ledger
    inspection: Inspection
    concurrently: Callable[..., list[Any]]
    now: Callable[[], float]

    def rebuild(self, marker: str | None, *, look_only: bool, adopt: bool) -> Rebuilt:
        """Restore the entries of a part.

        It can be repeated: what has been restored is not missing any more.

        Args:
            marker: of the part, from the part before; None for the first one.
            look_only: whether to change nothing.
            adopt: whether to restore Things that were not created here, too.

        Raises:
            FieldInvalidError: the marker is invalid.
        """
        if marker is not None and not marker.startswith(_WITH_POLICY):
            raise FieldInvalidError("next")
        position = "" if marker is None else marker.removeprefix(_WITH_POLICY)
        examined = 0
        missing: list[str] = []
        renewals: list[Claim] = []
        for _ in range(_MAX_PAGES):
            ids, position = self._page(position)
            examined += len(ids)
            missing, renewals = self._compare(ids)
            if missing or renewals or not position:
                break
        # First the commits, since a missing certificate may be that of the renewal after it.
        looks: list[Callable[[], _Entry | None]] = [partial(self._late_commit, renewal) for renewal in renewals]
        outcomes = self._restore(looks, look_only=look_only)
        looks = [partial(self._entry, certificate_id, adopt=adopt) for certificate_id in missing]
        outcomes += self._restore(looks, look_only=look_only)
        return Rebuilt(
            examined=examined,
            restored=[one for one in outcomes if isinstance(one, Restored)],
            left=[one for one in outcomes if isinstance(one, Left)],
            next=f"{_WITH_POLICY}{position}" if position else None,
        )

    def _page(self, position: str) -> tuple[list[str], str]:
        try:
            return self.inspection.certificates_with_policy(position, _PAGE_SIZE)
        except AwsRefusedError as error:
            if not position:
                raise
            raise FieldInvalidError("next") from error

    def _compare(self, ids: list[str]) -> tuple[list[str], list[Claim]]:
        """Return which of some certificates are missing, and the renewals that the others were issued for."""
        recorded = self.ledger.table.get(("certificate", certificate_id) for certificate_id in ids)
        missing = [certificate_id for certificate_id in ids if ("certificate", certificate_id) not in recorded]
        things = {item["thing"] for item in recorded.values() if "thing" in item and "revoked" not in item}
        renewals = self.ledger.table.get(("renewal", thing) for thing in things)
        return missing, [claim_from_item(item) for item in renewals.values() if item.get("certificate_id") in ids]

    def _restore(self, looks: list[Callable[[], _Entry | None]], *, look_only: bool) -> list[Restored | Left]:
        """Find out what is missing, some at a time, and restore it."""
        outcomes: list[Restored | Left] = []
        for start in range(0, len(looks), _CONCURRENTLY):
            entries = self.concurrently(*looks[start : start + _CONCURRENTLY])
            outcomes += [self._carry_out(entry, look_only=look_only) for entry in entries if entry is not None]
        return outcomes

    def _late_commit(self, renewal: Claim) -> _Entry | None:
        """Return what commits a renewal that was committed after the restored moment; None if it was not."""
        claim = self.ledger.find_claim(renewal.thing)
        if claim is None or claim.spki_sha256 == renewal.spki_sha256:
            return None
        certificate = committed_certificate(claim, renewal, self.inspection)
        if certificate is None:
            return None
        # As of when the certificate was issued: one that is missing, and newer, is that of a later renewal.
        committed = switch(claim, renewal, certificate, renewal.enrolled or int(self.now()))
        return _Entry(Restored(claim.thing, certificate.certificate_id, "issued"), list(committed.writes))

    def _carry_out(self, entry: _Entry, *, look_only: bool) -> Restored | Left:
        if isinstance(entry.outcome, Left) or look_only:
            return entry.outcome
        # Before its Thing, so that a Thing that was restored has its TPM; in vain if another Thing has the TPM too.
        if entry.of_tpm:
            self._try(*entry.of_tpm)
        if not self._try(*entry.writes):
            return Left(entry.outcome.certificate_id, "other-certificate")  # recorded in the meantime
        log.info("entry-restored", thing=entry.outcome.thing, certificateId=entry.outcome.certificate_id)
        return entry.outcome

    def _entry(self, certificate_id: str, *, adopt: bool) -> _Entry | None:
        """Return what restores the entries of a certificate; None if it has been deleted."""
        described = self.inspection.describe(certificate_id)
        if described is None:
            return None
        if described.spki_sha256 is None:
            return _left(certificate_id, "key-unknown")
        things = self.inspection.things_of(described.certificate)
        if len(things) != 1:
            return _left(certificate_id, "several-things" if things else "not-attached")
        origin = self.inspection.origin_of(things[0])
        if origin is None and not adopt:
            return _left(certificate_id, "thing-existed")
        return self._entry_of_thing(things[0], origin, described, described.spki_sha256)

    def _entry_of_thing(self, thing: str, origin: Origin | None, described: Described, spki_sha256: str) -> _Entry:
        certificate_id, active = described.found.certificate_id, described.found.active
        found = self.ledger.table.get([("thing", thing), ("key", spki_sha256)])
        entry, key = found.get(("thing", thing)), found.get(("key", spki_sha256))
        if key is not None and key["thing"] != thing:
            return _left(certificate_id, "other-key")
        created, now = int(described.found.created.timestamp()), int(self.now())
        values = {"thing": thing, "spki_sha256": spki_sha256, "enrolled": created, "revoked": None if active else now}
        writes = [Write(("certificate", certificate_id), values, _NEW, {}, replace=True)]
        if key is None:
            writes.append(Write(("key", spki_sha256), {"thing": thing}, _NEW, {}, replace=True))
        claim = Claim(
            thing=thing,
            claim_id=origin.claim_id if origin else uuid.uuid4().hex,
            spki_sha256=spki_sha256,
            code_sha256=None,
            lease=uuid.uuid4().hex,
            lease_ends=0,
            claimed=created,
            certificate=described.certificate,
            enrolled=created,
            revoked_at=None if active else now,
            adopted=origin is None,
            attestation=origin.attestation if origin else None,
        )
        of_claim = self._writes_for(claim, entry, active=active, now=now)
        if of_claim is None:
            return _left(certificate_id, "other-certificate")
        of_tpm = tpm_of(claim, None, None, now) if active else ()
        return _Entry(Restored(thing, certificate_id, "issued" if active else "revoked"), writes + of_claim, of_tpm)

    def _writes_for(self, claim: Claim, entry: Item | None, *, active: bool, now: int) -> list[Write] | None:
        """Return what brings a claim, made of a missing certificate, into the ledger; None if that is not possible.

        Args:
            claim: the claim.
            entry: what the ledger has of the Thing.
            active: whether the certificate is active.
            now: the time.
        """
        certificate = claim.certificate
        assert certificate is not None  # noqa: S101 - it is made of one
        renewal = _restored_renewal(claim, entry, now)
        if entry is None:
            return self._writes_for_first(claim, renewal, active=active)
        if not active:
            return []
        if _waits_for(entry, claim.spki_sha256):
            return [_completion(claim_from_item(entry), certificate, claim.claimed)]
        if not _is_followed_by(entry, claim.claimed):
            return None
        still_active = {found.certificate_id for found in self._active(claim.thing)}
        if entry["certificate_id"] not in still_active:
            return _succession(entry, claim, certificate, now)
        earlier = self.ledger.find_claim(claim.thing, "renewal")
        if earlier is None:
            return [_new(renewal)]
        if earlier.replaces_key or (earlier.certificate and earlier.certificate.certificate_id in still_active):
            return None
        return [Write(renewal.key, claim_to_item(renewal), _LEASE_IS, {"lease": earlier.lease}, replace=True)]

    def _writes_for_first(self, claim: Claim, renewal: Claim, *, active: bool) -> list[Write]:
        """Return the same for a Thing that the ledger does not have."""
        own_id = claim.certificate and claim.certificate.certificate_id
        others = [found for found in self._active(claim.thing) if found.certificate_id != own_id]
        if not active:
            return [] if others else [_new(claim)]  # if there is one, it has been enrolled again since
        return [_new(renewal if any(found.created.timestamp() < claim.claimed for found in others) else claim)]

    def _active(self, thing: str) -> list[Found]:
        """Return a Thing's certificates that are active."""
        return [found for found in self.inspection.attached_to(thing) if found.active]

    def _try(self, *writes: Write) -> bool:
        try:
            self.ledger.table.transact(writes)
        except ConditionFailedError:
            return False
        return True


def _left(certificate_id: str, reason: Reason) -> _Entry:
    return _Entry(Left(certificate_id, reason))


def _restored_renewal(claim: Claim, entry: Item | None, now: int) -> Claim:
    """Return the renewal that a Thing had which a claim, made of the newer one of its two certificates, is for.

    Its key is in the TPM that the key before it is in, as every renewal's is.
    """
    return replace(
        claim,
        kind="renewal",
        claim_id=uuid.uuid4().hex,
        claimed=now,
        enrolled=now,
        adopted=False,
        attestation=claim.attestation or attestation_from_item(entry or {}),
        by_est=True,
        restored=True,
    )


def _waits_for(entry: Item, spki_sha256: str) -> bool:
    """Whether a Thing's entry is that of an enrollment that had just begun when the table was saved."""
    return "certificate_id" not in entry and "revoked" not in entry and entry["spki_sha256"] == spki_sha256


def _is_followed_by(entry: Item, created: int) -> bool:
    """Whether a certificate created then is newer than the one in a Thing's entry."""
    if "certificate_id" not in entry or "revoked" in entry:
        return False
    return created > int(entry.get("renewed") or entry.get("enrolled") or created)


def _new(claim: Claim) -> Write:
    return Write(claim.key, claim_to_item(claim), _NEW, {}, replace=True)


def _succession(entry: Item, newer: Claim, certificate: Certificate, now: int) -> list[Write]:
    """Give a Thing the newer key and certificate, in place of those that AWS IoT has no more."""
    values = {
        **certificate_to_values(certificate),
        **attestation_to_values(newer.attestation),
        "spki_sha256": newer.spki_sha256,
        "renewed": newer.enrolled,
        "lease": newer.lease,
        "renewal_undone": None,
        "renewal_undone_because": None,
    }
    unchanged = "#lease = :lease AND attribute_not_exists(#revoked)"
    return [
        Write(newer.key, values, unchanged, {"lease": entry["lease"]}),
        Write(("certificate", entry["certificate_id"]), {"revoked": now}, "attribute_exists(#id)", {}),
        Write(("key", entry["spki_sha256"]), {"superseded": now}, "attribute_exists(#id)", {}),
    ]


def _completion(claim: Claim, certificate: Certificate, created: int) -> Write:
    values = {**certificate_to_values(certificate), "enrolled": created}
    condition = "#lease = :lease AND attribute_not_exists(#certificate_id)"
    return Write(("thing", claim.thing), values, condition, {"lease": claim.lease})
