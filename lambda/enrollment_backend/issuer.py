"""AWS IoT: creates Things and certificates, attaches them, and finds certificates."""

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
    CertificateNotForKeyError,
    ResourceNotFoundError,
    ThingExistsError,
)

if TYPE_CHECKING:
    from enrollment_backend.csr_policy import AcceptedCsr

CLAIM_ATTRIBUTE = "hsm-enroll"  # of a Thing: the id of the claim that it was created for

_PAGE_SIZE = 100  # certificates; the limit of BatchGetItem, too
_MAX_NEWEST_PAGES = 10
_SWEEP_PAGE_SIZE = 25  # certificates; each may cost several calls


@dataclass(frozen=True)
class ListedCertificate:
    """A certificate in a response of ListCertificates.

    Attributes:
        certificate_id: AWS IoT's identifier.
        arn: its ARN.
        active: whether its status is ACTIVE.
        created: when it was registered.
    """

    certificate_id: str
    arn: str
    active: bool
    created: datetime


@dataclass(frozen=True)
class Issuer:
    """Has AWS IoT issue certificates.

    Args:
        aws: see `aws.connect`.
        policy_name: the AWS IoT policy that is attached to every certificate.

    Every method raises the errors of `aws.call`.
    """

    aws: Clients
    policy_name: str

    def issue(
        self, thing_name: str, claim_id: str, csr: AcceptedCsr, may_adopt: Callable[[], bool]
    ) -> tuple[Certificate, bool]:
        """Create the Thing and, at the same time, an active certificate for the CSR's key.

        Args:
            thing_name: a valid Thing name.
            claim_id: becomes an attribute of the Thing. If the Thing exists, CreateThing succeeds if it has the same
                attribute, and fails otherwise: so a Thing that was not created for this claim is always noticed.
            csr: an accepted CSR.
            may_adopt: whether a Thing that was not created for this claim may be used; called only if there is one.

        Returns:
            The certificate, and whether a Thing was used that was not created for this claim. The certificate is not
            attached to anything yet, so it cannot be used.

        Raises:
            ThingExistsError: the Thing was not created for this claim, and must not be used.
            CertificateNotForKeyError: AWS IoT returned a certificate for another key.

        If it fails after AWS IoT has issued a certificate, that certificate is made INACTIVE.
        """
        certificate: Certificate | None = None

        def create() -> None:
            nonlocal certificate
            certificate = self._create_certificate(csr)
            _check_key(certificate, csr)

        try:
            _, adopted = concurrently(create, lambda: self._create_thing(thing_name, claim_id, may_adopt))
        except ThingExistsError:
            # A retry will fail too, so no later request will take the certificate over. If it cannot be deactivated,
            # the caller gets that error instead.
            if certificate is not None:
                self.deactivate(certificate.certificate_id)
            raise
        except AwsError:
            if certificate is not None:
                self.withdraw(certificate)
            raise
        assert certificate is not None  # noqa: S101 - `create` has returned
        return certificate, adopted

    def ensure_thing(self, thing_name: str, claim_id: str, may_adopt: Callable[[], bool]) -> bool:
        """Create only the Thing, unless it exists; arguments, result and errors are those of `issue`."""
        return self._create_thing(thing_name, claim_id, may_adopt)

    def attach_policy(self, certificate: Certificate) -> None:
        """Attach the device policy to a certificate (AttachPolicy)."""
        with call("AttachPolicy"):
            self.aws.iot.attach_policy(policyName=self.policy_name, target=certificate.arn)

    def attach_thing(self, certificate: Certificate, thing_name: str) -> None:
        """Attach a certificate to a Thing, exclusively (AttachThingPrincipal, EXCLUSIVE_THING).

        If AWS IoT refuses because the certificate is already attached, and to this Thing only, it stays as it is:
        earlier versions of the backend attached it without a type, so not exclusively.
        """
        try:
            with call("AttachThingPrincipal"):
                self.aws.iot.attach_thing_principal(
                    thingName=thing_name, principal=certificate.arn, thingPrincipalType="EXCLUSIVE_THING"
                )
        except AwsRefusedError:
            # AWS's InvalidRequestException "Principal already has a Thing attached to it" does not say which Thing.
            if self._things_of(certificate) != [thing_name]:
                raise

    def activate(self, certificate_id: str) -> None:
        """Make a certificate ACTIVE (UpdateCertificate)."""
        self._update(certificate_id, "ACTIVE")

    def deactivate(self, certificate_id: str) -> None:
        """Make a certificate INACTIVE (UpdateCertificate); do nothing if it has been deleted.

        AWS IoT then refuses new connections with it, and closes the open ones within minutes.
        """
        with suppress(ResourceNotFoundError):
            self._update(certificate_id, "INACTIVE")

    def withdraw(self, certificate: Certificate) -> None:
        """Deactivate a certificate that was not handed out; if that fails, log it, and leave it to the sweep."""
        try:
            self.deactivate(certificate.certificate_id)
        except AwsError as error:
            log.error("certificate-left-active", certificateId=certificate.certificate_id, **error.facts)
        else:
            log.info("certificate-withdrawn", certificateId=certificate.certificate_id)

    def newest_pages(self) -> Iterator[list[ListedCertificate]]:
        """Yield the account's newest thousand certificates in pages, newest first."""
        marker: str | None = None
        for _ in range(_MAX_NEWEST_PAGES):
            page, marker = self.page(marker, newest_first=True)
            yield page
            if marker is None:
                return

    def page(self, marker: str | None, *, newest_first: bool) -> tuple[list[ListedCertificate], str | None]:
        """Return one page of the account's certificates, and the marker of the next page; None at the end."""
        start = {} if marker is None else {"marker": marker}
        size = _PAGE_SIZE if newest_first else _SWEEP_PAGE_SIZE
        with call("ListCertificates"):
            response = self.aws.iot.list_certificates(pageSize=size, ascendingOrder=not newest_first, **start)
        listed = [
            ListedCertificate(
                certificate_id=found["certificateId"],
                arn=found["certificateArn"],
                active=found["status"] == "ACTIVE",
                created=found["creationDate"],
            )
            for found in response["certificates"]
        ]
        return listed, response.get("nextMarker")

    def certificates_for_key(self, certificate_ids: Iterable[str], spki_sha256: str) -> list[Certificate]:
        """Return those of the certificates that are for a key (DescribeCertificate); deleted ones are skipped.

        Args:
            certificate_ids: the certificates to search; each one costs a call.
            spki_sha256: SHA-256 of the key's SubjectPublicKeyInfo, in hexadecimal.
        """
        found = []
        for certificate_id in certificate_ids:
            with suppress(ResourceNotFoundError):
                certificate = self._describe(certificate_id)
                if _spki_sha256(certificate) == spki_sha256:
                    found.append(certificate)
        return found

    def spki_and_policies(self, listed: ListedCertificate) -> tuple[str | None, set[str]]:
        """Return the SHA-256 of a certificate's SubjectPublicKeyInfo, and the names of its policies.

        The hash is None as in `_spki_sha256`.
        """
        with call("ListAttachedPolicies"):
            policies = self.aws.iot.list_attached_policies(target=listed.arn, pageSize=_PAGE_SIZE)["policies"]
        return _spki_sha256(self._describe(listed.certificate_id)), {policy["policyName"] for policy in policies}

    def _create_thing(self, thing_name: str, claim_id: str, may_adopt: Callable[[], bool]) -> bool:
        try:
            with call("CreateThing"):
                self.aws.iot.create_thing(
                    thingName=thing_name, attributePayload={"attributes": {CLAIM_ATTRIBUTE: claim_id}}
                )
        except ThingExistsError:
            if self._has_claim_id(thing_name, claim_id):
                return False  # it was created for this claim, and changed since then
            if not may_adopt():
                raise
            return True
        return False

    def _has_claim_id(self, thing_name: str, claim_id: str) -> bool:
        with call("DescribeThing"):
            attributes = self.aws.iot.describe_thing(thingName=thing_name).get("attributes", {})
        return attributes.get(CLAIM_ATTRIBUTE) == claim_id

    def _things_of(self, certificate: Certificate) -> list[str]:
        pages = self.aws.iot.get_paginator("list_principal_things").paginate(principal=certificate.arn)
        with call("ListPrincipalThings"):
            return [thing for page in pages for thing in page["things"]]

    def _describe(self, certificate_id: str) -> Certificate:
        with call("DescribeCertificate"):
            found = self.aws.iot.describe_certificate(certificateId=certificate_id)["certificateDescription"]
        return Certificate(found["certificatePem"], found["certificateId"], found["certificateArn"])

    def _create_certificate(self, csr: AcceptedCsr) -> Certificate:
        with call("CreateCertificateFromCsr"):
            created = self.aws.iot_once.create_certificate_from_csr(certificateSigningRequest=csr.pem, setAsActive=True)
        return Certificate(created["certificatePem"], created["certificateId"], created["certificateArn"])

    def _update(self, certificate_id: str, status: str) -> None:
        with call("UpdateCertificate"):
            self.aws.iot.update_certificate(certificateId=certificate_id, newStatus=status)  # type: ignore[arg-type]


def _check_key(certificate: Certificate, csr: AcceptedCsr) -> None:
    if _spki_sha256(certificate) != sha256(csr.spki).hexdigest():
        raise CertificateNotForKeyError("CreateCertificateFromCsr", "not one certificate with the CSR's public key")


def _spki_sha256(certificate: Certificate) -> str | None:
    """Return the SHA-256 of a certificate's DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), in hexadecimal.

    None if the PEM is not exactly one certificate, or its key is of a type that `cryptography` does not support. Does
    not check issuer or dates.
    """
    try:
        (parsed,) = load_pem_x509_certificates(certificate.pem.encode("utf-8"))
        key = parsed.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
