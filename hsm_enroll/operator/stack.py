"""One CloudFormation stack: make it, change it, delete it, and wait until CloudFormation has done so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from hsm_enroll.errors import AwsError
from hsm_enroll.operator.account import asking
from hsm_enroll.operator.answer import printable

_SERVICE = "CloudFormation"
_POLL_SECONDS = 3.0
_UNDER_WAY = "_IN_PROGRESS"
_DELETED = "DELETE_COMPLETE"
_TAKEN_BACK = "ROLLBACK_COMPLETE"
_GOOD = {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
# CloudFormation updates a stack in these states and in no other.
_UPDATABLE = {*_GOOD, "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"}
_ABSENT = "ValidationError"
# What UpdateStack answers, with the code of every other mistake, when there is nothing to do. AWS's own tools go by
# the text as well.
_NOTHING_TO_DO = "No updates are to be performed."
# A consequence of another resource's failure, never the cause.
_CANCELED = "cancelled"

_REBUILD_HINT = (
    "Take it away with hsm-enroll backend delete, then deploy again. The new deployment begins with an empty ledger: "
    "devices that are enrolled go on working, and it cannot revoke them."
)
_HINTS = {
    "UPDATE_ROLLBACK_FAILED": "Have CloudFormation go on with the rollback (ContinueUpdateRollback), then deploy.",
}


@dataclass(frozen=True)
class Description:
    """What CloudFormation says of a stack.

    Attributes:
        stack_id: its ARN; the name may come back, the ARN never does.
        status: CloudFormation's word.
        parameters, outputs: by name.
    """

    stack_id: str
    status: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def under_way(self) -> bool:
        """Whether something is being done to it."""
        return self.status.endswith(_UNDER_WAY)

    @property
    def empty(self) -> bool:
        """Whether its creation failed and everything was taken back; such a stack can only be deleted."""
        return self.status == _TAKEN_BACK


@dataclass(frozen=True)
class Stack:
    """A stack by its name, whether it is there or not.

    Args:
        cloudformation: a client.
        name: the stack's.
        report: told of each resource that CloudFormation is through with, such as ``"Ledger CREATE_COMPLETE"``.

    Every method raises the errors of `account.asking`.
    """

    cloudformation: Any
    name: str
    report: Callable[[str], None]

    def describe(self) -> Description | None:
        """Return what there is; None is no such stack."""
        return self._describe(self.name)

    def create(self, template: str, parameters: Mapping[str, str]) -> Description:
        """Make the stack; if that fails, nothing of it stays.

        Raises:
            AwsError: it failed; the message says which resource did, and why.
        """
        with asking(_SERVICE):
            answer = self.cloudformation.create_stack(
                StackName=self.name,
                TemplateBody=template,
                Parameters=_given(parameters),
                Capabilities=["CAPABILITY_IAM"],
                # A failure takes back what the template retains too: it is empty as yet.
                RetainExceptOnCreate=True,
            )
        try:
            return self._finished(answer["StackId"], seen=set(), doing="created")
        except AwsError:
            self._clear(answer["StackId"])
            raise

    def update(self, there: Description, template: str, parameters: Mapping[str, str]) -> bool:
        """Change the stack; if that fails, CloudFormation goes back to what was there.

        Args:
            there: what `describe` returned.
            template: the template.
            parameters: values by name; a missing one goes back to the template's default.

        Returns:
            Whether there was anything to change.

        Raises:
            AwsError: something else is being done to the stack, it cannot be updated, or it failed.
        """
        self._must_be_updatable(there)
        seen = {event["EventId"] for event in self._events(there.stack_id)}
        with asking(_SERVICE):
            try:
                self.cloudformation.update_stack(
                    StackName=self.name,
                    TemplateBody=template,
                    Parameters=_given(parameters),
                    Capabilities=["CAPABILITY_IAM"],
                    RetainExceptOnCreate=True,
                )
            except ClientError as error:
                if error.response.get("Error", {}).get("Message") == _NOTHING_TO_DO:
                    return False
                raise
        self._finished(there.stack_id, seen, doing="updated")
        return True

    def delete(self, there: Description) -> None:
        """Delete the stack, but for what its template retains.

        Raises:
            AwsError: it failed.
        """
        seen = {event["EventId"] for event in self._events(there.stack_id)}
        with asking(_SERVICE):
            self.cloudformation.delete_stack(StackName=there.stack_id)
        self._finished(there.stack_id, seen, doing="deleted")

    def _clear(self, stack_id: str) -> None:
        """Delete what is left of a creation that failed: a stack with a name and nothing in it."""
        left = self._describe(stack_id)
        if left is not None and left.empty:
            self.delete(left)

    def _must_be_updatable(self, there: Description) -> None:
        if there.under_way:
            raise AwsError(
                f"the stack {self.name!r} is {there.status}", hint="Wait until that has ended, then try again."
            )
        if there.status not in _UPDATABLE:
            raise AwsError(
                f"the stack {self.name!r} is {there.status}: CloudFormation cannot update it",
                hint=_HINTS.get(there.status, _REBUILD_HINT),
            )

    def _finished(self, stack_id: str, seen: set[str], doing: str) -> Description:
        """Wait until nothing is under way any more, and return what came of it; see `create` for what it raises."""
        failures: list[str] = []
        wanted = {_DELETED} if doing == "deleted" else _GOOD
        while True:
            described = self._describe(stack_id)
            self._follow(stack_id, seen, failures)
            if described is None or not described.under_way:
                break
            time.sleep(_POLL_SECONDS)
        if described is not None and described.status in wanted:
            return described
        status = described.status if described else "gone"
        reason = failures[0] if failures else f"it is {status}"
        raise AwsError(f"the stack {self.name!r} could not be {doing}: {reason}")

    def _follow(self, stack_id: str, seen: set[str], failures: list[str]) -> None:
        """Report the events that are new, and note the failures among them, oldest first."""
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
        with asking(_SERVICE):
            return list(_pages(self.cloudformation, stack_id))[::-1]

    def _describe(self, name: str) -> Description | None:
        with asking(_SERVICE):
            try:
                found = self.cloudformation.describe_stacks(StackName=name)["Stacks"][0]
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == _ABSENT:
                    return None
                raise
        return Description(
            stack_id=found["StackId"],
            status=found["StackStatus"],
            parameters={
                parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in found.get("Parameters", [])
            },
            outputs={output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])},
        )


def _given(parameters: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]


def _pages(cloudformation: Any, stack_id: str) -> Iterator[dict[str, Any]]:
    for page in cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id):
        yield from page["StackEvents"]
