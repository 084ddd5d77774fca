"""One CloudFormation stack: creates, updates and deletes it, and waits until CloudFormation has finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.errors import AwsError
from hsm_enroll.operator.account import translated_errors

_SERVICE = "CloudFormation"
POLL_SECONDS = 3.0
_UNDER_WAY = "_IN_PROGRESS"
_DELETED = "DELETE_COMPLETE"
_TAKEN_BACK = "ROLLBACK_COMPLETE"
_GOOD = {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
# CloudFormation updates a stack in these states only.
_UPDATABLE = {*_GOOD, "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"}
_ABSENT = "ValidationError"
# The answer of UpdateStack when there is nothing to do. Its code is that of any mistake, so AWS's own tools compare the
# text too.
_NOTHING_TO_DO = "No updates are to be performed."
# Always a consequence of another resource's failure, never the cause.
_CANCELED = "cancelled"

_REBUILD_HINT = (
    "Delete it with hsm-enroll backend delete, then deploy again. The new deployment starts with an empty ledger: "
    "enrolled devices keep working, but it cannot revoke them."
)
_HINTS = {
    "UPDATE_ROLLBACK_FAILED": "Let CloudFormation continue the rollback (ContinueUpdateRollback), then deploy again.",
}


@dataclass(frozen=True)
class Description:
    """A stack as CloudFormation describes it.

    Attributes:
        stack_id: its ARN. Unlike the name, it is never used again.
        status: CloudFormation's name for its state.
        parameters, outputs: by name.
    """

    stack_id: str
    status: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def under_way(self) -> bool:
        """Whether an operation on it is in progress."""
        return self.status.endswith(_UNDER_WAY)

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

    def create(self, template: str, parameters: Mapping[str, str]) -> Description:
        """Create the stack. If that fails, nothing is left of it.

        Raises:
            AwsError: it failed; the message names the resource that failed, and why.
        """
        with translated_errors(_SERVICE):
            answer = self.cloudformation.create_stack(
                StackName=self.name,
                TemplateBody=template,
                Parameters=_given(parameters),
                Capabilities=["CAPABILITY_IAM"],
                # After a failure, delete what the template retains too: it is still empty.
                RetainExceptOnCreate=True,
            )
        try:
            return self._finished(answer["StackId"], seen=set(), doing="created")
        except AwsError:
            self._clear(answer["StackId"])
            raise

    def update(self, there: Description, template: str, parameters: Mapping[str, str]) -> bool:
        """Update the stack. If that fails, CloudFormation rolls it back.

        Args:
            there: what `describe` returned.
            template: the new template.
            parameters: values by name; a missing one is set to the template's default.

        Returns:
            Whether there was anything to change.

        Raises:
            AwsError: another operation is in progress, the stack cannot be updated, or the update failed.
        """
        self._must_be_updatable(there)
        seen = {event["EventId"] for event in self._events(there.stack_id)}
        with translated_errors(_SERVICE):
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
        """Delete the stack, except for what its template retains.

        Raises:
            AwsError: it failed.
        """
        seen = {event["EventId"] for event in self._events(there.stack_id)}
        with translated_errors(_SERVICE):
            self.cloudformation.delete_stack(StackName=there.stack_id)
        self._finished(there.stack_id, seen, doing="deleted")

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
        """Wait until the operation has finished and return the result; see `create` for what it raises."""
        failures: list[str] = []
        wanted = {_DELETED} if doing == "deleted" else _GOOD
        while True:
            described = self._describe(stack_id)
            self._follow(stack_id, seen, failures)
            if described is None or not described.under_way:
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
