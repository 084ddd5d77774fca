"""What there is of a deployment, what deploying it has changed, and what deleting it has left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from hsm_enroll.operator.change_set import Plan
from hsm_enroll.operator.device_policy import Change, LooseGrant
from hsm_enroll.operator.drift import Drift
from hsm_enroll.operator.records import instant

PolicyOrigin = Literal["default", "own"]


@dataclass(frozen=True)
class Status:
    """A deployment as AWS describes it.

    Attributes:
        stack: name of the stack.
        region: its region.
        account_id: its account.
        state: CloudFormation's name for its state; None if there is no such stack.
        auth: who may enroll, or None.
        attestation: whether keys have to be proven to be in a TPM: ``off``, ``prefer`` or ``require``; None if there is
            no such stack, or one of an earlier version.
        device_policy: whether the devices have the template's policy or the operator's own; None if there is no such
            stack.
        outputs: ApiUrl, PolicyName, TableName, FunctionName, as far as they exist.
        loose: what that policy grants without limiting it to one Thing; None if that is not known.
        version: of hsm-enroll, which deployed it; None if that is not known.
        changed: when it was deployed last, whether that succeeded or not; None if there is no such stack.
        drift: what has been changed without CloudFormation, as far as that was checked; None if there is no such stack.
        role_alias: name of the role alias by which devices get AWS credentials; None if there is none.
    """

    stack: str
    region: str
    account_id: str
    state: str | None
    auth: str | None
    device_policy: PolicyOrigin | None
    outputs: Mapping[str, str]
    loose: tuple[LooseGrant, ...] | None = None
    version: str | None = None
    changed: datetime | None = None
    drift: Drift | None = None
    attestation: str | None = None
    role_alias: str | None = None

    @property
    def deployed(self) -> bool:
        """Whether there is such a stack, beyond a first deployment that was prepared and not carried out."""
        return self.state not in {None, "REVIEW_IN_PROGRESS"}

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend deploy --json`` and ``backend status --json``."""
        return {
            "stack": self.stack,
            "region": self.region,
            "account": self.account_id,
            "deployed": self.deployed,
            "state": self.state,
            "auth": self.auth,
            "attestation": self.attestation,
            "apiUrl": self.outputs.get("ApiUrl"),
            "policyName": self.outputs.get("PolicyName"),
            "devicePolicy": self.device_policy,
            "looseGrants": None if self.loose is None else len(self.loose),
            "roleAlias": self.role_alias,
            "tableName": self.outputs.get("TableName"),
            "functionName": self.outputs.get("FunctionName"),
            "version": self.version,
            "changedAt": None if self.changed is None else instant(self.changed),
            "drift": None if self.drift is None else self.drift.to_json(),
        }


@dataclass(frozen=True)
class Deployed:
    """What `deploy` did.

    Attributes:
        status: the deployment afterwards.
        plan: what was changed; None if there was nothing to change.
        notes: for a person: what hsm-enroll does that the policy in force does not allow, if it is the operator's own;
            and that the account has too little concurrency.
    """

    status: Status
    plan: Plan | None
    notes: tuple[str, ...] = ()

    @property
    def policy_change(self) -> Change | None:
        """What the device policy gained and lost; see `Plan.policy_change`."""
        return self.plan.policy_change if self.plan else None

    @property
    def changed(self) -> bool:
        """Whether anything was changed."""
        return self.plan is not None

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend deploy --json``."""
        change = self.policy_change.to_json() if self.policy_change else None
        changes = self.plan.to_json() if self.plan else None
        shown = {"changed": self.changed, "changes": changes, "policyChange": change, "notes": list(self.notes)}
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
