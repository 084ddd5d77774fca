"""What has been changed in a deployment's resources without CloudFormation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ResourceDrift:
    """A resource that is not as the template says.

    Attributes:
        resource: its name in the template.
        kind: its type, such as ``AWS::Lambda::Function``.
        deleted: whether it is gone.
        properties: those that differ, as JSON Pointers (RFC 6901).
    """

    resource: str
    kind: str
    deleted: bool
    properties: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend status --json``."""
        shown = {"resource": self.resource, "type": self.kind, "deleted": self.deleted}
        return {**shown, "attributes": list(self.properties)}


@dataclass(frozen=True)
class Drift:
    """What CloudFormation says about a stack's drift.

    Attributes:
        status: ``DRIFTED``, ``IN_SYNC``, ``NOT_CHECKED`` or ``UNKNOWN``, CloudFormation's ``StackDriftStatus``.
        reason: why it could not be checked, or not completely; otherwise None.
        resources: what has drifted; None if that was not asked now.
    """

    status: str
    reason: str | None = None
    resources: tuple[ResourceDrift, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend status --json``."""
        resources = None if self.resources is None else [one.to_json() for one in self.resources]
        return {"status": self.status, "reason": self.reason, "resources": resources}


def resource_drift(drift: Mapping[str, Any]) -> ResourceDrift:
    """Return a ``StackResourceDrift`` of DescribeStackResourceDrifts."""
    properties = {str(one["PropertyPath"]) for one in drift.get("PropertyDifferences", [])}
    deleted = drift["StackResourceDriftStatus"] == "DELETED"
    return ResourceDrift(drift["LogicalResourceId"], drift["ResourceType"], deleted, tuple(sorted(properties)))
