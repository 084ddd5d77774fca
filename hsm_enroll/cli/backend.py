"""``hsm-enroll backend``: the enrollment API in an AWS account."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.operator_client import require_extra
from hsm_enroll.cli.terminal import confirm, has_person
from hsm_enroll.errors import InterruptedRunError, UsageError

if TYPE_CHECKING:
    from hsm_enroll.operator.deployment import AuthMode, Left, Status

_DEFAULT_STACK = "hsm-enroll"


def _stack_option(function: Callable[..., None]) -> Callable[..., None]:
    option = click.option(
        "--stack", metavar="NAME", default=_DEFAULT_STACK, help=f"The CloudFormation stack; default {_DEFAULT_STACK}."
    )
    return option(function)


@click.group("backend")
def backend() -> None:
    """The enrollment API in your AWS account, in the region of AWS_REGION: one CloudFormation stack."""
    require_extra("boto3")


@command("deploy", example="hsm-enroll backend deploy")
@_stack_option
@click.option(
    "--auth",
    type=click.Choice(["invite", "open"]),
    default="invite",
    help="Who may enroll: the bearer of an invite (default), or anyone.",
)
def deploy(invocation: Invocation, *, stack: str, auth: AuthMode) -> None:
    """Make the backend, or bring it up to date with this version."""
    from hsm_enroll.operator import deployment

    terminal = invocation.terminal
    deployed = deployment.deploy(stack, auth, terminal.step, lambda line: terminal.say(f"  {line}"))
    said = "deployed" if deployed.changed else "up to date already"
    terminal.result({**deployed.status.to_json(), "changed": deployed.changed}, _rows(deployed.status, said))
    if auth == "open":
        terminal.warn("anyone who knows the API's address can enroll; deploy with --auth invite to close it")


@command("status", example="hsm-enroll backend status")
@_stack_option
def status(invocation: Invocation, *, stack: str) -> None:
    """Show what is deployed."""
    from hsm_enroll.operator import deployment

    with invocation.terminal.step("asking AWS"):
        found = deployment.status(stack)
    invocation.terminal.result(found.to_json(), _rows(found, found.state or "not deployed"))


@command("delete", example="hsm-enroll backend delete")
@_stack_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(invocation: Invocation, *, stack: str, yes: bool) -> None:
    """Take the API away. The device policy and the ledger stay: enrolled devices go on working."""
    from hsm_enroll.operator import deployment

    terminal = invocation.terminal
    if not yes:
        if terminal.as_json or not has_person():
            raise UsageError("nobody can be asked here whether to delete", hint="Say so beforehand with --yes.")
        terminal.say("Devices that are enrolled go on working, and no later deployment can revoke them.")
        if not confirm(f"Delete the stack {stack}?"):
            raise InterruptedRunError(f"the stack {stack} was not deleted", hint="")
    left = deployment.delete(stack, lambda line: terminal.say(f"  {line}"))
    document = {"stack": stack, "deleted": left is not None, "left": left.to_json() if left else None}
    terminal.result(document, _left(stack, left))


def _rows(status: Status, said: str) -> str:
    rows = {
        "Stack": f"{status.stack} in {status.region}, account {status.account_id}: {said}",
        "API": status.outputs.get("ApiUrl"),
        "Auth": status.auth,
        "Policy": status.outputs.get("PolicyName"),
        "Ledger": status.outputs.get("TableName"),
        "Function": status.outputs.get("FunctionName"),
        "Next": _next(status),
    }
    return "\n".join(f"{name:<8} {value}" for name, value in rows.items() if value)


def _next(status: Status) -> str:
    if status.state is None:
        return "hsm-enroll backend deploy"
    return "hsm-enroll invite create --thing NAME" if status.auth == "invite" else ""


def _left(stack: str, left: Left | None) -> str:
    if left is None:
        return f"there is no stack {stack}"
    rows = {
        "Policy": left.policy_name and f"{left.policy_name}: what enrolled devices may do",
        "Ledger": left.table_name and f"{left.table_name}: which certificate is whose",
        "Bucket": f"{left.bucket}: the function's code",
    }
    stays = "\n".join(f"  {name:<7} {value}" for name, value in rows.items() if value)
    return f"the stack {stack} is deleted; enrolled devices go on working\nWhat stays:\n{stays}"


for _command in (deploy, status, delete):
    backend.add_command(_command)
