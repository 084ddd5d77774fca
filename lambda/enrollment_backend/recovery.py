"""Certificates that were issued for a claim and that the ledger does not know: whoever had them issued has died."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from enrollment_backend.claims import Certificate, Claim
from enrollment_backend.issuer import Issuer
from enrollment_backend.ledger import Ledger

_CLOCKS_DIFFER_BY = timedelta(minutes=5)  # at the most: the ledger's time is ours, a certificate's is AWS IoT's
_MOST_DESCRIBED = 100  # certificates; each takes a call


def unrecorded_certificates(claim: Claim, ledger: Ledger, issuer: Issuer) -> list[Certificate]:
    """Return the certificates for a claim's key that are in AWS IoT and not in the ledger, whatever their status.

    Looks at those of since the claim was made, the newest thousand of the account at the most. Does not find what AWS
    IoT does not list yet, nor any for a key that several Things may have; `sweep` does, later.

    Raises:
        AwsError: see `aws.call`.
    """
    if claim.shareable_key:
        # One for this key may be another Thing's, issued a moment ago and recorded a moment from now: to take it over,
        # or to switch it off, would break that device. What this claim has lost was never attached to anything, since
        # for such a key the record comes first; so it can do nothing.
        return []
    since = datetime.fromtimestamp(claim.claimed, UTC) - _CLOCKS_DIFFER_BY
    unknown: list[str] = []
    for page in issuer.newest():
        candidates = [listed.certificate_id for listed in page if listed.created >= since]
        known = ledger.standing(candidates)
        unknown += [certificate_id for certificate_id in candidates if certificate_id not in known]
        if len(candidates) < len(page):
            break
    return issuer.for_key(unknown[:_MOST_DESCRIBED], claim.spki_sha256)
