"""The use case of an EST client that renews its certificate (RFC 7030 §4.2.2): who asks, its TLS connection says.

With the key that the certificate is for, the answer is the certificate that the Thing has: AWS IoT's do not expire
before 2050. With another key it is a renewal, see `lifecycle`. EST has no commit, so

    both certificates stay valid, in case the response does not arrive
    the new one is used for EST       the renewal is committed: the old certificate is revoked, and removed
    the old one is used for EST       the device does not have the new one: it gets it again with the same CSR;
                                      otherwise it is undone, and the operator is told
    neither, for seven days           the renewal is committed, see `removal`

One whose response was never sent, because the function died before, is undone after an hour.

So there are never two certificates for long, and a device that asks again within that time is never left without one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest

from cryptography.x509 import load_der_x509_csr, load_pem_x509_certificate

from enrollment_backend import log, undone_renewals
from enrollment_backend.aws_errors import ConditionFailedError
from enrollment_backend.binding import Binding
from enrollment_backend.claims import Applicant, Claim
from enrollment_backend.csr_errors import CsrCommonNameError
from enrollment_backend.csr_policy import AcceptedCsr, accept
from enrollment_backend.decisions import check_current
from enrollment_backend.errors import AttestationRequiredError
from enrollment_backend.issuing import Issued
from enrollment_backend.keyholder import Keyholder, connected
from enrollment_backend.lifecycle import Lifecycle, contention_told


@dataclass(frozen=True)
class Reenrolling:
    """The use case.

    Args:
        binding: returns the binding, see `lifecycle.Lifecycle`.
        lifecycle: the use cases of devices that prove to have a key.
    """

    binding: Callable[[], Binding]
    lifecycle: Lifecycle

    def reenroll(self, certificate_pem: str, csr_pem: str) -> Issued:
        """Return a certificate for the key in a CSR, which is the Thing's, or is to become that.

        Args:
            certificate_pem: the certificate of the TLS connection.
            csr_pem: PKCS#10 in PEM.

        Raises:
            ClientCertificateUnknownError: see `keyholder.connected`.
            CsrRefusedError: the CSR is not acceptable, or its subject is neither the Thing's name nor that of the
                certificate.
            KeyNotCurrentError, ThingRevokedError: the certificate is not the Thing's any more.
            AttestationRequiredError: the deployment or the Thing's key requires evidence, which EST cannot have.
            ConflictError, RenewalsLimitedError, EnrollmentInProgressError, EnrollmentQueuedError: as
                `lifecycle.Lifecycle.renew`.
            AwsError: see `aws.call`.
        """
        ledger = self.binding().ledger
        holder = connected(certificate_pem, ledger)
        log.note(renewal="refused")
        csr = _accepted(csr_pem, holder.claim.thing, certificate_pem)
        spki_sha256 = hashlib.sha256(csr.spki).hexdigest()
        if holder.is_of_renewal:
            self.lifecycle.commit_for(holder)
            holder = holder.read_again(ledger)
        elif _was_answered(holder, spki_sha256):
            log.note(renewal="repeated")
            return self._answer(holder.claim)
        elif holder.is_current and compare_digest(holder.spki_sha256, spki_sha256):
            log.note(renewal="unchanged")
        if compare_digest(holder.spki_sha256, spki_sha256):
            holder = self._undo_unused(holder)
            with contention_told(holder):
                check_current(holder.claim, holder.spki_sha256)
            return self._answer(holder.claim)
        obtained = self.lifecycle.renew_for(holder, lambda: self._next_key(csr, holder.claim.thing, spki_sha256))
        return self.lifecycle.issuing.answer(obtained)

    def _answer(self, claim: Claim) -> Issued:
        return self.lifecycle.issuing.answer(self.lifecycle.certificate_of(claim))

    def _next_key(self, csr: AcceptedCsr, thing: str, spki_sha256: str) -> tuple[AcceptedCsr, Applicant]:
        log.note(nextSpkiSha256=spki_sha256)
        if self.lifecycle.attestation == "require":
            raise AttestationRequiredError
        return csr, Applicant(thing, spki_sha256, code_sha256=None, by_est=True)

    def _undo_unused(self, holder: Keyholder) -> Keyholder:
        """Undo a renewal by EST whose response did not arrive: the device goes on with the key that it has.

        Returns:
            The same holder; as it is now if the renewal has just been committed or undone.
        """
        renewal, ledger = holder.renewal, self.binding().ledger
        if not holder.is_current or renewal is None or not renewal.by_est or renewal.certificate is None:
            return holder
        because = renewal.undone_because
        try:
            removals = ledger.undo(holder.claim, renewal, because)
        except ConditionFailedError:
            return holder.read_again(ledger)
        if because is not None:
            undone_renewals.tell(renewal, because)
        self.lifecycle.remove(removals)
        return holder


def _accepted(csr_pem: str, thing: str, certificate_pem: str) -> AcceptedCsr:
    """Check a CSR, whose subject has to be the certificate's (RFC 7030 §4.2.2), or else that of an enrollment."""
    csr = accept(csr_pem, thing, any_subject=True)
    if csr.common_name != thing and not _have_same_subject(csr, certificate_pem):
        raise CsrCommonNameError
    return csr


def _have_same_subject(csr: AcceptedCsr, certificate_pem: str) -> bool:
    try:
        subject = load_der_x509_csr(csr.der).subject
    except ValueError:  # a T61String, for example, of which `cryptography` reads only what is UTF-8
        return False
    return subject == load_pem_x509_certificate(certificate_pem.encode("utf-8")).subject


def _was_answered(holder: Keyholder, spki_sha256: str) -> bool:
    """Whether a request is one that has been answered before, and whose renewal was committed since."""
    claim = holder.claim
    is_same = compare_digest(claim.spki_sha256, spki_sha256)
    return holder.superseded_by == "renewal" and is_same and claim.revoked_at is None
