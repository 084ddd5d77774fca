"""How AWS is called: clients, calls at the same time, and AWS's errors as the backend's own.

API Gateway waits 30 seconds for the function. The time-outs here keep the rounds of an enrollment within that.
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
    NotThereError,
    ThingExistsError,
    ThrottledError,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_iot import IoTClient

# Error codes, never statuses: AWS IoT throttles with 400 and reports a limit with 410.
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
        "TransactionInProgressException",
    }
)
# Another transaction wrote to the same items at the same time: they are to be looked at again, as after a condition.
_CONDITION_FAILED = frozenset({"ConditionalCheckFailed", "ConditionalCheckFailedException", "TransactionConflict"})


@dataclass(frozen=True)
class Clients:
    """AWS's APIs. AWS IoT stands here twice, since a client's retries are fixed when it is made.

    Attributes:
        iot: for calls that may be carried out twice without harm.
        iot_once: one attempt only, for CreateCertificateFromCsr: asked twice, AWS IoT issues two certificates.
        dynamodb: its conditional writes may be repeated: botocore gives each transaction a token of its own.
    """

    iot: IoTClient
    iot_once: IoTClient
    dynamodb: DynamoDBClient


def connect() -> Clients:
    """Make the clients from AWS's own environment variables (AWS_REGION, AWS_ENDPOINT_URL, credentials).

    Sends nothing yet.
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
    """Run calls at the same time; return what they return, in order.

    Raises:
        Exception: the first of them, in order, that raised. All have ended by then.
    """
    with ThreadPoolExecutor(max_workers=len(calls)) as pool:
        futures = [pool.submit(copy_context().run, call) for call in calls]
    return [future.result() for future in futures]


@contextmanager
def call(operation: str) -> Iterator[None]:
    """Name what is asked of AWS inside the block: its errors become ours, its time goes into the log.

    Args:
        operation: AWS API name, such as ``CreateThing``.

    Raises:
        ThrottledError, AwsUnavailableError: it may work later.
        ConditionFailedError: a conditional write met something else than it expects.
        ThingExistsError: CreateThing met a Thing of another configuration.
        NotThereError: what it is about is not there.
        AwsRefusedError: AWS will not do it.
    """
    begin = time.monotonic()
    try:
        yield
    except ClientError as error:
        raise _domain_error(operation, error) from error
    except (HTTPClientError, AwsConnectionError, ResponseParserError) as error:
        raise AwsUnavailableError(operation, type(error).__name__) from error
    finally:
        log.timed(operation, (time.monotonic() - begin) * 1000)


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
        return NotThereError(operation, code)
    return AwsRefusedError(operation, code)


def _code(error: ClientError) -> str:
    """Return AWS's error code; of a cancelled transaction the first reason there is (API: CancellationReason)."""
    reasons = [str(reason.get("Code")) for reason in error.response.get("CancellationReasons", [])]
    given = [reason for reason in reasons if reason not in {"None", ""}]
    return given[0] if given else str(error.response.get("Error", {}).get("Code", ""))
