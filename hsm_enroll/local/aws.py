"""AWS's APIs by moto's server, with certificates really issued, and a broker that follows every change of AWS IoT."""

from __future__ import annotations

import io
import logging
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_CODE_BUCKET, _CODE_KEY = "hsm-enroll-code", "function.zip"
# Services whose calls may change who is admitted to the broker, as they stand in a SigV4 credential scope.
_WATCHED = ("/iot/", "/cloudformation/")
_process = threading.Lock()


class AwsApis:
    """moto as a WSGI application, one call at a time: its backends are not made for threads.

    Attributes:
        after_change: called after a call that may have changed AWS IoT, before the answer goes out.
    """

    def __init__(self) -> None:
        self.after_change: Callable[[], None] = lambda: None
        self._moto: WsgiApplication = DomainDispatcherApplication(create_backend_app)
        self._one_at_a_time = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._one_at_a_time:
            answer = self._moto(environ, start_response)
            if _may_change_iot(environ):
                self.after_change()
            return answer


@contextmanager
def fresh_account(authority: Authority) -> Iterator[Any]:
    """Empty moto, have it issue certificates by the authority, and yield its ``IoTBackend``; all undone at the end.

    Raises:
        LocalCloudError: this process has a local cloud already; moto's state belongs to the process.
    """
    if not _process.acquire(blocking=False):
        raise LocalCloudError("This process runs a local cloud already.")
    try:
        BackendDict.reset()
        reset_model_data()
        with faithful(authority):
            yield iot_backends[ACCOUNT_ID][REGION]
    finally:
        _process.release()


def aws_server(apis: AwsApis, log: logging.Logger) -> LoopbackServer:
    """Return a server for the APIs that lets through what moto wants to see of a request."""
    return LoopbackServer(apis, log, request_handler=MotoRequestHandler)


@dataclass(frozen=True)
class Stack:
    """What was deployed.

    Attributes:
        variables: the function's environment.
        resources: the template's, by their logical names; also those of types that moto does not know.
    """

    variables: dict[str, str]
    resources: dict[str, Any]


def deploy(template: Path, parameters: Mapping[str, str]) -> Stack:
    """Create the template's stack. Where AWS is, the environment says.

    Args:
        template: CloudFormation in YAML, with the output ``FunctionName``.
        parameters: for it, beyond where the function's code is. That is an empty zip: nobody runs it.

    Raises:
        LocalCloudError: the template cannot be read or deployed, or has no such output.

    Resources of types that moto does not know are left out.
    """
    session = boto3.session.Session()
    client = session.client("cloudformation")
    try:
        parameters = {**parameters, **_code(session)}
        client.create_stack(
            StackName=_STACK_NAME,
            TemplateBody=template.read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        stack = client.describe_stacks(StackName=_STACK_NAME)["Stacks"][0]
    except (OSError, ValueError, BotoCoreError, ClientError, ResponseParserError) as error:
        raise LocalCloudError(f"{template} cannot be deployed: {error}") from error
    outputs: dict[str, str] = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    if stack["StackStatus"] != "CREATE_COMPLETE" or _FUNCTION_OUTPUT not in outputs:
        raise LocalCloudError(f"{template} is {stack['StackStatus']}; its outputs are {sorted(outputs)}.")
    function = session.client("lambda").get_function_configuration(FunctionName=outputs[_FUNCTION_OUTPUT])
    variables: dict[str, str] = function.get("Environment", {}).get("Variables", {})
    return Stack(
        variables, cloudformation_backends[ACCOUNT_ID][REGION].get_stack(_STACK_NAME).template_dict["Resources"]
    )


def _code(session: boto3.session.Session) -> dict[str, str]:
    """Put the object there that the template's function is made from, and return the parameters that name it."""
    store = session.client("s3")
    store.create_bucket(Bucket=_CODE_BUCKET)
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    store.put_object(Bucket=_CODE_BUCKET, Key=_CODE_KEY, Body=empty.getvalue())
    return {"CodeBucket": _CODE_BUCKET, "CodeKey": _CODE_KEY}


def _may_change_iot(environ: Mapping[str, Any]) -> bool:
    scope = environ.get("HTTP_AUTHORIZATION", "").partition(",")[0]
    return environ["REQUEST_METHOD"] != "GET" and any(service in scope for service in _WATCHED)
