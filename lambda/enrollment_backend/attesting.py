"""The use cases of a device that proves that its key is in a TPM.

    start    who is the TPM, and may it be that Thing? It gets a secret that only it can decrypt, and a nonce
    check    with the request for a certificate: the session is used, then what the TPM states about the CSR's key
             is verified

Uses neither HTTP nor AWS's library. The protocol is in docs/attestation.md.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from enrollment_backend import log
from enrollment_backend.attestation.credential import Challenge, make_credential
from enrollment_backend.attestation.endorsement import Endorsement, read_endorsement
from enrollment_backend.attestation.errors import (
    AttestationOtherThingError,
    AttestationRefusedError,
    EkMismatchError,
    EkUnknownError,
)
from enrollment_backend.attestation.evidence import AttestationKey, Statement, read_attestation_key, verify
from enrollment_backend.claims import Applicant, Attestation
from enrollment_backend.errors import InviteInvalidError, ThingRevokedError
from enrollment_backend.items import bound_tpm_from_item
from enrollment_backend.sessions import Authority, Session, Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enrollment_backend.attestation.certificates import Certificate
    from enrollment_backend.attestation_forms import AttestationRequest, SubmittedEvidence
    from enrollment_backend.claims import Claim
    from enrollment_backend.csr_policy import AcceptedCsr
    from enrollment_backend.invites import Invite
    from enrollment_backend.ledger import Ledger

_SECRET_BYTES = 32
_NONCE_BYTES = 32


@dataclass(frozen=True)
class Started:
    """A session that was started.

    Attributes:
        session_id: its id.
        challenge: for TPM2_ActivateCredential.
        nonce: random bytes that the TPM has to state.
        thing: the Thing that it is for; None if the invite is for several.
    """

    session_id: str
    challenge: Challenge
    nonce: bytes
    thing: str | None


@dataclass(frozen=True)
class _Listing:
    """What the operator has listed for a TPM: which Thing it is, and when that was, in seconds since the epoch."""

    thing: str
    created: int


@dataclass(frozen=True)
class _Tpm:
    """A TPM that asks for a session.

    Attributes:
        endorsement: its endorsement key.
        key: its attestation key.
        listing: what the operator has listed for it; None if nothing.
    """

    endorsement: Endorsement
    key: AttestationKey
    listing: _Listing | None

    @property
    def fingerprints(self) -> set[str | None]:
        """The names by which an operator may mean it."""
        return {self.endorsement.ek_sha256, self.endorsement.certificate_sha256} - {None}

    def listed_for(self, thing: str | None) -> int | None:
        """Return when it was listed for a Thing; None if it was not."""
        return self.listing.created if self.listing is not None and self.listing.thing == thing else None


@dataclass(frozen=True)
class Attesting:
    """Starts sessions, and checks evidence.

    Args:
        is_open: whether anyone may enroll, without an invite.
        ledger: returns the ledger. It is called only when needed, since the first call creates AWS's clients.
        authorities: returns the authorities for endorsement keys that the operator trusts.
        now: the time, in seconds since the epoch.

    Every method raises the errors of `aws.call`. Those that start a session raise AttestationRefusedError if the TPM is
    not acceptable: what it sent is malformed, its keys are unsuitable, or nobody whom the operator trusts vouches
    for it.
    """

    is_open: bool
    ledger: Callable[[], Ledger]
    authorities: Callable[[], Sequence[Certificate]]
    now: Callable[[], float]

    def start_with_invite(self, request: AttestationRequest, code_sha256: str) -> Started:
        """Start a session for an enrollment with an invite.

        An invite that is used up will do, and an expired one for the Thing that has used it: that device may repeat its
        request.

        Raises:
            InviteInvalidError: the code is not valid, or not valid for the Thing that the request names.
            EkMismatchError: the invite is for another TPM.
        """
        endorsement, key = _read(request)
        invite = self.ledger().find_invite(code_sha256)
        thing = request.thing_name or (invite.thing if invite is not None and not invite.thing.endswith("*") else None)
        self._check_invite(invite, code_sha256, thing)
        assert invite is not None  # noqa: S101 - it has just been checked
        tpm = self._look_up(endorsement, key)
        if invite.ek_sha256 not in {None, *tpm.fingerprints}:
            raise EkMismatchError
        is_named = invite.ek_sha256 is not None or tpm.listed_for(thing) is not None
        return self._start(tpm, "invite", thing, is_named=is_named, code_sha256=code_sha256)

    def start_with_key(self, request: AttestationRequest, claim: Claim) -> Started:
        """Start a session for a renewal.

        Args:
            request: the request, which the Thing's current key has signed.
            claim: the Thing's claim.

        Raises:
            EkMismatchError: the Thing's key is in another TPM.
        """
        tpm = self._look_up(*_read(request))
        is_own = claim.attestation is not None and claim.attestation.ek_sha256 == tpm.endorsement.ek_sha256
        if claim.attestation is not None and not is_own:
            raise EkMismatchError
        return self._start(tpm, "key", claim.thing, is_named=is_own or tpm.listed_for(claim.thing) is not None)

    def start_with_chip(self, request: AttestationRequest) -> Started:
        """Start a session for an enrollment without an invite: the TPM is known, or the deployment is open.

        Nothing is written for a TPM that nobody knows.

        Raises:
            EkUnknownError: the TPM is neither listed nor enrolled, and the deployment is not open.
            EkMismatchError: the TPM is listed for another Thing than the request names.
            ThingRevokedError: the TPM's Thing was revoked, and the TPM has not been listed since.
        """
        tpm = self._look_up(*_read(request))
        if tpm.listing is not None:
            if request.thing_name not in {None, tpm.listing.thing}:
                raise EkMismatchError
            claim = self.ledger().find_claim(tpm.listing.thing)
            if claim is not None and claim.revoked_at is not None and claim.revoked_at > tpm.listing.created:
                raise ThingRevokedError
            return self._start(tpm, "chip", tpm.listing.thing, is_named=True)
        thing = request.thing_name or self._thing_of(tpm.endorsement.ek_sha256)
        claim = self.ledger().find_claim(thing) if thing is not None else None
        if claim is not None and _has(claim, tpm.endorsement.ek_sha256):
            if claim.revoked_at is not None:
                raise ThingRevokedError
            return self._start(tpm, "chip", thing, is_named=True)
        if not self.is_open or request.thing_name is None:
            raise EkUnknownError
        return self._start(tpm, "open", thing, is_named=False)

    def check(self, submitted: SubmittedEvidence, csr: AcceptedCsr, applicant: Applicant, *, by_key: bool) -> Applicant:
        """Check the evidence of a request for a certificate, and return the applicant with what it proves.

        The session belongs to this CSR from then on. The same request may be repeated.

        Args:
            submitted: the evidence.
            csr: the CSR.
            applicant: who asks, without attestation.
            by_key: whether it is a renewal, which the Thing's key has signed.

        Raises:
            AttestationRefusedError: it does not prove that the CSR's key is in the session's TPM; or the session is
                unknown, expired, used for another CSR, or for another Thing, another invite or another kind of request.

        Does not check whether the TPM is the one that the invite or the Thing's claim is for, see `decisions`.
        """
        sessions = Sessions(self.ledger().table, self.now)
        session = sessions.use(submitted.session_id, hashlib.sha256(csr.der).hexdigest())
        log.note(ekSha256=session.attestation.ek_sha256)
        if session.thing not in {None, applicant.thing}:
            raise AttestationOtherThingError(reason="thing")
        if session.code_sha256 != applicant.code_sha256 or (session.authority == "key") != by_key:
            raise AttestationOtherThingError(reason="authority")
        statement = Statement(session.nonce, session.secret_sha256, session.ak_public)
        firmware = verify(submitted.evidence, statement, csr.der, csr.spki).firmware
        return replace(
            applicant,
            attestation=replace(session.attestation, firmware=firmware),
            by_chip=session.authority == "chip",
            listed=session.listed,
        )

    def _check_invite(self, invite: Invite | None, code_sha256: str, thing: str | None) -> None:
        if invite is None:
            raise InviteInvalidError(reason="unknown")
        reason = invite.invalid_reason(code_sha256, thing or invite.thing, self.now())
        if reason in {None, "used"}:
            return
        if reason != "expired" or thing is None or not self._has_used(code_sha256, thing):
            raise InviteInvalidError(reason=str(reason))

    def _has_used(self, code_sha256: str, thing: str) -> bool:
        claims = self.ledger().find_claims(thing)
        return any(claim is not None and claim.code_sha256 == code_sha256 for claim in claims)

    def _look_up(self, endorsement: Endorsement, key: AttestationKey) -> _Tpm:
        """Find out what the operator has listed for a TPM; of two lists, the later one counts."""
        tpm = _Tpm(endorsement, key, None)
        log.note(ekSha256=endorsement.ek_sha256)
        found = self.ledger().table.get([("ek", str(fingerprint)) for fingerprint in tpm.fingerprints])
        listings = [_Listing(item["thing"], item["created"]) for item in found.values()]
        return replace(tpm, listing=max(listings, key=lambda listing: listing.created, default=None))

    def _thing_of(self, ek_sha256: str) -> str | None:
        """Return the Thing that a TPM was enrolled as; of several that have it, the last one; None if there is none."""
        key = ("tpm", ek_sha256)
        item = self.ledger().table.get([key]).get(key)
        if item is None:
            return None
        bound = bound_tpm_from_item(item)
        things = (bound.thing, *bound.others) if bound.others else ()
        claims = [claim for thing in things if (claim := self.ledger().find_claim(thing))]
        return next((claim.thing for claim in claims if claim.is_in(ek_sha256)), bound.thing)

    def _start(
        self, tpm: _Tpm, authority: Authority, thing: str | None, *, is_named: bool, code_sha256: str | None = None
    ) -> Started:
        """Start a session.

        Args:
            tpm: the TPM.
            authority: what allows it.
            thing: the Thing that it is for; None if only the invite says that.
            is_named: whether the operator has named this TPM, or it was accepted before; otherwise its vendor has to
                vouch for it.
            code_sha256: hash of the invite's code.
        """
        is_vouched_for = self._is_vouched_for(tpm.endorsement, is_named=is_named)
        secret, nonce = os.urandom(_SECRET_BYTES), os.urandom(_NONCE_BYTES)
        session = Session(
            thing=thing,
            authority=authority,
            code_sha256=code_sha256,
            listed=tpm.listed_for(thing),
            attestation=Attestation(
                ek_sha256=tpm.endorsement.ek_sha256,
                ek_certificate_sha256=tpm.endorsement.certificate_sha256,
                manufacturer=tpm.endorsement.manufacturer if is_vouched_for else None,
            ),
            nonce=nonce,
            secret_sha256=hashlib.sha256(secret).digest(),
            ak_public=tpm.key.public,
        )
        challenge = make_credential(tpm.endorsement.public, tpm.key.name, secret)
        session_id = Sessions(self.ledger().table, self.now).start(session)
        log.note(attestation=authority, **({} if thing is None else {"thing": thing}))
        return Started(session_id, challenge, nonce, thing)

    def _is_vouched_for(self, endorsement: Endorsement, *, is_named: bool) -> bool:
        """Whether an authority that the operator has configured says that the key is a TPM's; it must if not named."""
        authorities = self.authorities()
        try:
            endorsement.check_chain(authorities, datetime.fromtimestamp(self.now(), UTC))
        except AttestationRefusedError:
            if is_named:
                return False
            raise
        return True


def _read(request: AttestationRequest) -> tuple[Endorsement, AttestationKey]:
    endorsement = read_endorsement(request.ek_public, request.ek_certificate)
    return endorsement, read_attestation_key(request.ak_public)


def _has(claim: Claim, ek_sha256: str) -> bool:
    return claim.attestation is not None and claim.attestation.ek_sha256 == ek_sha256
