"""The use cases of a deployment: deploy this package's backend to an AWS account, look at it, and delete it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from botocore.session import Session

from hsm_enroll.backend_folder import backend_folder
from hsm_enroll.errors import AwsError, HsmEnrollError
from hsm_enroll.operator import (
    deployed_policy,
    device_policy,
    device_role,
    est_domain,
    package,
    policy_notes,
    role_policy,
    stack_parameters,
)
from hsm_enroll.operator.account import Account, UploadedCode
from hsm_enroll.operator.change_set import ChangeSet, Plan, SettingChange, setting_changes, tag_changes
from hsm_enroll.operator.deployed import Deployed, Left, Status
from hsm_enroll.operator.deployed_policy import POLICY
from hsm_enroll.operator.device_policy import DevicePolicy
from hsm_enroll.operator.device_role import ROLE_ALIAS, ROLE_POLICY
from hsm_enroll.operator.drift import Drift
from hsm_enroll.operator.role_policy import RolePolicy
from hsm_enroll.operator.stack import Description, Stack
from hsm_enroll.operator.stack_parameters import PROTECTION

AuthMode = Literal["invite", "open"]
Step = Callable[[str], AbstractContextManager[None]]
Report = Callable[[str], None]
Approve = Callable[[Plan], None]

# Outputs that name what remains after a stack was deleted.
_RETAINED = ("PolicyName", "TableName")
_UNKNOWN_VERSION = "unknown"  # the template's default


def deploy(
    session: Session,
    name: str,
    auth: AuthMode | None,
    step: Step,
    report: Report,
    approve: Approve,
    *,
    policy: DevicePolicy | None = None,
    role_policy: RolePolicy | None = None,
    loose_allowed: bool = False,
    settings: Mapping[str, str] = MappingProxyType({}),
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Deployed:
    """Deploy this package's backend to an account and region, or update it there.

    Does *not* call the deployed API.

    Args:
        session: whose account, credentials and region to use.
        name: name of the stack.
        auth: who may enroll; None keeps the present value, and means ``invite`` in a first deployment.
        step: entered while something takes time.
        report: called for each resource that is ready.
        approve: called with what is about to change, before it does; if it raises, nothing is changed. Not called if
            there is nothing to change.
        policy: what devices may do; None keeps the present policy, and means the template's in a first deployment.
        role_policy: what devices may do with AWS credentials; None keeps the present policy.
        loose_allowed: whether the one may grant what is not limited to one Thing, and the other whole services.
        settings: further parameters of the template, by name; those that are missing keep their values.
        tags: for the stack and its resources; the stack's other tags are kept.

    Raises:
        UsageError: there is no region or are no valid credentials; or a policy has mistakes, or is loose; or settings
            contradict each other, or one that another one needs is missing.
        ThrottledError: AWS is busy.
        PackageError: the zip cannot be built.
        AwsError: AWS refused, a resource failed, or a function runs other code than what was uploaded. If a first
            deployment fails, it leaves no resources behind.
    """
    source = backend_folder()
    template = _read_template()
    with step("asking AWS for the account and its endpoint"):
        account = Account.of(session)
        deployed_policy.check(policy, account, loose_allowed=loose_allowed)
        device_role.check(role_policy, loose_allowed=loose_allowed)
        endpoint = account.data_endpoint()
        stack = Stack(account.cloudformation, name, report)
        there = stack.describe()
    with step("building the function's zip"):
        content = package.build(source)
    with step("uploading it"):
        code = account.upload(content)
    if there is not None and there.empty:
        stack.delete(there)
        there = None
    before = there.parameters if there and not there.in_review else {}
    tags_before = there.tags if there and before else {}
    tags = {**tags_before, **tags}
    limits, concurrency_notes = ({}, ()) if before else stack_parameters.concurrency(account, settings)
    asked = {**limits, **settings, **_choices(auth, policy, role_policy)}
    parameters = stack_parameters.wanted(account, endpoint, code, before, asked, role_policy)
    with step("computing what changes"):
        change_set = stack.plan(there, template, parameters, tags)
    if change_set is None:
        _check_code(account, there, code)
        return Deployed(_status(account, name, there), plan=None, notes=_notes(account, there))
    changes = (*setting_changes(before, parameters), *tag_changes(tags_before, tags)) if before else ()
    plan = _plan(account, name, change_set, changes)
    try:
        if there and before:
            change = deployed_policy.change(account, there, plan, parameters, report)
            plan = replace(plan, policy_change=change)
        approve(plan)
    except BaseException:
        stack.discard(change_set)
        raise
    described = stack.execute(change_set)
    if not before:
        # Only now: a protected table could not be deleted if the first deployment failed.
        described = _protect_ledger(stack, described, template, parameters, tags)
    _check_code(account, described, code)
    notes = (*concurrency_notes, *_notes(account, described))
    return Deployed(_status(account, name, described), plan, notes)


def status(session: Session, name: str, *, drift: bool = False) -> Status:
    """Return the state of a deployment; it is not an error if there is none.

    Args:
        session: whose account, credentials and region to use.
        name: name of the stack.
        drift: whether to have CloudFormation compare it with its template now, which takes up to some minutes; if that
            cannot be done, the result says why.

    Raises:
        UsageError, ThrottledError, AwsError: as `deploy`.
    """
    account = Account.of(session)
    stack = Stack(account.cloudformation, name, _silent)
    found = _status(account, name, stack.describe())
    if not drift or not found.deployed:
        return found
    try:
        detected = stack.detect_drift()
    except AwsError as error:
        detected = Drift("UNKNOWN", error.message)
    return replace(found, drift=detected)


def delete(session: Session, name: str, report: Report) -> Left | None:
    """Delete a deployment, except for the device policy and the ledger: enrolled devices keep working.

    Args:
        session: whose account, credentials and region to use.
        name: name of the stack.
        report: called for each resource that is deleted.

    Returns:
        What remains, or None if there was no such deployment.

    Raises:
        UsageError, ThrottledError, AwsError: as `deploy`.
    """
    account = Account.of(session)
    stack = Stack(account.cloudformation, name, report)
    there = stack.describe()
    if there is None:
        return None
    stack.delete(there)
    policy_name, table_name = (there.outputs.get(output) for output in _RETAINED)
    return Left(policy_name, table_name, account.code_bucket)


def _choices(auth: AuthMode | None, policy: DevicePolicy | None, role_policy: RolePolicy | None) -> dict[str, str]:
    choices = {
        "AuthMode": auth,
        POLICY: policy.text if policy else None,
        ROLE_POLICY: role_policy.text if role_policy else None,
    }
    return {name: value for name, value in choices.items() if value is not None}


def _plan(account: Account, name: str, change_set: ChangeSet, settings: tuple[SettingChange, ...]) -> Plan:
    resources = change_set.resources
    return Plan(name, account.account_id, account.region, change_set.creates, resources, settings)


def _notes(account: Account, described: Description | None) -> tuple[str, ...]:
    if described is None:
        return ()
    policy, given = deployed_policy.own(described), described.parameters
    alias, permissions = given.get(ROLE_ALIAS, ""), given.get(ROLE_POLICY)
    found = policy_notes.notes(policy, account.iot_arns, alias) if policy and policy.statements else []
    shared = role_policy.shared(RolePolicy("", permissions)) if permissions else []
    return (*found, *shared, *est_domain.notes(given, described.outputs))


def _protect_ledger(
    stack: Stack, described: Description, template: str, parameters: Mapping[str, str], tags: Mapping[str, str]
) -> Description:
    """Turn the deletion protection of a new ledger on."""
    change_set = stack.plan(described, template, {**parameters, PROTECTION: "yes"}, tags)
    return described if change_set is None else stack.execute(change_set)


def _check_code(account: Account, described: Description | None, code: UploadedCode) -> None:
    """Raise AwsError if a function of the stack does not run the code that was uploaded."""
    outputs = described.outputs if described else {}
    for function in (name for output, name in outputs.items() if output.endswith("FunctionName")):
        if account.function_sha256(function) == code.sha256:
            continue
        raise AwsError(
            f"the function {function} runs other code than {code.key} in the bucket {account.code_bucket}, "
            f"version {code.version}, which is what was built here",
            hint="CloudTrail shows who changed it (UpdateFunctionCode). To restore it: aws lambda update-function-code "
            f"--function-name {function} --s3-bucket {account.code_bucket} --s3-key {code.key} "
            f"--s3-object-version {code.version}",
        )


def _status(account: Account, name: str, described: Description | None) -> Status:
    if described is None:
        return Status(name, account.region, account.account_id, None, None, None, {})
    policy = deployed_policy.own(described)
    return Status(
        stack=name,
        region=account.region,
        account_id=account.account_id,
        state=described.status,
        auth=described.parameters.get("AuthMode"),
        attestation=described.parameters.get("Attestation"),
        device_policy="own" if described.parameters.get(POLICY) else "default",
        outputs=described.outputs,
        loose=None if policy is None else tuple(device_policy.loose_grants(policy, account.iot_arns)),
        version=described.outputs.get("Version", _UNKNOWN_VERSION).replace(_UNKNOWN_VERSION, "") or None,
        changed=described.changed,
        drift=described.drift,
        role_alias=described.parameters.get(ROLE_ALIAS) or None,
    )


def _read_template() -> str:
    file = backend_folder() / "template.yaml"
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise HsmEnrollError(f"{file} cannot be read: {error.strerror}", hint="Reinstall hsm-enroll.") from error


def _silent(_: str) -> None:
    pass
