"""The operator's AWS account in one region: whose it is, and what a deployment needs besides its stack."""

from __future__ import annotations

import base64
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

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.errors import AwsError, HsmEnrollError
from hsm_enroll.operator import aws

_CONFIG = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 5})
_US_EAST_1 = "us-east-1"  # CreateBucket refuses a request that names it
# An answer to HEAD has no body, so S3 cannot give a code of its own.
_MISSING = {"404", "NoSuchKey", "NotFound"}
_FORBIDDEN = {"403", "AccessDenied"}


@dataclass(frozen=True)
class UploadedCode:
    """A zip in the code bucket, pinned to the version whose content S3 has confirmed.

    Attributes:
        key: of the object.
        version: of the object; later uploads under the same key do not change it.
        sha256: of the content, in base64, as S3 and Lambda (``CodeSha256``) show it.
    """

    key: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Account:
    """An account and a region. Every method raises the errors of `translated_errors`.

    Attributes:
        account_id: twelve digits.
        region: name of the region.
        partition: the part of AWS's cloud that the region is in, such as ``aws`` or ``aws-cn``.
    """

    account_id: str
    region: str
    partition: str
    _session: Session = field(repr=False)

    @classmethod
    def of(cls, session: Session) -> Account:
        """Return the account that a session's credentials belong to (GetCallerIdentity).

        Raises:
            UsageError: there are no credentials, AWS rejected them, or no region is set.
        """
        region = aws.region(session)
        aws.credentials(session)
        with translated_errors("STS", aws.unreachable_hint(session, region)):
            client: Any = session.create_client("sts", region_name=region, config=_CONFIG)
            identity = client.get_caller_identity()
        partition = str(identity["Arn"]).split(":")[1]
        return cls(str(identity["Account"]), region, partition, session)

    @property
    def code_bucket(self) -> str:
        """Name of the bucket for the functions' zips; all deployments in this account and region share it."""
        return f"hsm-enroll-code-{self.account_id}-{self.region}"

    @property
    def iot_arns(self) -> str:
        """What every AWS IoT ARN of this account and region begins with."""
        return f"arn:{self.partition}:iot:{self.region}:{self.account_id}:"

    @cached_property
    def cloudformation(self) -> Any:
        """A client for CloudFormation."""
        return self._client("cloudformation")

    def data_endpoint(self) -> str:
        """Return the host name that the account's devices connect to (iot:Data-ATS)."""
        return self._endpoint("iot:Data-ATS")

    def credentials_endpoint(self) -> str:
        """Return the host name of the account's credentials provider."""
        return self._endpoint("iot:CredentialProvider")

    def iot_policy(self, name: str) -> str:
        """Return the document of an AWS IoT policy that is in force, that of its default version."""
        with translated_errors("AWS IoT"):
            answer = self._client("iot").get_policy(policyName=name)
        return str(answer["policyDocument"])

    def unreserved_concurrency(self) -> int | None:
        """Return the Lambda concurrency that no function of the account has reserved; None if AWS does not say."""
        with translated_errors("Lambda"):
            client = self._client("lambda")
            try:
                limit = client.get_account_settings()["AccountLimit"]
            except ClientError:
                return None  # not a reason to stop: only the size of the reservation depends on it
        return int(limit["UnreservedConcurrentExecutions"])

    def upload(self, content: bytes) -> UploadedCode:
        """Upload a zip to the code bucket, unless it is there, under a key that holds its SHA-256.

        The bucket is created if it is missing. Whether it is new or not, it is made private, encrypting and versioning.
        An object that is there already is used only if S3 says that it has the same SHA-256.

        Raises:
            AwsError: somebody else owns a bucket of that name, or S3 does not confirm what was uploaded.
        """
        digest = hashlib.sha256(content)
        key, sha256 = f"{digest.hexdigest()}.zip", base64.b64encode(digest.digest()).decode()
        s3 = self._client("s3")
        with translated_errors("S3"):
            self._prepare_bucket(s3)
            version = self._version_with(s3, key, sha256)
            if version is None:
                put = s3.put_object(
                    **self._own_bucket,
                    Key=key,
                    Body=content,
                    ContentType="application/zip",
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=sha256,
                )
                version = self._version_with(s3, key, sha256, put.get("VersionId"))
        if version is None:
            raise AwsError(
                f"S3 does not confirm the zip {key} in the bucket {self.code_bucket}: it has another SHA-256 than what "
                "was uploaded, or no version",
                hint="Find out who can write to this bucket and change its versioning, then deploy again.",
            )
        return UploadedCode(key, version, sha256)

    def function_sha256(self, name: str) -> str:
        """Return the SHA-256 of the code that a Lambda function runs, in base64."""
        with translated_errors("Lambda"):
            answer = self._client("lambda").get_function(FunctionName=name)
        return str(answer["Configuration"]["CodeSha256"])

    def _endpoint(self, kind: str) -> str:
        with translated_errors("AWS IoT"):
            answer = self._client("iot").describe_endpoint(endpointType=kind)
        return str(answer["endpointAddress"])

    @property
    def _own_bucket(self) -> dict[str, str]:
        # Bucket names are global, and this one can be guessed.
        return {"Bucket": self.code_bucket, "ExpectedBucketOwner": self.account_id}

    def _prepare_bucket(self, s3: Any) -> None:
        try:
            s3.head_bucket(**self._own_bucket)
        except ClientError as error:
            code = aws.code(error)
            if code in _FORBIDDEN:
                raise AwsError(
                    f"your AWS identity has no access to the bucket {self.code_bucket}, or somebody else owns it",
                    hint="You need s3:ListBucket on it. If somebody else owns it, deploy in another region.",
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
        s3.put_bucket_versioning(**self._own_bucket, VersioningConfiguration={"Status": "Enabled"})

    def _version_with(self, s3: Any, key: str, sha256: str, version: str | None = None) -> str | None:
        """Return the version of an object, the newest or the given one, if its content has this SHA-256, else None."""
        named = {} if version is None else {"VersionId": version}
        try:
            found = s3.head_object(**self._own_bucket, Key=key, ChecksumMode="ENABLED", **named)
        except ClientError as error:
            if aws.code(error) in _MISSING | _FORBIDDEN:  # without s3:ListBucket S3 answers 403 for what is missing
                return None
            raise
        there = found.get("VersionId")
        # Objects from before the versioning have the version "null", which can be overwritten.
        return there if found.get("ChecksumSHA256") == sha256 and there != "null" else None

    def _client(self, service: str) -> Any:
        with translated_errors(service):
            return self._session.create_client(service, region_name=self.region, config=_CONFIG)


@contextmanager
def translated_errors(service: str, unreachable_hint: str = "Check the network.") -> Iterator[None]:
    """Translate what AWS and botocore raise inside the block into our errors.

    Args:
        service: its usual name.
        unreachable_hint: what to check if it cannot be reached.

    Raises:
        UsageError: AWS rejected the credentials.
        ThrottledError: the service is busy.
        AwsError: the service refused, cannot be reached, or sent a response that botocore cannot read.
    """
    try:
        yield
    except ClientError as error:
        raise _refused(service, error) from error
    except (HTTPClientError, AwsConnectionError) as error:
        raise AwsError(f"cannot reach {service}: {type(error).__name__}", hint=unreachable_hint) from error
    except ResponseParserError as error:
        raise AwsError(
            f"unexpected response from {service}", hint="Check AWS_ENDPOINT_URL, or try again later."
        ) from error
    except BotoCoreError as error:
        raise AwsError(f"the request to {service} failed: {printable(str(error))}") from error


def _refused(service: str, error: ClientError) -> HsmEnrollError:
    refused = AwsError(f"{service} refused {error.operation_name}: {aws.reason(error)}")
    return aws.common_refusal(service, error) or refused
