"""Finds renewals that were committed, but that a ledger restored to an earlier moment has as pending."""

from __future__ import annotations

from enrollment_backend.claims import Certificate, Claim
from enrollment_backend.inspection import Inspection


def committed_certificate(claim: Claim, renewal: Claim, inspection: Inspection) -> Certificate | None:
    """Return a renewal's certificate if AWS IoT shows that it was committed; None if it does not.

    A commit removes the old certificate from AWS IoT. So it has happened if the claim's certificate is gone, or
    inactive, while that of the renewal is active and attached to the Thing.

    Args:
        claim: the Thing's claim, which has another key.
        renewal: its renewal.
        inspection: AWS IoT.

    Raises:
        AwsError: see `aws.call`.
    """
    old, new = claim.certificate, renewal.certificate
    if claim.revoked_at is not None or old is None or new is None:
        return None
    if _is_active(old, inspection) or not _is_active(new, inspection):
        return None
    return new if inspection.things_of(new) == [claim.thing] else None


def _is_active(certificate: Certificate, inspection: Inspection) -> bool:
    described = inspection.describe(certificate.certificate_id)
    return described is not None and described.found.active
