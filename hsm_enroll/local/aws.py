"""AWS's APIs, served by moto: certificates are really issued, and every change in AWS IoT reaches the broker."""

from __future__ import annotations

import io
import logging
import socket
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from moto.cloudformation.models import cloudformation_backends
from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.iot.models import iot_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.authority import Authority
from hsm_enroll.local.fidelity import faithful
from hsm_enroll.local.lambda_runtime import ACCOUNT_ID, REGION
from hsm_enroll.local.server import LoopbackServer, WsgiApplication

_STACK_NAME = "hsm-enroll"
_FUNCTION_OUTPUT = "FunctionName"
_COMPLETE = {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
_CODE_BUCKET, _CODE_KEY = "hsm-enroll-code", "function.zip"
# Services whose calls may change what devices are allowed to do, as named in a SigV4 credential scope.
_WATCHED = ("/iot/", "/cloudformation/")
_one_cloud = threading.Lock()

Result = TypeVar("Result")


class AwsApis:
    """moto as a WSGI application. Handles one call at a time, since moto's backends are not thread-safe.

    Attributes:
        after_change: called after each call that may have changed AWS IoT, before its response is sent.
    """

    def __init__(self) -> None:
        self.after_change: Callable[[], None] = lambda: None
        self._moto: WsgiApplication = DomainDispatcherApplication(create_backend_app)
        self._one_at_a_time = threading.Lock()

    def between_calls(self, action: Callable[[], Result]) -> Result:
        """Call a function while no call to AWS is in progress, and return its result."""
        with self._one_at_a_time:
            return action()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._one_at_a_time:
            response = self._moto(environ, start_response)
            if _may_change_iot(environ):
                self.after_change()
            return response


@contextmanager
def fresh_account(authority: Authority) -> Iterator[None]:
    """Reset moto, and make it behave like AWS until the block ends.

    Args:
        authority: issues the certificates.

    Raises:
        LocalCloudError: a local cloud already runs in this process; moto has one state per process.
    """
    if not _one_cloud.acquire(blocking=False):
        raise LocalCloudError("A local cloud is already running in this process.")
    try:
        BackendDict.reset()
        reset_model_data()
        with faithful(authority):
            yield
    finally:
        _one_cloud.release()


def iot_backend() -> Any:
    """Return moto's ``IoTBackend``."""
    return iot_backends[ACCOUNT_ID][REGION]


def aws_server(apis: AwsApis, listener: socket.socket, log: logging.Logger) -> LoopbackServer:
    """Return a server for the APIs; moto's request handler passes on the parts of a request that moto needs."""
    return LoopbackServer(apis, listener, log, request_handler=MotoRequestHandler)


@dataclass(frozen=True)
class Stack:
    """The deployed stack.

    Attributes:
        variables: the function's environment variables.
        resources: the template's resources by logical id, including those of types that moto does not support.
    """

    variables: dict[str, str]
    resources: dict[str, Any]


def deploy(template: Path, parameters: Mapping[str, str], defaults: Mapping[str, str]) -> Stack:
    """Create the stack from the template, or update it if it was kept. The environment variables say where AWS is.

    Args:
        template: CloudFormation in YAML, with the output ``FunctionName``.
        parameters: its parameters, without the location of the function's code, which is an empty zip here. Others
            keep the values that they have.
        defaults: the values of parameters that have none yet.

    Raises:
        LocalCloudError: the template cannot be read or deployed, or has no such output.

    Does not create resources of types that moto does not support.
    """
    session = boto3.session.Session()
    client = session.client("cloudformation")
    try:
        before = _parameters(client)
        wanted = {**defaults, **before, **parameters, **_code(session)}
        change = client.update_stack if before else client.create_stack
        change(
            StackName=_STACK_NAME,
            TemplateBody=template.read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in wanted.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        stack = client.describe_stacks(StackName=_STACK_NAME)["Stacks"][0]
    except (OSError, ValueError, BotoCoreError, ClientError, ResponseParserError) as error:
        raise LocalCloudError(f"{template} cannot be deployed: {error}") from error
    outputs: dict[str, str] = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    if stack["StackStatus"] not in _COMPLETE or _FUNCTION_OUTPUT not in outputs:
        raise LocalCloudError(
            f"The stack of {template} is {stack['StackStatus']}, and its outputs are {sorted(outputs)}."
        )
    function = session.client("lambda").get_function_configuration(FunctionName=outputs[_FUNCTION_OUTPUT])
    variables: dict[str, str] = function.get("Environment", {}).get("Variables", {})
    return Stack(
        variables, cloudformation_backends[ACCOUNT_ID][REGION].get_stack(_STACK_NAME).template_dict["Resources"]
    )


def _parameters(client: Any) -> dict[str, str]:
    """Return the parameters of the stack; none if it does not exist."""
    found = [stack for stack in client.describe_stacks()["Stacks"] if stack["StackName"] == _STACK_NAME]
    return {each["ParameterKey"]: each["ParameterValue"] for stack in found for each in stack["Parameters"]}


def _code(session: boto3.session.Session) -> dict[str, str]:
    """Upload the function's zip, which is empty, and return the template's parameters for it."""
    s3 = session.client("s3")
    s3.create_bucket(Bucket=_CODE_BUCKET)
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    s3.put_object(Bucket=_CODE_BUCKET, Key=_CODE_KEY, Body=empty.getvalue())
    return {"CodeBucket": _CODE_BUCKET, "CodeKey": _CODE_KEY}


def _may_change_iot(environ: Mapping[str, Any]) -> bool:
    scope = environ.get("HTTP_AUTHORIZATION", "").partition(",")[0]
    return environ["REQUEST_METHOD"] != "GET" and any(service in scope for service in _WATCHED)
