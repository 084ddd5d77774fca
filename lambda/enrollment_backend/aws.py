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
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
)
from botocore.exceptions import ConnectionError as AwsConnectionError
from botocore.parsers import ResponseParserError

from enrollment_backend import log
from enrollment_backend.aws_errors import (
    AwsError,
    AwsRefusedError,
    AwsResponseInvalidError,
    AwsUnavailableError,
    AwsUnreachableError,
    ConditionFailedError,
    ResourceNotFoundError,
    ThingExistsError,
    ThrottledError,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_iot import IoTClient

_MAX_IDLE_SECONDS = 5

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


def connect(now: Callable[[], float] = time.time) -> Clients:
    """Create the clients, configured by AWS's own environment variables (AWS_REGION, AWS_ENDPOINT_URL, credentials).

    Makes no network calls.

    Args:
        now: the time in seconds, which goes on while the function is frozen.
    """
    session = boto3.session.Session()  # boto3's default session is not safe to share between threads
    repeating = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 2})
    once = repeating.merge(Config(read_timeout=8, retries={"total_max_attempts": 1}))
    quick = repeating.merge(Config(connect_timeout=0.5, read_timeout=1))  # DynamoDB answers in milliseconds
    clients = Clients(
        iot=session.client("iot", config=repeating),
        iot_once=session.client("iot", config=once),
        dynamodb=session.client("dynamodb", config=quick),
    )
    for client in (clients.iot, clients.iot_once, clients.dynamodb):
        _reconnect_when_idle(client, now)
    return clients


def _reconnect_when_idle(client: Any, now: Callable[[], float]) -> None:
    """Have a client use new connections after it has not been used for some seconds.

    Between two requests, Lambda may freeze the function. Its connections may be dead afterwards without it knowing. A
    call on one fails after its timeout, and those that have one attempt are not repeated.
    """
    last_call = now()

    def close_idle_connections(**_: object) -> None:
        nonlocal last_call
        if now() - last_call > _MAX_IDLE_SECONDS:
            client.close()  # only closes connections that no call is using; the next call opens another one
        last_call = now()

    client.meta.events.register("before-call", close_idle_connections)


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
        ThrottledError, AwsUnreachableError, AwsUnavailableError: the call may succeed later.
        ConditionFailedError: the condition of a write does not hold.
        ThingExistsError: CreateThing found a Thing with another configuration.
        ResourceNotFoundError: the resource does not exist.
        AwsRefusedError: AWS refused the call for another reason.
        AwsResponseInvalidError: the response cannot be parsed, or the block did not find in it what it looked for
            (KeyError).
    """
    begin = time.monotonic()
    try:
        yield
    except ClientError as error:
        raise _domain_error(operation, error) from error
    except (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError) as error:
        raise AwsUnreachableError(operation, type(error).__name__) from error
    except (HTTPClientError, AwsConnectionError) as error:
        raise AwsUnavailableError(operation, type(error).__name__) from error
    except (ResponseParserError, KeyError) as error:
        raise AwsResponseInvalidError(operation, type(error).__name__) from error
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
