"""The function's role as the template deploys it: enough for all that the backend does, and no more.

The real handler runs with the role's own temporary credentials, and moto enforces the role's policy. moto knows neither
the resources of AWS IoT's and DynamoDB's calls nor that a transaction is allowed by what it consists of; both are added
here, after the Service Authorization Reference.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import unquote

import boto3
import pytest
from botocore.exceptions import ConnectionClosedError
from cryptography.hazmat.primitives.asymmetric import ec
from moto.core.authorization import enable_iam_authentication
from moto.core.exceptions import AccessDeniedError
from moto.iam.access_control import IAMRequest
from moto.iot.models import iot_backends

from enrollment_backend.errors import EnrollmentError
from tests.backend.fleet import Device
from tests.support.csr_factory import pem_of, request
from tests.support.deployment import REGION, Deployment, deployed
from tests.support.stack import UNKNOWN_TO_MOTO, deploy, template

ACCOUNT_ID = "123456789012"
IOT = f"arn:aws:iot:{REGION}:{ACCOUNT_ID}"
# Lambda itself uses them, to write what the function prints.
OF_THE_RUNTIME = {"logs:CreateLogStream", "logs:PutLogEvents"}

pytestmark = pytest.mark.filterwarnings(UNKNOWN_TO_MOTO)

Pair = tuple[str, str]


@dataclass
class Role:
    """The role at work.

    Attributes:
        backend: the handler.
        policy: the role's policy, as a document.
        used: actions and resources that the handler has been allowed.
        denied: those that it has been denied.
    """

    backend: Deployment
    policy: dict[str, Any]
    used: set[Pair]
    denied: set[Pair]


@cache
def granted() -> frozenset[str]:
    """Return the actions of the role's policy."""
    (policy,) = template()["Resources"]["Role"]["Properties"]["Policies"]
    return frozenset(action for statement in policy["PolicyDocument"]["Statement"] for action in actions_of(statement))


def actions_of(statement: dict[str, Any]) -> list[str]:
    """Return a statement's actions, of which there may be one."""
    actions = statement["Action"]
    return [actions] if isinstance(actions, str) else actions


@contextmanager
def role(without: str | None = None) -> Iterator[Role]:
    """Deploy the template, take one action away from the role, and let the handler work as it."""
    with deployed({"AUTH_MODE": "invite", "DELETE_THING_ON_RETIREMENT": "yes"}) as backend:
        outputs = deploy()
        variables = {"POLICY_NAME": outputs["PolicyName"], "TABLE_NAME": outputs["TableName"]}
        iam = boto3.client("iam", region_name=REGION)
        (found,) = iam.list_roles()["Roles"]
        shown = iam.get_role_policy(RoleName=found["RoleName"], PolicyName="enrollment")["PolicyDocument"]
        policy = ast.literal_eval(str(shown))  # moto keeps CloudFormation's as a Python literal, not as JSON
        for statement in policy["Statement"]:
            statement["Action"] = [action for action in actions_of(statement) if action != without]
        policy["Statement"] = [statement for statement in policy["Statement"] if statement["Action"]]
        iam.put_role_policy(RoleName=found["RoleName"], PolicyName="enrollment", PolicyDocument=json.dumps(policy))
        sts = boto3.client("sts", region_name=REGION)
        credentials = sts.assume_role(RoleArn=found["Arn"], RoleSessionName="function")["Credentials"]
        variables |= {
            "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
            "AWS_SESSION_TOKEN": credentials["SessionToken"],
        }
        at_work = Role(backend, policy, set(), set())
        with mock.patch.dict(os.environ, variables), enforced(at_work):
            yield at_work


class Asked(NamedTuple):
    """A request as it came: the action as moto names it, path with query, headers and body."""

    action: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@contextmanager
def enforced(at_work: Role) -> Iterator[None]:
    """Have moto check each request against the role's policy, with actions and resources as AWS sees them."""

    class Checked(IAMRequest):  # type: ignore[misc]  # moto has no types
        _action: str

        def check_signature(self) -> None:
            """Let it pass: moto takes a query for a body and gets the signature wrong; it is not what is tested."""

        def check_action_permitted(self, resource: str) -> None:  # noqa: ARG002 - moto's signature
            for action, demanded in permissions(Asked(self._action, self._path, self._headers, self._body)):
                self._action = action
                try:
                    super().check_action_permitted(demanded)
                except AccessDeniedError:
                    at_work.denied.add((action, demanded))
                    raise
                at_work.used.add((action, demanded))

    with mock.patch("moto.iam.access_control.IAMRequest", Checked), enable_iam_authentication():
        yield


def permissions(asked: Asked) -> list[Pair]:
    """Return the permissions that a request takes, each as an action and a resource."""
    service, _, operation = asked.action.partition(":")
    if service == "dynamodb":
        return of_dynamodb(operation, json.loads(asked.body))
    path = unquote(asked.path.partition("?")[0])
    return [(asked.action, resource(path, asked)) for resource in RESOURCES[operation]]


def of_dynamodb(operation: str, body: dict[str, Any]) -> list[Pair]:
    """Return what DynamoDB demands: of a transaction what it consists of."""
    if operation == "TransactWriteItems":
        parts = [part for item in body["TransactItems"] for part in item.items()]
        actions = {
            "Put": "PutItem",
            "Update": "UpdateItem",
            "Delete": "DeleteItem",
            "ConditionCheck": "ConditionCheckItem",
        }
        return [(f"dynamodb:{actions[verb]}", table(part["TableName"])) for verb, part in parts]
    if operation == "TransactGetItems":
        return [("dynamodb:GetItem", table(item["Get"]["TableName"])) for item in body["TransactItems"]]
    if "IndexName" in body:
        return [(f"dynamodb:{operation}", f"{table(body['TableName'])}/index/{body['IndexName']}")]
    names = body["RequestItems"] if "RequestItems" in body else [body["TableName"]]
    return [(f"dynamodb:{operation}", table(name)) for name in names]


def table(name: str) -> str:
    """Return a table's ARN."""
    return f"arn:aws:dynamodb:{REGION}:{ACCOUNT_ID}:table/{name}"


def thing(path: str, _asked: Asked) -> str:
    """Return the ARN of the Thing in the path."""
    return f"{IOT}:thing/{path.split('/')[2]}"


def certificate(path: str, _asked: Asked) -> str:
    """Return the ARN of the certificate whose id is in the path."""
    return f"{IOT}:cert/{path.split('/')[2]}"


def principal(_path: str, asked: Asked) -> str:
    """Return the principal's ARN, which travels in a header."""
    headers = {name.lower(): value for name, value in asked.headers.items()}
    return str(headers.get("x-amzn-principal") or headers["x-amzn-iot-principal"])


def target(path: str, asked: Asked) -> str:
    """Return the ARN of what a policy is attached to."""
    named = re.search(r"arn:.*", path)
    return named[0] if named else str(json.loads(asked.body)["target"])


def device_policy(path: str, _asked: Asked) -> str:
    """Return the ARN of the policy in the path."""
    return f"{IOT}:policy/{path.split('/')[2]}"


def anything(_path: str, _asked: Asked) -> str:
    """Stand for an action that knows no resource."""
    return "*"


RESOURCES: dict[str, list[Callable[[str, Asked], str]]] = {
    "CreateThing": [thing],
    "DescribeThing": [thing],
    "AttachThingPrincipal": [principal],
    "DetachThingPrincipal": [principal],
    "DeleteThing": [thing],
    "UpdateThing": [thing],
    "AttachPolicy": [target],
    "CreateCertificateFromCsr": [anything],
    "ListCertificates": [anything],
    "DescribeCertificate": [certificate],
    "ListPrincipalThings": [principal],
    "UpdateCertificate": [certificate],
    "DeleteCertificate": [certificate],
    "ListThingPrincipals": [thing],
    "ListTargetsForPolicy": [device_policy],
}


def everything(backend: Deployment) -> list[int]:
    """Have the backend do all that it can do, and return the statuses of its answers."""
    statuses: list[int] = []

    def operate(method: str, path: str, body: object = None, **query: str) -> Any:
        answer = backend.operate(method, path, body, **query)
        statuses.append(answer.status)
        return json.loads(answer.body) if answer.body else {}

    def enroll(csr: str, name: str, code: str) -> None:
        statuses.append(backend.enroll(csr, name, code).status)

    wanted = [{"thing": name} for name in ("first", "second", "spare", "spare")]
    made = operate("POST", "invites", {"invites": wanted})
    first, second, spare, foreign = made.get("invites") or [{"id": "none", "code": "none"}] * 4
    operate("GET", "invites")
    operate("DELETE", "invites", id=spare["id"])

    another_key = ec.generate_private_key(ec.SECP256R1())
    csr, another = csr_for("first"), pem_of(request(another_key, "second"))
    enroll(csr, "first", first["code"])
    enroll(csr, "first", first["code"])
    attach_as_before("first")
    enroll(csr, "first", first["code"])
    with answer_lost(backend, "CreateCertificateFromCsr"):
        enroll(another, "second", second["code"])
    backend.clock.ahead += 60  # the lease of the first try is over
    enroll(another, "second", second["code"])

    iot_backends[ACCOUNT_ID][REGION].create_thing("spare", "", {"attributes": {"of": "another system"}})
    enroll(csr_for("spare"), "spare", foreign["code"])

    old = Device(backend, "second", key=another_key)
    new = Device(backend, "second", key=ec.generate_private_key(ec.SECP384R1()))
    statuses.extend(answer.status for answer in (old.renew(new), new.commit(), new.recover(), new.retire()))

    operate("GET", "fleet")
    operate("GET", "fleet", thing="first")
    operate("DELETE", "fleet", thing="first")
    orphan(backend)
    backend.clock.ahead += 2 * 3600
    operate("POST", "sweep", {})
    operate("POST", "rebuild", {})
    operate("POST", "rebuild", {"next": "p:"})
    left = SimpleNamespace(aws_request_id="sweep", get_remaining_time_in_millis=lambda: 900_000)
    with mock.patch("time.sleep"):
        backend.handler.sweep_handler({}, left)
    return statuses


def attach_as_before(name: str) -> None:
    """Attach a Thing's certificate, if it has one, as a version did that gave no type."""
    iot = iot_backends[ACCOUNT_ID][REGION]
    for arn in [arn for arn, thing in iot.principal_things if thing == name]:
        iot.detach_thing_principal(name, arn)
        iot.attach_thing_principal(name, arn)


def csr_for(name: str) -> str:
    """Return a CSR for a Thing, with a key of its own."""
    return pem_of(request(ec.generate_private_key(ec.SECP256R1()), name))


@contextmanager
def answer_lost(backend: Deployment, lost: str) -> Iterator[None]:
    """Have AWS carry an operation out, and its answer never arrive."""

    def lose(phase: str, operation: str) -> None:
        if (phase, operation) == ("after", lost):
            raise ConnectionClosedError(endpoint_url="https://iot.example.com/")

    backend.interrupt = lose
    yield
    backend.interrupt = lambda _phase, _operation: None


def orphan(backend: Deployment) -> None:
    """Leave a certificate that nobody knows of: its enrollment died, and nobody came back."""
    made = backend.operate("POST", "invites", {"invites": [{"thing": "orphan"}]})
    if made.status != 201:
        return
    with answer_lost(backend, "CreateCertificateFromCsr"):
        backend.enroll(csr_for("orphan"), "orphan", made.json["invites"][0]["code"])


def test_the_role_is_enough_for_everything() -> None:
    """Each use case works with what the template allows, and nothing is ever denied."""
    with role() as at_work:
        statuses = everything(at_work.backend)
    assert at_work.denied == set()
    assert statuses == [
        201, 200, 204, 201, 200, 200, 503, 201, 409, 201, 204, 200, 204, 200, 200, 204, 200, 200, 200
    ]  # fmt: skip


def test_the_role_allows_nothing_that_is_not_used() -> None:
    """The actions that the use cases take, and those that Lambda itself takes, are all that there are."""
    with role() as at_work:
        everything(at_work.backend)
    assert {action for action, _ in at_work.used} | OF_THE_RUNTIME == granted()


@pytest.mark.parametrize(
    "action",
    ["iot:CreateThing", "iot:AttachPolicy", "iot:ListTargetsForPolicy", "iot:ListCertificates", "dynamodb:PutItem"],
)
def test_an_action_that_is_not_allowed_is_denied(action: str) -> None:
    """Without it, the backend is denied it: the role is what allows what the others see used, with each resource."""
    with role(without=action) as at_work:
        # The schedule's failure is Lambda's to report.
        try:
            everything(at_work.backend)
        except EnrollmentError:
            assert at_work.denied
    assert {denied for denied, _ in at_work.denied} == {action}


def test_nothing_but_the_function_may_take_the_role() -> None:
    """Lambda alone can assume it."""
    (statement,) = template()["Resources"]["Role"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": "lambda.amazonaws.com"},
    }
