"""The values that the ledger is about: claims, renewals, certificates, TPMs, and who applies. Pure.

A *claim* is a Thing's entry in the ledger. It is written before the first call to AWS IoT, and binds the Thing to one
key and to the invite that was used. The request that works on a claim holds its *lease*: a random name, and a time
after which that request must be dead.

A *renewal* is a claim too, of a second key for a Thing that has one: the device's own, which becomes the Thing's key
when the device commits it, or that of new hardware, with an invite that replaces the Thing's key as soon as the
certificate is recorded. A Thing has one renewal at a time. A TPM whose disk was wiped counts as new hardware.

A key belongs to one Thing. The exception is a *shareable* key: the client of the original article creates a new Thing
in each run, always with the same CSR. So a key that an open deployment bound through that client's route may belong to
several Things.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RENEWAL_SECONDS = 3600  # within which a device has to commit its renewal, once it has the certificate
SETTLING_SECONDS = 7 * 24 * 3600  # after which a renewal by EST, which has no commit, becomes the Thing's by itself

UndoneBecause = Literal["not-committed", "old-key-used"]
"""Why a renewal was undone.

    not-committed   its device did not commit it within an hour
    old-key-used    it was asked for by EST, or `rebuild` has made it, and the key before it was used again: the device
                    never got the certificate, or lost it with its disk; or somebody else has a copy of that key, and
                    the device is cut off now
"""


@dataclass(frozen=True)
class Certificate:
    """A certificate that AWS IoT issued.

    Attributes:
        pem: X.509 in PEM.
        certificate_id: AWS IoT's identifier, 64 hexadecimal digits.
        arn: its ARN.
    """

    pem: str
    certificate_id: str
    arn: str


@dataclass(frozen=True)
class Attestation:
    """Which TPM has proven that it holds a key.

    Attributes:
        ek_sha256: who the TPM is: SHA-256 of the DER SubjectPublicKeyInfo of its endorsement key, in hexadecimal.
        ek_certificate_sha256: SHA-256 of that key's DER certificate, in hexadecimal; None if it was not sent.
        manufacturer: as the certificate says; None if it was not sent or does not say.
        firmware: the version of the TPM's firmware, four decimal numbers joined by dots.
    """

    ek_sha256: str
    ek_certificate_sha256: str | None = None
    manufacturer: str | None = None
    firmware: str | None = None

    @property
    def fingerprints(self) -> frozenset[str]:
        """The names by which an operator may mean this TPM."""
        return frozenset({self.ek_sha256, self.ek_certificate_sha256 or self.ek_sha256})


@dataclass(frozen=True)
class Applicant:
    """A request to enroll, after its CSR, its names and its evidence have been checked.

    Attributes:
        thing: the Thing's name.
        spki_sha256: SHA-256 of the key's DER SubjectPublicKeyInfo, in hexadecimal.
        code_sha256: hash of the invite's code; None if the request has none, as an open deployment allows.
        shareable_key: whether the key may belong to other Things too: the request came by the article's route, and
            without a code.
        attestation: the TPM that holds the key; None if that was not proven.
        by_chip: whether the TPM stands in for an invite.
        listed: when the operator listed the TPM as this Thing's, in seconds since the epoch; None if it is not listed.
        by_est: whether a renewal is asked for by EST, which has no commit.
    """

    thing: str
    spki_sha256: str
    code_sha256: str | None
    shareable_key: bool = False
    attestation: Attestation | None = None
    by_chip: bool = False
    listed: int | None = None
    by_est: bool = False


@dataclass(frozen=True)
class Claim:
    """A Thing's entry in the ledger, or that of its renewal. Times are in seconds since the epoch.

    Attributes:
        kind: which of the two it is; also the kind of its item.
        thing: the Thing's name.
        claim_id: a random name; as an attribute of the Thing in AWS IoT, it shows that the Thing was created for this
            claim.
        spki_sha256: SHA-256 of the SubjectPublicKeyInfo of the one key that the Thing is bound to, in hexadecimal.
        code_sha256: hash of the invite's code; None if no invite was used.
        lease: a random name; each request that takes the claim over sets a new one.
        lease_ends: when the claim may be taken over.
        issuing_since: since when a request may have had a certificate issued that is not recorded, and whose identifier
            is not known; 0 if it is certain that there is none.
        spare: AWS IoT's identifier of a certificate that was issued and is not recorded; None if there is none.
        turn: when the device may be issued a certificate, see `admission`; None if it need not wait.
        claimed: when the key was bound.
        certificate: the issued certificate, once it is recorded.
        enrolled: when it was recorded.
        revoked_at: when the operator revoked the Thing, or its device retired it; None if neither has happened.
        retired: whether it was the device that did.
        adopted: whether the Thing existed in AWS IoT before, and an invite allowed it to be enrolled.
        reclaimed: whether the Thing was revoked and enrolled again with another key.
        shareable_key: whether other Things may have the key too.
        attached: whether a repeated request has attached the certificate again. Further ones then need not: each would
            use up AWS IoT's quotas, which every other device needs. Of a renewal by EST, whether any request has.
        attestation: the TPM that holds the key; None if that was not proven.
        by_chip: whether the TPM stood in for an invite.
        undescribed: whether the Thing's attributes in AWS IoT may still be those of its key before.
        by_est: whether it is a renewal that was asked for by EST, which has no commit: it becomes the Thing's when its
            certificate is used for EST, or else by itself, see `is_overdue`.
        restored: whether it is a renewal that `rebuild` has made of what AWS IoT has. Nobody knows whether it was asked
            for by EST, and whether the device has the certificate; so it counts as one by EST, and does not end by
            itself.
        renewals_until: of a Thing, the count of its renewals, see `admission`; 0 if there is none yet.
    """

    thing: str
    claim_id: str
    spki_sha256: str
    code_sha256: str | None
    lease: str
    lease_ends: int
    claimed: int
    issuing_since: int = 0
    spare: str | None = None
    turn: int | None = None
    certificate: Certificate | None = None
    enrolled: int | None = None
    revoked_at: int | None = None
    retired: bool = False
    adopted: bool = False
    reclaimed: bool = False
    shareable_key: bool = False
    attached: bool = False
    attestation: Attestation | None = None
    by_chip: bool = False
    undescribed: bool = False
    by_est: bool = False
    restored: bool = False
    renewals_until: int = 0
    kind: Literal["thing", "renewal"] = "thing"

    @property
    def key(self) -> tuple[str, str]:
        """The key of its item."""
        return self.kind, self.thing

    @property
    def replaces_key(self) -> bool:
        """Whether it is a renewal by new hardware, which needs no commit: an invite, or the Thing's TPM, allowed it."""
        return self.kind == "renewal" and (self.code_sha256 is not None or self.by_chip)

    @property
    def undone_because(self) -> UndoneBecause | None:
        """Why it is undone, as a renewal by EST, if the Thing's own key is used again.

        None if no device can have its certificate, so that the operator need not be told.
        """
        may_be_in_use = self.by_est and self.certificate is not None and (self.attached or self.restored)
        return "old-key-used" if may_be_in_use else None

    def is_in(self, ek_sha256: str) -> bool:
        """Whether its key is in the TPM whose endorsement key has this hash, and may be used."""
        return self.revoked_at is None and self.attestation is not None and self.attestation.ek_sha256 == ek_sha256

    def leaves_tpm_of(self, claim: Claim) -> bool:
        """Whether it is the renewal by a key that was not known to be in a TPM yet, for one that is not in that TPM."""
        if self.replaces_key or claim.attestation is None:
            return False
        return self.attestation is None or self.attestation.ek_sha256 != claim.attestation.ek_sha256

    def is_overdue(self, now: float) -> bool:
        """Whether it is a renewal that should have been committed or recorded by now, and whose request is dead.

        One by EST whose device may have the certificate is then to be committed, and any other one to be undone, see
        `removal`.
        """
        since = self.enrolled or max(self.claimed, self.turn or 0)
        limit = SETTLING_SECONDS if self.by_est and self.attached else RENEWAL_SECONDS
        return self.kind == "renewal" and not self.restored and now >= since + limit and now >= self.lease_ends


@dataclass(frozen=True)
class Removal:
    """A certificate that the ledger has revoked for good, and that AWS IoT is to have no more.

    Attributes:
        certificate_id: AWS IoT's identifier.
        thing: the Thing that it was issued for.
        created: when it was revoked, in seconds since the epoch.
        certificate_arn: its ARN; None if it was never recorded, and so is attached to nothing.
        delete_thing_of: the claim that the Thing was created for, if the Thing is to be deleted too; otherwise None.
    """

    certificate_id: str
    thing: str
    created: int
    certificate_arn: str | None
    delete_thing_of: str | None = None


@dataclass(frozen=True)
class BoundTpm:
    """What the ledger holds about a TPM: one TPM is one Thing, unless the operator says otherwise.

    Attributes:
        thing: the Thing that it was enrolled as last.
        since: when that was, in seconds since the epoch.
        mark: a random name; each time that the TPM is bound anew it gets another one.
        others: further Things that have a key in it, as the operator has allowed. Once it is known who applies: all
            Things but the applicant's that have one, and are not revoked.
        in_use: whether there are any, then.
    """

    thing: str
    since: int
    mark: str
    others: tuple[str, ...] = ()
    in_use: bool = True
