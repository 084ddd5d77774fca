"""Translates claims and invites to items of the ledger's table, and back."""

from __future__ import annotations

from typing import Any

from enrollment_backend.claims import Certificate, Claim
from enrollment_backend.invites import Invite
from enrollment_backend.table import Item


def claim_to_item(claim: Claim) -> Item:
    """Return a claim as an item, without its key."""
    return {
        "claim_id": claim.claim_id,
        "spki_sha256": claim.spki_sha256,
        "code_sha256": claim.code_sha256,
        "lease": claim.lease,
        "lease_ends": claim.lease_ends,
        "claimed": claim.claimed,
        "enrolled": claim.enrolled,
        "revoked": claim.revoked_at,
        "adopted": claim.adopted or None,
        "reclaimed": claim.reclaimed or None,
        "shareable_key": claim.shareable_key or None,
        **(certificate_to_values(claim.certificate) if claim.certificate else {}),
    }


def claim_from_item(item: Item) -> Claim:
    """Return the claim in an item that `claim_to_item` returned."""
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
        revoked_at=item.get("revoked"),
        adopted=item.get("adopted", False),
        reclaimed=item.get("reclaimed", False),
        shareable_key=item.get("shareable_key", False),
    )


def certificate_to_values(certificate: Certificate) -> dict[str, Any]:
    """Return the values of a claim's item that describe its certificate."""
    return {
        "certificate_id": certificate.certificate_id,
        "certificate_arn": certificate.arn,
        "certificate_pem": certificate.pem,
    }


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
        "ek_sha256": invite.ek_sha256,
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
        ek_sha256=item.get("ek_sha256"),
        revoked=item.get("revoked", False),
    )
