"""Has certificates issued, for enrollments and renewals alike.

    claim  ∥  turn                               the ledger binds Thing, key and invite, or refuses; or it is not the
                                                 device's turn yet, see `admission`
    CreateThing  ∥  CreateCertificateFromCsr     the certificate is active, but not attached to anything; a renewal
                                                 creates no Thing
    record                                       the ledger has the certificate
    AttachPolicy  ∥  AttachThingPrincipal        now the device can connect

If the function dies between any two calls, a later request for the same Thing and key continues from there. A
certificate that is not recorded is attached to nothing and can do nothing, so losing one does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from enrollment_backend import admission, log
from enrollment_backend.aws_errors import AwsError, ConditionFailedError, ThingExistsError, ThrottledError
from enrollment_backend.errors import EnrollmentQueuedError, RetryableError
from enrollment_backend.public_keys import key_type_of, key_type_of_spki
from enrollment_backend.thing_attributes import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enrollment_backend.binding import Claimed
    from enrollment_backend.claims import Certificate, Claim, Removal
    from enrollment_backend.csr_policy import AcceptedCsr
    from enrollment_backend.issuer import Issuer
    from enrollment_backend.ledger import Ledger
    from enrollment_backend.turns import Turns


@dataclass(frozen=True)
class Obtained:
    """A certificate that is recorded and attached.

    Attributes:
        claim: the claim, or the renewal, that it was issued for.
        certificate: the certificate.
        repeated: whether it was issued for an earlier request.
    """

    claim: Claim
    certificate: Certificate
    repeated: bool


@dataclass(frozen=True)
class RoleAlias:
    """Where devices get AWS credentials.

    Attributes:
        name: the name of the role alias in AWS IoT.
        endpoint: host name of the account's credentials provider.
        port: its port.
    """

    name: str
    endpoint: str
    port: int


@dataclass(frozen=True)
class Issued:
    """What a device needs to connect.

    Attributes:
        certificate: its certificate.
        thing_name: the Thing's name, which is also an MQTT client id that the device policy allows.
        mqtt_endpoint: host name for MQTT.
        mqtt_port: port for MQTT with mutual TLS.
        role_alias: where it gets AWS credentials; None if the deployment has no role for devices.
        attested: whether it was proven that the key is in a TPM.
        repeated: whether the certificate was issued for an earlier request.
    """

    certificate: Certificate
    thing_name: str
    mqtt_endpoint: str
    mqtt_port: int
    role_alias: RoleAlias | None
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
class Issuing:
    """Has certificates issued.

    Args:
        ledger: returns the ledger. It is called only when needed, since the first call creates AWS's clients.
        issuer: returns the issuer, likewise.
        turns: returns the counter of turns, likewise.
        concurrently: see `aws.concurrently`.
        unrecorded_certificates: see `recovery.unrecorded_certificates`.
        remove: see `removal.Remover.remove_now`.
        settle_adoption: see `adoption.Adoption.settle`.
        allow_existing_things: whether an invite may allow a Thing that AWS IoT already has.
        mqtt_endpoint: host name that devices connect to.
        mqtt_port: port that devices connect to.
        role_alias: where devices get AWS credentials; None if there is no role for them.
        now: the time, in seconds since the epoch.
        sleep: waits for a number of seconds.
    """

    ledger: Callable[[], Ledger]
    issuer: Callable[[], Issuer]
    turns: Callable[[], Turns]
    concurrently: Callable[..., list[Any]]
    unrecorded_certificates: Callable[[Claim, Ledger, Issuer], list[Certificate]]
    remove: Callable[[Sequence[Removal]], None]
    settle_adoption: Callable[[Claim, Certificate], None]
    allow_existing_things: bool
    mqtt_endpoint: str
    mqtt_port: int
    role_alias: RoleAlias | None
    now: Callable[[], float]
    sleep: Callable[[float], None]

    def obtain(self, bind: Callable[[], Claimed], csr: AcceptedCsr) -> Obtained:
        """Have a certificate issued, recorded and attached; return the existing one if the request is repeated.

        Args:
            bind: makes the claim, see `binding`.
            csr: the CSR.

        Raises:
            ConflictError, EnrollmentInProgressError: from `bind`.
            EnrollmentQueuedError: more devices are enrolling than AWS IoT allows at once. The claim is made.
            AwsError: from AWS. A later request for the same Thing and key continues from there.
        """
        claimed, is_due = self.concurrently(bind, self.turns().take_if_due)
        claim, certificate = claimed.claim, claimed.claim.certificate
        if certificate is not None:
            self.attach_again(claim, certificate)
            return Obtained(claim, certificate, repeated=True)
        if claimed.is_new and not is_due:
            self._wait_for_turn(claim)
        claim, certificate, removals = self._issue(claimed, csr)
        self._attach(claim, certificate)
        if claim.by_est:  # only now may the device have it, which decides how the renewal ends, see `reenrolling`
            self.ledger().record_as_attached(claim)
        if claim.undescribed or claim.replaces_key:
            self.describe_thing(claim.thing)
        self.remove(removals)
        return Obtained(claim, certificate, repeated=False)

    def attach_again(self, claim: Claim, certificate: Certificate) -> None:
        """Attach a recorded certificate for a repeated request, in case the first one could not; but only once.

        Further requests need not: each would use up AWS IoT's quotas, which every other device needs.
        """
        if not claim.attached:
            self._attach(claim, certificate)
            if claim.undescribed:
                self.describe_thing(claim.thing)
            self.ledger().record_as_attached(claim)

    def describe_thing(self, thing: str) -> None:
        """Have a Thing's attributes in AWS IoT say what the ledger has, if they may say something else.

        A Thing that was not created here keeps the attributes that it has.
        """
        claim = self.ledger().find_claim(thing)
        if claim is None or claim.adopted or not claim.undescribed or claim.certificate is None:
            return
        self.issuer().describe_thing(thing, describe(key_type_of(claim.certificate.pem), claim.attestation))

    def answer(self, obtained: Obtained) -> Issued:
        """Return what the device is told."""
        attested = obtained.claim.attestation is not None
        log.note(attested="true" if attested else "false")
        return Issued(
            certificate=obtained.certificate,
            thing_name=obtained.claim.thing,
            mqtt_endpoint=self.mqtt_endpoint,
            mqtt_port=self.mqtt_port,
            role_alias=self.role_alias,
            attested=attested,
            repeated=obtained.repeated,
        )

    def _attach(self, claim: Claim, certificate: Certificate) -> None:
        """Attach a recorded certificate. If an earlier request has done it, that does no harm."""
        issuer = self.issuer()
        self.concurrently(
            lambda: issuer.attach_policy(certificate), lambda: issuer.attach_thing(certificate, claim.thing)
        )
        if claim.adopted:
            self.settle_adoption(claim, certificate)

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

    def _issue(self, claimed: Claimed, csr: AcceptedCsr) -> tuple[Claim, Certificate, Sequence[Removal]]:
        """Have a certificate issued, and record it; if that fails, release the claim for the next request.

        Returns:
            The claim as it is recorded, the certificate, and what is to be removed from AWS IoT.
        """
        claim = claimed.claim
        attempt = _Attempt(lost=not claimed.is_new and claim.issuing_since > 0)
        try:
            attempt.certificate = None if claimed.is_new else self._recover_certificate(claim)
            attempt.lost = False  # if it was not found, it stays unattached, and the sweep deals with it
            adopted = self._create(claim, csr, attempt)
            certificate = attempt.certificate
            assert certificate is not None  # noqa: S101 - `_create` has returned
            claim = replace(claim, adopted=adopted)
            removals = self.ledger().record(claim, certificate)
        except ThingExistsError:
            self._try_undo(lambda: self.ledger().abandon(claim))
            raise
        except AwsError as error:
            turn = self._turn_after(error)
            # If the condition of the record did not hold, the certificate is revoked, or somebody else has the claim.
            keep = isinstance(error, RetryableError) and not isinstance(error, ConditionFailedError)
            self._try_undo(lambda: self._release(claim, attempt, turn, keep=keep))
            raise
        return claim, certificate, removals

    def _create(self, claim: Claim, csr: AcceptedCsr, attempt: _Attempt) -> bool:
        """Create the Thing and, at the same time, the certificate, unless there is one; return whether it is adopted.

        Raises:
            ThingExistsError: the Thing exists and must not be used. The certificate has been withdrawn: a retry will
                fail too, so no later request would take it over. If it cannot be deactivated, that error is raised.
        """

        def may_adopt() -> bool:
            return claim.adopted or (self.allow_existing_things and self.ledger().allows_existing_thing(claim))

        def create_thing() -> bool:
            description = describe(key_type_of_spki(csr.spki), claim.attestation)
            return self.issuer().create_thing(claim.thing, claim.claim_id, description, may_adopt)

        def create_certificate() -> None:
            self._create_certificate(csr, attempt)

        is_renewal = claim.kind == "renewal"  # its Thing was created, or adopted, when it was enrolled
        creations = [*([] if attempt.certificate else [create_certificate]), *([] if is_renewal else [create_thing])]
        try:
            return any(self.concurrently(*creations)) if creations else False
        except ThingExistsError:
            if attempt.certificate is not None:
                self.issuer().discard(attempt.certificate.certificate_id)
            raise

    def _create_certificate(self, csr: AcceptedCsr, attempt: _Attempt) -> None:
        try:
            attempt.certificate = self.issuer().create_certificate(csr)
        except AwsError as error:
            attempt.lost = not error.had_no_effect
            raise

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
