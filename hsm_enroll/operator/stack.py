"""One CloudFormation stack: changes and deletes it, and waits until CloudFormation has finished."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.errors import AwsError, HsmEnrollError, InterruptedRunError
from hsm_enroll.operator import aws
from hsm_enroll.operator.account import translated_errors
from hsm_enroll.operator.change_set import ChangeSet, resource_change
from hsm_enroll.operator.drift import Drift, resource_drift

_SERVICE = "CloudFormation"
POLL_SECONDS = 3.0
_UNDER_WAY = "_IN_PROGRESS"
_DELETED = "DELETE_COMPLETE"
_TAKEN_BACK = "ROLLBACK_COMPLETE"
_GOOD = {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
# CloudFormation updates a stack in these states only.
_UPDATABLE = {*_GOOD, "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"}
_ABSENT = "ValidationError"
# A change set that changes nothing fails, with one of these reasons. Its status is that of any failure, so AWS's own
# tools compare the text too.
_NOTHING_TO_DO = ("The submitted information didn't contain changes", "No updates are to be performed")
# A stack whose first change set has not been executed. It has no resources.
_IN_REVIEW = "REVIEW_IN_PROGRESS"
# Always a consequence of another resource's failure, never the cause.
_CANCELED = "cancelled"

_REBUILD_HINT = (
    "Delete it with hsm-enroll backend delete, then deploy again. The new deployment starts with an empty ledger: "
    "enrolled devices keep working, but it cannot revoke them."
)
_OUTDATED = {"InvalidChangeSetStatus", "ChangeSetNotFound"}  # another deployment came first
_HINTS = {
    "UPDATE_FAILED": "Have CloudFormation roll it back (RollbackStack), then deploy again.",
    "IMPORT_ROLLBACK_FAILED": "See the stack's events in CloudFormation for what is to be repaired, then deploy again.",
    "UPDATE_ROLLBACK_FAILED": "Let CloudFormation continue the rollback (ContinueUpdateRollback), then deploy again.",
}


@dataclass(frozen=True)
class Description:
    """A stack as CloudFormation describes it.

    Attributes:
        stack_id: its ARN. Unlike the name, it is never used again.
        status: CloudFormation's name for its state.
        parameters, outputs, tags: by name.
        changed: when it was changed last.
        drift: what CloudFormation found when it last compared it with its template.
    """

    stack_id: str
    status: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]
    changed: datetime
    drift: Drift
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def under_way(self) -> bool:
        """Whether an operation on it is in progress."""
        return self.status.endswith(_UNDER_WAY) and not self.in_review

    @property
    def in_review(self) -> bool:
        """Whether a first deployment was prepared and not carried out; such a stack has no resources."""
        return self.status == _IN_REVIEW

    @property
    def empty(self) -> bool:
        """Whether its creation failed and was rolled back; such a stack can only be deleted."""
        return self.status == _TAKEN_BACK


@dataclass(frozen=True)
class Stack:
    """A stack of a given name, which need not exist. Every method raises the errors of `account.translated_errors`.

    Args:
        cloudformation: a client.
        name: name of the stack.
        report: called for each resource that CloudFormation has finished, such as ``"Ledger CREATE_COMPLETE"``.
    """

    cloudformation: Any
    name: str
    report: Callable[[str], None]

    def describe(self) -> Description | None:
        """Return the stack as it is, or None if it does not exist."""
        return self._describe(self.name)

    def plan(
        self,
        there: Description | None,
        template: str,
        parameters: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> ChangeSet | None:
        """Have CloudFormation compute what would change, and change nothing. `execute` or `discard` must follow.

        Args:
            there: what `describe` returned.
            template: the new template.
            parameters: values by name; a missing one is set to the template's default.
            tags: of the stack and of all its resources, all of them.

        Returns:
            What would change; None if nothing would.

        Raises:
            AwsError: another operation is in progress, the stack cannot be updated, or CloudFormation rejects it.
        """
        creates = there is None or there.in_review
        if there is not None and not creates:
            self._must_be_updatable(there)
        with translated_errors(_SERVICE):
            made = self.cloudformation.create_change_set(
                StackName=self.name,
                ChangeSetName=f"hsm-enroll-{uuid.uuid4().hex}",
                ChangeSetType="CREATE" if creates else "UPDATE",
                TemplateBody=template,
                Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
                Capabilities=["CAPABILITY_IAM"],
                ClientToken=uuid.uuid4().hex,
            )
        change_set = ChangeSet(made["Id"], made["StackId"], creates, there is None, ())
        try:
            described = self._computed(change_set)
        except BaseException:
            self.discard(change_set)
            raise
        if described["Status"] == "CREATE_COMPLETE":
            changes = tuple(resource_change(change["ResourceChange"]) for change in described["Changes"])
            return replace(change_set, resources=changes)
        self.discard(change_set)
        reason = str(described.get("StatusReason", ""))
        if not creates and reason.startswith(_NOTHING_TO_DO):
            return None
        raise AwsError(f"CloudFormation rejects the changes to the stack {self.name!r}: {printable(reason)}")

    def execute(self, change_set: ChangeSet) -> Description:
        """Carry a change set out and return the result.

        If that fails, CloudFormation rolls it back; of a first deployment nothing is left then.

        Raises:
            AwsError: it failed, and the message names the resource that failed, and why; or the stack has been changed
                since the change set was computed.
        """
        seen = {event["EventId"] for event in self._events(change_set.stack_id)}
        self._begin(change_set)
        if not change_set.creates:
            return self._finished(change_set.stack_id, seen, doing="updated")
        try:
            return self._finished(change_set.stack_id, seen, doing="created")
        except AwsError:
            self._clear(change_set.stack_id)
            raise

    def _begin(self, change_set: ChangeSet) -> None:
        with translated_errors(_SERVICE):
            try:
                self.cloudformation.execute_change_set(
                    ChangeSetName=change_set.arn,
                    # After a failure, delete what was created and the template retains too: it is still empty.
                    RetainExceptOnCreate=True,
                    # botocore repeats a request whose answer is lost; with a token, it is carried out once.
                    ClientRequestToken=uuid.uuid4().hex,
                )
            except ClientError as error:
                self.discard(change_set)
                if aws.code(error) not in _OUTDATED:
                    raise
                raise AwsError(
                    f"the stack {self.name!r} has been changed since the plan was computed: {aws.reason(error)}",
                    hint="Nothing was changed by this run. Run the same command again: it computes a new plan.",
                ) from error

    def discard(self, change_set: ChangeSet) -> None:
        """Delete a change set that is not to be executed, and the stack that it created, if that is still empty.

        If that fails, it is left: it does no harm, and the next deployment uses the empty stack.
        """
        with suppress(HsmEnrollError), translated_errors(_SERVICE):
            self.cloudformation.delete_change_set(ChangeSetName=change_set.arn)
            there = self._describe(change_set.stack_id) if change_set.made_stack else None
            if there is not None and there.in_review:  # somebody else may have deployed to it meanwhile
                self._delete(change_set.stack_id)

    def delete(self, there: Description) -> None:
        """Delete the stack, except for what its template retains.

        Raises:
            AwsError: it failed.
        """
        seen = {event["EventId"] for event in self._events(there.stack_id)}
        with translated_errors(_SERVICE):
            self._delete(there.stack_id)
        self._finished(there.stack_id, seen, doing="deleted")

    def _delete(self, stack_id: str) -> None:
        self.cloudformation.delete_stack(StackName=stack_id, ClientRequestToken=uuid.uuid4().hex)

    def detect_drift(self) -> Drift:
        """Have CloudFormation compare the resources with the template (DetectStackDrift); takes up to some minutes."""
        with translated_errors(_SERVICE):
            detection = self.cloudformation.detect_stack_drift(StackName=self.name)["StackDriftDetectionId"]
            while True:
                found = self.cloudformation.describe_stack_drift_detection_status(StackDriftDetectionId=detection)
                if not found["DetectionStatus"].endswith(_UNDER_WAY):
                    break
                time.sleep(POLL_SECONDS)
            drifts = _all(
                "StackResourceDrifts",
                self.cloudformation.describe_stack_resource_drifts,
                StackName=self.name,
                StackResourceDriftStatusFilters=["MODIFIED", "DELETED"],
            )
        # Where detection fails, that is so for some resources; of the others the result counts.
        reason = printable(str(found.get("DetectionStatusReason", ""))) or None
        return Drift(found.get("StackDriftStatus", "UNKNOWN"), reason, tuple(map(resource_drift, drifts)))

    def _computed(self, change_set: ChangeSet) -> dict[str, Any]:
        """Wait until CloudFormation has computed a change set, and return its description with all its changes."""
        while True:
            with translated_errors(_SERVICE):
                described = self.cloudformation.describe_change_set(ChangeSetName=change_set.arn)
                if not described["Status"].endswith((_UNDER_WAY, "_PENDING")):
                    changes = _all("Changes", self.cloudformation.describe_change_set, ChangeSetName=change_set.arn)
                    return {**described, "Changes": changes}
            time.sleep(POLL_SECONDS)

    def _clear(self, stack_id: str) -> None:
        """Delete what is left of a failed creation: an empty stack."""
        left = self._describe(stack_id)
        if left is not None and left.empty:
            self.delete(left)

    def _must_be_updatable(self, there: Description) -> None:
        if there.under_way:
            raise AwsError(
                f"the stack {self.name!r} is {there.status}", hint="Wait until that has finished, then try again."
            )
        if there.status not in _UPDATABLE:
            raise AwsError(
                f"the stack {self.name!r} is {there.status}: CloudFormation cannot update it",
                hint=_HINTS.get(there.status, _REBUILD_HINT),
            )

    def _finished(self, stack_id: str, seen: set[str], doing: str) -> Description:
        """Wait until the operation has finished and return the result; see `execute` for what it raises."""
        try:
            return self._awaited(stack_id, seen, doing)
        except KeyboardInterrupt as error:
            raise InterruptedRunError(
                f"interrupted; CloudFormation goes on: the stack {self.name!r} is being {doing}",
                hint="hsm-enroll backend status shows its state. Once that no longer ends in _IN_PROGRESS, "
                "the same command can be run again.",
            ) from error

    def _awaited(self, stack_id: str, seen: set[str], doing: str) -> Description:
        failures: list[str] = []
        wanted = {_DELETED} if doing == "deleted" else _GOOD
        before = len(seen)
        self._follow(stack_id, seen, failures)
        while True:
            # Right after the call, the stack may still be in its old state, until there is an event.
            begun = len(seen) > before
            described = self._describe(stack_id)
            self._follow(stack_id, seen, failures)
            if described is None or (begun and not described.under_way and not described.in_review):
                break
            time.sleep(POLL_SECONDS)
        if described is not None and described.status in wanted:
            return described
        status = described.status if described else "gone"
        reason = failures[0] if failures else f"it is {status}"
        raise AwsError(f"the stack {self.name!r} could not be {doing}: {reason}")

    def _follow(self, stack_id: str, seen: set[str], failures: list[str]) -> None:
        """Report the new events, oldest first, and collect the failures among them."""
        for event in self._events(stack_id):
            if event["EventId"] in seen:
                continue
            seen.add(event["EventId"])
            status, resource = str(event.get("ResourceStatus", "")), str(event.get("LogicalResourceId", ""))
            reason = printable(str(event.get("ResourceStatusReason", "")))
            if not status.endswith(_UNDER_WAY):
                self.report(f"{resource} {status}")
            if status.endswith("_FAILED") and _CANCELED not in reason:
                failures.append(f"{resource} ({event.get('ResourceType')}) {status}: {reason}")

    def _events(self, stack_id: str) -> list[dict[str, Any]]:
        """Return a stack's events, oldest first."""
        with translated_errors(_SERVICE):
            return list(_pages(self.cloudformation, stack_id))[::-1]

    def _describe(self, name: str) -> Description | None:
        with translated_errors(_SERVICE):
            try:
                found = self.cloudformation.describe_stacks(StackName=name)["Stacks"][0]
            except ClientError as error:
                if aws.code(error) == _ABSENT:
                    return None
                raise
        return Description(
            stack_id=found["StackId"],
            status=found["StackStatus"],
            parameters={
                parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in found.get("Parameters", [])
            },
            outputs={output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])},
            changed=found.get("LastUpdatedTime") or found["CreationTime"],
            drift=Drift(found.get("DriftInformation", {}).get("StackDriftStatus", "NOT_CHECKED")),
            tags={tag["Key"]: tag["Value"] for tag in found.get("Tags", [])},
        )


def _pages(cloudformation: Any, stack_id: str) -> Iterator[dict[str, Any]]:
    for page in cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id):
        yield from page["StackEvents"]


def _all(member: str, call: Callable[..., dict[str, Any]], **arguments: Any) -> list[dict[str, Any]]:
    """Return what all pages of a call have in one member; botocore has no paginator for these calls."""
    found: list[dict[str, Any]] = []
    while True:
        page = call(**arguments)
        found += page.get(member, [])
        if not page.get("NextToken"):
            return found
        arguments["NextToken"] = page["NextToken"]
