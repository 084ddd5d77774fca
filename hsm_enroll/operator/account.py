"""The operator's AWS account in one region: who is calling, and what a deployment needs beside its stack."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as AwsConnectionError
from botocore.parsers import ResponseParserError
from botocore.session import Session

from hsm_enroll.errors import AwsError, HsmEnrollError, ThrottledError, UsageError
from hsm_enroll.operator import aws
from hsm_enroll.operator.answer import printable

_CONFIG = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 5})
_US_EAST_1 = "us-east-1"  # CreateBucket: the one region that must not be named
_THROTTLED = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "SlowDown", "TooManyRequestsException"}
_NO_VALID_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
# HEAD has no body, so S3 gives no code of its own.
_MISSING = {"404", "NoSuchKey", "NotFound"}
_FORBIDDEN = {"403", "AccessDenied"}


@dataclass(frozen=True)
class Account:
    """An account and a region.

    Attributes:
        account_id: twelve digits.
        region: its name.
        partition: AWS's word for the part of its cloud that the region is in, such as ``aws`` or ``aws-cn``.

    Every method raises the errors of `asking`.
    """

    account_id: str
    region: str
    partition: str
    _session: Session = field(repr=False)

    @classmethod
    def of_environment(cls) -> Account:
        """Ask AWS whose the environment's credentials are (GetCallerIdentity).

        Raises:
            UsageError: there are no credentials, AWS does not take them, or no region is set.
        """
        session = aws.session()
        region = aws.region(session)
        aws.credentials(session)
        with asking("STS"):
            client: Any = session.create_client("sts", region_name=region, config=_CONFIG)
            identity = client.get_caller_identity()
        partition = str(identity["Arn"]).split(":")[1]
        return cls(str(identity["Account"]), region, partition, session)

    @property
    def code_bucket(self) -> str:
        """Name of the bucket for the functions' zips; all deployments of account and region share it."""
        return f"hsm-enroll-code-{self.account_id}-{self.region}"

    @property
    def iot_arns(self) -> str:
        """How the ARNs of AWS IoT begin in this account and region."""
        return f"arn:{self.partition}:iot:{self.region}:{self.account_id}:"

    @cached_property
    def cloudformation(self) -> Any:
        """A client of CloudFormation."""
        return self._client("cloudformation")

    def data_endpoint(self) -> str:
        """Return the host name that the account's devices connect to (iot:Data-ATS)."""
        with asking("AWS IoT"):
            answer = self._client("iot").describe_endpoint(endpointType="iot:Data-ATS")
        return str(answer["endpointAddress"])

    def iot_policy(self, name: str) -> str:
        """Return the document of an AWS IoT policy, as it is in force: that of its default version."""
        with asking("AWS IoT"):
            answer = self._client("iot").get_policy(policyName=name)
        return str(answer["policyDocument"])

    def unreserved_concurrency(self) -> int | None:
        """Return how much concurrency of Lambda no function of the account has reserved; None if it is not told."""
        with asking("Lambda"):
            client = self._client("lambda")
            try:
                limit = client.get_account_settings()["AccountLimit"]
            except ClientError:
                return None  # no reason to stop: only the reservation depends on it
        return int(limit["UnreservedConcurrentExecutions"])

    def upload(self, content: bytes) -> str:
        """Put a zip into the code bucket, which is made if it is missing, and return its key: its SHA-256.

        Whatever the bucket was like, afterwards it is private and encrypts what it stores.

        Raises:
            AwsError: somebody else has a bucket of that name.
        """
        digest = hashlib.sha256(content)
        key = f"{digest.hexdigest()}.zip"
        s3 = self._client("s3")
        with asking("S3"):
            self._prepare_bucket(s3)
            if not self._has(s3, key):
                s3.put_object(
                    **self._own_bucket, Key=key, Body=content, ContentType="application/zip", ChecksumAlgorithm="SHA256"
                )
        return key

    @property
    def _own_bucket(self) -> dict[str, str]:
        # Bucket names belong to the whole world, and this one can be guessed.
        return {"Bucket": self.code_bucket, "ExpectedBucketOwner": self.account_id}

    def _prepare_bucket(self, s3: Any) -> None:
        try:
            s3.head_bucket(**self._own_bucket)
        except ClientError as error:
            code = _code(error)
            if code in _FORBIDDEN:
                raise AwsError(
                    f"the bucket {self.code_bucket} is closed to your AWS identity, or is somebody else's",
                    hint="You need s3:ListBucket on it. If it is somebody else's, deploy in another region.",
                ) from error
            if code not in _MISSING:
                raise
            where = {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
            s3.create_bucket(Bucket=self.code_bucket, **({} if self.region == _US_EAST_1 else where))
        s3.put_public_access_block(
            **self._own_bucket,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        by_default = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        s3.put_bucket_encryption(**self._own_bucket, ServerSideEncryptionConfiguration={"Rules": [by_default]})

    def _has(self, s3: Any, key: str) -> bool:
        try:
            s3.head_object(**self._own_bucket, Key=key)
        except ClientError as error:
            if _code(error) in _MISSING | _FORBIDDEN:  # 403 is what S3 says without s3:ListBucket
                return False
            raise
        return True

    def _client(self, service: str) -> Any:
        with asking(service):
            return self._session.create_client(service, region_name=self.region, config=_CONFIG)


@contextmanager
def asking(service: str) -> Iterator[None]:
    """Turn what AWS and its library raise inside the block into our errors.

    Args:
        service: as a person calls it.

    Raises:
        UsageError: AWS does not take the credentials.
        ThrottledError: AWS is busy.
        AwsError: AWS refuses, cannot be reached, or answers what its library does not understand.
    """
    try:
        yield
    except ClientError as error:
        raise _refused(service, error) from error
    except (HTTPClientError, AwsConnectionError) as error:
        raise AwsError(
            f"{service} cannot be reached: {type(error).__name__}", hint="Check the network and AWS_REGION."
        ) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise AwsError(f"{service} cannot be asked: {printable(str(error))}") from error


def _refused(service: str, error: ClientError) -> HsmEnrollError:
    code, message = _code(error), printable(str(error.response.get("Error", {}).get("Message", "")))
    if code in _NO_VALID_CREDENTIALS:
        return UsageError(f"AWS does not take these credentials: {message} ({code})", hint=aws.CREDENTIALS_HINT)
    if code in _THROTTLED:
        return ThrottledError(f"{service} is busy", hint="Wait a moment, then run the same command again.")
    return AwsError(f"{service} refused {error.operation_name}: {message} ({code})")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
