"""AWS IoT: creates Things and certificates, attaches them, and finds certificates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from enrollment_backend import log
from enrollment_backend.aws import Clients, call
from enrollment_backend.aws_errors import (
    AwsError,
    AwsRefusedError,
    AwsUnavailableError,
    CertificateNotForKeyError,
    ResourceNotFoundError,
    ThingExistsError,
)
from enrollment_backend.claims import Certificate
from enrollment_backend.public_keys import spki_of

if TYPE_CHECKING:
    from enrollment_backend.csr_policy import AcceptedCsr

CLAIM_ATTRIBUTE = "hsm-enroll"  # of a Thing: the id of the claim that it was created for

_PAGE_SIZE = 250  # certificates; the most that ListCertificates returns
_MAX_NEWEST_PAGES = 2
_PAUSES = (0.2, 0.4, 0.8, 1.6)  # seconds, until AWS IoT knows everywhere what was created a moment ago


@dataclass(frozen=True)
class ListedCertificate:
    """A certificate in a response of ListCertificates.

    Attributes:
        certificate_id: AWS IoT's identifier.
        created: when it was registered.
    """

    certificate_id: str
    created: datetime


@dataclass(frozen=True)
class Issuer:
    """Has AWS IoT issue certificates.

    Args:
        aws: see `aws.connect`.
        policy_name: the AWS IoT policy that is attached to every certificate.
        sleep: waits for a number of seconds.

    Every method raises the errors of `aws.call`.
    """

    aws: Clients
    policy_name: str
    sleep: Callable[[float], None] = time.sleep

    def create_certificate(self, csr: AcceptedCsr) -> Certificate:
        """Have an active certificate issued (CreateCertificateFromCsr). It can do nothing until it is attached.

        Raises:
            CertificateNotForKeyError: AWS IoT returned a certificate for another key. That one has been withdrawn.
        """
        with call("CreateCertificateFromCsr"):
            created = self.aws.iot_once.create_certificate_from_csr(certificateSigningRequest=csr.pem, setAsActive=True)
            certificate = Certificate(created["certificatePem"], created["certificateId"], created["certificateArn"])
        if spki_hash(certificate) != sha256(csr.spki).hexdigest():
            self.withdraw(certificate)
            raise CertificateNotForKeyError("CreateCertificateFromCsr", "not one certificate with the CSR's public key")
        return certificate

    def create_thing(
        self, thing_name: str, claim_id: str, description: Mapping[str, str], may_adopt: Callable[[], bool]
    ) -> bool:
        """Create a Thing, unless it exists (CreateThing).

        Args:
            thing_name: a valid Thing name.
            claim_id: becomes an attribute of the Thing. If the Thing exists, CreateThing succeeds if it has the same
                attributes, and fails otherwise: so a Thing that was not created for this claim is always noticed.
            description: its other attributes, see `thing_attributes.describe`.
            may_adopt: whether a Thing that was not created for this claim may be used; called only if there is one.

        Returns:
            Whether a Thing is used that was not created for this claim.

        Raises:
            ThingExistsError: the Thing was not created for this claim, and must not be used.
        """
        try:
            with call("CreateThing"):
                created = self.aws.iot.create_thing(
                    thingName=thing_name, attributePayload={"attributes": {CLAIM_ATTRIBUTE: claim_id, **description}}
                )
                created["thingArn"]  # a response without it is not AWS IoT's
        except ThingExistsError:
            if self._has_claim_id(thing_name, claim_id):
                return False  # it was created for this claim, and changed since then
            if not may_adopt():
                raise
            return True
        return False

    def describe_thing(self, thing_name: str, description: Mapping[str, str]) -> None:
        """Change attributes of a Thing (UpdateThing); if AWS IoT refuses, they stay as they are, and that is logged.

        It refuses if the Thing has other attributes, and would have more than it may.
        """
        try:
            with call("UpdateThing"):
                self.aws.iot.update_thing(
                    thingName=thing_name, attributePayload={"attributes": description, "merge": True}
                )
        except AwsRefusedError as error:
            log.error("thing-not-described", ofThing=thing_name, **error.facts)

    def attach_policy(self, certificate: Certificate) -> None:
        """Attach the device policy to a certificate (AttachPolicy); wait some seconds until AWS IoT knows both."""

        def attach() -> None:
            with call("AttachPolicy"):
                self.aws.iot.attach_policy(policyName=self.policy_name, target=certificate.arn)

        self._when_known(attach)

    def attach_thing(self, certificate: Certificate, thing_name: str) -> None:
        """Attach a certificate to a Thing, exclusively (AttachThingPrincipal, EXCLUSIVE_THING); wait likewise.

        If AWS IoT refuses because the certificate is already attached, and to this Thing only, it stays as it is:
        earlier versions of the backend attached it without a type, so not exclusively.
        """

        def attach() -> None:
            with call("AttachThingPrincipal"):
                self.aws.iot.attach_thing_principal(
                    thingName=thing_name, principal=certificate.arn, thingPrincipalType="EXCLUSIVE_THING"
                )

        try:
            self._when_known(attach)
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

    def discard(self, certificate_id: str) -> bool:
        """Deactivate a certificate that is attached to no Thing, then delete it (UpdateCertificate, DeleteCertificate).

        Returns:
            Whether it is deleted; if AWS IoT does not delete it, that is logged, and it is left inactive.
        """
        self.deactivate(certificate_id)
        try:
            self.delete_certificate(certificate_id)
        except AwsError as error:
            log.error("certificate-not-deleted", certificateId=certificate_id, **error.facts)
            return False
        log.info("certificate-withdrawn", certificateId=certificate_id)
        return True

    def withdraw(self, certificate: Certificate) -> bool:
        """The same for a certificate that was not handed out; if it cannot even be deactivated, that is logged too."""
        try:
            return self.discard(certificate.certificate_id)
        except AwsError as error:
            log.error("certificate-left-active", certificateId=certificate.certificate_id, **error.facts)
            return False

    def detach_thing(self, certificate_arn: str, thing_name: str) -> None:
        """Detach a certificate from a Thing (DetachThingPrincipal), unless one of the two is gone."""
        with suppress(ResourceNotFoundError), call("DetachThingPrincipal"):
            self.aws.iot.detach_thing_principal(thingName=thing_name, principal=certificate_arn)

    def delete_certificate(self, certificate_id: str) -> None:
        """Delete an inactive certificate, with its policies, unless it is gone (DeleteCertificate, forceDelete).

        Raises:
            AwsRefusedError: it is attached to a Thing, or was a moment ago.
        """
        with suppress(ResourceNotFoundError), call("DeleteCertificate"):
            self.aws.iot.delete_certificate(certificateId=certificate_id, forceDelete=True)

    def delete_thing(self, thing_name: str, claim_id: str) -> None:
        """Delete a Thing that was created for a claim, unless it is gone (DescribeThing, DeleteThing).

        Raises:
            AwsRefusedError: something is attached to it, or was a moment ago.
        """
        with suppress(ResourceNotFoundError):
            if self._has_claim_id(thing_name, claim_id):
                with call("DeleteThing"):
                    self.aws.iot.delete_thing(thingName=thing_name)

    def newest_pages(self) -> Iterator[list[ListedCertificate]]:
        """Yield the account's newest five hundred certificates in pages, newest first (ListCertificates)."""
        start: Any = {}
        for _ in range(_MAX_NEWEST_PAGES):
            with call("ListCertificates"):
                response = self.aws.iot.list_certificates(pageSize=_PAGE_SIZE, ascendingOrder=False, **start)
                listed, marker = response["certificates"], response.get("nextMarker")
            yield [ListedCertificate(found["certificateId"], found["creationDate"]) for found in listed]
            if not marker:
                return
            start = {"marker": marker}

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
                if spki_hash(certificate) == spki_sha256:
                    found.append(certificate)
        return found

    def _when_known(self, attach: Callable[[], None]) -> None:
        """Repeat a call as long as AWS IoT does not know what was created a moment ago: it is eventually consistent."""
        for pause in _PAUSES:
            with suppress(ResourceNotFoundError):
                attach()
                return
            self.sleep(pause)
        try:
            attach()
        except ResourceNotFoundError as error:
            raise AwsUnavailableError(**error.facts) from error  # nothing is undone: a later request attaches it

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

    def _update(self, certificate_id: str, status: str) -> None:
        with call("UpdateCertificate"):
            self.aws.iot.update_certificate(certificateId=certificate_id, newStatus=status)  # type: ignore[arg-type]


def spki_hash(certificate: Certificate) -> str | None:
    """Return the SHA-256 of a certificate's DER SubjectPublicKeyInfo, in hexadecimal; None as `public_keys.spki_of`."""
    spki = spki_of(certificate.pem)
    return None if spki is None else sha256(spki).hexdigest()
