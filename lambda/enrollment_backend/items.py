"""Translates claims, invites and removals to items of the ledger's table, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enrollment_backend.claims import Attestation, BoundTpm, Certificate, Claim, Removal
from enrollment_backend.invites import Invite
from enrollment_backend.public_keys import key_type_of
from enrollment_backend.table import Item, Selection

THING_STATUSES: Mapping[str, str] = {
    "claimed": "attribute_not_exists(#revoked) AND attribute_not_exists(#certificate_id)",
    "issued": "attribute_not_exists(#revoked) AND attribute_exists(#certificate_id)",
    "revoked": "attribute_exists(#revoked)",
}
"""The statuses of Things, each with the condition for their items; see `ThingEntry.status`."""

INVITE_STATUSES: Mapping[str, str] = {
    "open": "attribute_not_exists(#revoked) AND #uses_left > :none AND #expires > :now",
    "used": "attribute_not_exists(#revoked) AND #uses_left <= :none",
    "expired": "attribute_not_exists(#revoked) AND #uses_left > :none AND #expires <= :now",
    "revoked": "attribute_exists(#revoked)",
}
"""The statuses of invites, likewise; see `invite_status`."""


@dataclass(frozen=True)
class ThingEntry:
    """What operators are shown of a Thing; see `claims.Claim` for what is not explained here.

    Attributes:
        key_type: the type of its key, such as ``ec-p256``. The index does not have it.
        renewed: when its key was last renewed or replaced, in seconds since the epoch; None if it never was. The index
            does not have it either.
        attestation: what is known of its TPM; None if its key is not proven to be in one. The index has only the EK.
        renewal_due: whether its certificate is so old that it should be renewed.
        renewal_pending: whether it has a renewal.
        renewal_undone: when a renewal of it was undone last, in seconds since the epoch; None if none was since its key
            was last renewed or replaced. The index does not have it.
        renewal_undone_because: why, see `claims.UndoneBecause`; likewise.
    """

    thing: str
    spki_sha256: str
    code_sha256: str | None
    claimed: int
    enrolled: int | None
    revoked_at: int | None
    certificate_id: str | None
    key_type: str | None = None
    renewed: int | None = None
    attestation: Attestation | None = None
    renewal_due: bool = False
    renewal_pending: bool = False
    renewal_undone: int | None = None
    renewal_undone_because: str | None = None

    @property
    def status(self) -> str:
        """``claimed``, ``issued`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "claimed" if self.certificate_id is None else "issued"


def entry_from_item(item: Item) -> ThingEntry:
    """Return what operators are shown of a claim's item, as far as the item says it."""
    return ThingEntry(
        thing=item["id"],
        spki_sha256=item["spki_sha256"],
        code_sha256=item.get("code_sha256"),
        claimed=_claimed(item),
        enrolled=item.get("enrolled"),
        revoked_at=item.get("revoked"),
        certificate_id=item.get("certificate_id"),
        key_type=_key_type(item),
        renewed=item.get("renewed"),
        attestation=attestation_from_item(item),
        renewal_undone=item.get("renewal_undone"),
        renewal_undone_because=item.get("renewal_undone_because"),
    )


def invite_status(invite: Invite, now: float) -> str:
    """Return an invite's status at a time in seconds since the epoch: one of `INVITE_STATUSES`."""
    if invite.revoked:
        return "revoked"
    if invite.uses_left < 1:
        return "used"
    return "open" if invite.expires > now else "expired"


def selection(
    statuses: Mapping[str, str],
    status: str | None,
    prefix: str | None,
    now: float,
    *,
    attested: bool | None = None,
) -> Selection:
    """Return which items of Things or invites are in a list.

    Args:
        statuses: `THING_STATUSES` or `INVITE_STATUSES`.
        status: one of them; None for all.
        prefix: what their Things' names begin with; None for any.
        now: the time, in seconds since the epoch.
        attested: whether they are those with a TPM, or those without; None for both.
    """
    conditions = [] if status is None else [statuses[status]]
    if attested is not None:
        conditions.append("attribute_exists(#ek_sha256)" if attested else "attribute_not_exists(#ek_sha256)")
    if prefix is not None:
        conditions.append("begins_with(#thing, :prefix)")
    condition = " AND ".join(conditions)
    known: dict[str, object] = {"none": 0, "now": int(now), "prefix": prefix}
    return Selection(condition, {name: value for name, value in known.items() if f":{name}" in condition})


def claim_to_item(claim: Claim) -> Item:
    """Return a claim as an item, without the item's key. Like an invite's, it has ``thing`` and ``created``."""
    return {
        "thing": claim.thing,
        "created": claim.claimed,
        "claim_id": claim.claim_id,
        "spki_sha256": claim.spki_sha256,
        "code_sha256": claim.code_sha256,
        "lease": claim.lease,
        "lease_ends": claim.lease_ends,
        "issuing_since": claim.issuing_since,
        "spare": claim.spare,
        "turn": claim.turn,
        "enrolled": claim.enrolled,
        "revoked": claim.revoked_at,
        "retired": claim.retired or None,
        "adopted": claim.adopted or None,
        "reclaimed": claim.reclaimed or None,
        "shareable_key": claim.shareable_key or None,
        "attached": claim.attached or None,
        "by_chip": claim.by_chip or None,
        "undescribed": claim.undescribed or None,
        "by_est": claim.by_est or None,
        "restored": claim.restored or None,
        "renewals_until": claim.renewals_until or None,
        **attestation_to_values(claim.attestation),
        **(certificate_to_values(claim.certificate) if claim.certificate else {}),
    }


def claim_from_item(item: Item) -> Claim:
    """Return the claim in an item that `claim_to_item` returned."""
    certificate = None
    if "certificate_id" in item:
        certificate = Certificate(item["certificate_pem"], item["certificate_id"], item["certificate_arn"])
    return Claim(
        kind=item["kind"],
        thing=item["id"],
        claim_id=item["claim_id"],
        spki_sha256=item["spki_sha256"],
        code_sha256=item.get("code_sha256"),
        lease=item["lease"],
        lease_ends=item["lease_ends"],
        issuing_since=item.get("issuing_since", _claimed(item)),  # earlier versions did not record it
        spare=item.get("spare"),
        turn=item.get("turn"),
        claimed=_claimed(item),
        certificate=certificate,
        enrolled=item.get("enrolled"),
        revoked_at=item.get("revoked"),
        retired=item.get("retired", False),
        adopted=item.get("adopted", False),
        reclaimed=item.get("reclaimed", False),
        shareable_key=item.get("shareable_key", False),
        attached=item.get("attached", False),
        attestation=attestation_from_item(item),
        by_chip=item.get("by_chip", False),
        undescribed=item.get("undescribed", False),
        by_est=item.get("by_est", False),
        restored=item.get("restored", False),
        renewals_until=item.get("renewals_until", 0),
    )


def _claimed(item: Item) -> int:
    """Return when a claim's key was bound; items that were written before there were lists by time say ``claimed``."""
    return int(item["created"] if "created" in item else item["claimed"])


def certificate_to_values(certificate: Certificate) -> dict[str, Any]:
    """Return the values of a claim's item that describe its certificate."""
    return {
        "certificate_id": certificate.certificate_id,
        "certificate_arn": certificate.arn,
        "certificate_pem": certificate.pem,
        "key_type": key_type_of(certificate.pem),
    }


def attestation_to_values(attestation: Attestation | None) -> dict[str, Any]:
    """Return the values of a claim's item that describe its TPM; all are None if there is none."""
    return {
        "ek_sha256": attestation and attestation.ek_sha256,
        "ek_certificate_sha256": attestation and attestation.ek_certificate_sha256,
        "tpm_manufacturer": attestation and attestation.manufacturer,
        "tpm_firmware": attestation and attestation.firmware,
    }


def attestation_from_item(item: Item) -> Attestation | None:
    """Return the TPM in an item with the values of `attestation_to_values`; None if there is none."""
    if "ek_sha256" not in item:
        return None
    return Attestation(
        ek_sha256=item["ek_sha256"],
        ek_certificate_sha256=item.get("ek_certificate_sha256"),
        manufacturer=item.get("tpm_manufacturer"),
        firmware=item.get("tpm_firmware"),
    )


def bound_tpm_from_item(item: Item) -> BoundTpm:
    """Return what the ledger holds about a TPM; whether it is in use, its Thing's claim says."""
    others = tuple(filter(None, item.get("others", "").split(",")))  # no name has a comma
    return BoundTpm(item["thing"], item["since"], item["mark"], others)


def _key_type(item: Item) -> str | None:
    """Return the type of the key of a claim's certificate, which earlier versions did not record."""
    if "key_type" in item or "certificate_pem" not in item:
        return item.get("key_type")
    return key_type_of(item["certificate_pem"])


def invite_to_item(invite: Invite, ttl: int) -> Item:
    """Return an invite as an item.

    Args:
        invite: the invite.
        ttl: when DynamoDB may delete the item, in seconds since the epoch.
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
        "deactivate_existing": invite.deactivate_existing or None,
        "replaces_key": invite.replaces_key or None,
        "ek_sha256": invite.ek_sha256,
        "require_tpm": invite.require_tpm or None,
        "reuse_tpm": invite.reuse_tpm or None,
        "revoked": invite.revoked or None,
        "ttl": ttl,
    }


def invite_from_item(item: Item) -> Invite:
    """Return the invite in an item that `invite_to_item` returned."""
    return Invite(
        code_sha256=item["code_sha256"],
        thing=item["thing"],
        uses=item["uses"],
        uses_left=item["uses_left"],
        created=item["created"],
        expires=item["expires"],
        created_by=item["created_by"],
        existing_thing=item.get("existing_thing", False),
        deactivate_existing=item.get("deactivate_existing", False),
        replaces_key=item.get("replaces_key", False),
        ek_sha256=item.get("ek_sha256"),
        require_tpm=item.get("require_tpm", False),
        reuse_tpm=item.get("reuse_tpm", False),
        revoked=item.get("revoked", False),
    )


def removal_to_item(removal: Removal) -> Item:
    """Return a removal as an item, without the item's key."""
    return {
        "thing": removal.thing,
        "created": removal.created,
        "certificate_arn": removal.certificate_arn,
        "claim_id": removal.delete_thing_of,
    }


def removal_from_item(item: Item) -> Removal:
    """Return the removal in an item that `removal_to_item` returned."""
    return Removal(
        certificate_id=item["id"],
        thing=item["thing"],
        created=item["created"],
        certificate_arn=item.get("certificate_arn"),
        delete_thing_of=item.get("claim_id"),
    )
