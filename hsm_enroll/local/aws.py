"""AWS's APIs by moto's server, with certificates really issued, and a broker that follows every change of AWS IoT."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from cryptography.hazmat.primitives.serialization import Encoding
from moto.core.base_backend import BackendDict
from moto.core.config import default_user_config
from moto.core.model_instances import reset_model_data
from moto.iot.exceptions import InvalidRequestException
from moto.iot.models import IoTBackend, iot_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.authority import Authority, CsrRefusedError
from hsm_enroll.local.lambda_runtime import ACCOUNT_ID, REGION
from hsm_enroll.local.server import LoopbackServer, WsgiApplication

_STACK_NAME = "hsm-enroll"
_POLICY_OUTPUT = "PolicyName"
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
        with _issuing(authority):
            yield iot_backends[ACCOUNT_ID][REGION]
    finally:
        _process.release()


def aws_server(apis: AwsApis, log: logging.Logger) -> LoopbackServer:
    """Return a server for the APIs that lets through what moto wants to see of a request."""
    return LoopbackServer(apis, log, request_handler=MotoRequestHandler)


def deploy(template: Path) -> str:
    """Create the template's stack and return its output ``PolicyName``. Where AWS is, the environment says.

    Raises:
        LocalCloudError: the template cannot be read or deployed, or has no such output.

    Resources of types that moto does not know are left out.
    """
    client = boto3.session.Session().client("cloudformation")
    try:
        client.create_stack(
            StackName=_STACK_NAME, TemplateBody=template.read_text(), Capabilities=["CAPABILITY_NAMED_IAM"]
        )
        stack = client.describe_stacks(StackName=_STACK_NAME)["Stacks"][0]
    except (OSError, ValueError, BotoCoreError, ClientError, ResponseParserError) as error:
        raise LocalCloudError(f"{template} cannot be deployed: {error}") from error
    outputs: dict[str, str] = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    if stack["StackStatus"] != "CREATE_COMPLETE" or _POLICY_OUTPUT not in outputs:
        raise LocalCloudError(f"{template} is {stack['StackStatus']}; its outputs are {sorted(outputs)}.")
    return outputs[_POLICY_OUTPUT]


def _may_change_iot(environ: Mapping[str, Any]) -> bool:
    scope = environ.get("HTTP_AUTHORIZATION", "").partition(",")[0]
    return environ["REQUEST_METHOD"] != "GET" and any(service in scope for service in _WATCHED)


@contextmanager
def _issuing(authority: Authority) -> Iterator[None]:
    """Override moto's CreateCertificateFromCsr, which would answer with a certificate for a key of its own."""

    def create_certificate_from_csr(self: Any, csr: str, set_as_active: object) -> Any:
        try:
            certificate = authority.issue_device(csr)
        except CsrRefusedError as error:
            raise InvalidRequestException(str(error)) from error
        pem = certificate.public_bytes(Encoding.PEM).decode()
        # It comes from the query string, as the text "false" too.
        registered = self.register_certificate(pem, None, set_as_active in {True, "true"}, "INACTIVE")
        registered.validity_not_before = certificate.not_valid_before_utc
        registered.validity_not_after = certificate.not_valid_after_utc
        return registered

    original = IoTBackend.create_certificate_from_csr
    configuration = default_user_config["iot"]
    IoTBackend.create_certificate_from_csr = create_certificate_from_csr
    # Makes the certificate's id what AWS makes it: SHA-256 of the DER, not of the PEM.
    default_user_config["iot"] = {**configuration, "use_valid_cert": True}
    try:
        yield
    finally:
        IoTBackend.create_certificate_from_csr = original
        default_user_config["iot"] = configuration
