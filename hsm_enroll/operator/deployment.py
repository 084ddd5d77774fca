"""The use cases of a deployment: from an account and this package to an enrollment API, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from hsm_enroll.backend_folder import backend_folder
from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.operator import package
from hsm_enroll.operator.account import Account
from hsm_enroll.operator.stack import Description, Stack

AuthMode = Literal["invite", "open"]
Step = Callable[[str], AbstractContextManager[None]]
Report = Callable[[str], None]

# Outputs that name what a deleted stack leaves behind.
_RETAINED = ("PolicyName", "TableName")
# Whatever somebody has set them to, a new deployment of the code leaves alone.
_TUNED = ("ReservedConcurrency", "ThrottleRate", "ThrottleBurst")
_WANTED_CONCURRENCY = 10  # the template's default
_UNRESERVABLE = 100  # PutFunctionConcurrency: what has to be left to the account's other functions


@dataclass(frozen=True)
class Status:
    """A deployment as AWS shows it.

    Attributes:
        stack: the stack's name.
        region: where.
        account_id: whose.
        state: CloudFormation's word for the stack; None is no such stack.
        auth: who may enroll, or None.
        outputs: ApiUrl, PolicyName, TableName, FunctionName: those that there are.
    """

    stack: str
    region: str
    account_id: str
    state: str | None
    auth: str | None
    outputs: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return it as ``backend deploy --json`` and ``backend status --json`` show it."""
        return {
            "stack": self.stack,
            "region": self.region,
            "account": self.account_id,
            "deployed": self.state is not None,
            "state": self.state,
            "auth": self.auth,
            "apiUrl": self.outputs.get("ApiUrl"),
            "policyName": self.outputs.get("PolicyName"),
            "tableName": self.outputs.get("TableName"),
            "functionName": self.outputs.get("FunctionName"),
        }


@dataclass(frozen=True)
class Deployed:
    """What `deploy` did.

    Attributes:
        status: what there is now.
        changed: whether anything had to be done.
    """

    status: Status
    changed: bool


@dataclass(frozen=True)
class Left:
    """What `delete` left in the account.

    Attributes:
        policy_name, table_name: of the device policy and the ledger; None if the stack had none.
        bucket: the bucket of the zips.
    """

    policy_name: str | None
    table_name: str | None
    bucket: str

    def to_json(self) -> dict[str, Any]:
        """Return it as ``backend delete --json`` shows it."""
        return {"policyName": self.policy_name, "tableName": self.table_name, "codeBucket": self.bucket}


def deploy(name: str, auth: AuthMode, step: Step, report: Report) -> Deployed:
    """Bring the backend of this package to the account and region of the environment, or up to date there.

    Args:
        name: the stack's.
        auth: who may enroll.
        step: shows that something takes its time.
        report: told of each resource that is ready.

    Returns:
        What there is now.

    Raises:
        UsageError: no region or credentials, or none that AWS takes.
        ThrottledError: AWS is busy.
        PackageError: the zip cannot be built.
        AwsError: AWS refused, or a resource could not be made; a first deployment that fails leaves no resource.

    Does not call the deployed API.
    """
    source = backend_folder()
    template = _read_template()
    with step("asking AWS for account and endpoint"):
        account = Account.of_environment()
        endpoint = account.data_endpoint()
        stack = Stack(account.cloudformation, name, report)
        there = stack.describe()
    with step("building the function's zip"):
        content = package.build(source)
    with step("uploading it"):
        key = account.upload(content)
    parameters = {
        "AuthMode": auth,
        "MqttEndpoint": endpoint,
        "CodeBucket": account.code_bucket,
        "CodeKey": key,
    }
    if there is not None and there.empty:
        stack.delete(there)
        there = None
    if there is None:
        parameters["ReservedConcurrency"] = str(_reservable(account))
        return Deployed(_status(account, name, stack.create(template, parameters)), changed=True)
    parameters |= {name: there.parameters[name] for name in _TUNED if name in there.parameters}
    changed = stack.update(there, template, parameters)
    return Deployed(_status(account, name, stack.describe()), changed)


def status(name: str) -> Status:
    """Look at a deployment; that there is none is no error.

    Raises:
        UsageError, ThrottledError, AwsError: as `deploy`.
    """
    account = Account.of_environment()
    return _status(account, name, Stack(account.cloudformation, name, _silent).describe())


def delete(name: str, report: Report) -> Left | None:
    """Delete a deployment, but for the device policy and the ledger: enrolled devices go on working.

    Args:
        name: the stack's.
        report: told of each resource that is gone.

    Returns:
        What stays; None if there was no such deployment.

    Raises:
        UsageError, ThrottledError, AwsError: as `deploy`.
    """
    account = Account.of_environment()
    stack = Stack(account.cloudformation, name, report)
    there = stack.describe()
    if there is None:
        return None
    stack.delete(there)
    policy_name, table_name = (there.outputs.get(output) for output in _RETAINED)
    return Left(policy_name, table_name, account.code_bucket)


def _reservable(account: Account) -> int:
    """Return how much concurrency to set aside: nothing in an account so small that Lambda would refuse it."""
    unreserved = account.unreserved_concurrency()
    if unreserved is not None and unreserved - _WANTED_CONCURRENCY < _UNRESERVABLE:
        return 0
    return _WANTED_CONCURRENCY


def _status(account: Account, name: str, described: Description | None) -> Status:
    return Status(
        stack=name,
        region=account.region,
        account_id=account.account_id,
        state=described.status if described else None,
        auth=described.parameters.get("AuthMode") if described else None,
        outputs=described.outputs if described else {},
    )


def _read_template() -> str:
    file = backend_folder() / "template.yaml"
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise HsmEnrollError(f"{file} cannot be read: {error.strerror}", hint="Install hsm-enroll anew.") from error


def _silent(_: str) -> None:
    pass
