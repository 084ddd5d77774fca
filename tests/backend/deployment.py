"""The real handler with moto behind it: what a test of the backend talks to."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import boto3
from botocore.awsrequest import AWSResponse
from botocore.client import BaseClient
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.loaders import JSONFileLoader
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.botocore_stubber import BotocoreStubber
from moto.iot.models import IoTBackend, iot_backends

LAMBDA = Path(__file__).parents[2] / "lambda"
REGION = "eu-central-1"
POLICY = "hsm-enroll-device"
REQUEST_ID = "JKJaXmPLvHcESHA="
ENVIRONMENT = {
    "AUTH_MODE": "open",
    "POLICY_NAME": POLICY,
    "MQTT_ENDPOINT": "mqtt.example.com",
    "AWS_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
}

_ONE_CALL_AT_A_TIME = threading.RLock()
_OBSERVER = "observer"  # marks the test's own client, whose calls are not the backend's

Fault = Callable[[Any], AWSResponse | None]
"""Takes the request botocore is about to send."""


def event(
    method: str,
    path: str,
    body: str | None = None,
    *,
    content_type: str | None = "application/json",
    encoded: bool | None = False,
) -> dict[str, Any]:
    """Return an API Gateway HTTP API event, payload format 2.0; `encoded` None leaves `isBase64Encoded` out."""
    made: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "api.example.com"} | ({} if content_type is None else {"content-type": content_type}),
        "requestContext": {
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
            "requestId": REQUEST_ID,
            "stage": "$default",
        },
    }
    if body is not None:
        made["body"] = body
    if encoded is not None:
        made["isBase64Encoded"] = encoded
    return made


@dataclass(frozen=True)
class Answer:
    """The handler's answer, as a client would see it."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> dict[str, Any]:
        """The body, parsed."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


@dataclass
class Deployment:
    """A handler and its cloud.

    Attributes:
        calls: operations the handler has called in AWS, in the order of their start.
    """

    handler: Any
    log: io.StringIO
    calls: list[str] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)

    def send(self, made: dict[str, Any]) -> Answer:
        """Call the handler with an event."""
        answer = self.handler.lambda_handler(made, SimpleNamespace(aws_request_id="lambda-request-id"))
        assert answer["isBase64Encoded"] is False
        return Answer(answer["statusCode"], answer["headers"], answer["body"])

    def post(self, path: str, body: object) -> Answer:
        """POST a JSON document."""
        return self.send(event("POST", path, json.dumps(body)))

    def post_bytes(self, path: str, body: bytes) -> Answer:
        """POST bytes as API Gateway passes on what it does not take for text."""
        return self.send(event("POST", path, base64.b64encode(body).decode("ascii"), encoded=True))

    def enroll(self, csr: str, thing_name: str) -> Answer:
        """POST to /v1/certificates."""
        return self.post("/v1/certificates", {"csr": csr, "thingName": thing_name})

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the log, each of its lines parsed."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def refused(self, answer: Answer, status: int, code: str, *secrets: str) -> bool:
        """Assert what holds for every refused request: a complete problem, no AWS call, and nothing repeated."""
        assert_problem(answer, status, code)
        assert self.calls == []
        assert [(line["status"], line["code"]) for line in self.log_lines()] == [(status, code)]
        assert_hidden(self.log.getvalue() + answer.body, *secrets)
        return True

    @property
    def iot(self) -> Any:
        """A client of one's own, to look at what was left in the cloud."""
        return boto3.client("iot", region_name=REGION, config=Config(user_agent_extra=_OBSERVER))

    def certificates(self) -> list[str]:
        """Return the status of every certificate there is."""
        return [found["status"] for found in self.iot.list_certificates()["certificates"]]

    def inject(self, operation: str, fault: Fault) -> None:
        """Let a fault stand before an operation: it answers or raises, and nothing happens in AWS; or returns None."""
        self.faults[operation] = fault


def assert_problem(answer: Answer, status: int, code: str) -> None:
    """Assert a complete RFC 9457 problem."""
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json.keys() == {"type", "title", "status", "detail", "code", "requestId"}
    assert answer.json["status"] == status
    assert answer.json["requestId"] == REQUEST_ID


def assert_hidden(shown: str, *secrets: str) -> None:
    """Assert that no part of a PEM block, or of any other text, is shown; and no traceback either."""
    assert "Traceback" not in shown
    for secret in secrets:
        for line in secret.splitlines():
            assert len(line) < 8 or line.startswith("-----") or line not in shown


def aws_answer(status: int, body: str, error_type: str | None = None) -> AWSResponse:
    """Return what AWS IoT could have sent."""
    headers = HTTPHeaders()
    headers["content-type"] = "application/json"
    if error_type is not None:
        headers["x-amzn-errortype"] = error_type
    raw = io.BytesIO(body.encode("utf-8"))
    raw.stream = lambda **_: iter([raw.read()])  # type: ignore[attr-defined]
    return AWSResponse("https://iot.example.com/", status, headers, raw)


@contextmanager
def deployed(
    environment: Mapping[str, str | None] | None = None, *, certificates_for_csr: bool = True
) -> Iterator[Deployment]:
    """Give the handler an account in which the device policy exists, and load it anew.

    Args:
        environment: the function's variables, over `ENVIRONMENT`; None as a value leaves one out.
        certificates_for_csr: whether certificates are for the CSR's key, as AWS's are, or for a key of moto's own.
    """
    variables = {name: value for name, value in {**ENVIRONMENT, **(environment or {})}.items() if value is not None}
    log = io.StringIO()
    with mock.patch.dict(os.environ, variables, clear=True), mock_aws(), _logging_to(log), _models_kept():
        iot_backends[DEFAULT_ACCOUNT_ID][REGION].create_policy(POLICY, {})
        deployment = Deployment(handler=load_handler(), log=log)
        with (
            _recorded(deployment.calls),
            _failing(deployment.faults),
            _issuing() if certificates_for_csr else nullcontext(),
        ):
            yield deployment


def load_handler() -> Any:
    """Import the handler as a cold start does: with nothing cached in it."""
    handler = importlib.import_module("handler")
    return importlib.reload(handler)


def _models_kept() -> AbstractContextManager[object]:
    # A cold start reads AWS's API models anew; doing that for each test would take most of the tests' time.
    return mock.patch.object(JSONFileLoader, "load_file", lambda _, path: _model(path))


_load_file = JSONFileLoader.load_file


@cache
def _model(path: str) -> Any:
    return _load_file(JSONFileLoader(), path)


def _logging_to(log: io.StringIO) -> AbstractContextManager[object]:
    # Only the backend's own standard error: the test runner exchanges the process's at will.
    return mock.patch("enrollment_backend.log.sys", SimpleNamespace(stderr=log))


@contextmanager
def _recorded(calls: list[str]) -> Iterator[None]:
    original: Any = vars(BaseClient)["_make_api_call"]

    def record(client: Any, operation: str, arguments: dict[str, Any]) -> Any:
        if client.meta.config.user_agent_extra != _OBSERVER:
            calls.append(operation)
        return original(client, operation, arguments)

    with mock.patch.object(BaseClient, "_make_api_call", record):
        yield


@contextmanager
def _failing(faults: dict[str, Fault]) -> Iterator[None]:
    original: Callable[..., AWSResponse | None] = BotocoreStubber.__call__

    def answer(stubber: Any, event_name: str, request: Any, **arguments: Any) -> AWSResponse | None:
        fault = faults.get(event_name.rpartition(".")[2])
        answered = fault(request) if fault is not None else None
        if answered is not None:
            return answered
        # moto in one process is made for one thread; the handler's calls overlap.
        with _ONE_CALL_AT_A_TIME:
            return original(stubber, event_name, request, **arguments)

    with mock.patch.object(BotocoreStubber, "__call__", answer):
        yield


@contextmanager
def _issuing() -> Iterator[None]:
    """Have moto's AWS IoT certify the key in the CSR; left alone, it certifies a fresh key of its own."""

    def create(backend: Any, csr: str, set_as_active: bool) -> Any:
        certificate = certificate_for(x509.load_pem_x509_csr(csr.encode("ascii")))
        return backend.register_certificate(
            certificate, ca_certificate_pem=None, set_as_active=set_as_active, status="INACTIVE"
        )

    with mock.patch.object(IoTBackend, "create_certificate_from_csr", create):
        yield


def certificate_for(csr: x509.CertificateSigningRequest) -> str:
    """Issue for the CSR's key from a development CA, valid to the day AWS IoT's certificates are valid to."""
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "AWS IoT Certificate")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "development CA")]))
        .public_key(csr.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))
        .not_valid_after(datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC))
        .sign(_authority(), hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


@cache
def _authority() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
