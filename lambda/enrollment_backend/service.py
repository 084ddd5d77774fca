"""The use cases of a device: enroll, and show an invite.

Uses neither HTTP nor AWS's library; everything it needs from outside is passed in.

    code                                         can it be used? A refused one costs no transaction and takes no turn
    evidence                                     is the key in a TPM? See `attesting`
    ...                                          a certificate is issued, see `issuing`

With that, an enrollment takes five rounds of calls, of which the table answers three within milliseconds.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enrollment_backend import invites, log
from enrollment_backend.claims import Applicant
from enrollment_backend.csr_errors import CsrNamesNoThingError
from enrollment_backend.csr_policy import accept
from enrollment_backend.errors import (
    AttestationRequiredError,
    InviteInvalidError,
    InviteRequiredError,
    ThingNameError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from enrollment_backend.attestation_forms import AttestationRequest, SubmittedEvidence
    from enrollment_backend.attesting import Attesting, Started
    from enrollment_backend.binding import Binding
    from enrollment_backend.csr_policy import AcceptedCsr
    from enrollment_backend.invites import Invite
    from enrollment_backend.issuing import Issued, Issuing
    from enrollment_backend.settings import Policy

THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")  # AWS IoT CreateThing, thingName
OPEN = "open"
"""The mode in which anyone may enroll."""


@dataclass(frozen=True)
class EnrollmentRequest:
    """A device's request to enroll, exactly as it was received; nothing in it has been checked.

    Attributes:
        code: the invite's code; None if the request has none.
        thing_name: the Thing's name; None if the CSR's common name is the Thing's name.
        csr: PKCS#10 in PEM.
        article: whether it was sent to /getCertificate, as the original article's client does.
        evidence: what is to prove that the key is in a TPM; None if it has none.
    """

    code: str | None
    thing_name: str | None
    csr: str
    article: bool = False
    evidence: SubmittedEvidence | None = None


@dataclass(frozen=True)
class EnrollmentService:
    """The use cases of devices.

    Args:
        auth_mode: who may enroll: ``open`` is anyone, any other value is whoever holds an invite.
        attestation: whether keys have to be in TPMs; ``off`` and ``prefer`` are the same here.
        binding: returns the binding. It is called only when needed, since the first call creates AWS's clients.
        issuing: has certificates issued.
        attesting: starts attestation sessions, and checks evidence.
        now: the time, in seconds since the epoch.
    """

    auth_mode: str
    attestation: Policy
    binding: Callable[[], Binding]
    issuing: Issuing
    attesting: Attesting
    now: Callable[[], float]

    def enroll(self, request: EnrollmentRequest) -> Issued:
        """Have a certificate issued for a Thing and a key; return the existing one if the request is repeated.

        Raises:
            InviteRequiredError, InviteInvalidError, AttestationRequiredError: the caller may not enroll.
            AttestationRefusedError: the evidence does not prove that the key is in the TPM that it has to be in.
            ThingNameError: the name is not a valid Thing name.
            CsrNamesNoThingError: the request has no name, and the CSR's common name is not a valid Thing name.
            CsrRefusedError: the CSR is not acceptable, see `csr_policy.accept`.
            ConflictError, EnrollmentInProgressError: from the ledger.
            EnrollmentQueuedError: more devices are enrolling than AWS IoT allows at once. The claim is made.
            AwsError: from AWS. A later request for the same Thing and key continues from there.
        """
        code_sha256 = self._code_sha256(request)
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
        binding = self.binding()
        if code_sha256 is not None:
            binding.check_code(applicant, has_evidence=request.evidence is not None)
        applicant = self._attested(applicant, request.evidence, csr)
        obtained = self.issuing.obtain(lambda: binding.claim(applicant), csr)
        certificate_id = obtained.certificate.certificate_id
        log.note(enrollment="repeated" if obtained.repeated else "new", certificateId=certificate_id)
        return self.issuing.answer(obtained)

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
        invite = self.binding().ledger.find_invite(code_sha256)
        if invite is None:
            raise InviteInvalidError(reason="unknown")
        reason = invite.invalid_reason(code_sha256, invite.thing, self.now())
        if reason is not None and reason != "used":
            raise InviteInvalidError(reason=reason)
        return invite

    def effective_attestation(self, invite: Invite) -> Policy:
        """Return whether keys have to be in TPMs for an invite."""
        return "require" if invite.requires_tpm else self.attestation

    def start_attestation(self, request: AttestationRequest, code: str | None) -> Started:
        """Start an attestation session for an enrollment, with an invite or without.

        Raises:
            ThingNameError: the name is not a valid Thing name.
            InviteInvalidError: the code is not valid for this request.
            AttestationRefusedError, ThingRevokedError: see `attesting.Attesting`.
            AwsError: from AWS.
        """
        if request.thing_name is not None and not THING_NAME.fullmatch(request.thing_name):
            raise ThingNameError
        if code is None:
            return self.attesting.start_with_chip(request)
        return self.attesting.start_with_invite(request, self._hash_of(code))

    def _attested(self, applicant: Applicant, evidence: SubmittedEvidence | None, csr: AcceptedCsr) -> Applicant:
        """Return the applicant with what the evidence proves."""
        if evidence is not None:
            proven = self.attesting.check(evidence, csr, applicant, by_key=False)
            if proven.code_sha256 is None and self.auth_mode != OPEN and not proven.by_chip:
                raise InviteRequiredError
            return proven
        if self.attestation == "require":
            raise AttestationRequiredError
        return applicant

    def _code_sha256(self, request: EnrollmentRequest) -> str | None:
        if request.code is not None:
            return self._hash_of(request.code)
        if self.auth_mode != OPEN and request.evidence is None:  # a TPM may stand in for an invite
            raise InviteRequiredError
        return None

    def _hash_of(self, code: str) -> str:
        code_sha256 = invites.code_sha256(code)
        if code_sha256 is None:
            raise InviteInvalidError(reason="malformed")
        log.note(inviteId=invites.invite_id(code_sha256))
        return code_sha256
