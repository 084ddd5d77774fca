"""The use cases of a device: enroll, and look at an invite.

No HTTP and no AWS library: what it needs from outside comes in as arguments.

    claim                                        the ledger binds Thing, key and invite, or says no
    CreateThing  ∥  CreateCertificateFromCsr     the certificate is active, and attached to nothing
    record  ∥  AttachPolicy  ∥  AttachThing      now it may connect

Three rounds, whatever dies in between; a later request for the same takes over where this one stopped. For a key that
several Things may have it cannot, see `recovery`: there the record comes first, in a round of its own.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from enrollment_backend import invites, log
from enrollment_backend.claims import Applicant
from enrollment_backend.csr_policy import accept
from enrollment_backend.errors import (
    AwsError,
    CsrNamesNoThingError,
    InviteInvalidError,
    InviteRequiredError,
    ThingExistsError,
    ThingNameError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from enrollment_backend.claims import Certificate, Claim
    from enrollment_backend.csr_policy import AcceptedCsr
    from enrollment_backend.invites import Invite
    from enrollment_backend.issuer import Issuer
    from enrollment_backend.ledger import Claimed, Ledger

THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")  # AWS IoT CreateThing, thingName
_OPEN = "open"


@dataclass(frozen=True)
class EnrollmentRequest:
    """What a device asks for, exactly as it came: nothing in it has been checked.

    Attributes:
        code: the enrollment code; None if there was none.
        thing_name: the Thing it wants to be; None is the one that the CSR's common name says.
        csr: PKCS#10 in PEM.
        article: whether it came as the original article's client sends it, to /getCertificate.
    """

    code: str | None
    thing_name: str | None
    csr: str
    article: bool = False


@dataclass(frozen=True)
class Issued:
    """What a device needs to connect.

    Attributes:
        certificate: see `claims.Certificate`.
        thing_name: the Thing, which is also the MQTT client id the policy admits.
        mqtt_endpoint: host name for MQTT.
        mqtt_port: port for MQTT with mutual TLS.
        attested: whether the key was proven to live in a TPM.
        repeated: whether an earlier request had the certificate issued.
    """

    certificate: Certificate
    thing_name: str
    mqtt_endpoint: str
    mqtt_port: int
    attested: bool
    repeated: bool


@dataclass(frozen=True)
class EnrollmentService:
    """Enrolls devices.

    Args:
        auth_mode: ``open`` admits anyone; anything else only who has an invite.
        ledger: gives the ledger when it is needed: a request that is refused before that pays for no AWS library.
        issuer: gives the issuer, likewise.
        concurrently: see `aws.concurrently`.
        unrecorded_certificates: see `recovery.unrecorded_certificates`.
        mqtt_endpoint: host name handed to devices.
        mqtt_port: port handed to devices.
        now: the time, in seconds since the epoch.
    """

    auth_mode: str
    ledger: Callable[[], Ledger]
    issuer: Callable[[], Issuer]
    concurrently: Callable[..., list[object]]
    unrecorded_certificates: Callable[[Claim, Ledger, Issuer], list[Certificate]]
    mqtt_endpoint: str
    mqtt_port: int
    now: Callable[[], float]

    def enroll(self, request: EnrollmentRequest) -> Issued:
        """Give a Thing its certificate; the one it has, if the same key asks again with the same invite.

        Raises:
            InviteRequiredError, InviteInvalidError, AttestationRequiredError: the caller may not enroll.
            ThingNameError: the name cannot be that of a Thing.
            CsrNamesNoThingError: no name is given, and the CSR's common name cannot be that of a Thing.
            CsrRefusedError: the CSR is not acceptable, see `csr_policy.accept`.
            ConflictError, EnrollmentInProgressError: from the ledger.
            AwsError: from AWS. A later request for the same goes on from there.
        """
        code_sha256 = self._code_sha256(request.code)
        if request.thing_name is not None and not THING_NAME.fullmatch(request.thing_name):
            raise ThingNameError
        csr = accept(request.csr, request.thing_name, any_subject=request.article and request.thing_name is not None)
        thing = csr.common_name if request.thing_name is None else request.thing_name
        if thing is None or not THING_NAME.fullmatch(thing):
            raise CsrNamesNoThingError
        applicant = Applicant(
            thing=thing,
            spki_sha256=hashlib.sha256(csr.spki).hexdigest(),
            code_sha256=code_sha256,
            shareable_key=request.article and code_sha256 is None,
        )
        log.note(thing=applicant.thing, spkiSha256=applicant.spki_sha256)
        claimed = self.ledger().claim(applicant)
        repeated = claimed.claim.certificate is not None
        certificate = self._again(claimed.claim) if repeated else self._issue(claimed, csr)
        log.note(enrollment="repeated" if repeated else "new", certificateId=certificate.certificate_id)
        return Issued(
            certificate=certificate,
            thing_name=applicant.thing,
            mqtt_endpoint=self.mqtt_endpoint,
            mqtt_port=self.mqtt_port,
            attested=False,
            repeated=repeated,
        )

    def show_invite(self, code: str | None) -> Invite:
        """Return what an invite says, so that a technician need not type it; its uses stay as they are.

        One that is used up is shown too: the device that used it may come back with it.

        Raises:
            InviteRequiredError: there is no code.
            InviteInvalidError: it is unknown, revoked or expired; the caller is not told which.
            AwsError: from AWS.
        """
        if code is None:
            raise InviteRequiredError
        code_sha256 = self._hash_of(code)
        invite = self.ledger().invite(code_sha256)
        if invite is None:
            raise InviteInvalidError(reason="unknown")
        fault = invite.fault(code_sha256, invite.thing, self.now())
        if fault is not None and fault != "used":
            raise InviteInvalidError(reason=fault)
        return invite

    def _code_sha256(self, code: str | None) -> str | None:
        if code is not None:
            return self._hash_of(code)
        if self.auth_mode != _OPEN:
            raise InviteRequiredError
        return None

    def _hash_of(self, code: str) -> str:
        code_sha256 = invites.code_sha256(code)
        if code_sha256 is None:
            raise InviteInvalidError(reason="malformed")
        log.note(inviteId=invites.invite_id(code_sha256))
        return code_sha256

    def _again(self, claim: Claim) -> Certificate:
        """Attach what an earlier request had issued: it may have stopped before that. Twice does no harm."""
        assert claim.certificate is not None  # noqa: S101 - that is what brought us here
        self.concurrently(*self._attaching(claim, claim.certificate))
        return claim.certificate

    def _issue(self, claimed: Claimed, csr: AcceptedCsr) -> Certificate:
        """Have the certificate issued, recorded and attached; or give the claim up for the next request."""
        ledger, issuer, claim = self.ledger(), self.issuer(), claimed.claim
        certificate: Certificate | None = None

        def may_exist() -> bool:
            return ledger.admits_existing_thing(claim)

        try:
            if claimed.resumed:
                certificate = self._lost(claim)
            if certificate is None:
                certificate, adopted = issuer.issue(claim.thing, claim.claim_id, csr, may_exist)
            else:
                adopted = issuer.ensure_thing(claim.thing, claim.claim_id, may_exist)
            self._enter(replace(claim, adopted=adopted), certificate)
        except ThingExistsError:
            if certificate is not None:
                issuer.withdraw(certificate)
            self._attempt(lambda: ledger.abandon(claim))
            raise
        except AwsError:
            self._give_up(claim, certificate)
            raise
        return certificate

    def _enter(self, claim: Claim, certificate: Certificate) -> None:
        """Record the certificate and attach it, at the same time where a later request could find it again."""
        ledger, attaching = self.ledger(), self._attaching(claim, certificate)
        if claim.shareable_key:
            # What is lost for good, see `recovery`, must not have been attached.
            ledger.record(claim, certificate)
            self.concurrently(*attaching)
            return
        self.concurrently(lambda: ledger.record(claim, certificate), *attaching)

    def _attaching(self, claim: Claim, certificate: Certificate) -> tuple[Callable[[], None], ...]:
        issuer = self.issuer()
        return (lambda: issuer.attach_policy(certificate), lambda: issuer.attach_thing(certificate, claim.thing))

    def _lost(self, claim: Claim) -> Certificate | None:
        """Find the certificate that was issued for this claim, its answer lost; make it the only active one."""
        issuer = self.issuer()
        found = self.unrecorded_certificates(claim, self.ledger(), issuer)
        for superfluous in found[1:]:
            issuer.deactivate(superfluous.certificate_id)
        if not found:
            return None
        issuer.activate(found[0].certificate_id)
        return found[0]

    def _give_up(self, claim: Claim, certificate: Certificate | None) -> None:
        """Let the next request go on at once; a certificate that certainly is not in the ledger is switched off.

        Where even that fails, the lease ends by itself, and `sweep` finds the certificate.
        """

        def withdraw() -> None:
            if certificate is not None:
                self.issuer().withdraw(certificate)

        self._attempt(lambda: self.ledger().release(claim, withdraw))

    def _attempt(self, undo: Callable[[], None]) -> None:
        try:
            undo()
        except AwsError as error:
            log.error("claim-not-released", **error.facts)
