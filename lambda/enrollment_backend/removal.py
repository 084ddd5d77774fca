"""Removes from AWS IoT what the ledger has revoked for good: old certificates, undone renewals, retired Things.

The ledger has a `claims.Removal` of each, written in the transaction that revoked the certificate. It is carried out at
once, and what that did not achieve, once an hour. Each step can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from enrollment_backend import log
from enrollment_backend.claims import Removal
from enrollment_backend.errors import AwsError, AwsRefusedError, ConditionFailedError
from enrollment_backend.issuer import Issuer
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
    """

    ledger: Ledger
    issuer: Issuer

    def remove_now(self, removals: Sequence[Removal]) -> None:
        """Carry removals out as far as that is possible now; the rest is left to `catch_up`."""
        for removal in removals:
            try:
                self._remove(removal, self._repeatedly)
            except AwsError as error:
                log.info("removal-postponed", certificateId=removal.certificate_id, **error.facts)

    def catch_up(self, attempt: Attempt) -> None:
        """Undo the renewals that were not committed in time, and carry out all removals that are left.

        Args:
            attempt: makes the calls to AWS.

        Raises:
            AwsError: the ledger cannot be read.
        """
        for renewal in attempt("Query", lambda: list(self.ledger.overdue_renewals())):
            try:
                self.ledger.undo(renewal)
            except ConditionFailedError:
                continue  # it is being committed, or was undone
            log.error("renewal-undone", thing=renewal.thing, spkiSha256=renewal.spki_sha256)
        for removal in attempt("Query", lambda: list(self.ledger.removals())):
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
        if error.facts["operation"] == "UpdateCertificate":
            log.error("certificate-left-active", **facts)
        elif self.ledger.now() < removal.created + _GIVEN_UP_AFTER:
            log.info("removal-postponed", **facts)
        else:
            log.error("certificate-not-deleted", **facts)  # it is inactive
            self.ledger.forget_removal(removal)

    def _repeatedly(self, operation: str, make: Callable[[], T], /) -> T:
        """Repeat what AWS IoT refuses while something is still attached: it is eventually consistent."""
        for pause in _PAUSES if operation in {"DeleteCertificate", "DeleteThing"} else ():
            try:
                return make()
            except AwsRefusedError:
                self.ledger.sleep(pause)
        return make()
