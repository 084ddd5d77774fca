"""Finds certificates that were issued for a claim but never recorded, because the request died or lost the response."""

from __future__ import annotations

from datetime import UTC, datetime

from enrollment_backend.claims import Certificate, Claim
from enrollment_backend.issuer import Issuer
from enrollment_backend.ledger import Ledger

_MAX_CLOCK_DIFFERENCE = 10  # seconds, between Lambda's clock, in claims, and AWS IoT's, in certificates
_MAX_DESCRIBED = 20  # certificates; each one costs a call, of which AWS IoT allows the account 10 per second


def unrecorded_certificates(claim: Claim, ledger: Ledger, issuer: Issuer) -> list[Certificate]:
    """Return the certificates for a claim's key that AWS IoT has and the ledger does not, whatever their status.

    Makes no call if it is certain that there are none. If the claim names one, there is no search. Otherwise it
    searches the certificates created since the first request whose outcome is not known, but only among the account's
    newest few hundred. Does not find certificates that AWS IoT does not list yet, nor any for a key that several Things
    may have. A certificate that is not found can do nothing, since certificates are recorded before they are attached
    to anything; the sweep deals with it later.

    Raises:
        AwsError: see `aws.call`.
    """
    if claim.spare is not None and not ledger.certificate_validity([claim.spare]):  # the sweep may have disabled it
        found = issuer.certificates_for_key([claim.spare], claim.spki_sha256)
        if found:
            return found
    # A certificate for a shareable key may belong to another Thing that is being enrolled right now and not be recorded
    # yet: taking it over or deleting it would break that device.
    if claim.shareable_key or not claim.issuing_since:
        return []
    since = datetime.fromtimestamp(claim.issuing_since - _MAX_CLOCK_DIFFERENCE, UTC)
    unrecorded: list[str] = []
    for page in issuer.newest_pages():
        candidates = [listed.certificate_id for listed in page if listed.created >= since]
        recorded = ledger.certificate_validity(candidates)
        unrecorded += [certificate_id for certificate_id in candidates if certificate_id not in recorded]
        if len(candidates) < len(page):
            break
    oldest_first = unrecorded[::-1]  # the lost one was created soon after the request began
    return issuer.certificates_for_key(oldest_first[:_MAX_DESCRIBED], claim.spki_sha256)
