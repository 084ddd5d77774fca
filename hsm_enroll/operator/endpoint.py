"""The URL of a deployment's API: the output ``ApiUrl`` of its CloudFormation stack."""

from __future__ import annotations

from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError  # noqa: A004 - its name
from botocore.session import Session

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.errors import BackendRefusedError, BackendUnreachableError, HsmEnrollError, UsageError
from hsm_enroll.operator import aws

DEFAULT_STACK = "hsm-enroll"

_OUTPUT = "ApiUrl"
_CONFIG = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
_NAME_HINT = "Deploy it with hsm-enroll backend deploy, name another stack with --stack, or the API's URL with --api."


def find_api_url(session: Session, stack: str = DEFAULT_STACK) -> str:
    """Ask CloudFormation for the URL of a deployment's API (DescribeStacks).

    Does *not* check the URL.

    Args:
        session: whose credentials and region to use.
        stack: name of the stack.

    Raises:
        UsageError: there is no such stack in the region, it has no API yet, or there are no valid credentials.
        BackendRefusedError: IAM does not allow it.
        BackendUnreachableError, ThrottledError: try later.
    """
    region = aws.region(session)
    aws.credentials(session)
    described = _describe(session, stack, region)
    for output in described.get("Outputs", []):
        if output.get("OutputKey") == _OUTPUT:
            return str(output.get("OutputValue", ""))
    raise UsageError(
        f"the stack {stack!r} in {region} has no output {_OUTPUT}; its status is {described.get('StackStatus')}",
        hint=_NAME_HINT,
    )


def _describe(session: Session, stack: str, region: str) -> dict[str, Any]:
    try:
        client: Any = session.create_client("cloudformation", region_name=region, config=_CONFIG)
        answer = client.describe_stacks(StackName=stack)
    except ClientError as error:
        raise _refused(error, stack, region) from error
    except (ConnectionError, HTTPClientError) as error:
        raise BackendUnreachableError(
            f"cannot reach CloudFormation in {region}: {type(error).__name__}",
            sent=False,
            hint=f"{aws.unreachable_hint(session, region)} Or give the API's URL with --api.",
        ) from error
    except BotoCoreError as error:
        raise UsageError(f"the request to CloudFormation failed: {printable(str(error))}", hint=_NAME_HINT) from error
    stacks: list[dict[str, Any]] = answer["Stacks"]
    return stacks[0]


def _refused(error: ClientError, stack: str, region: str) -> HsmEnrollError:
    if aws.code(error) == "ValidationError":
        return UsageError(f"there is no stack {stack!r} in {region}", hint=_NAME_HINT)
    refused = BackendRefusedError(
        f"CloudFormation refused to describe the stack {stack!r}: {aws.reason(error)}",
        problem_code=aws.code(error),
        hint="Your AWS identity needs cloudformation:DescribeStacks; or give the API's URL with --api.",
    )
    return aws.common_refusal("CloudFormation", error) or refused
