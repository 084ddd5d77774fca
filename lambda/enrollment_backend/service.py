"""The use cases of a device: enroll, and show an invite.

Uses neither HTTP nor AWS's library; everything it needs from outside is passed in.

    code                                         can it be used? A refused one costs no transaction and takes no turn
    claim  ∥  turn                               the ledger binds Thing, key and invite, or refuses; or it is not the
                                                 device's turn yet, see `admission`
    CreateThing  ∥  CreateCertificateFromCsr     the certificate is active, but not attached to anything
    record                                       the ledger has the certificate
    AttachPolicy  ∥  AttachThingPrincipal        now the device can connect

These are five rounds of calls, of which the table answers three within milliseconds. If the function dies between any
two calls, a later request for the same Thing and key continues from there. A certificate that is not recorded is
attached to nothing and can do nothing, so losing one does no harm.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from enrollment_backend import admission, invites, log
from enrollment_backend.claims import Applicant
from enrollment_backend.csr_errors import CsrNamesNoThingError
from enrollment_backend.csr_policy import accept
from enrollment_backend.errors import (
    AwsError,
    ConditionFailedError,
    EnrollmentQueuedError,
    InviteInvalidError,
    InviteRequiredError,
    RetryableError,
    ThingExistsError,
    ThingNameError,
    ThrottledError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from enrollment_backend.claims import Certificate, Claim
    from enrollment_backend.csr_policy import AcceptedCsr
    from enrollment_backend.invites import Invite
    from enrollment_backend.issuer import Issuer
    from enrollment_backend.ledger import Claimed, Ledger
    from enrollment_backend.turns import Turns

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


@dataclass
class _Attempt:
    """What one request has, or may have, in AWS IoT that is not recorded yet.

    Attributes:
        certificate: the certificate to record.
        lost: whether there may be a certificate for the claim that nobody knows the id of.
    """

    lost: bool
    certificate: Certificate | None = None


@dataclass(frozen=True)
class EnrollmentService:
    """The use cases of devices.

    Args:
        auth_mode: who may enroll: ``open`` is anyone, any other value is whoever holds an invite.
        ledger: returns the ledger. It is called only when needed, since the first call creates AWS's clients.
        issuer: returns the issuer, likewise.
        turns: returns the counter of turns, likewise.
        concurrently: see `aws.concurrently`.
        unrecorded_certificates: see `recovery.unrecorded_certificates`.
        settle_adoption: see `adoption.Adoption.settle`.
        allow_existing_things: whether an invite may allow a Thing that AWS IoT already has.
        mqtt_endpoint: host name that devices connect to.
        mqtt_port: port that devices connect to.
        now: the time, in seconds since the epoch.
        sleep: waits for a number of seconds.
    """

    auth_mode: str
    ledger: Callable[[], Ledger]
    issuer: Callable[[], Issuer]
    turns: Callable[[], Turns]
    concurrently: Callable[..., list[Any]]
    unrecorded_certificates: Callable[[Claim, Ledger, Issuer], list[Certificate]]
    settle_adoption: Callable[[Claim, Certificate], None]
    allow_existing_things: bool
    mqtt_endpoint: str
    mqtt_port: int
    now: Callable[[], float]
    sleep: Callable[[float], None]

    def enroll(self, request: EnrollmentRequest) -> Issued:
        """Have a certificate issued for a Thing and a key; return the existing one if the request is repeated.

        Raises:
            InviteRequiredError, InviteInvalidError, AttestationRequiredError: the caller may not enroll.
            ThingNameError: the name is not a valid Thing name.
            CsrNamesNoThingError: the request has no name, and the CSR's common name is not a valid Thing name.
            CsrRefusedError: the CSR is not acceptable, see `csr_policy.accept`.
            ConflictError, EnrollmentInProgressError: from the ledger.
            EnrollmentQueuedError: more devices are enrolling than AWS IoT allows at once. The claim is made.
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
        ledger = self.ledger()
        if code_sha256 is not None:
            ledger.check_code(applicant)
        claimed, is_due = self.concurrently(lambda: ledger.claim(applicant), self.turns().take_if_due)
        if claimed.is_new and not is_due:
            self._wait_for_turn(claimed.claim)
        repeated = claimed.claim.certificate is not None
        claim = claimed.claim if repeated else self._issue(claimed, csr)
        certificate = claim.certificate
        assert certificate is not None  # noqa: S101 - it has just been issued, or was before
        if not claim.attached:
            self._attach(certificate, applicant.thing)
            if claim.adopted:
                self.settle_adoption(claim, certificate)
        if repeated and not claim.attached:  # not in a first request, which this would make slower
            ledger.record_as_attached(claim)
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

    def _wait_for_turn(self, claim: Claim) -> None:
        """Take a turn and wait for it; if it is not due soon, release the claim until then.

        Raises:
            EnrollmentQueuedError: the device has to come back.
        """
        turn, now = self.turns().take(), self.now()
        seconds = admission.seconds_to_wait(turn, now)
        if seconds:
            self._try_undo(lambda: self._release(claim, _Attempt(lost=False), turn, keep=False))
            raise EnrollmentQueuedError(seconds)
        self.sleep(max(0.0, turn - now))

    def _issue(self, claimed: Claimed, csr: AcceptedCsr) -> Claim:
        """Have a certificate issued, and record it; if that fails, release the claim for the next request.

        Returns:
            The claim as it is recorded.
        """
        claim = claimed.claim
        attempt = _Attempt(lost=not claimed.is_new and claim.issuing_since > 0)
        try:
            attempt.certificate = None if claimed.is_new else self._recover_certificate(claim)
            attempt.lost = False  # if it was not found, it stays unattached, and the sweep deals with it
            adopted = self._create(claim, csr, attempt)
            assert attempt.certificate is not None  # noqa: S101 - `_create` has returned
            claim = replace(claim, adopted=adopted)
            self.ledger().record(claim, attempt.certificate)
        except ThingExistsError:
            self._try_undo(lambda: self.ledger().abandon(claim))
            raise
        except AwsError as error:
            turn = self._turn_after(error)
            # If the condition of the record did not hold, the certificate is revoked, or somebody else has the claim.
            keep = isinstance(error, RetryableError) and not isinstance(error, ConditionFailedError)
            self._try_undo(lambda: self._release(claim, attempt, turn, keep=keep))
            raise
        return replace(claim, certificate=attempt.certificate)

    def _create(self, claim: Claim, csr: AcceptedCsr, attempt: _Attempt) -> bool:
        """Create the Thing and, at the same time, the certificate, unless there is one; return whether it is adopted.

        Raises:
            ThingExistsError: the Thing exists and must not be used. The certificate has been withdrawn: a retry will
                fail too, so no later request would take it over. If it cannot be deactivated, that error is raised.
        """
        issuer, ledger = self.issuer(), self.ledger()

        def create_certificate() -> None:
            try:
                attempt.certificate = issuer.create_certificate(csr)
            except AwsError as error:
                attempt.lost = not error.had_no_effect
                raise

        def may_adopt() -> bool:
            return claim.adopted or (self.allow_existing_things and ledger.allows_existing_thing(claim))

        def create_thing() -> bool:
            return issuer.create_thing(claim.thing, claim.claim_id, may_adopt)

        try:
            if attempt.certificate is not None:
                return create_thing()
            _, adopted = self.concurrently(create_certificate, create_thing)
        except ThingExistsError:
            if attempt.certificate is not None:
                issuer.discard(attempt.certificate.certificate_id)
            raise
        return bool(adopted)

    def _attach(self, certificate: Certificate, thing: str) -> None:
        """Attach a recorded certificate. If an earlier request has done it, that does no harm."""
        issuer = self.issuer()
        self.concurrently(lambda: issuer.attach_policy(certificate), lambda: issuer.attach_thing(certificate, thing))

    def _recover_certificate(self, claim: Claim) -> Certificate | None:
        """Find a certificate that was issued for this claim but not recorded, and make it the only one."""
        issuer = self.issuer()
        found = self.unrecorded_certificates(claim, self.ledger(), issuer)
        for duplicate in found[1:]:
            issuer.discard(duplicate.certificate_id)
        if not found:
            return None
        issuer.activate(found[0].certificate_id)
        return found[0]

    def _release(self, claim: Claim, attempt: _Attempt, turn: float | None, *, keep: bool) -> None:
        """Release the claim for the next request, and keep the certificate for it; otherwise delete the certificate."""
        certificate = attempt.certificate
        if certificate is None:
            self.ledger().release(claim, claim.spare, lost=attempt.lost, turn=turn)
            return
        spare = certificate.certificate_id if keep else None
        if self.ledger().release(claim, spare, lost=attempt.lost, turn=turn):
            self.issuer().withdraw(certificate)

    def _turn_after(self, error: AwsError) -> float | None:
        """Return a new turn if the error is that AWS throttles: something else uses the quotas; otherwise None."""
        if not isinstance(error, ThrottledError):
            return None
        turn = self.turns().take()
        error.retry_after = max(error.retry_after, admission.seconds_to_wait(turn, self.now()))
        return turn

    def _try_undo(self, undo: Callable[[], None]) -> None:
        """Clear up after a failure; if that fails too, log it: the lease ends by itself."""
        try:
            undo()
        except AwsError as error:
            log.error("claim-not-released", **error.facts)
