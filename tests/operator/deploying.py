"""Deploying quickly, looking at the account, and AWS answering as a test wants it to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore import handlers
from botocore.exceptions import ClientError

from hsm_enroll.operator import aws, deployment
from hsm_enroll.operator.change_set import Plan
from hsm_enroll.operator.deployed import Deployed, Left, Status
from hsm_enroll.operator.device_policy import DevicePolicy
from tests.operator.conftest import ACCOUNT_ID, REGION

BUCKET = f"hsm-enroll-code-{ACCOUNT_ID}-{REGION}"
UNKNOWN_TO_MOTO = "ignore:Tried to parse .* not supported:UserWarning"
"""Filter of warnings: moto says so of API Gateway and of alarms."""


@contextmanager
def silent(_doing: str) -> Iterator[None]:
    """Be a step that shows nothing."""
    yield


def ignore(_line: str) -> None:
    """Be a report that nobody reads."""


def agree(_plan: Plan) -> None:
    """Approve whatever is about to change."""


def deploy(
    auth: deployment.AuthMode | None = None,
    report: Callable[[str], None] = ignore,
    approve: deployment.Approve = agree,
    *,
    name: str = "hsm-enroll",
    policy: DevicePolicy | None = None,
    loose_allowed: bool = False,
    settings: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Deployed:
    """Deploy, and say nothing."""
    return deployment.deploy(
        aws.session(), name, auth, silent, report, approve, policy=policy, loose_allowed=loose_allowed,
        settings=settings or {}, tags=tags or {},
    )  # fmt: skip


def status(name: str = "hsm-enroll", *, drift: bool = False) -> Status:
    """Return the deployment's state."""
    return deployment.status(aws.session(), name, drift=drift)


def delete(name: str = "hsm-enroll") -> Left | None:
    """Delete the deployment, and say nothing."""
    return deployment.delete(aws.session(), name, ignore)


def client(service: str) -> Any:
    """Look at the account."""
    return boto3.client(service, region_name=REGION)  # type: ignore[call-overload]


def objects() -> list[str]:
    """Return the keys in the code bucket."""
    return [found["Key"] for found in client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]]


def hear(monkeypatch: pytest.MonkeyPatch, event: str, listener: Callable[..., Any]) -> None:
    """Have the clients that are made from now on tell a function of an event of each request (botocore's events)."""
    monkeypatch.setattr(handlers, "BUILTIN_HANDLERS", [*handlers.BUILTIN_HANDLERS, (event, listener)])


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the operations that are asked of AWS from now on."""
    names: list[str] = []
    hear(monkeypatch, "before-parameter-build", lambda model, **_: names.append(model.name))
    return names


def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """As `calls`, with the arguments."""
    asked: list[tuple[str, dict[str, Any]]] = []
    hear(monkeypatch, "before-parameter-build", lambda model, params, **_: asked.append((model.name, dict(params))))
    return asked


def answers(monkeypatch: pytest.MonkeyPatch, wanted: str, answer: dict[str, Any] | Exception) -> None:
    """Have AWS answer one operation like this."""

    def respond(model: Any, **_: Any) -> tuple[Any, dict[str, Any]] | None:
        if model.name != wanted:
            return None
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(status_code=200), answer

    hear(monkeypatch, "before-call", respond)


def change_set(*changes: dict[str, Any], status: str = "CREATE_COMPLETE", reason: str = "") -> dict[str, Any]:
    """Return what DescribeChangeSet answers, with these resource changes."""
    described = [{"Type": "Resource", "ResourceChange": change} for change in changes]
    return {"Status": status, "StatusReason": reason, "Changes": described}


NOTHING_TO_DO = change_set(
    status="FAILED",
    reason="The submitted information didn't contain changes. Submit different information to create a change set.",
)


def refusal(aws_code: str, operation: str = "DescribeStacks") -> ClientError:
    """Return what botocore raises for an error's code."""
    return ClientError({"Error": {"Code": aws_code, "Message": "because\nof that"}}, operation)
