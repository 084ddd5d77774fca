"""Reads AWS IoT's registry: which certificates there are, what has the device policy, what a Thing has attached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from enrollment_backend.aws import Clients, call
from enrollment_backend.aws_errors import AwsRefusedError, ResourceNotFoundError
from enrollment_backend.claims import Attestation, Certificate
from enrollment_backend.issuer import CLAIM_ATTRIBUTE, spki_hash
from enrollment_backend.thing_attributes import attestation_in

_CERTIFICATE = ":cert/"  # in the ARN of a certificate, before its id; other principals and targets have none


@dataclass(frozen=True)
class Found:
    """A certificate in AWS IoT.

    Attributes:
        certificate_id: AWS IoT's identifier.
        active: whether its status is ACTIVE.
        created: when it was registered.
    """

    certificate_id: str
    active: bool
    created: datetime


@dataclass(frozen=True)
class Described:
    """A certificate in AWS IoT, with its content.

    Attributes:
        found: what a list says of it.
        certificate: the certificate.
        spki_sha256: SHA-256 of its SubjectPublicKeyInfo, in hexadecimal; None as in `issuer.spki_hash`.
    """

    found: Found
    certificate: Certificate
    spki_sha256: str | None


@dataclass(frozen=True)
class Origin:
    """What a Thing that was created here says about its enrollment.

    Attributes:
        claim_id: the id of the claim that it was created for.
        attestation: the TPM that holds its key; None if there is none.
    """

    claim_id: str
    attestation: Attestation | None


@dataclass(frozen=True)
class Inspection:
    """Reads AWS IoT's registry, and deletes certificates that nothing depends on.

    Args:
        aws: see `aws.connect`.
        policy_name: the AWS IoT policy that is attached to every device's certificate.

    Every method raises the errors of `aws.call`.
    """

    aws: Clients
    policy_name: str

    def certificates(self, marker: str, size: int) -> tuple[list[Found], str]:
        """Return a page of the account's certificates, the oldest first (ListCertificates).

        Args:
            marker: of the page, from the page before; empty for the first page.
            size: the largest number of certificates in the page, up to 250.

        Returns:
            The page, and the marker of the next one; empty at the end.
        """
        with call("ListCertificates"):
            response = self.aws.iot.list_certificates(pageSize=size, ascendingOrder=True, **_start(marker))
            return [_found(one) for one in response["certificates"]], response.get("nextMarker", "")

    def certificates_with_policy(self, marker: str, size: int) -> tuple[list[str], str]:
        """Return a page of the ids of the certificates that have the device policy (ListTargetsForPolicy).

        Args and returns as `certificates`. Other targets, such as groups of Things, are left out.
        """
        with call("ListTargetsForPolicy"):
            response = self.aws.iot.list_targets_for_policy(
                policyName=self.policy_name, pageSize=size, **_start(marker)
            )
            return list(_certificate_ids(response["targets"])), response.get("nextMarker", "")

    def describe(self, certificate_id: str) -> Described | None:
        """Return a certificate (DescribeCertificate); None if it has been deleted."""
        with suppress(ResourceNotFoundError), call("DescribeCertificate"):
            response = self.aws.iot.describe_certificate(certificateId=certificate_id)["certificateDescription"]
            certificate = Certificate(response["certificatePem"], response["certificateId"], response["certificateArn"])
            return Described(_found(response), certificate, spki_hash(certificate))
        return None

    def things_of(self, certificate: Certificate) -> list[str]:
        """Return the names of the Things that a certificate is attached to (ListPrincipalThings)."""
        pages = self.aws.iot.get_paginator("list_principal_things").paginate(principal=certificate.arn)
        with call("ListPrincipalThings"):
            return [thing for page in pages for thing in page["things"]]

    def origin_of(self, thing_name: str) -> Origin | None:
        """Return which claim a Thing was created for (DescribeThing); None if it was created elsewhere."""
        with call("DescribeThing"):
            attributes = self.aws.iot.describe_thing(thingName=thing_name).get("attributes", {})
        claim_id = attributes.get(CLAIM_ATTRIBUTE)
        return None if claim_id is None else Origin(claim_id, attestation_in(attributes))

    def attached_to(self, thing_name: str) -> list[Found]:
        """Return the certificates that are attached to a Thing (ListThingPrincipals); none if there is no such Thing.

        Each one costs a call of DescribeCertificate. Principals that are not certificates are left out.
        """
        principals: list[str] = []
        with suppress(ResourceNotFoundError), call("ListThingPrincipals"):
            pages = self.aws.iot.get_paginator("list_thing_principals").paginate(thingName=thing_name)
            principals = [principal for page in pages for principal in page["principals"]]
        described = [self.describe(certificate_id) for certificate_id in _certificate_ids(principals)]
        return [one.found for one in described if one is not None]

    def delete(self, certificate_id: str) -> bool:
        """Delete a certificate, unless it is active or anything is attached to it (DeleteCertificate without force).

        AWS IoT itself checks that at the moment of deletion.

        Returns:
            Whether it is gone.
        """
        try:
            with suppress(ResourceNotFoundError), call("DeleteCertificate"):
                self.aws.iot.delete_certificate(certificateId=certificate_id)
        except AwsRefusedError as error:
            if error.facts["cause"] not in {"DeleteConflictException", "CertificateStateException"}:
                raise
            return False
        return True


def _start(marker: str) -> Any:
    return {"marker": marker} if marker else {}


def _found(response: Any) -> Found:
    return Found(response["certificateId"], response["status"] == "ACTIVE", response["creationDate"])


def _certificate_ids(arns: list[str]) -> Iterator[str]:
    for arn in arns:
        _, separator, certificate_id = arn.rpartition(_CERTIFICATE)
        if separator:
            yield certificate_id
