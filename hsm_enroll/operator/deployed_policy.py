"""The devices' policy, as a part of a deployment: whether it may be deployed, and what that changes for devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hsm_enroll.errors import HsmEnrollError, UsageError
from hsm_enroll.iot_policy import Policy, PolicyUnreadableError
from hsm_enroll.operator import device_policy
from hsm_enroll.operator.account import Account
from hsm_enroll.operator.change_set import Plan
from hsm_enroll.operator.device_policy import TEMPLATES_OWN, Change, DevicePolicy
from hsm_enroll.operator.device_role import ROLE_ALIAS
from hsm_enroll.operator.policy_mistakes import mistakes
from hsm_enroll.operator.stack import Description
from hsm_enroll.operator.template_policy import template_policy

POLICY = "DevicePolicyDocument"
"""Name of the template's parameter: the operator's own; empty, or missing in an older stack: the template's."""

_EMPTY: Mapping[str, Any] = {"Statement": []}
_RESOURCE = "DevicePolicy"
_LOOSE_HINT = (
    "Limit each resource to one Thing, as topic/device/<thing>/* does, where <thing> stands for "
    "${iot:Connection.Thing.ThingName}; or deploy the policy as it is with --allow-loose-policy."
)
_MISTAKES_HINT = "Correct the file and deploy again. --allow-loose-policy does not skip this check."


def check(policy: DevicePolicy | None, account: Account, *, loose_allowed: bool) -> None:
    """Refuse a policy that has mistakes, or, unless that is allowed, one that is loose.

    Raises:
        UsageError: it is one of them; the message names each mistake, or each loose grant.
    """
    if policy is None or policy == TEMPLATES_OWN:
        return
    wrong = mistakes(policy.policy, account.iot_arns)
    if wrong:
        raise UsageError(f"{policy.file} cannot be deployed:{_lines(wrong)}", hint=_MISTAKES_HINT)
    loose = device_policy.loose_grants(policy.policy, account.iot_arns)
    if loose and not loose_allowed:
        raise UsageError(f"{policy.file} lets a device reach what is not its own:{_lines(loose)}", hint=_LOOSE_HINT)


def own(described: Description) -> Policy | None:
    """Return the operator's own policy, or one without statements if the template's is in force.

    None if the stack's parameter is not a policy: somebody may have set it to anything.
    """
    try:
        return Policy.parse(described.parameters.get(POLICY) or _EMPTY)
    except PolicyUnreadableError:
        return None


def change(
    account: Account, there: Description, plan: Plan, parameters: Mapping[str, str], report: Callable[[str], None]
) -> Change | None:
    """Return what a deployment changes for devices; None if that cannot be told.

    Args:
        account: the account.
        there: the stack as it is.
        plan: what the deployment changes.
        parameters: the stack's afterwards.
        report: is told why it cannot be told.
    """
    allowed = _in_force(account, there, report)
    if allowed is None:
        return None
    changed = {each.resource for each in plan.resources} | {each.name for each in plan.settings}
    if changed.isdisjoint({POLICY, _RESOURCE, ROLE_ALIAS}):  # what somebody has changed in AWS IoT stays
        return Change((), ())
    try:
        text, alias = parameters.get(POLICY), parameters.get(ROLE_ALIAS, "")
        wanted = Policy.parse(text) if text else template_policy(account.iot_arns, alias)
    except PolicyUnreadableError:
        return None
    return device_policy.compare(allowed, wanted)


def _in_force(account: Account, described: Description, report: Callable[[str], None]) -> Policy | None:
    """Return the device policy in force in AWS IoT; None if it cannot be read, which does not stop a deployment."""
    name = described.outputs.get("PolicyName")
    if name is None:
        return None
    try:
        return Policy.parse(account.iot_policy(name))
    except (HsmEnrollError, PolicyUnreadableError) as error:
        report(f"cannot tell what changes for devices: the policy {name} cannot be read: {error}")
        return None


def _lines(things: Iterable[object]) -> str:
    return "".join(f"\n  {thing}" for thing in things)
