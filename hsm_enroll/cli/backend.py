"""``hsm-enroll backend``: the enrollment API in an AWS account."""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.operator_client import require_extra
from hsm_enroll.cli.terminal import confirm, has_person
from hsm_enroll.errors import InterruptedRunError, UsageError

if TYPE_CHECKING:
    from hsm_enroll.operator.deployment import AuthMode, Left, Status
    from hsm_enroll.operator.device_policy import Change, DevicePolicy, Rule

_DEFAULT_STACK = "hsm-enroll"
_DEFAULT_POLICY = "default"
_LARGEST_POLICY_BYTES = 64 * 1024  # with white space; AWS IoT allows 2,048 characters without it
_OF_AN_ACCOUNT = re.compile(r"^arn:[^:]*:iot:[^:]*:[^:]*:")
_POLICY_HINT = "Give --device-policy a file with an AWS IoT policy in JSON, or the word default."
_POLICIES = {"default": "the built-in one", "own": "your own"}


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
    "--allow-loose-policy",
    is_flag=True,
    help="Deploy the policy even if it lets a device reach what is not its own; each such grant is shown.",
)
def deploy(
    invocation: Invocation, *, stack: str, auth: AuthMode | None, source: str | None, allow_loose_policy: bool
) -> None:
    """Create the backend, or update it to this version."""
    from hsm_enroll.operator import deployment

    if allow_loose_policy and source is None:
        raise click.UsageError("--allow-loose-policy needs --device-policy")
    policy = None if source is None else _device_policy(source)
    terminal = invocation.terminal
    deployed = deployment.deploy(
        stack,
        auth,
        terminal.step,
        lambda line: terminal.say(f"  {line}"),
        policy=policy,
        loose_allowed=allow_loose_policy,
    )
    said = "deployed" if deployed.changed else "already up to date"
    text = f"{_rows(deployed.status, said)}\n\n{_changes(deployed.policy_change)}"
    terminal.result(deployed.to_json(), text, done=f"the stack {stack} is {said}")
    for grant in deployed.status.loose or ():
        terminal.warn(f"loose grant: {grant}")
    for note in deployed.notes:
        terminal.say(f"note: {note}")
    if deployed.status.auth == "open":
        terminal.warn("anyone who knows the API's address can enroll; deploy with --auth invite to require invites")


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
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete(invocation: Invocation, *, stack: str, yes: bool) -> None:
    """Delete the API. The device policy and the ledger are kept: enrolled devices keep working."""
    from hsm_enroll.operator import deployment

    terminal = invocation.terminal
    if not yes:
        if terminal.as_json or not has_person():
            raise UsageError("cannot prompt without a terminal or with --json", hint="Pass --yes to delete the stack.")
        terminal.say("Enrolled devices keep working, and no later deployment can revoke them.")
        if not confirm(f"Delete the stack {stack}?"):
            raise InterruptedRunError(f"the stack {stack} was not deleted", hint="")
    left = deployment.delete(stack, lambda line: terminal.say(f"  {line}"))
    document = {"stack": stack, "deleted": left is not None, "left": left.to_json() if left else None}
    text = _left(stack, left)
    terminal.result(document, text, done=text.partition(";")[0])


def _rows(status: Status, said: str) -> str:
    rows = {
        "Stack": f"{status.stack} in {status.region}, account {status.account_id}: {said}",
        "API": status.outputs.get("ApiUrl"),
        "Auth": status.auth,
        "Policy": _policy(status),
        "Ledger": status.outputs.get("TableName"),
        "Function": status.outputs.get("FunctionName"),
        "Next": _next(status),
    }
    return "\n".join(f"{name:<8} {value}" for name, value in rows.items() if value)


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
    return device_policy.read(_content(Path(source)), source)


def _content(file: Path) -> bytes:
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading a FIFO would wait for a writer
            raise UsageError(f"{file} is not a file", hint=_POLICY_HINT)
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_POLICY_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint=_POLICY_HINT) from error
    except ValueError as error:  # a NUL in its name
        raise UsageError(f"{file} cannot be read: {error}", hint=_POLICY_HINT) from error
    if len(content) > _LARGEST_POLICY_BYTES:
        raise UsageError(f"{file} is larger than {_LARGEST_POLICY_BYTES} bytes", hint=_POLICY_HINT)
    return content


def _changes(change: Change | None) -> str:
    """Return what changes for devices: a paragraph, then one line per resource; "" if nothing does."""
    if change is None or not (change.removed or change.added):
        return ""
    lines = [
        "What devices may do has changed, also for enrolled devices: the policy is",
        "updated in place, and their certificates stay. AWS IoT takes up to 8 minutes.",
        *_grants("gone", change.removed),
        *_grants("new", change.added),
    ]
    if _allows(change.removed, "topic/<thing>/*") and _allows(change.added, "topic/device/<thing>/*"):
        lines += [
            "Topics under <thing>/ are refused from then on; device/<thing>/ takes their",
            "place. Update the programs on your devices that use them.",
        ]
    return "\n".join(lines)


def _grants(word: str, rules: Iterable[Rule]) -> Iterator[str]:
    actions: dict[str, list[str]] = {}
    for rule in rules:
        conditions = [
            f" if {key} {'is' if operator == 'Bool' else operator} {' or '.join(values)}"
            for operator, key, values in rule.condition
        ]
        where = f"on {_place(rule)}{printable(''.join(conditions))}"
        denied = "deny " if rule.effect == "Deny" else ""
        actions.setdefault(where, []).append(denied + printable(rule.action.removeprefix("iot:")))
    for where, names in actions.items():
        yield f"  {word:<4} {', '.join(names)} {where}"


def _allows(rules: Iterable[Rule], place: str) -> bool:
    return any(rule.effect == "Allow" and _place(rule) == place for rule in rules)


def _place(rule: Rule) -> str:
    from hsm_enroll.operator.device_policy import short

    return short(_OF_AN_ACCOUNT.sub("", rule.resource))


def _next(status: Status) -> str:
    option = "" if status.stack == _DEFAULT_STACK else f" --stack {shlex.quote(status.stack)}"
    if status.state is None:
        return f"hsm-enroll backend deploy{option}"
    return f"hsm-enroll invite create --thing NAME{option}" if status.auth == "invite" else ""


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
