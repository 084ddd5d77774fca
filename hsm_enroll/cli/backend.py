"""``hsm-enroll backend``: the enrollment API in an AWS account."""

from __future__ import annotations

import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsm_enroll.cli import plan
from hsm_enroll.cli.deployment_options import Chosen, deployment_options
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.operator_client import DEFAULT_STACK, Target, minute, stack_options
from hsm_enroll.cli.terminal import Terminal, confirm, has_person
from hsm_enroll.errors import InterruptedRunError, UsageError

if TYPE_CHECKING:
    from hsm_enroll.operator.change_set import Plan
    from hsm_enroll.operator.deployed import Left, Status
    from hsm_enroll.operator.deployment import AuthMode
    from hsm_enroll.operator.device_policy import DevicePolicy
    from hsm_enroll.operator.drift import Drift
    from hsm_enroll.operator.role_policy import RolePolicy

_DEFAULT_POLICY = "default"
_LARGEST_POLICY_BYTES = 64 * 1024  # with white space; AWS IoT allows 2,048 characters without it, CloudFormation 4,096
_POLICY_HINT = "Give --device-policy a file with an AWS IoT policy in JSON, or the word default."
_ROLE_POLICY_HINT = "Give --role-policy a file with an IAM policy in JSON."
_POLICIES = {"default": "the built-in one", "own": "your own"}


@click.group("backend")
def backend() -> None:
    """The enrollment API in your AWS account: one CloudFormation stack."""


@command("deploy", example="hsm-enroll backend deploy")
@click.option(
    "--auth",
    type=click.Choice(["invite", "open"]),
    help="Who may enroll: holders of an invite (default), or anyone; later deployments keep it.",
)
@click.option(
    "--device-policy",
    "source",
    metavar="FILE",
    help="What devices may do: an AWS IoT policy in JSON, which is checked; later deployments keep it. The word "
    "default restores the built-in policy; write ./default for a file of that name.",
)
@click.option(
    "--role-policy",
    "role_source",
    metavar="FILE",
    help="What devices may do with AWS credentials: an IAM policy in JSON; later deployments keep it. The variable "
    "${credentials-iot:ThingName} in a resource stands for the device's Thing.",
)
@click.option(
    "--allow-loose-policy",
    is_flag=True,
    help="Deploy a policy even if it lets a device reach what is not its own, or use whole services of AWS.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--allow-data-loss",
    is_flag=True,
    help="Deploy even if the ledger or the device policy would be replaced or removed.",
)
@deployment_options
@stack_options
def deploy(
    invocation: Invocation,
    *,
    auth: AuthMode | None,
    source: str | None,
    role_source: str | None,
    allow_loose_policy: bool,
    yes: bool,
    allow_data_loss: bool,
    chosen: Chosen,
    target: Target,
) -> None:
    """Create the backend, or update it to this version; what changes is shown first.

    Settings that are not named here stay as they are.
    """
    from hsm_enroll.operator import deployment

    if allow_loose_policy and source is None and role_source is None:
        raise click.UsageError("--allow-loose-policy needs --device-policy or --role-policy")
    policy = None if source is None else _device_policy(source)
    terminal = invocation.terminal
    stack = target.stack or DEFAULT_STACK

    deployed = deployment.deploy(
        target.session(),
        stack,
        auth,
        terminal.step,
        lambda line: terminal.say(f"  {line}"),
        partial(_approve, terminal, yes=yes, data_loss_allowed=allow_data_loss),
        policy=policy,
        role_policy=None if role_source is None else _role_policy(role_source),
        loose_allowed=allow_loose_policy,
        settings=chosen.settings,
        tags=chosen.tags,
    )
    said = "deployed" if deployed.changed else "already up to date"
    terminal.result(deployed.to_json(), _rows(deployed.status, said, target), done=f"the stack {stack} is {said}")
    for grant in deployed.status.loose or ():
        terminal.warn(f"loose grant: {grant}")
    for note in deployed.notes:
        terminal.say(f"note: {note}")
    if deployed.status.auth == "open":
        terminal.warn("anyone who knows the API's address can enroll; deploy with --auth invite to require invites")


def _approve(terminal: Terminal, planned: Plan, *, yes: bool, data_loss_allowed: bool) -> None:
    """Show what is about to change, and ask whether it may.

    Raises:
        UsageError: it would lose data, or nobody can be asked.
        InterruptedRunError: the answer is no.
    """
    terminal.say(plan.text(planned))
    for warning in plan.warnings(planned):
        terminal.warn(warning)
    if planned.losses and not data_loss_allowed:
        raise UsageError(plan.refusal(planned), hint=plan.REFUSAL_HINT)
    if yes:
        return
    if terminal.as_json or not has_person():
        raise UsageError("cannot prompt without a terminal or with --json", hint="Pass --yes to deploy.")
    if not confirm(f"Deploy this to the stack {planned.stack} in the account {planned.account_id}?"):
        raise InterruptedRunError("nothing was deployed", declined=True)


@command("status", example="hsm-enroll backend status --drift")
@click.option("--drift", is_flag=True, help="Also compare the resources with the template; takes up to some minutes.")
@stack_options
def status(invocation: Invocation, *, drift: bool, target: Target) -> None:
    """Show what is deployed, which version, and since when."""
    from hsm_enroll.operator import deployment

    doing = "comparing the resources with the template" if drift else "asking AWS"
    with invocation.terminal.step(doing):
        found = deployment.status(target.session(), target.stack or DEFAULT_STACK, drift=drift)
    state = found.state if found.deployed else None
    invocation.terminal.result(found.to_json(), _rows(found, state or "not deployed", target))


@command("delete", example="hsm-enroll backend delete")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@stack_options
def delete(invocation: Invocation, *, yes: bool, target: Target) -> None:
    """Delete the API. The device policy and the ledger are kept: enrolled devices keep working."""
    from hsm_enroll.operator import deployment

    terminal = invocation.terminal
    stack = target.stack or DEFAULT_STACK
    if not yes:
        if terminal.as_json or not has_person():
            raise UsageError("cannot prompt without a terminal or with --json", hint="Pass --yes to delete the stack.")
        terminal.say("Enrolled devices keep working, and no later deployment can revoke them.")
        if not confirm(f"Delete the stack {stack}?"):
            raise InterruptedRunError(f"the stack {stack} was not deleted", declined=True)
    left = deployment.delete(target.session(), stack, lambda line: terminal.say(f"  {line}"))
    document = {"stack": stack, "deleted": left is not None, "left": left.to_json() if left else None}
    text = _left(stack, left)
    terminal.result(document, text, done=text.partition(";")[0])


def _rows(status: Status, said: str, target: Target) -> str:
    rows = {
        "Stack": f"{status.stack} in {status.region}, account {status.account_id}: {said}",
        "API": status.outputs.get("ApiUrl"),
        "Auth": status.auth,
        "Proof": f"{status.attestation} (--attestation)" if status.attestation else None,
        "Policy": _policy(status),
        "Role": f"{status.role_alias}, the role alias for AWS credentials" if status.role_alias else None,
        "Ledger": status.outputs.get("TableName"),
        "Function": status.outputs.get("FunctionName"),
        "Version": _version(status),
        "Drift": _drift(status.drift),
        "Next": _next(status, target),
    }
    return "\n".join(f"{name:<9} {value}" for name, value in rows.items() if value)


def _version(status: Status) -> str | None:
    if not status.deployed:
        return None
    return f"{status.version or 'not known'}, deployed {minute(status.changed)} UTC"


def _drift(drift: Drift | None) -> str | None:
    """Return what is not as the template says; None if that has never been checked."""
    if drift is None or drift.status == "NOT_CHECKED":
        return None
    said = {"IN_SYNC": "none", "DRIFTED": "the resources are not as deployed"}.get(drift.status, "not known")
    where = [
        f"{one.resource} {'is gone' if one.deleted else ', '.join(one.properties)}" for one in drift.resources or ()
    ]
    return said + (f" ({drift.reason})" if drift.reason else "") + (f": {'; '.join(where)}" if where else "")


def _policy(status: Status) -> str | None:
    name = status.outputs.get("PolicyName")
    if name is None or status.device_policy is None:
        return name
    count = len(status.loose or ())
    loose = f", with {count} loose grant{'' if count == 1 else 's'}" if count else ""
    return f"{name}, {_POLICIES[status.device_policy]}{loose}"


def _device_policy(source: str) -> DevicePolicy:
    from hsm_enroll.operator import device_policy

    if source == _DEFAULT_POLICY:
        return device_policy.TEMPLATES_OWN
    return device_policy.read(_content(Path(source), _POLICY_HINT), source)


def _role_policy(source: str) -> RolePolicy:
    from hsm_enroll.operator import role_policy

    return role_policy.read(_content(Path(source), _ROLE_POLICY_HINT), source)


def _content(file: Path, hint: str) -> bytes:
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading a FIFO would wait for a writer
            raise UsageError(f"{file} is not a file", hint=hint)
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_POLICY_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint=hint) from error
    except ValueError as error:  # a NUL in its name
        raise UsageError(f"{file} cannot be read: {error}", hint=hint) from error
    if len(content) > _LARGEST_POLICY_BYTES:
        raise UsageError(f"{file} is larger than {_LARGEST_POLICY_BYTES} bytes", hint=hint)
    return content


def _next(status: Status, target: Target) -> str:
    if not status.deployed:
        return f"hsm-enroll backend deploy{target.options}"
    return f"hsm-enroll invite create --thing NAME{target.options}" if status.auth == "invite" else ""


def _left(stack: str, left: Left | None) -> str:
    if left is None:
        return f"there is no stack {stack}"
    rows = {
        "Policy": left.policy_name and f"{left.policy_name}: what enrolled devices may do",
        "Ledger": left.table_name and f"{left.table_name}: which Thing has which certificate",
        "Bucket": f"{left.bucket}: the function's code",
    }
    kept = "\n".join(f"  {name:<7} {value}" for name, value in rows.items() if value)
    return f"the stack {stack} is deleted; enrolled devices keep working\nKept in the account:\n{kept}"


for _command in (deploy, status, delete):
    backend.add_command(_command)
