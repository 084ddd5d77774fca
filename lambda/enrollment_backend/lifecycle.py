"""The use cases of a device that proves to have its Thing's key: renew, commit, get its identity back, retire.

    renew      the ledger binds the Thing's next key to it; a certificate is issued for that, see `issuing`. Both keys
               can connect now
    commit     by the next key: in one transaction it becomes the Thing's, and the old certificate is revoked. What is
               revoked is removed from AWS IoT afterwards, see `removal`
    identity   the certificate that the Thing has; nothing is issued
    retire     the Thing's certificate is revoked, and removed

A renewal that is not committed within an hour is undone. Uses neither HTTP nor AWS's library.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enrollment_backend import log, thing_attributes
from enrollment_backend.attestation_forms import attestation_request, submitted_evidence
from enrollment_backend.aws_errors import ConditionFailedError
from enrollment_backend.claims import Applicant
from enrollment_backend.csr_policy import accept
from enrollment_backend.decisions import Entries, check_current, decide_renewal
from enrollment_backend.errors import (
    AttestationRequiredError,
    FieldMissingError,
    FieldTypeError,
    FieldUnknownError,
    KeyNotCurrentError,
    RenewalInProgressError,
    RenewalUnknownError,
    ThingRevokedError,
)
from enrollment_backend.issuing import Issued, Issuing, Obtained
from enrollment_backend.keyholder import Keyholder, authenticate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from enrollment_backend.attesting import Attesting, Started
    from enrollment_backend.binding import Binding
    from enrollment_backend.claims import Claim, Removal
    from enrollment_backend.csr_policy import AcceptedCsr
    from enrollment_backend.settings import Policy

_ATTEMPTS = 3  # at a transaction, before the device is told to come back


@dataclass(frozen=True)
class Lifecycle:
    """The use cases. Each takes the body of a request, which has to be a proof, and the URL that was called.

    Args:
        binding: returns the binding. It is called only when needed, since the first call creates AWS's clients.
        issuing: has certificates issued.
        remove: see `removal.Remover.remove_now`.
        delete_things: whether a Thing that was created here is deleted when it is retired.
        attestation: see `service.EnrollmentService`.
        attesting: likewise.

    Every method raises the errors of `keyholder.authenticate` and `aws.call`.
    """

    binding: Callable[[], Binding]
    issuing: Issuing
    remove: Callable[[Sequence[Removal]], None]
    delete_things: bool
    attestation: Policy
    attesting: Attesting

    def start_attestation(self, body: bytes, url: str) -> Started:
        """Start an attestation session for a renewal.

        Raises:
            KeyNotCurrentError, ThingRevokedError: as `renew`.
            RequestRefusedError: what is signed is not as `attestation_forms.attestation_request` expects it.
            AttestationRefusedError: see `attesting.Attesting`.
        """
        holder = self._holder(body, url)
        check_current(holder.claim, holder.spki_sha256)
        return self.attesting.start_with_key(attestation_request(holder.fields, names_thing=False), holder.claim)

    def renew(self, body: bytes, url: str) -> Issued:
        """Have a certificate issued for the Thing's next key; return the existing one if the request is repeated.

        Raises:
            KeyNotCurrentError, ThingRevokedError: the proof's key is not the Thing's, or no longer valid.
            FieldUnknownError, FieldMissingError, FieldTypeError: what is signed is not an object with a CSR.
            CsrRefusedError: the CSR is not acceptable, or not one for the Thing, see `csr_policy.accept`.
            AttestationRequiredError: it has no evidence, and the deployment or the Thing's key requires some.
            AttestationRefusedError: the evidence does not prove that the next key is in the Thing's TPM.
            KeyReusedError, KeyEnrolledError, TpmEnrolledError, RenewalInProgressError, RenewalsLimitedError: see
                `decisions.decide_renewal`.
            EnrollmentInProgressError, EnrollmentQueuedError: as for an enrollment.
        """
        holder = self._holder(body, url)
        log.note(renewal="refused")
        return self.issuing.answer(self.renew_for(holder, lambda: self._next_key(holder)))

    def renew_for(self, holder: Keyholder, next_key: Callable[[], tuple[AcceptedCsr, Applicant]]) -> Obtained:
        """Do what `renew` does for whoever has shown to have a key.

        Args:
            holder: whose key it is.
            next_key: checks the CSR, and returns it with who applies; called once it is certain that the key is the
                Thing's.
        """
        binding = self.binding()
        with contention_told(holder):
            check_current(holder.claim, holder.spki_sha256)
            csr, applicant = next_key()
            # Once more with all entries later; this comes first, so that a refused request writes nothing.
            known = Entries(invite=None, claim=holder.claim, key_thing=None, renewal=holder.renewal)
            decide_renewal(applicant, known, binding.ledger.now())
            obtained = self.issuing.obtain(lambda: binding.claim_renewal(applicant, holder.claim), csr)
        log.note(
            renewal="repeated" if obtained.repeated else "issued", certificateId=obtained.certificate.certificate_id
        )
        return obtained

    def commit(self, body: bytes, url: str) -> None:
        """Make the proof's key, which a renewal is for, the Thing's; do nothing if it is already.

        Raises:
            ThingRevokedError: the Thing is revoked.
            KeyNotCurrentError: the Thing had this key once, and has another one since.
            RenewalUnknownError: there is no renewal with this key any more.
            FieldUnknownError: what is signed is not an empty object.
        """
        holder = authenticate(body, url, self.binding().ledger)
        log.note(renewal="refused")
        _check_empty(holder.fields)
        self.commit_for(holder)

    def commit_for(self, holder: Keyholder) -> None:
        """Do what `commit` does for whoever has shown to have a key."""
        removals = self._attempt(self._commit, holder)
        log.note(renewal="repeated" if removals is None else "committed")
        self.remove(removals or ())
        if _may_be_undescribed(holder):
            self.issuing.describe_thing(holder.claim.thing)

    def identity(self, body: bytes, url: str) -> Issued:
        """Return the certificate that the Thing has; it is attached again once, in case that was interrupted.

        Raises:
            KeyNotCurrentError, ThingRevokedError: as `renew`.
            FieldUnknownError: as `commit`.
        """
        holder = self._holder(body, url)
        _check_empty(holder.fields)
        check_current(holder.claim, holder.spki_sha256)
        return self.issuing.answer(self.certificate_of(holder.claim))

    def certificate_of(self, claim: Claim) -> Obtained:
        """Return the certificate that a Thing has, attached again as `identity` does; the Thing has one."""
        certificate = claim.certificate
        assert certificate is not None  # noqa: S101 - somebody has shown to have its key
        self.issuing.attach_again(claim, certificate)
        log.note(certificateId=certificate.certificate_id)
        return Obtained(claim, certificate, repeated=True)

    def retire(self, body: bytes, url: str) -> None:
        """Revoke the Thing's certificate and remove it; do nothing if the device has retired the Thing before.

        Raises:
            KeyNotCurrentError, ThingRevokedError: as `renew`.
            FieldUnknownError: as `commit`.
        """
        holder = self._holder(body, url)
        _check_empty(holder.fields)
        removals = self._attempt(self._retire, holder)
        log.note(retirement="repeated" if removals is None else "new")
        self.remove(removals or ())

    def _holder(self, body: bytes, url: str) -> Keyholder:
        """Return who has proven to have a key; if it is that of a renewal which `rebuild` has made, it is committed.

        Its device may have committed it before the ledger was lost, and does not do so again.
        """
        ledger = self.binding().ledger
        holder = authenticate(body, url, ledger)
        if not holder.is_of_renewal or holder.renewal is None or not holder.renewal.restored:
            return holder
        with suppress(RenewalUnknownError):  # it has just been undone
            self.commit_for(holder)
        return holder.read_again(ledger)

    def _next_key(self, holder: Keyholder) -> tuple[AcceptedCsr, Applicant]:
        """Check the CSR, and the evidence if there is any, in a proof."""
        csr, evidence = accept(_csr_in(holder.fields), holder.claim.thing), submitted_evidence(holder.fields)
        applicant = Applicant(holder.claim.thing, hashlib.sha256(csr.spki).hexdigest(), code_sha256=None)
        log.note(nextSpkiSha256=applicant.spki_sha256)
        if evidence is not None:
            return csr, self.attesting.check(evidence, csr, applicant, by_key=True)
        if self.attestation == "require":
            raise AttestationRequiredError
        return csr, applicant

    def _commit(self, holder: Keyholder) -> Sequence[Removal] | None:
        """Write the commit; return None if there is nothing to do."""
        claim, renewal, ledger = holder.claim, holder.renewal, self.binding().ledger
        if claim.revoked_at is not None:
            raise ThingRevokedError
        if holder.is_current:
            return None
        if holder.superseded_by is not None:
            raise KeyNotCurrentError
        if renewal is None or renewal.spki_sha256 != holder.spki_sha256 or renewal.certificate is None:
            raise RenewalUnknownError
        if renewal.leaves_tpm_of(claim) or (renewal.is_overdue(ledger.now()) and not renewal.by_est):
            raise RenewalUnknownError  # the next hourly run undoes it, once it is overdue
        return ledger.commit(claim, renewal, renewal.certificate)

    def _retire(self, holder: Keyholder) -> Sequence[Removal] | None:
        """Write the retirement; return None if there is nothing to do."""
        if holder.is_current and holder.claim.retired:
            return None
        check_current(holder.claim, holder.spki_sha256)
        return self.binding().ledger.retire(holder.claim, holder.renewal, delete_thing=self.delete_things)

    def _attempt(
        self, write: Callable[[Keyholder], Sequence[Removal] | None], holder: Keyholder
    ) -> Sequence[Removal] | None:
        """Carry a transaction out; if the ledger has changed since it was read, read it again.

        Raises:
            ConditionFailedError: it keeps changing; nothing was written.
        """
        ledger = self.binding().ledger
        for _ in range(_ATTEMPTS - 1):
            try:
                return write(holder)
            except ConditionFailedError:
                holder = holder.read_again(ledger)
        return write(holder)


@contextmanager
def contention_told(holder: Keyholder) -> Iterator[None]:
    """Tell the operator if what is done in the block is refused because the key has been, or is being, renewed.

    Somebody else may have a copy of it, unless it was the operator who had it replaced.
    """
    try:
        yield
    except (KeyNotCurrentError, RenewalInProgressError) as error:
        if "renewal" in {holder.superseded_by, error.facts.get("reason")}:
            log.error("renewal-contended", code=error.code)
        raise


def _may_be_undescribed(holder: Keyholder) -> bool:
    """Whether a commit has changed, or an earlier one may not have changed yet, what AWS IoT says about the Thing."""
    claim, renewal = holder.claim, holder.renewal
    if renewal is None or renewal.certificate is None:
        return claim.undescribed
    return thing_attributes.change(claim, renewal, renewal.certificate)


def _csr_in(fields: dict[str, Any]) -> str:
    if not fields.keys() <= {"csr", "evidence"}:
        raise FieldUnknownError
    if "csr" not in fields:
        raise FieldMissingError
    csr = fields["csr"]
    if not isinstance(csr, str):
        raise FieldTypeError
    return csr


def _check_empty(fields: dict[str, Any]) -> None:
    if fields:
        raise FieldUnknownError
