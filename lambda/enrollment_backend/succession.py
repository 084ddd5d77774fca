"""What the ledger writes when a Thing changes its key, or gives it up. Pure: values in, writes out.

A certificate that loses its validity in one of these transactions gets a *removal*, an item that stays until AWS IoT
has it no more, see `removal`.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from enrollment_backend.claims import Certificate, Claim, Removal
from enrollment_backend.invites import invite_id
from enrollment_backend.items import certificate_to_values, removal_to_item
from enrollment_backend.public_keys import spki_of
from enrollment_backend.table import Write

_LEASE_IS = "#lease = :lease"
_EXISTS = "attribute_exists(#id)"


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
        **_ended(),
    }
    old_key = {"superseded": now, **_public_key(claim.certificate)}
    writes = (
        Write(claim.key, thing, f"{_LEASE_IS} AND attribute_not_exists(#revoked)", {"lease": claim.lease}),
        Write(renewal.key, {}, _LEASE_IS, {"lease": renewal.lease}, delete=True),
        Write(("key", claim.spki_sha256), old_key, _EXISTS, {}),
    )
    return Transaction(writes) + _removal(claim, now)


def undo(renewal: Claim, now: int) -> Transaction:
    """Undo a renewal: its certificate goes, and the invite that it used, if there is one, gets its use back.

    Its key stays bound to the Thing: a certificate for it that got lost is found by that.
    """
    writes = [Write(renewal.key, {}, _LEASE_IS, {"lease": renewal.lease}, delete=True)]
    if public_key := _public_key(renewal.certificate):
        writes.append(Write(("key", renewal.spki_sha256), public_key, _EXISTS, {}))
    if renewal.code_sha256 is not None:
        invite = ("invite", invite_id(renewal.code_sha256))
        writes.append(Write(invite, {}, _EXISTS, {}, add={"uses_left": 1}))
    return Transaction(writes) + _removal(renewal, now)


def retire(claim: Claim, now: int, *, delete_thing: bool) -> Transaction:
    """Record that a Thing's device gave up its key: its certificate goes, and the Thing itself if that is wanted."""
    thing = {"revoked": now, "retired": True, **_ended()}
    writes = [Write(claim.key, thing, f"{_LEASE_IS} AND attribute_not_exists(#revoked)", {"lease": claim.lease})]
    return Transaction(writes) + _removal(claim, now, claim.claim_id if delete_thing else None)


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
