"""The use cases of a device: enroll, and show an invite.

Uses neither HTTP nor AWS's library; everything it needs from outside is passed in.

    claim                                        the ledger binds Thing, key and invite, or refuses
    CreateThing  ∥  CreateCertificateFromCsr     the certificate is active, but not attached to anything
    record  ∥  AttachPolicy  ∥  AttachThing      now the device can connect

These are three rounds of calls. If the function dies between any two of them, a later request for the same Thing and
key continues from there. With a key that several Things may have, a lost certificate is not searched for, see
`recovery`; so the certificate is recorded first, in a round of its own.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from enrollment_backend import invites, log
from enrollment_backend.claims import Applicant
from enrollment_backend.csr_errors import CsrNamesNoThingError
from enrollment_backend.csr_policy import accept
from enrollment_backend.errors import (
    AwsError,
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
    """A device's request to enroll, exactly as it was received; nothing in it has been checked.

    Attributes:
        code: the invite's code; None if the request has none.
        thing_name: the Thing's name; None if the CSR's common name is the Thing's name.
        csr: PKCS#10 in PEM.
        article: whether it was sent to /getCertificate, as the original article's client does.
    """

    code: str | None
    thing_name: str | None
    csr: str
    article: bool = False


@dataclass(frozen=True)
class Issued:
    """What a device needs to connect.

    Attributes:
        certificate: its certificate.
        thing_name: the Thing's name, which is also an MQTT client id that the device policy allows.
        mqtt_endpoint: host name for MQTT.
        mqtt_port: port for MQTT with mutual TLS.
        attested: whether it was proven that the key is in a TPM.
        repeated: whether the certificate was issued for an earlier request.
    """

    certificate: Certificate
    thing_name: str
    mqtt_endpoint: str
    mqtt_port: int
    attested: bool
    repeated: bool


@dataclass(frozen=True)
class EnrollmentService:
    """The use cases of devices.

    Args:
        auth_mode: who may enroll: ``open`` is anyone, any other value is whoever holds an invite.
        ledger: returns the ledger. It is called only when needed, so that a request that is refused before then does
            not load AWS's library.
        issuer: returns the issuer, likewise.
        concurrently: see `aws.concurrently`.
        unrecorded_certificates: see `recovery.unrecorded_certificates`.
        mqtt_endpoint: host name that devices connect to.
        mqtt_port: port that devices connect to.
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
        """Have a certificate issued for a Thing and a key; return the existing one if the request is repeated.

        Raises:
            InviteRequiredError, InviteInvalidError, AttestationRequiredError: the caller may not enroll.
            ThingNameError: the name is not a valid Thing name.
            CsrNamesNoThingError: the request has no name, and the CSR's common name is not a valid Thing name.
            CsrRefusedError: the CSR is not acceptable, see `csr_policy.accept`.
            ConflictError, EnrollmentInProgressError: from the ledger.
            AwsError: from AWS. A later request for the same Thing and key continues from there.
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
        certificate = self._attach_again(claimed.claim) if repeated else self._issue(claimed, csr)
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
        """Return an invite without using it, so that a technician need not type what it already says.

        A used-up invite is returned too, since the device that used it may repeat its request.

        Raises:
            InviteRequiredError: the request has no code.
            InviteInvalidError: the code is malformed, unknown, revoked or expired; the caller is not told which.
            AwsError: from AWS.
        """
        if code is None:
            raise InviteRequiredError
        code_sha256 = self._hash_of(code)
        invite = self.ledger().find_invite(code_sha256)
        if invite is None:
            raise InviteInvalidError(reason="unknown")
        reason = invite.invalid_reason(code_sha256, invite.thing, self.now())
        if reason is not None and reason != "used":
            raise InviteInvalidError(reason=reason)
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

    def _attach_again(self, claim: Claim) -> Certificate:
        """Attach the recorded certificate: the request that had it issued may have died before. Twice does no harm."""
        assert claim.certificate is not None  # noqa: S101 - the caller has checked it
        self.concurrently(*self._attach_calls(claim, claim.certificate))
        return claim.certificate

    def _issue(self, claimed: Claimed, csr: AcceptedCsr) -> Certificate:
        """Have a certificate issued, recorded and attached; if that fails, release the claim for the next request."""
        ledger, issuer, claim = self.ledger(), self.issuer(), claimed.claim
        certificate: Certificate | None = None

        def may_adopt() -> bool:
            return ledger.allows_existing_thing(claim)

        try:
            if claimed.resumed:
                certificate = self._recover_certificate(claim)
            if certificate is None:
                certificate, adopted = issuer.issue(claim.thing, claim.claim_id, csr, may_adopt)
            else:
                adopted = issuer.ensure_thing(claim.thing, claim.claim_id, may_adopt)
            self._record_and_attach(replace(claim, adopted=adopted), certificate)
        except ThingExistsError:
            if certificate is not None:
                issuer.withdraw(certificate)
            self._try_undo(lambda: ledger.abandon(claim))
            raise
        except AwsError:
            self._release(claim, certificate)
            raise
        return certificate

    def _record_and_attach(self, claim: Claim, certificate: Certificate) -> None:
        """Record the certificate and attach it; concurrently, if a later request could find a lost certificate."""
        ledger, attach_calls = self.ledger(), self._attach_calls(claim, certificate)
        if claim.shareable_key:
            # Nobody would find this certificate again, see `recovery`; so it must be recorded before it can be used.
            ledger.record(claim, certificate)
            self.concurrently(*attach_calls)
            return
        self.concurrently(lambda: ledger.record(claim, certificate), *attach_calls)

    def _attach_calls(self, claim: Claim, certificate: Certificate) -> tuple[Callable[[], None], ...]:
        issuer = self.issuer()
        return (lambda: issuer.attach_policy(certificate), lambda: issuer.attach_thing(certificate, claim.thing))

    def _recover_certificate(self, claim: Claim) -> Certificate | None:
        """Find a certificate that was issued for this claim but not recorded, and make it the only active one."""
        issuer = self.issuer()
        found = self.unrecorded_certificates(claim, self.ledger(), issuer)
        for duplicate in found[1:]:
            issuer.deactivate(duplicate.certificate_id)
        if not found:
            return None
        issuer.activate(found[0].certificate_id)
        return found[0]

    def _release(self, claim: Claim, certificate: Certificate | None) -> None:
        """Release the claim for the next request, and deactivate the certificate if it certainly is not recorded.

        If that fails too, the lease ends by itself, and the sweep disables the certificate.
        """

        def withdraw() -> None:
            if certificate is not None:
                self.issuer().withdraw(certificate)

        self._try_undo(lambda: self.ledger().release(claim, withdraw))

    def _try_undo(self, undo: Callable[[], None]) -> None:
        try:
            undo()
        except AwsError as error:
            log.error("claim-not-released", **error.facts)
