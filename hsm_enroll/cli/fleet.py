"""``hsm-enroll fleet``: the Things that the backend has enrolled."""

from __future__ import annotations

from datetime import datetime

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.operator_client import api_options, minute, operator_client, require_extra
from hsm_enroll.cli.terminal import confirm, has_person
from hsm_enroll.errors import InterruptedRunError, UsageError
from hsm_enroll.operator import records
from hsm_enroll.operator.records import DisabledCertificate, ThingRecord


@click.group("fleet")
def fleet() -> None:
    """List and revoke enrolled Things, and disable certificates that are not in the ledger."""
    require_extra("boto3")


@command("list", example="hsm-enroll fleet list")
@api_options
def list_(invocation: Invocation, *, stack: str | None) -> None:
    """List the Things. Times are in UTC."""
    found = list(operator_client(invocation, stack).list_things())
    # The name comes last and in full, so that it can be copied; 50 characters of it fit into 80 columns.
    lines = [f"{'STATUS':<7}  {'SINCE (UTC)':<16}  THING"]
    lines += [f"{one.status:<7}  {minute(_since(one))}  {one.thing}" for one in found]
    text = "\n".join(lines) if found else "no Thing is enrolled"
    invocation.terminal.result({"things": [records.to_json(one) for one in found]}, text)


@command("show", example="hsm-enroll fleet show gateway-17")
@click.argument("thing_name", metavar="THING")
@api_options
def show(invocation: Invocation, *, thing_name: str, stack: str | None) -> None:
    """Show what the backend knows about a Thing. Times are in UTC."""
    one = operator_client(invocation, stack).show_thing(thing_name)
    rows = {
        "Thing": one.thing,
        "Status": one.status,
        "Certificate": one.certificate_id or "-",
        "SPKI SHA-256": one.spki_sha256,
        "Invite": one.invite_id or "-",
        "Claimed": minute(one.claimed),
        "Enrolled": minute(one.enrolled),
        "Revoked": minute(one.revoked),
    }
    width = max(map(len, rows))
    text = "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
    invocation.terminal.result({"thing": records.to_json(one)}, text)


@command("revoke", example="hsm-enroll fleet revoke gateway-17")
@click.argument("thing_name", metavar="THING")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@api_options
def revoke(invocation: Invocation, *, thing_name: str, yes: bool, stack: str | None) -> None:
    """Make a Thing's certificate inactive for good: it is disconnected within minutes and cannot connect again."""
    if not yes:
        if invocation.terminal.as_json or not has_person():
            raise UsageError("cannot prompt without a terminal or with --json", hint="Pass --yes to revoke the Thing.")
        if not confirm(f"Revoke {thing_name}? It will never connect again with this key."):
            raise InterruptedRunError(f"{thing_name} was not revoked", hint="")
    operator_client(invocation, stack).revoke_thing(thing_name)
    done = f"{thing_name} is revoked"
    invocation.terminal.result({"thing": thing_name, "revoked": True}, done, done=done)


@command("sweep", example="hsm-enroll fleet sweep")
@api_options
def sweep(invocation: Invocation, *, stack: str | None) -> None:
    """Disable the certificates that are not in the ledger; the backend does this itself every hour."""
    checked = foreign = 0
    disabled: list[DisabledCertificate] = []
    client = operator_client(invocation, stack)
    with invocation.terminal.step("sweeping"):
        for report in client.sweep():
            checked += report.checked
            foreign += report.foreign
            disabled += report.disabled
            for one in report.disabled:
                # Shown at once, since a later part may fail.
                invocation.terminal.say(f"- disabled {one.certificate_id}")
    text = f"{checked} certificates checked, {len(disabled)} disabled, {foreign} not of this deployment"
    document = {"checked": checked, "disabled": [records.to_json(one) for one in disabled], "foreign": foreign}
    invocation.terminal.result(document, text, done=text)


def _since(one: ThingRecord) -> datetime:
    return one.revoked or one.enrolled or one.claimed


for _command in (list_, show, revoke, sweep):
    fleet.add_command(_command)
