"""Finds out whose key a proof comes from, see `proof`."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any

from enrollment_backend import log, proof
from enrollment_backend.claims import Claim
from enrollment_backend.ledger import Ledger
from enrollment_backend.proof_errors import ProofInvalidError
from enrollment_backend.public_keys import spki_of
from enrollment_backend.table import Item


@dataclass(frozen=True)
class Keyholder:
    """Who has proven to have a key that the ledger knows.

    Attributes:
        spki_sha256: SHA-256 of the key's SubjectPublicKeyInfo, in hexadecimal.
        claim: the claim of the Thing that the key is, or was, bound to.
        renewal: the Thing's renewal; None if there is none.
        superseded: whether the Thing had the key, and has another one since.
        fields: the JSON object in the proof.
    """

    spki_sha256: str
    claim: Claim
    renewal: Claim | None
    superseded: bool
    fields: dict[str, Any]

    @property
    def is_current(self) -> bool:
        """Whether the key is the one that the Thing has now."""
        return compare_digest(self.claim.spki_sha256, self.spki_sha256)


def authenticate(body: bytes, url: str, ledger: Ledger) -> Keyholder:
    """Check a proof, and return who has proven what.

    Args:
        body: the body of the request; the caller has bounded its size.
        url: the URL that was called.
        ledger: the ledger.

    Raises:
        ProofMalformedError, ClockSkewError: see `proof.read`.
        ProofInvalidError: the ledger does not know the key or it is one that several Things have, or the signature is
            not the key's.
        ProofReplayedError: the proof was used before.
        RequestRefusedError: what it signs is not a JSON object.
        AwsError: see `aws.call`.

    Does not check whether the key is still its Thing's, or whether the Thing is revoked.
    """
    proven = proof.read(body, url, ledger.now())
    key = ledger.find_key(proven.spki_sha256)
    if key is None or "shared" in key:
        raise ProofInvalidError(reason="key-unknown")
    claim, renewal = ledger.find_claims(key["thing"])
    spki = _public_key(proven.spki_sha256, key, claim, renewal)
    if claim is None or spki is None:
        raise ProofInvalidError(reason="key-unknown")
    proven.check_signature(spki)
    log.note(thing=claim.thing, spkiSha256=proven.spki_sha256)
    proof.use_once(ledger.table, proven, ledger.now())
    return Keyholder(proven.spki_sha256, claim, renewal, "superseded" in key, proven.fields())


def _public_key(spki_sha256: str, key: Item, *claims: Claim | None) -> bytes | None:
    """Return the SubjectPublicKeyInfo with a hash, from a certificate or else from the key's item."""
    for claim in claims:
        if claim is not None and claim.certificate is not None and claim.spki_sha256 == spki_sha256:
            return spki_of(claim.certificate.pem)
    return base64.b64decode(key["public_key"]) if "public_key" in key else None
