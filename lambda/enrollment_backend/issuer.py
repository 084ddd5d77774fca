"""AWS IoT: Thing, certificate and policy, in two rounds of two calls that do not depend on each other.

    CreateThing             ∥  CreateCertificateFromCsr
    AttachThingPrincipal    ∥  AttachPolicy

API Gateway waits 30 seconds for the function. The time-outs below keep both rounds, and the withdrawal after a failure,
within that.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as AwsConnectionError
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificates

from enrollment_backend import log
from enrollment_backend.errors import (
    AwsError,
    AwsRefusedError,
    AwsUnavailableError,
    CertificateForeignError,
    ThingExistsError,
    ThrottledError,
)

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

    from enrollment_backend.csr_policy import AcceptedCsr

# Error codes, never statuses: AWS IoT throttles with 400 and reports a limit with 410.
_THROTTLED = frozenset(
    {
        "LimitExceededException",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
# The numbers are what botocore makes of an answer that has no code, such as a load balancer's page.
_UNAVAILABLE = frozenset(
    {
        "500",
        "502",
        "503",
        "504",
        "InternalException",
        "InternalFailure",
        "InternalFailureException",
        "InternalServerError",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate that AWS IoT holds as active, attached to its Thing and to the device policy.

    Attributes:
        pem: X.509 in PEM.
        certificate_id: AWS IoT's identifier, 64 hexadecimal digits.
        arn: its ARN.
    """

    pem: str
    certificate_id: str
    arn: str


@dataclass(frozen=True)
class IotClients:
    """The same API twice, since a client's retries are fixed when it is made.

    Attributes:
        repeating: for calls that may be carried out twice without harm.
        single: one attempt only, for CreateCertificateFromCsr: asked twice, AWS IoT issues two certificates.
    """

    repeating: IoTClient
    single: IoTClient


def connect() -> IotClients:
    """Make the clients from AWS's own environment variables (AWS_REGION, AWS_ENDPOINT_URL, credentials).

    Sends nothing yet.
    """
    session = boto3.session.Session()  # boto3's default session is not safe to share between threads
    return IotClients(
        repeating=session.client(
            "iot",
            config=Config(
                connect_timeout=1,
                read_timeout=3,
                retries={"mode": "standard", "total_max_attempts": 2},
            ),
        ),
        single=session.client(
            "iot",
            config=Config(
                connect_timeout=1,
                read_timeout=8,
                retries={"total_max_attempts": 1},
            ),
        ),
    )


@dataclass(frozen=True)
class Issuer:
    """Has certificates issued.

    Args:
        iot: see `connect`.
        policy_name: the AWS IoT policy every certificate gets.
    """

    iot: IotClients
    policy_name: str

    def issue(self, thing_name: str, csr: AcceptedCsr) -> IssuedCertificate:
        """Create the Thing if it is missing, a certificate for the CSR's key, and attach it to Thing and policy.

        Args:
            thing_name: a checked name.
            csr: a checked CSR.

        Returns:
            The active certificate; its key is the CSR's.

        Raises:
            ThrottledError, AwsUnavailableError: it may work later.
            ThingExistsError: the name is taken by a Thing of another configuration.
            CertificateForeignError: AWS IoT answered with a certificate for another key.
            AwsRefusedError: AWS IoT will not do it.

        If anything fails once the certificate is known, it is made INACTIVE again; should that fail too, the log
        names it. A certificate whose answer was lost stays behind: active, but with neither policy nor Thing, so
        that it can do nothing.
        """
        with ThreadPoolExecutor(max_workers=2) as pool, ExitStack() as undo:
            thing = pool.submit(self._create_thing, thing_name)
            creation = pool.submit(self._create_certificate, csr)
            certificate = creation.result()
            undo.callback(self._withdraw, certificate)
            thing.result()
            _refuse_foreign(certificate, csr)

            attachments = (
                pool.submit(self._attach_policy, certificate),
                pool.submit(self._attach_thing, certificate, thing_name),
            )
            for attachment in attachments:
                attachment.result()
            undo.pop_all()
        return certificate

    def _create_thing(self, thing_name: str) -> None:
        with _translated("CreateThing"):
            self.iot.repeating.create_thing(thingName=thing_name)

    def _create_certificate(self, csr: AcceptedCsr) -> IssuedCertificate:
        with _translated("CreateCertificateFromCsr"):
            answer = self.iot.single.create_certificate_from_csr(certificateSigningRequest=csr.pem, setAsActive=True)
        return IssuedCertificate(
            pem=answer["certificatePem"], certificate_id=answer["certificateId"], arn=answer["certificateArn"]
        )

    def _attach_policy(self, certificate: IssuedCertificate) -> None:
        with _translated("AttachPolicy"):
            self.iot.repeating.attach_policy(policyName=self.policy_name, target=certificate.arn)

    def _attach_thing(self, certificate: IssuedCertificate, thing_name: str) -> None:
        with _translated("AttachThingPrincipal"):
            self.iot.repeating.attach_thing_principal(thingName=thing_name, principal=certificate.arn)

    def _withdraw(self, certificate: IssuedCertificate) -> None:
        try:
            with _translated("UpdateCertificate"):
                self.iot.repeating.update_certificate(certificateId=certificate.certificate_id, newStatus="INACTIVE")
        except AwsError as error:
            log.error("certificate-left-active", certificateId=certificate.certificate_id, **error.facts)
        else:
            log.info("certificate-withdrawn", certificateId=certificate.certificate_id)


def _refuse_foreign(certificate: IssuedCertificate, csr: AcceptedCsr) -> None:
    """Compare public keys as DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7). Checks neither issuer nor dates."""
    try:
        spkis = [
            parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for parsed in load_pem_x509_certificates(certificate.pem.encode("utf-8"))
        ]
    except ValueError as error:
        raise CertificateForeignError("CreateCertificateFromCsr", "unreadable certificate") from error
    if spkis != [csr.spki]:
        raise CertificateForeignError("CreateCertificateFromCsr", "another public key")


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _domain_error(operation, error.response.get("Error", {}).get("Code", "")) from error
    except (HTTPClientError, AwsConnectionError) as error:
        raise AwsUnavailableError(operation, type(error).__name__) from error


def _domain_error(operation: str, aws_code: str) -> AwsError:
    if aws_code in _THROTTLED:
        return ThrottledError(operation, aws_code)
    if aws_code in _UNAVAILABLE:
        return AwsUnavailableError(operation, aws_code)
    if operation == "CreateThing" and aws_code == "ResourceAlreadyExistsException":
        return ThingExistsError(operation, aws_code)
    return AwsRefusedError(operation, aws_code)
