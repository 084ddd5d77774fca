"""What the ledger writes when a Thing changes its key, or gives it up. Pure: values in, writes out.

A certificate that loses its validity in one of these transactions gets a *removal*, an item that stays until AWS IoT
has it no more, see `removal`.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from enrollment_backend import admission, thing_attributes
from enrollment_backend.claims import BoundTpm, Certificate, Claim, Removal, UndoneBecause
from enrollment_backend.invites import invite_id
from enrollment_backend.items import attestation_to_values, certificate_to_values, claim_to_item, removal_to_item
from enrollment_backend.public_keys import spki_of
from enrollment_backend.table import Write

_NEW = "attribute_not_exists(#id)"
_EXISTS = "attribute_exists(#id)"
_LEASE_IS = "#lease = :lease"
_IS_VALID = f"{_LEASE_IS} AND attribute_not_exists(#revoked)"
_HAS_TPM, _HAS_NO_TPM = "#ek_sha256 = :ek", "attribute_not_exists(#ek_sha256)"
_IS_COUNT, _HAS_NO_COUNT = "#renewals_until = :count", "attribute_not_exists(#renewals_until)"
_IS_UNCHANGED = "#thing = :thing AND #mark = :mark"
_MAY_RETURN = "#thing = :thing AND attribute_not_exists(#shareable) AND attribute_not_exists(#superseded)"


@dataclass(frozen=True)
class Transaction:
    """Writes that are carried out together, and what is to be removed from AWS IoT afterwards.

    Attributes:
        writes: the writes.
        removals: the removals among them.
    """

    writes: Sequence[Write]
    removals: Sequence[Removal] = ()

    def __add__(self, other: Transaction) -> Transaction:
        return Transaction((*self.writes, *other.writes), (*self.removals, *other.removals))


def begin(
    claim: Claim,
    renewal: Claim,
    in_the_way: Claim | None,
    now: int,
    *,
    key_is_known: bool,
    undone_because: UndoneBecause | None,
) -> Transaction:
    """Give a Thing a renewal. One that is in the way is undone at the same time, so that no other can get in between.

    Args:
        claim: the Thing's claim; it has a certificate.
        renewal: the new renewal.
        in_the_way: the renewal that the Thing has, which may be one with the same key; None if it has none.
        now: the time, in seconds since the epoch.
        key_is_known: whether the ledger has the new renewal's key.
        undone_because: why the one in the way is undone, if the operator is to be told; otherwise None.
    """
    thing: dict[str, object] = {"spki_sha256": claim.spki_sha256}
    condition, expected = _unchanged(claim)
    if not renewal.replaces_key:
        thing["renewals_until"] = admission.count_renewal(claim.renewals_until, now)
        condition += f" AND {_IS_COUNT if claim.renewals_until else _HAS_NO_COUNT}"
        expected |= {"count": claim.renewals_until} if claim.renewals_until else {}
    if undone_because is not None:
        thing |= _undone(undone_because, now)
    unchanged = Write(claim.key, thing, condition, expected)
    if in_the_way is None:
        added = Write(renewal.key, claim_to_item(renewal), _NEW, {}, replace=True)
        return Transaction((unchanged, added, key_of(renewal, is_known=key_is_known)))
    added = Write(renewal.key, claim_to_item(renewal), _LEASE_IS, {"lease": in_the_way.lease}, replace=True)
    key, kept = key_of(renewal, is_known=key_is_known), _kept_key(claim, in_the_way)
    if in_the_way.spki_sha256 == renewal.spki_sha256:  # a transaction writes an item only once
        key, kept = replace(key, values={**key.values, **_public_key(in_the_way.certificate)}), []
    return Transaction((unchanged, added, key, *kept)) + _given_back(claim, in_the_way, now)


def reclaim(current: Claim, claim: Claim, renewal: Claim | None, now: int, *, key_is_known: bool) -> Transaction:
    """Give a Thing that is revoked, or was never enrolled, to another key; a revoked key can never come back.

    Args:
        current: the Thing's claim.
        claim: the new claim.
        renewal: the Thing's renewal; None if it has none.
        now: the time, in seconds since the epoch.
        key_is_known: whether the ledger has the new claim's key.
    """
    replaced = Write(claim.key, claim_to_item(claim), _LEASE_IS, {"lease": current.lease}, replace=True)
    writes = [replaced, key_of(claim, is_known=key_is_known)]
    if current.revoked_at is not None:
        writes.append(Write(("key", current.spki_sha256), {"superseded": now, "replaced": True}, _EXISTS, {}))
    return Transaction(writes) + end_renewal(current, renewal, now)


def key_of(claim: Claim, *, is_known: bool) -> Write:
    """Bind a claim's key to its Thing: a new key, or one that has been bound to this Thing without becoming its own."""
    key, thing = ("key", claim.spki_sha256), {"thing": claim.thing}
    if is_known:
        return Write(key, thing, _MAY_RETURN, thing)
    return Write(key, thing | {"shareable": claim.shareable_key or None}, _NEW, {}, replace=True)


def tpm_of(claim: Claim, current: Claim | None, bound: BoundTpm | None, now: int) -> tuple[Write, ...]:
    """Bind a claim's TPM to its Thing; nothing to write if its key is in none, or the Thing has this TPM already.

    Args:
        claim: the new claim, or renewal.
        current: the Thing's claim; None if it has none.
        bound: what the ledger has about the TPM; None if it has nothing, or has not been read.
        now: the time, in seconds since the epoch.
    """
    if claim.attestation is None or (current is not None and current.is_in(claim.attestation.ek_sha256)):
        return ()
    key = ("tpm", claim.attestation.ek_sha256)
    values: dict[str, object] = {"thing": claim.thing, "since": now, "mark": uuid.uuid4().hex}
    if bound is None:
        return (Write(key, values, _NEW, {}, replace=True),)
    values["others"] = ",".join(bound.others) or None
    return (Write(key, values, _IS_UNCHANGED, {"thing": bound.thing, "mark": bound.mark}, replace=True),)


def attest(claim: Claim, attested: Claim, bound: BoundTpm | None, now: int) -> Transaction:
    """Record that the key of a Thing's claim is in the TPM of `attested`, and have AWS IoT told; else as `tpm_of`."""
    values = {**attestation_to_values(attested.attestation), "undescribed": True, "attached": None}
    recorded = Write(claim.key, values, _IS_VALID, {"lease": claim.lease})
    return Transaction((recorded, *tpm_of(attested, claim, bound, now)))


def switch(claim: Claim, renewal: Claim, certificate: Certificate, now: int) -> Transaction:
    """Give a Thing the key of its renewal in place of its own.

    Args:
        claim: the Thing's claim.
        renewal: its renewal.
        certificate: the renewal's certificate.
        now: the time, in seconds since the epoch.
    """
    thing = {
        **certificate_to_values(certificate),
        "spki_sha256": renewal.spki_sha256,
        "code_sha256": renewal.code_sha256 or claim.code_sha256,
        "enrolled": claim.enrolled or now,
        "renewed": now,
        "shareable_key": None,
        "attached": None,
        "undescribed": thing_attributes.change(claim, renewal, certificate) or None,
        "renewal_undone": None,
        "renewal_undone_because": None,
        **attestation_to_values(renewal.attestation),
        **_ended(),
    }
    old_key = {"superseded": now, "replaced": renewal.replaces_key or None, **_public_key(claim.certificate)}
    writes = (
        Write(claim.key, thing, *_unchanged(claim)),
        Write(renewal.key, {}, _LEASE_IS, {"lease": renewal.lease}, delete=True),
        Write(("key", claim.spki_sha256), old_key, _EXISTS, {}),
    )
    return Transaction(writes) + _removal(claim, now)


def undo(claim: Claim, renewal: Claim, now: int) -> Transaction:
    """Undo a Thing's renewal: its certificate goes, and the invite that it used, if there is one, gets its use back.

    Its key stays bound to the Thing: a certificate for it that got lost is found by that.
    """
    return forget(renewal) + Transaction(_kept_key(claim, renewal)) + _given_back(claim, renewal, now)


def note_undone(claim: Claim, because: UndoneBecause, now: int) -> Transaction:
    """Record with a Thing that a renewal of it was undone, for the operator."""
    return Transaction((Write(claim.key, _undone(because, now), _EXISTS, {}),))


def forget(renewal: Claim) -> Transaction:
    """Delete the item of a renewal that is over."""
    return Transaction((Write(renewal.key, {}, _LEASE_IS, {"lease": renewal.lease}, delete=True),))


def end_renewal(claim: Claim, renewal: Claim | None, now: int) -> Transaction:
    """Undo a Thing's renewal; if it had none when it was read, make sure that it has none yet.

    For every transaction that takes the Thing away from the key that a renewal may have come from: the renewal would
    outlive it, and could be committed later.
    """
    if renewal is not None:
        return undo(claim, renewal, now)
    return Transaction((Write(("renewal", claim.thing), {}, _NEW, {}, delete=True),))


def retire(claim: Claim, now: int, *, delete_thing: bool) -> Transaction:
    """Record that a Thing's device gave up its key: its certificate goes, and the Thing itself if that is wanted."""
    thing = {"revoked": now, "retired": True, **_ended()}
    writes = [Write(claim.key, thing, _IS_VALID, {"lease": claim.lease})]
    return Transaction(writes) + _removal(claim, now, claim.claim_id if delete_thing else None)


def _undone(because: UndoneBecause, now: int) -> dict[str, object]:
    return {"renewal_undone": now, "renewal_undone_because": because}


def _unchanged(claim: Claim) -> tuple[str, dict[str, object]]:
    """Return the condition that a claim is valid and as it was, also which TPM its key is in, and its values."""
    if claim.attestation is None:
        return f"{_IS_VALID} AND {_HAS_NO_TPM}", {"lease": claim.lease}
    return f"{_IS_VALID} AND {_HAS_TPM}", {"lease": claim.lease, "ek": claim.attestation.ek_sha256}


def _kept_key(claim: Claim, renewal: Claim) -> list[Write]:
    """Keep what a proof of an undone renewal's key is checked with, unless the Thing's claim has it."""
    public_key = _public_key(renewal.certificate) if claim.spki_sha256 != renewal.spki_sha256 else {}
    return [Write(("key", renewal.spki_sha256), public_key, _EXISTS, {})] if public_key else []


def _given_back(claim: Claim, renewal: Claim, now: int) -> Transaction:
    """Remove an undone renewal's certificate, and give the invite its use back.

    Nothing if the Thing has the renewal's key: it was committed, and is here only because the table was restored.
    """
    if claim.spki_sha256 == renewal.spki_sha256:
        return Transaction(())
    if renewal.code_sha256 is None:
        return _removal(renewal, now)
    invite = Write(("invite", invite_id(renewal.code_sha256)), {}, _EXISTS, {}, add={"uses_left": 1})
    return Transaction((invite,)) + _removal(renewal, now)


def _removal(claim: Claim, now: int, delete_thing_of: str | None = None) -> Transaction:
    """Revoke a claim's certificate, recorded or spare, and have it removed; nothing if there is none."""
    certificate, spare = claim.certificate, claim.spare
    if certificate is None and spare is None:
        return Transaction(())
    removal = Removal(
        certificate_id=certificate.certificate_id if certificate else str(spare),
        thing=claim.thing,
        created=now,
        certificate_arn=certificate.arn if certificate else None,
        delete_thing_of=delete_thing_of,
    )
    writes = [Write(("removal", removal.certificate_id), removal_to_item(removal), "", {}, replace=True)]
    if certificate is not None:
        writes.append(Write(("certificate", certificate.certificate_id), {"revoked": now}, _EXISTS, {}))
    return Transaction(writes, (removal,))


def _ended() -> dict[str, object]:
    """Return the values of a claim that no request works on any more."""
    return {"lease": uuid.uuid4().hex, "lease_ends": 0, "issuing_since": 0, "spare": None, "turn": None}


def _public_key(certificate: Certificate | None) -> dict[str, object]:
    """Return the value of a key's item by which a proof of it can be checked when no claim has its certificate."""
    spki = None if certificate is None else spki_of(certificate.pem)
    return {} if spki is None else {"public_key": base64.b64encode(spki).decode("ascii")}
