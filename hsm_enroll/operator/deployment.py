"""The use cases of a deployment: deploy this package's backend to an AWS account, look at it, and delete it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from hsm_enroll.backend_folder import backend_folder
from hsm_enroll.errors import HsmEnrollError, UsageError
from hsm_enroll.iot_policy import Policy, PolicyUnreadableError
from hsm_enroll.operator import device_policy, package
from hsm_enroll.operator.account import Account
from hsm_enroll.operator.device_policy import TEMPLATES_OWN, Change, DevicePolicy, LooseGrant
from hsm_enroll.operator.policy_mistakes import mistakes
from hsm_enroll.operator.stack import Description, Stack

AuthMode = Literal["invite", "open"]
PolicyOrigin = Literal["default", "own"]
Step = Callable[[str], AbstractContextManager[None]]
Report = Callable[[str], None]

# Outputs that name what remains after a stack was deleted.
_RETAINED = ("PolicyName", "TableName")
# A deployment keeps the values that somebody has set for these.
_TUNED = ("ReservedConcurrency", "ThrottleRate", "ThrottleBurst")
_EMPTY: Mapping[str, Any] = {"Statement": []}
_POLICY = "DevicePolicyDocument"  # the operator's own; empty, or missing in an older stack: the template's
_LOOSE_HINT = (
    "Limit each resource to one Thing, as topic/device/<thing>/* does, where <thing> stands for "
    "${iot:Connection.Thing.ThingName}; or deploy the policy as it is with --allow-loose-policy."
)
_MISTAKES_HINT = "Correct the file and deploy again. --allow-loose-policy does not skip this check."
_WANTED_CONCURRENCY = 10  # the template's default
_UNRESERVABLE = 100  # PutFunctionConcurrency: the account's other functions must keep this much


@dataclass(frozen=True)
class Status:
    """A deployment as AWS describes it.

    Attributes:
        stack: name of the stack.
        region: its region.
        account_id: its account.
        state: CloudFormation's name for its state; None if there is no such stack.
        auth: who may enroll, or None.
        device_policy: whether the devices have the template's policy or the operator's own; None if there is no such
            stack.
        outputs: ApiUrl, PolicyName, TableName, FunctionName, as far as they exist.
        loose: what that policy grants without limiting it to one Thing; None if that is not known.
    """

    stack: str
    region: str
    account_id: str
    state: str | None
    auth: str | None
    device_policy: PolicyOrigin | None
    outputs: Mapping[str, str]
    loose: tuple[LooseGrant, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend deploy --json`` and ``backend status --json``."""
        return {
            "stack": self.stack,
            "region": self.region,
            "account": self.account_id,
            "deployed": self.state is not None,
            "state": self.state,
            "auth": self.auth,
            "apiUrl": self.outputs.get("ApiUrl"),
            "policyName": self.outputs.get("PolicyName"),
            "devicePolicy": self.device_policy,
            "looseGrants": None if self.loose is None else len(self.loose),
            "tableName": self.outputs.get("TableName"),
            "functionName": self.outputs.get("FunctionName"),
        }


@dataclass(frozen=True)
class Deployed:
    """What `deploy` did.

    Attributes:
        status: the deployment afterwards.
        changed: whether anything was changed.
        notes: what hsm-enroll does that the policy in force does not allow, if it is the operator's own; for a person.
        policy_change: what the device policy gained and lost; None if there was none before, or if it could not be
            read.
    """

    status: Status
    changed: bool
    notes: tuple[str, ...] = ()
    policy_change: Change | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend deploy --json``."""
        change = self.policy_change.to_json() if self.policy_change else None
        shown = {"changed": self.changed, "policyChange": change, "notes": list(self.notes)}
        return {**self.status.to_json(), **shown}


@dataclass(frozen=True)
class Left:
    """What `delete` left in the account.

    Attributes:
        policy_name: name of the device policy; None if the stack had none.
        table_name: name of the ledger's table; None if the stack had none.
        bucket: name of the bucket with the functions' zips.
    """

    policy_name: str | None
    table_name: str | None
    bucket: str

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend delete --json``."""
        return {"policyName": self.policy_name, "tableName": self.table_name, "codeBucket": self.bucket}


def deploy(
    name: str,
    auth: AuthMode | None,
    step: Step,
    report: Report,
    *,
    policy: DevicePolicy | None = None,
    loose_allowed: bool = False,
) -> Deployed:
    """Deploy this package's backend to the account and region of the environment, or update it there.

    Does *not* call the deployed API.

    Args:
        name: name of the stack.
        auth: who may enroll; None keeps the present value, and means ``invite`` in a first deployment.
        step: entered while something takes time.
        report: called for each resource that is ready.
        policy: what devices may do; None keeps the present policy, and means the template's in a first deployment.
        loose_allowed: whether that policy may grant what is not limited to one Thing.

    Raises:
        UsageError: there is no region or are no valid credentials; or the policy has mistakes, or is loose.
        ThrottledError: AWS is busy.
        PackageError: the zip cannot be built.
        AwsError: AWS refused, or a resource failed. If a first deployment fails, it leaves no resources behind.
    """
    source = backend_folder()
    template = _read_template()
    with step("asking AWS for the account and its endpoint"):
        account = Account.of_environment()
        _check(policy, account, loose_allowed)
        endpoint = account.data_endpoint()
        stack = Stack(account.cloudformation, name, report)
        there = stack.describe()
    with step("building the function's zip"):
        content = package.build(source)
    with step("uploading it"):
        key = account.upload(content)
    parameters = {
        "MqttEndpoint": endpoint,
        "CodeBucket": account.code_bucket,
        "CodeKey": key,
    }
    if auth is not None:
        parameters["AuthMode"] = auth
    if policy is not None:
        parameters[_POLICY] = policy.text
    if there is not None and there.empty:
        stack.delete(there)
        there = None
    if there is None:
        parameters["ReservedConcurrency"] = str(_reservable(account))
        made = stack.create(template, parameters)
        return Deployed(_status(account, name, made), changed=True, notes=_notes(account, made))
    kept = {name: there.parameters[name] for name in (*_TUNED, "AuthMode", _POLICY) if name in there.parameters}
    before = _policy_in_force(account, there, report)
    changed = stack.update(there, template, kept | parameters)
    described = stack.describe()
    after = _policy_in_force(account, described, report) if before and described else None
    change = device_policy.compare(before, after) if before and after else None
    return Deployed(_status(account, name, described), changed, _notes(account, described), change)


def status(name: str) -> Status:
    """Return the state of a deployment; it is not an error if there is none.

    Raises:
        UsageError, ThrottledError, AwsError: as `deploy`.
    """
    account = Account.of_environment()
    return _status(account, name, Stack(account.cloudformation, name, _silent).describe())


def delete(name: str, report: Report) -> Left | None:
    """Delete a deployment, except for the device policy and the ledger: enrolled devices keep working.

    Args:
        name: name of the stack.
        report: called for each resource that is deleted.

    Returns:
        What remains, or None if there was no such deployment.

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


def _check(policy: DevicePolicy | None, account: Account, loose_allowed: bool) -> None:
    """Raise UsageError if a policy has mistakes, or if it is loose and must not be."""
    if policy is None or policy == TEMPLATES_OWN:
        return
    wrong = mistakes(policy.policy, account.iot_arns)
    if wrong:
        raise UsageError(f"{policy.file} cannot be deployed:{_lines(wrong)}", hint=_MISTAKES_HINT)
    loose = device_policy.loose_grants(policy.policy, account.iot_arns)
    if loose and not loose_allowed:
        raise UsageError(f"{policy.file} lets a device reach what is not its own:{_lines(loose)}", hint=_LOOSE_HINT)


def _lines(things: Iterable[object]) -> str:
    return "".join(f"\n  {thing}" for thing in things)


def _own_policy(described: Description) -> Policy | None:
    """Return the operator's own policy, or one without statements if the template's is in force.

    None if the stack's parameter is not a policy: somebody may have set it to anything.
    """
    try:
        return Policy.parse(described.parameters.get(_POLICY) or _EMPTY)
    except PolicyUnreadableError:
        return None


def _notes(account: Account, described: Description | None) -> tuple[str, ...]:
    policy = described and _own_policy(described)
    return tuple(device_policy.notes(policy, account.iot_arns)) if policy and policy.statements else ()


def _policy_in_force(account: Account, described: Description, report: Report) -> Policy | None:
    """Return the device policy in force in AWS IoT; None if it cannot be read, which does not stop a deployment."""
    name = described.outputs.get("PolicyName")
    if name is None:
        return None
    try:
        return Policy.parse(account.iot_policy(name))
    except (HsmEnrollError, PolicyUnreadableError) as error:
        report(f"cannot tell what changes for devices: the policy {name} cannot be read: {error}")
        return None


def _reservable(account: Account) -> int:
    """Return how much concurrency to reserve: none in an account so small that Lambda would refuse it."""
    unreserved = account.unreserved_concurrency()
    if unreserved is not None and unreserved - _WANTED_CONCURRENCY < _UNRESERVABLE:
        return 0
    return _WANTED_CONCURRENCY


def _status(account: Account, name: str, described: Description | None) -> Status:
    if described is None:
        return Status(name, account.region, account.account_id, None, None, None, {})
    policy = _own_policy(described)
    return Status(
        stack=name,
        region=account.region,
        account_id=account.account_id,
        state=described.status,
        auth=described.parameters.get("AuthMode"),
        device_policy="own" if described.parameters.get(_POLICY) else "default",
        outputs=described.outputs,
        loose=None if policy is None else tuple(device_policy.loose_grants(policy, account.iot_arns)),
    )


def _read_template() -> str:
    file = backend_folder() / "template.yaml"
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise HsmEnrollError(f"{file} cannot be read: {error.strerror}", hint="Reinstall hsm-enroll.") from error


def _silent(_: str) -> None:
    pass
