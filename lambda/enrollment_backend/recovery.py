"""Finds certificates that were issued for a claim but never recorded, because the request died or lost the response."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from enrollment_backend.claims import Certificate, Claim
from enrollment_backend.issuer import Issuer
from enrollment_backend.ledger import Ledger

_MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)  # between Lambda's clock, in claims, and AWS IoT's, in certificates
_MAX_DESCRIBED = 100  # certificates; each one costs a call


def unrecorded_certificates(claim: Claim, ledger: Ledger, issuer: Issuer) -> list[Certificate]:
    """Return the certificates for a claim's key that AWS IoT has and the ledger does not, whatever their status.

    Searches the certificates created since the claim, at most the account's newest thousand. Does not find certificates
    that AWS IoT does not list yet, nor any for a key that several Things may have; the sweep disables those later.

    Raises:
        AwsError: see `aws.call`.
    """
    if claim.shareable_key:
        # A certificate for this key may belong to another Thing that is being enrolled right now, and not be recorded
        # yet: taking it over or deactivating it would break that device. A certificate that this claim lost is
        # harmless: with such a key it is recorded before it is attached to anything, so it cannot do anything.
        return []
    since = datetime.fromtimestamp(claim.claimed, UTC) - _MAX_CLOCK_DIFFERENCE
    unrecorded: list[str] = []
    for page in issuer.newest_pages():
        candidates = [listed.certificate_id for listed in page if listed.created >= since]
        recorded = ledger.certificate_validity(candidates)
        unrecorded += [certificate_id for certificate_id in candidates if certificate_id not in recorded]
        if len(candidates) < len(page):
            break
    return issuer.certificates_for_key(unrecorded[:_MAX_DESCRIBED], claim.spki_sha256)
