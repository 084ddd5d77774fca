"""Finds out whose key a proof, see `proof`, or a TLS connection comes from."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Any, Literal

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates

from enrollment_backend import log, proof
from enrollment_backend.claims import Claim
from enrollment_backend.errors import ClientCertificateUnknownError
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
        superseded_by: what gave the Thing another key since it had this one: a renewal by the key itself, or a
            replacement by an operator's invite; None if the Thing has not had the key, or has it now.
        fields: the JSON object in the proof; empty without a proof.
    """

    spki_sha256: str
    claim: Claim
    renewal: Claim | None
    superseded_by: Literal["renewal", "replacement"] | None
    fields: dict[str, Any]

    @property
    def is_current(self) -> bool:
        """Whether the key is the one that the Thing has now."""
        return compare_digest(self.claim.spki_sha256, self.spki_sha256)

    @property
    def is_of_renewal(self) -> bool:
        """Whether the key is that of the Thing's renewal, and not the Thing's yet."""
        renewal = self.renewal
        return not self.is_current and renewal is not None and compare_digest(renewal.spki_sha256, self.spki_sha256)

    def read_again(self, ledger: Ledger) -> Keyholder:
        """Return the same with what the ledger has now."""
        key, claim, renewal = ledger.find_holder(self.claim.thing, self.spki_sha256)
        return replace(self, claim=claim or self.claim, renewal=renewal, superseded_by=_superseded_by(key))


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
        ConditionFailedError: transactions keep writing what the ledger has about the key.
        RequestRefusedError: what it signs is not a JSON object.
        AwsError: see `aws.call`.

    Does not check whether the key is still its Thing's, or whether the Thing is revoked.
    """
    proven = proof.read(body, url, ledger.now())
    found = ledger.find_key(proven.spki_sha256)
    if found is None:
        raise ProofInvalidError(reason="key-unknown")
    # Of one moment: in the middle of a commit, the key could seem to be neither the Thing's nor its renewal's.
    key, claim, renewal = ledger.find_holder(found["thing"], proven.spki_sha256)
    spki = None if key is None or "shared" in key else _public_key(proven.spki_sha256, key, claim, renewal)
    if claim is None or spki is None:
        raise ProofInvalidError(reason="key-unknown")
    proven.check_signature(spki)
    log.note(thing=claim.thing, spkiSha256=proven.spki_sha256)
    proof.use_once(ledger.table, proven, ledger.now())
    return Keyholder(proven.spki_sha256, claim, renewal, _superseded_by(key), proven.fields())


def connected(certificate_pem: str, ledger: Ledger) -> Keyholder:
    """Return whose key a client has shown to have by the certificate of its TLS connection.

    Args:
        certificate_pem: the certificate, as API Gateway passes it on.
        ledger: the ledger.

    Raises:
        ClientCertificateUnknownError: the ledger does not have exactly this certificate as one of a device, or its key
            is one that several Things have.
        ConditionFailedError: transactions keep writing what the ledger has about the key.
        AwsError: see `aws.call`.

    Does not check whether the certificate or the key is still its Thing's, or whether the Thing is revoked.
    """
    try:
        (certificate,) = load_pem_x509_certificates(certificate_pem.encode("utf-8", "replace"))
    except ValueError as error:
        raise ClientCertificateUnknownError(reason="malformed") from error
    # AWS IoT's id of a certificate is the SHA-256 of its DER.
    found = ledger.find_certificate(hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest())
    if found is None or "spki_sha256" not in found:
        raise ClientCertificateUnknownError(reason="unknown")
    key, claim, renewal = ledger.find_holder(found["thing"], found["spki_sha256"])
    if claim is None or key is None or "shared" in key:
        raise ClientCertificateUnknownError(reason="key-unknown")
    log.note(thing=claim.thing, spkiSha256=found["spki_sha256"])
    return Keyholder(found["spki_sha256"], claim, renewal, _superseded_by(key), {})


def _superseded_by(key: Item | None) -> Literal["renewal", "replacement"] | None:
    if key is None or "superseded" not in key:
        return None
    return "replacement" if "replaced" in key else "renewal"


def _public_key(spki_sha256: str, key: Item, *claims: Claim | None) -> bytes | None:
    """Return the SubjectPublicKeyInfo with a hash, from a certificate or else from the key's item."""
    for claim in claims:
        if claim is not None and claim.certificate is not None and claim.spki_sha256 == spki_sha256:
            return spki_of(claim.certificate.pem)
    return base64.b64decode(key["public_key"]) if "public_key" in key else None
