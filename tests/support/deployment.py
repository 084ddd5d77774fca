"""The real handler with moto behind it: what a test of the backend talks to."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import threading
import time
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
from botocore import handlers
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from moto.cloudformation.models import Stack
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.botocore_stubber import BotocoreStubber
from moto.iot.models import iot_backends

from hsm_enroll.local.fidelity import faithful
from tests.support.quick_aws import quick_aws

LAMBDA = Path(__file__).parents[2] / "lambda"
REGION = "eu-central-1"
POLICY = "hsm-enroll-device"
TABLE = "ledger"
OPERATOR = "arn:aws:iam::123456789012:user/operator"
REQUEST_ID = "JKJaXmPLvHcESHA="
ENVIRONMENT = {
    "AUTH_MODE": "open",
    "POLICY_NAME": POLICY,
    "TABLE_NAME": TABLE,
    "ALLOW_EXISTING_THINGS": "yes",
    "MQTT_ENDPOINT": "mqtt.example.com",
    "AWS_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
}

_ONE_CALL_AT_A_TIME = threading.Lock()
_OBSERVER = "observer"  # marks the test's own client, whose calls are not the backend's

Fault = Callable[[Any], AWSResponse | None]
"""Takes the request botocore is about to send."""


class Death(BaseException):
    """The function was killed: nothing of it runs any more, no handler of exceptions either."""


class Clock:
    """The time as the handler sees it: the real one, and what was added to it.

    Attributes:
        ahead: what was added, in seconds.
        waits: whether the handler's waiting takes real time: for requests that really run at the same time.
    """

    def __init__(self) -> None:
        self.ahead = 0.0
        self.waits = False

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self.ahead

    def sleep(self, seconds: float) -> None:
        """Let that much time pass, and others run."""
        if self.waits:
            time.sleep(seconds)
        else:
            self.ahead += seconds


def event(
    method: str,
    path: str,
    body: str | None = None,
    *,
    content_type: str | None = "application/json",
    encoded: bool | None = False,
    code: str | None = None,
) -> dict[str, Any]:
    """Return an API Gateway HTTP API event, payload format 2.0; `encoded` None leaves `isBase64Encoded` out."""
    made: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "api.example.com"} | ({} if content_type is None else {"content-type": content_type}),
        "requestContext": {
            "domainName": "api.example.com",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
            "requestId": REQUEST_ID,
            "stage": "$default",
        },
    }
    if code is not None:
        made["headers"]["authorization"] = f"Bearer {code}"
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
        clock: the handler's.
        interrupt: called with ``before`` or ``after`` and the operation when one of the handler's requests goes to AWS
            and when its answer has come back; what it raises is what the handler gets in the answer's place.
    """

    handler: Any
    log: io.StringIO
    clock: Clock
    calls: list[str] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    interrupt: Callable[[str, str], None] = lambda _phase, _operation: None

    def send(self, made: dict[str, Any]) -> Answer:
        """Call the handler with an event."""
        answer = self.handler.lambda_handler(made, SimpleNamespace(aws_request_id="lambda-request-id"))
        assert answer["isBase64Encoded"] is False
        return Answer(answer["statusCode"], answer["headers"], answer["body"])

    def post(self, path: str, body: object, code: str | None = None) -> Answer:
        """POST a JSON document."""
        return self.send(event("POST", path, json.dumps(body), code=code))

    def post_bytes(self, path: str, body: bytes) -> Answer:
        """POST bytes as API Gateway passes on what it does not take for text."""
        return self.send(event("POST", path, base64.b64encode(body).decode("ascii"), encoded=True))

    def enroll(self, csr: str, thing_name: str, code: str | None = None) -> Answer:
        """POST to /v1/certificates."""
        return self.post("/v1/certificates", {"csr": csr, "thingName": thing_name}, code)

    def enroll_as_article(self, csr: str, thing_name: str, code: str | None = None) -> Answer:
        """POST to /getCertificate, as the original article's client does."""
        return self.post("/getCertificate", {"thingName": thing_name, "csr": csr}, code)

    def operate(self, method: str, path: str, body: object = None, **query: str) -> Answer:
        """Send an operator's request, as API Gateway passes it on once IAM has let it through."""
        made = event(method, f"/v1/operator/{path}", None if body is None else json.dumps(body))
        made["requestContext"]["authorizer"] = {"iam": {"userArn": OPERATOR, "accountId": DEFAULT_ACCOUNT_ID}}
        if query:
            made["queryStringParameters"] = query
        return self.send(made)

    def invite(self, thing: str, **more: object) -> str:
        """Have the backend make an invite, and return its code."""
        answer = self.operate("POST", "invites", {"invites": [{"thing": thing, **more}]})
        assert answer.status == 201, answer.body
        code: str = answer.json["invites"][0]["code"]
        return code

    def replacement(self, thing: str) -> str:
        """Have the backend make an invite that replaces a Thing's key, and return its code."""
        answer = self.operate("POST", "replacements", {"thing": thing})
        assert answer.status == 201, answer.body
        code: str = answer.json["invites"][0]["code"]
        return code

    def items(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the ledger's items of a kind by their ids, with DynamoDB's types taken off."""
        found = _observer("dynamodb").scan(TableName=TABLE)["Items"]
        plain = [{name: next(iter(value.values())) for name, value in item.items()} for item in found]
        return {str(item["id"]): item for item in plain if item["kind"] == kind}

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the log, each of its lines parsed."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def refused(self, answer: Answer, status: int, code: str, *secrets: str) -> bool:
        """Assert what holds for every refused request: a complete problem, no AWS call, and nothing repeated."""
        assert_problem(answer, status, code)
        assert self.calls == []
        assert [(line["status"], line["outcome"]) for line in self.log_lines()] == [(status, code)]
        assert_hidden(self.log.getvalue() + answer.body, *secrets)
        return True

    @property
    def iot(self) -> Any:
        """The tests' own client, to look at what was left in the cloud."""
        return _observer("iot")

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
    log, clock = io.StringIO(), Clock()
    with mock.patch.dict(os.environ, variables, clear=True), quick_aws(), _logging_to(log):
        iot_backends[DEFAULT_ACCOUNT_ID][REGION].create_policy(POLICY, {})
        _create_table()
        deployment = Deployment(handler=load_handler(), log=log, clock=clock)
        with (
            mock.patch.object(deployment.handler, "time", clock),
            _recorded(deployment.calls),
            _intercepted(deployment),
            faithful(_AUTHORITY) if certificates_for_csr else nullcontext(),
        ):
            yield deployment


def without_pauses() -> AbstractContextManager[object]:
    """Let AWS's library retry without its pauses."""
    return mock.patch("botocore.endpoint.time", SimpleNamespace(sleep=lambda _seconds: None))


def _create_table() -> None:
    keys: Any = {name: _ledger()[name] for name in ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")}
    _observer("dynamodb").create_table(TableName=TABLE, BillingMode="PAY_PER_REQUEST", **keys)


@cache
def _observer(service: Any) -> Any:
    """Return the tests' own client: one for all deployments, since making one takes longer than most tests."""
    return boto3.session.Session("testing", "testing").client(
        service, region_name=REGION, config=Config(user_agent_extra=_OBSERVER)
    )


@cache
def _ledger() -> dict[str, Any]:
    """Return the properties of the template's table."""
    template = Stack.parse_template((LAMBDA / "template.yaml").read_text("utf-8"))
    properties: dict[str, Any] = template["Resources"]["Ledger"]["Properties"]
    return properties


def load_handler() -> Any:
    """Import the handler as a cold start does: with nothing cached in it."""
    handler = importlib.import_module("handler")
    return importlib.reload(handler)


def _logging_to(log: io.StringIO) -> AbstractContextManager[object]:
    # Only the backend's own standard error: the test runner exchanges the process's at will.
    return mock.patch("enrollment_backend.log.sys", SimpleNamespace(stderr=log))


def _recorded(calls: list[str]) -> AbstractContextManager[object]:
    """Note the operations that are asked of AWS by the clients that are made in the block."""

    def record(model: Any, context: Mapping[str, Any], **_: Any) -> None:
        if context["client_config"].user_agent_extra != _OBSERVER:
            calls.append(model.name)

    listening = [*handlers.BUILTIN_HANDLERS, ("before-parameter-build", record)]
    return mock.patch.object(handlers, "BUILTIN_HANDLERS", listening)


@contextmanager
def _intercepted(deployment: Deployment) -> Iterator[None]:
    original: Callable[..., AWSResponse | None] = BotocoreStubber.__call__

    def answer(stubber: Any, event_name: str, request: Any, **arguments: Any) -> AWSResponse | None:
        def ask_moto() -> AWSResponse | None:
            # moto in one process is made for one thread; the handler's calls overlap.
            with _ONE_CALL_AT_A_TIME:
                return original(stubber, event_name, request, **arguments)

        if _OBSERVER in str(request.headers.get("User-Agent")):
            return ask_moto()
        operation = event_name.rpartition(".")[2]
        deployment.interrupt("before", operation)
        fault = deployment.faults.get(operation)
        answered = fault(request) if fault is not None else None
        if answered is None:
            answered = ask_moto()
        deployment.interrupt("after", operation)
        return answered

    with mock.patch.object(BotocoreStubber, "__call__", answer):
        yield


class _Authority:
    """A development CA; its certificates are valid to the day AWS IoT's are valid to."""

    def issue_device(self, csr: str) -> x509.Certificate:
        """Issue for the CSR's key."""
        return _certificate(x509.load_pem_x509_csr(csr.encode("ascii")))


_AUTHORITY: Any = _Authority()


def certificate_for(csr: x509.CertificateSigningRequest) -> str:
    """Issue for the CSR's key from the development CA."""
    return _certificate(csr).public_bytes(Encoding.PEM).decode("ascii")


def _certificate(csr: x509.CertificateSigningRequest) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "AWS IoT Certificate")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "development CA")]))
        .public_key(csr.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))
        .not_valid_after(datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC))
        .sign(_authority(), hashes.SHA256())
    )


@cache
def _authority() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
