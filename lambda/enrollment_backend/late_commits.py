"""Which renewals that are pending for too long are to be committed: some were, before the ledger was restored to an
earlier moment; others, by EST, whose devices cannot commit them."""

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


def settled_certificate(claim: Claim, renewal: Claim, inspection: Inspection) -> Certificate | None:
    """Return the certificate of a renewal by EST if the renewal is to be committed now; None if it is to be undone.

    It is undone if its certificate was not attached, and so not sent to the device; or if AWS IoT has it no more, or
    inactive: the ledger may have been restored to a moment before the renewal was undone.

    Args and raises: as `committed_certificate`.
    """
    new = renewal.certificate
    if not renewal.by_est or not renewal.attached or new is None:
        return None
    if claim.revoked_at is not None or renewal.leaves_tpm_of(claim):
        return None
    return new if _is_active(new, inspection) else None


def _is_active(certificate: Certificate, inspection: Inspection) -> bool:
    described = inspection.describe(certificate.certificate_id)
    return described is not None and described.found.active
