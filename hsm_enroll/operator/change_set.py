"""What a deployment would change, as CloudFormation computes it (a change set), before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hsm_enroll.operator.device_policy import Change

Action = Literal["add", "modify", "replace", "may-replace", "remove", "unknown"]

# A deployment that lost one of these would start anew: without the ledger it could revoke nobody, and devices that are
# enrolled depend on the policy. Both are kept in the account even then, but the deployment uses others.
_IRREPLACEABLE = {"AWS::DynamoDB::Table", "AWS::IoT::Policy"}
_APIS = {"AWS::ApiGatewayV2::Api", "AWS::ApiGateway::RestApi"}
_EDGE = "Edge"  # a parameter: which of them devices use
# Replaced only if an existing definition is edited, which this template never does: a new index adds one.
_EXTENDED = {"AWS::DynamoDB::Table": {"AttributeDefinitions", "GlobalSecondaryIndexes"}}
_LOSING: set[Action] = {"replace", "may-replace", "remove", "unknown"}
_ACTIONS: Mapping[str, Action] = {"Add": "add", "Import": "add", "Modify": "modify", "SyncWithActual": "modify"}
_REPLACEMENTS: Mapping[str, Action] = {"True": "replace", "Conditional": "may-replace"}


@dataclass(frozen=True)
class ResourceChange:
    """What happens to one resource of the stack.

    Attributes:
        action: ``may-replace`` depends on values that are not known yet; ``unknown`` may be anything.
        resource: its name in the template.
        kind: its type, such as ``AWS::Lambda::Function``.
        properties: those that change, in alphabetical order, if CloudFormation says which.
    """

    action: Action
    resource: str
    kind: str
    properties: tuple[str, ...] = ()

    @property
    def loses_data(self) -> bool:
        """Whether the deployment would, or might, go on with a new and empty ledger, or with another device policy."""
        return self.kind in _IRREPLACEABLE and self.action in _LOSING

    @property
    def moves_api(self) -> bool:
        """Whether the API would, or might, get another address."""
        return self.kind in _APIS and self.action in _LOSING

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend deploy --json``."""
        shown = {"action": self.action, "resource": self.resource, "type": self.kind}
        return {**shown, "attributes": list(self.properties)}


@dataclass(frozen=True)
class SettingChange:
    """A parameter or a tag of the stack that gets another value; None is the template's default, or no tag."""

    name: str
    before: str | None
    after: str | None

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend deploy --json``."""
        return {"name": self.name, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class ChangeSet:
    """A change set that CloudFormation is ready to execute.

    Attributes:
        arn: its ARN.
        stack_id: the stack's.
        creates: whether it is a first deployment.
        made_stack: whether creating it created the stack, which is empty until it is executed.
        resources: what happens to the resources.
    """

    arn: str
    stack_id: str
    creates: bool
    made_stack: bool
    resources: tuple[ResourceChange, ...]


@dataclass(frozen=True)
class Plan:
    """What a deployment is about to do.

    Attributes:
        stack: name of the stack.
        account_id, region: where.
        creates: whether it is a first deployment.
        resources: what happens to the resources.
        settings: which parameters get another value; none in a first deployment.
        policy_change: what the device policy gains and loses; None in a first deployment, or if it cannot be read.
    """

    stack: str
    account_id: str
    region: str
    creates: bool
    resources: tuple[ResourceChange, ...]
    settings: tuple[SettingChange, ...]
    policy_change: Change | None = None

    @property
    def changes_api(self) -> bool:
        """Whether devices are to use another API, with another address."""
        return any(one.name == _EDGE and (one.before or "no") != (one.after or "no") for one in self.settings)

    @property
    def losses(self) -> tuple[ResourceChange, ...]:
        """The changes by which the deployment would, or might, lose its ledger or its device policy."""
        return tuple(change for change in self.resources if change.loses_data)

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend deploy --json``."""
        return {
            "resources": [change.to_json() for change in self.resources],
            "settings": [change.to_json() for change in self.settings],
        }


def resource_change(change: Mapping[str, Any]) -> ResourceChange:
    """Return a ``ResourceChange`` of DescribeChangeSet."""
    action = _ACTIONS.get(change["Action"], "unknown")
    if change["Action"] == "Remove":
        action = "remove"
    if action == "modify":
        action = _REPLACEMENTS.get(change.get("Replacement", ""), action)
    targets = [detail.get("Target", {}) for detail in change.get("Details", [])]
    properties = {_property(target) for target in targets}
    doubtful = {_property(target) for target in targets if target.get("RequiresRecreation") != "Never"}
    if action == "may-replace" and doubtful and doubtful <= _EXTENDED.get(change["ResourceType"], set()):
        action = "modify"
    return ResourceChange(action, change["LogicalResourceId"], change["ResourceType"], tuple(sorted(properties - {""})))


def tag_changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[SettingChange, ...]:
    """Return which tags get another value, as settings named ``tag KEY``."""
    changed = setting_changes(before, after)
    return tuple(SettingChange(f"tag {change.name}", change.before, change.after) for change in changed)


def _property(target: Mapping[str, Any]) -> str:
    return str(target.get("Name") or target.get("Attribute", ""))


def setting_changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[SettingChange, ...]:
    """Return which parameters get another value.

    Args:
        before: those of the stack, all of them.
        after: those that are given; the others get the template's default.
    """
    names = sorted(before.keys() | after.keys())
    changes = (SettingChange(name, before.get(name), after.get(name)) for name in names)
    return tuple(change for change in changes if change.before != change.after)
