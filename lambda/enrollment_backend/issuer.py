"""AWS IoT: Things, certificates and what they are attached to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificates

from enrollment_backend import log
from enrollment_backend.aws import Clients, call, concurrently
from enrollment_backend.claims import Certificate
from enrollment_backend.errors import (
    AwsError,
    AwsRefusedError,
    CertificateForeignError,
    NotThereError,
    ThingExistsError,
)

if TYPE_CHECKING:
    from enrollment_backend.csr_policy import AcceptedCsr

CLAIM_ATTRIBUTE = "hsm-enroll"  # of a Thing: the claim that it was made for

_PAGE = 100  # certificates; BatchGetItem takes as many keys
_NEWEST_PAGES = 10
_PAGE_OF_A_SWEEP = 25  # certificates; each may take some calls


@dataclass(frozen=True)
class Listed:
    """A certificate as ListCertificates shows it.

    Attributes:
        certificate_id, arn: as AWS IoT names it.
        active: whether its status is ACTIVE.
        created: when it was registered.
    """

    certificate_id: str
    arn: str
    active: bool
    created: datetime


@dataclass(frozen=True)
class Issuer:
    """Has certificates issued.

    Args:
        aws: see `aws.connect`.
        policy_name: the AWS IoT policy every certificate gets.

    Every method raises the errors of `aws.call`.
    """

    aws: Clients
    policy_name: str

    def issue(
        self, thing_name: str, claim_id: str, csr: AcceptedCsr, may_exist: Callable[[], bool]
    ) -> tuple[Certificate, bool]:
        """Create the Thing, and at the same time an active certificate for the CSR's key.

        Args:
            thing_name: a checked name.
            claim_id: stands in the Thing as an attribute. CreateThing with the same attribute succeeds again, and with
                another one it fails: so a Thing that is not this claim's is never taken for one that is.
            csr: a checked CSR.
            may_exist: asked, only where the Thing is another's, whether it may be used nevertheless.

        Returns:
            The certificate, attached to nothing yet, so that it can do nothing; and whether the Thing is another's.

        Raises:
            ThingExistsError: it is, and may not be used.
            CertificateForeignError: AWS IoT answered with a certificate for another key.

        If it fails after AWS IoT has answered with a certificate, that one is made INACTIVE.
        """
        certificate: Certificate | None = None

        def create() -> None:
            nonlocal certificate
            certificate = self._create_certificate(csr)
            _refuse_foreign(certificate, csr)

        try:
            _, adopted = concurrently(create, lambda: self._create_thing(thing_name, claim_id, may_exist))
        except ThingExistsError:
            # For good, so nobody will come back for the certificate: if it cannot be switched off, that is the answer.
            if certificate is not None:
                self.deactivate(certificate.certificate_id)
            raise
        except AwsError:
            if certificate is not None:
                self.withdraw(certificate)
            raise
        assert certificate is not None  # noqa: S101 - `create` has returned
        return certificate, adopted

    def ensure_thing(self, thing_name: str, claim_id: str, may_exist: Callable[[], bool]) -> bool:
        """Create the Thing alone; as `issue`."""
        return self._create_thing(thing_name, claim_id, may_exist)

    def attach_policy(self, certificate: Certificate) -> None:
        """Let the certificate do what the device policy says (AttachPolicy)."""
        with call("AttachPolicy"):
            self.aws.iot.attach_policy(policyName=self.policy_name, target=certificate.arn)

    def attach_thing(self, certificate: Certificate, thing_name: str) -> None:
        """Make it the Thing's, and no other's (AttachThingPrincipal, EXCLUSIVE_THING).

        A certificate that is attached to this Thing and no other already is left as it is, where AWS IoT refuses to
        change the type: earlier versions of the backend attached without one, so not exclusively.
        """
        try:
            with call("AttachThingPrincipal"):
                self.aws.iot.attach_thing_principal(
                    thingName=thing_name, principal=certificate.arn, thingPrincipalType="EXCLUSIVE_THING"
                )
        except AwsRefusedError:
            # "Principal already has a Thing attached to it", an InvalidRequestException, does not say which Thing.
            if self._things_of(certificate) != [thing_name]:
                raise

    def activate(self, certificate_id: str) -> None:
        """Make it ACTIVE (UpdateCertificate)."""
        self._update(certificate_id, "ACTIVE")

    def deactivate(self, certificate_id: str) -> None:
        """Make it INACTIVE (UpdateCertificate): AWS IoT lets it connect no more, and ends what is open within minutes.

        One that was deleted meanwhile is as good.
        """
        with suppress(NotThereError):
            self._update(certificate_id, "INACTIVE")

    def withdraw(self, certificate: Certificate) -> None:
        """Deactivate a certificate that nobody will get; if that fails, the log names it, and `sweep` will find it."""
        try:
            self.deactivate(certificate.certificate_id)
        except AwsError as error:
            log.error("certificate-left-active", certificateId=certificate.certificate_id, **error.facts)
        else:
            log.info("certificate-withdrawn", certificateId=certificate.certificate_id)

    def newest(self) -> Iterator[list[Listed]]:
        """Yield the account's certificates in pages, the newest first, up to a thousand."""
        marker: str | None = None
        for _ in range(_NEWEST_PAGES):
            page, marker = self.page(marker, newest_first=True)
            yield page
            if marker is None:
                return

    def page(self, marker: str | None, *, newest_first: bool) -> tuple[list[Listed], str | None]:
        """Return one page of the account's certificates, and the marker of the next; None at the end."""
        more = {} if marker is None else {"marker": marker}
        size = _PAGE if newest_first else _PAGE_OF_A_SWEEP
        with call("ListCertificates"):
            answer = self.aws.iot.list_certificates(pageSize=size, ascendingOrder=not newest_first, **more)
        listed = [
            Listed(found["certificateId"], found["certificateArn"], found["status"] == "ACTIVE", found["creationDate"])
            for found in answer["certificates"]
        ]
        return listed, answer.get("nextMarker")

    def for_key(self, certificate_ids: Iterable[str], spki_sha256: str) -> list[Certificate]:
        """Return those of some certificates that are for one key, by the hash of its SPKI (DescribeCertificate)."""
        found = []
        for certificate_id in certificate_ids:
            with suppress(NotThereError):
                certificate = self._described(certificate_id)
                if _spki_sha256(certificate) == spki_sha256:
                    found.append(certificate)
        return found

    def spki_and_policies(self, listed: Listed) -> tuple[str | None, set[str]]:
        """Return the hash of a certificate's SPKI, and the names of the policies that are attached to it."""
        with call("ListAttachedPolicies"):
            policies = self.aws.iot.list_attached_policies(target=listed.arn, pageSize=_PAGE)["policies"]
        return _spki_sha256(self._described(listed.certificate_id)), {policy["policyName"] for policy in policies}

    def _create_thing(self, thing_name: str, claim_id: str, may_exist: Callable[[], bool]) -> bool:
        try:
            with call("CreateThing"):
                self.aws.iot.create_thing(
                    thingName=thing_name, attributePayload={"attributes": {CLAIM_ATTRIBUTE: claim_id}}
                )
        except ThingExistsError:
            if self._bears(thing_name, claim_id):
                return False  # made for this claim, and changed since
            if not may_exist():
                raise
            return True
        return False

    def _bears(self, thing_name: str, claim_id: str) -> bool:
        with call("DescribeThing"):
            attributes = self.aws.iot.describe_thing(thingName=thing_name).get("attributes", {})
        return attributes.get(CLAIM_ATTRIBUTE) == claim_id

    def _things_of(self, certificate: Certificate) -> list[str]:
        pages = self.aws.iot.get_paginator("list_principal_things").paginate(principal=certificate.arn)
        with call("ListPrincipalThings"):
            return [thing for page in pages for thing in page["things"]]

    def _described(self, certificate_id: str) -> Certificate:
        with call("DescribeCertificate"):
            described = self.aws.iot.describe_certificate(certificateId=certificate_id)["certificateDescription"]
        return Certificate(described["certificatePem"], described["certificateId"], described["certificateArn"])

    def _create_certificate(self, csr: AcceptedCsr) -> Certificate:
        with call("CreateCertificateFromCsr"):
            answer = self.aws.iot_once.create_certificate_from_csr(certificateSigningRequest=csr.pem, setAsActive=True)
        return Certificate(
            pem=answer["certificatePem"], certificate_id=answer["certificateId"], arn=answer["certificateArn"]
        )

    def _update(self, certificate_id: str, status: str) -> None:
        with call("UpdateCertificate"):
            self.aws.iot.update_certificate(certificateId=certificate_id, newStatus=status)  # type: ignore[arg-type]


def _refuse_foreign(certificate: Certificate, csr: AcceptedCsr) -> None:
    if _spki_sha256(certificate) != sha256(csr.spki).hexdigest():
        raise CertificateForeignError("CreateCertificateFromCsr", "not one certificate with the CSR's public key")


def _spki_sha256(certificate: Certificate) -> str | None:
    """Return the hash of the DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) of a PEM that is exactly one certificate.

    None for any other, and for a key of a kind that no device of ours has. Checks neither issuer nor dates.
    """
    try:
        (parsed,) = load_pem_x509_certificates(certificate.pem.encode("utf-8"))
        key = parsed.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
