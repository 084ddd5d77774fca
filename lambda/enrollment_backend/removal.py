"""Removes from AWS IoT what the ledger has revoked for good: old certificates, undone renewals, retired Things.

The ledger has a `claims.Removal` of each, written in the transaction that revoked the certificate. It is carried out at
once, and what that did not achieve, once an hour. Each step can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from enrollment_backend import log, undone_renewals
from enrollment_backend.aws_errors import AwsError, AwsRefusedError, ConditionFailedError
from enrollment_backend.claims import Claim, Removal
from enrollment_backend.inspection import Inspection
from enrollment_backend.issuer import Issuer
from enrollment_backend.late_commits import committed_certificate, settled_certificate
from enrollment_backend.ledger import Ledger

_PAUSES = (0.2, 0.4, 0.8)  # seconds, until AWS IoT knows everywhere what was detached a moment ago
_GIVEN_UP_AFTER = 24 * 3600  # seconds

T = TypeVar("T")


class Attempt(Protocol):
    """Makes a call to AWS, perhaps not at once, and perhaps several times."""

    def __call__(self, operation: str, make: Callable[[], T], /) -> T:
        """Return what the call returns."""


@dataclass(frozen=True)
class Remover:
    """Carries removals out.

    Args:
        ledger: the ledger.
        issuer: AWS IoT.
        inspection: AWS IoT, for looking.
    """

    ledger: Ledger
    issuer: Issuer
    inspection: Inspection

    def remove_now(self, removals: Sequence[Removal]) -> None:
        """Carry removals out as far as that is possible now; the rest is left to `catch_up`."""
        for removal in removals:
            try:
                self._remove(removal, self._repeatedly)
            except AwsError as error:
                log.info("removal-postponed", certificateId=removal.certificate_id, **error.facts)

    def catch_up(self, attempt: Attempt) -> None:
        """Carry out all removals that are left, and end the renewals that were not committed in time.

        The lists come from the index, which may not have the newest items yet: the next run finds these.

        Args:
            attempt: makes the calls to AWS.

        Raises:
            AwsError: the ledger cannot be read.
        """
        # First the removals: a certificate that a commit has revoked is then gone, as `committed_certificate` expects.
        self._remove_all(attempt("Query", lambda: list(self.ledger.removals())), attempt)
        for renewal in attempt("Query", lambda: list(self.ledger.overdue_renewals())):
            try:
                removals = self._settle(renewal, attempt)
            except ConditionFailedError:
                continue  # it is being committed, or was undone
            except AwsRefusedError as error:
                log.error("renewal-not-settled", thing=renewal.thing, **error.facts)
                continue
            self._remove_all(removals, attempt)

    def _settle(self, renewal: Claim, attempt: Attempt) -> Sequence[Removal]:
        """End an overdue renewal: commit it if it was asked for by EST, or was committed before the table was restored.

        Otherwise it is undone.

        Returns:
            What is to be removed from AWS IoT.
        """
        key, claim, _ = attempt("TransactGetItems", lambda: self.ledger.find_holder(renewal.thing, renewal.spki_sha256))
        if claim is None:  # the table has lost it; undoing would cut the device off
            log.error("renewal-without-thing", thing=renewal.thing)
            return ()
        if claim.spki_sha256 == renewal.spki_sha256 or (key is not None and "superseded" in key):
            self.ledger.forget_renewal(renewal)  # its key is, or was, the Thing's: only its item has come back
            log.info("renewal-forgotten", thing=renewal.thing)
            return ()
        facts = {"thing": renewal.thing, "spkiSha256": renewal.spki_sha256}
        committed = attempt("DescribeCertificate", lambda: committed_certificate(claim, renewal, self.inspection))
        if committed is not None:
            removals = self.ledger.commit(claim, renewal, committed)
            log.error("renewal-committed-late", certificateId=committed.certificate_id, **facts)
            return removals
        settled = attempt("DescribeCertificate", lambda: settled_certificate(claim, renewal, self.inspection))
        if settled is not None:
            removals = self.ledger.commit(claim, renewal, settled)
            log.info("renewal-settled", certificateId=settled.certificate_id, **facts)
            return removals
        removals = self.ledger.undo(claim, renewal, "not-committed")
        undone_renewals.tell(renewal, "not-committed")
        return removals

    def _remove_all(self, removals: Sequence[Removal], attempt: Attempt) -> None:
        for removal in removals:
            try:
                self._remove(removal, attempt)
            except AwsRefusedError as error:
                self._postpone(removal, error)

    def _remove(self, removal: Removal, attempt: Attempt) -> None:
        issuer, certificate_id, arn = self.issuer, removal.certificate_id, removal.certificate_arn
        attempt("UpdateCertificate", lambda: issuer.deactivate(certificate_id))
        if arn is not None:
            attempt("DetachThingPrincipal", lambda: issuer.detach_thing(arn, removal.thing))
        attempt("DeleteCertificate", lambda: issuer.delete_certificate(certificate_id))
        self._delete_thing(removal, attempt)
        self.ledger.forget_removal(removal)
        log.info("certificate-removed", certificateId=certificate_id, ofThing=removal.thing)

    def _delete_thing(self, removal: Removal, attempt: Attempt) -> None:
        """Delete the removal's Thing if that is wanted, and nobody has enrolled it again."""
        claim_id = removal.delete_thing_of
        if claim_id is None:
            return
        claim = self.ledger.find_claim(removal.thing)
        if claim is None or not claim.retired:
            return
        attempt("DeleteThing", lambda: self.issuer.delete_thing(removal.thing, claim_id))
        log.info("thing-deleted", ofThing=removal.thing)

    def _postpone(self, removal: Removal, error: AwsRefusedError) -> None:
        """Leave a removal that AWS IoT refuses to the next run; after a day, leave it at that."""
        facts = {"certificateId": removal.certificate_id, "ofThing": removal.thing, **error.facts}
        operation = error.facts["operation"]
        if operation == "UpdateCertificate":
            log.error("certificate-left-active", **facts)
        elif self.ledger.now() < removal.created + _GIVEN_UP_AFTER:
            log.info("removal-postponed", **facts)
        else:  # the certificate is inactive; where only the Thing is left, the certificate is gone
            of_certificate = operation in {"DetachThingPrincipal", "DeleteCertificate"}
            log.error("certificate-not-deleted" if of_certificate else "thing-not-deleted", **facts)
            self.ledger.forget_removal(removal)

    def _repeatedly(self, operation: str, make: Callable[[], T], /) -> T:
        """Repeat what AWS IoT refuses while something is still attached: it is eventually consistent."""
        for pause in _PAUSES if operation in {"DeleteCertificate", "DeleteThing"} else ():
            try:
                return make()
            except AwsRefusedError:
                self.ledger.sleep(pause)
        return make()
