"""Calls to AWS: the clients, concurrent calls, and AWS's errors translated into the backend's own.

API Gateway waits 30 seconds for the function. The timeouts here keep all rounds of an enrollment within that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as AwsConnectionError
from botocore.parsers import ResponseParserError

from enrollment_backend import log
from enrollment_backend.errors import (
    AwsError,
    AwsRefusedError,
    AwsUnavailableError,
    ConditionFailedError,
    ResourceNotFoundError,
    ThingExistsError,
    ThrottledError,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_iot import IoTClient

# By error code, never by HTTP status: AWS IoT throttles with 400 and reports an exceeded limit with 410.
_THROTTLED = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceeded",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingError",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
# botocore uses the HTTP status as the code of a response that has none, such as an error page of a load balancer.
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
        "TransactionInProgressException",
    }
)
# Another transaction wrote to the same items at the same time: read them again, as after a condition that failed.
_CONDITION_FAILED = frozenset({"ConditionalCheckFailed", "ConditionalCheckFailedException", "TransactionConflict"})


@dataclass(frozen=True)
class Clients:
    """Clients of AWS's APIs. There are two for AWS IoT, because a client's retries are fixed when it is created.

    Attributes:
        iot: retries; for calls that do no harm when they are carried out twice.
        iot_once: makes one attempt only; for CreateCertificateFromCsr, since each call issues another certificate.
        dynamodb: retries; safe for transactions, since botocore gives each one its own idempotency token.
    """

    iot: IoTClient
    iot_once: IoTClient
    dynamodb: DynamoDBClient


def connect() -> Clients:
    """Create the clients, configured by AWS's own environment variables (AWS_REGION, AWS_ENDPOINT_URL, credentials).

    Makes no network calls.
    """
    session = boto3.session.Session()  # boto3's default session is not safe to share between threads
    repeating = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 2})
    once = Config(connect_timeout=1, read_timeout=8, retries={"total_max_attempts": 1})
    return Clients(
        iot=session.client("iot", config=repeating),
        iot_once=session.client("iot", config=once),
        dynamodb=session.client("dynamodb", config=repeating),
    )


def concurrently(*calls: Callable[[], Any]) -> list[Any]:
    """Run functions at the same time, each in its own thread, and wait for all of them.

    Returns:
        What they returned, in the order of the arguments.

    Raises:
        Exception: what the first of them, in the order of the arguments, raised. All of them have ended by then.
    """
    with ThreadPoolExecutor(max_workers=len(calls)) as pool:
        futures = [pool.submit(copy_context().run, call) for call in calls]
    return [future.result() for future in futures]


@contextmanager
def call(operation: str) -> Iterator[None]:
    """Translate the errors of the AWS call in the block into ours, and note its duration for the log.

    Args:
        operation: AWS API name, such as ``CreateThing``.

    Raises:
        ThrottledError, AwsUnavailableError: the call may succeed later.
        ConditionFailedError: the condition of a write does not hold.
        ThingExistsError: CreateThing found a Thing with another configuration.
        ResourceNotFoundError: the resource does not exist.
        AwsRefusedError: AWS refused the call for another reason.
    """
    begin = time.monotonic()
    try:
        yield
    except ClientError as error:
        raise _domain_error(operation, error) from error
    except (HTTPClientError, AwsConnectionError, ResponseParserError) as error:
        raise AwsUnavailableError(operation, type(error).__name__) from error
    finally:
        log.record_call(operation, (time.monotonic() - begin) * 1000)


def _domain_error(operation: str, error: ClientError) -> AwsError:
    code = _code(error)
    if code in _THROTTLED:
        return ThrottledError(operation, code)
    if code in _UNAVAILABLE:
        return AwsUnavailableError(operation, code)
    if code in _CONDITION_FAILED:
        return ConditionFailedError(operation, code)
    if operation == "CreateThing" and code == "ResourceAlreadyExistsException":
        return ThingExistsError(operation, code)
    if code == "ResourceNotFoundException":
        return ResourceNotFoundError(operation, code)
    return AwsRefusedError(operation, code)


def _code(error: ClientError) -> str:
    """Return AWS's error code; for a cancelled transaction, the first CancellationReason that has one."""
    reasons = [str(reason.get("Code")) for reason in error.response.get("CancellationReasons", [])]
    causes = [reason for reason in reasons if reason not in {"None", ""}]
    return causes[0] if causes else str(error.response.get("Error", {}).get("Code", ""))
