"""``hsm-enroll invite``: hand out the right to enroll.

This is the only command that shows codes, and only as its result: on stdout, or in the file of ``--output``.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hsm_enroll.cli import listing
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.listing import Selection, Shape, list_options
from hsm_enroll.cli.operator_client import (
    Target,
    api_options,
    counted,
    minute,
    operator_client,
    require_extra,
    some,
    table_of,
)
from hsm_enroll.errors import InterruptedRunError, UsageError
from hsm_enroll.operator import batch
from hsm_enroll.operator.batch import Batch, MadeInvite, made_invite
from hsm_enroll.operator.invites import DEFAULT_TTL_SECONDS, NewInvite, NewReplacement, check_id, ttl_seconds
from hsm_enroll.operator.records import InviteRecord
from hsm_enroll.store import files

_FILE = click.Path(dir_okay=False, path_type=Path)


def tpm_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--require-tpm``, ``--ek-sha256`` and ``--reuse-tpm``."""
    for option in (
        click.option("--reuse-tpm", is_flag=True, help="The TPM may be another Thing's already."),
        click.option(
            "--ek-sha256",
            metavar="HEX",
            help="The same, only for the TPM whose endorsement key, or its certificate, has this SHA-256.",
        ),
        click.option("--require-tpm", is_flag=True, help="Only for keys that are proven to be in a TPM."),
    ):
        function = option(function)
    return function


@click.group("invite")
def invite() -> None:
    """Create, list and revoke invites: the right to enroll, given to a technician as one URL."""


@command("create", example="hsm-enroll invite create --thing gateway-17 --ttl 7d")
@click.option("--thing", "name", metavar="NAME", help="The Thing's name; if it ends in *, a prefix of names.")
@click.option("--uses", type=int, metavar="COUNT", help="How many Things of a prefix may be enrolled; default 1.")
@click.option("--ttl", metavar="TIME", help="How long it is valid, such as 30m, 24h (default) or 7d.")
@tpm_options
@click.option("--existing-thing", is_flag=True, help="The Thing may exist in AWS IoT already.")
@click.option(
    "--deactivate-existing",
    is_flag=True,
    help="With --existing-thing: the certificates that the Thing had become inactive.",
)
@click.option("--qr", is_flag=True, help="Also draw it as a QR code.")
@click.option("--from", "source", type=_FILE, metavar="CSV", help="A table with one row per invite.")
@click.option("--output", type=_FILE, metavar="FILE", help="File for the table with its invites; default stdout.")
@api_options
def create(
    invocation: Invocation,
    *,
    name: str | None,
    source: Path | None,
    output: Path | None,
    qr: bool,
    target: Target,
    **asked: Any,
) -> None:
    """Create an invite for a Thing, or one for each row of a table.

    The table is CSV with a header: thing and, if needed, uses, ttl, require_tpm, ek_sha256, reuse_tpm, existing_thing,
    deactivate_existing. The output has the additional columns invite, id and expires. Rows that have an invite are left
    alone: to finish a run that stopped, give its output as the input.
    """
    if (name is None) == (source is None):
        raise click.UsageError("give either --thing or --from")
    if source is None:
        if output is not None:
            raise click.UsageError("--output needs --from")
        _create_one(invocation, name or "", target, qr=qr, **asked)
        return
    if qr or any(value is not None and value is not False for value in asked.values()):
        raise click.UsageError("with --from, the table's columns replace these options")
    _create_batch(invocation, source, output, target)


def _create_one(
    invocation: Invocation,
    name: str,
    target: Target,
    *,
    uses: int | None,
    ttl: str | None,
    qr: bool,
    **asked_more: Any,
) -> None:
    seconds = DEFAULT_TTL_SECONDS if ttl is None else ttl_seconds(ttl)
    asked = NewInvite(name, 1 if uses is None else uses, seconds, **asked_more)
    made = create_and_show(invocation, asked, target, qr=qr)
    _warn_of_enrolled(invocation, {name: made.thing_status}, target)


def create_and_show(
    invocation: Invocation, asked: NewInvite | NewReplacement, target: Target, *, qr: bool
) -> MadeInvite:
    """Create one invite and show it: the URL, and if wanted its QR code, or the JSON document."""
    terminal = invocation.terminal
    if qr:
        if terminal.as_json:
            raise click.UsageError("give --qr or --json, not both")
        require_extra("segno")
    client = operator_client(invocation, target)
    if isinstance(asked, NewReplacement):
        created = client.create_replacement(asked)
    else:
        created = client.create_invites([asked])[0]
    made = made_invite(created, client.api_url)
    done = f"invite {made.id} was created"
    if terminal.as_json:
        terminal.result(made.to_json(asked), "", done=done)
        return made
    terminal.data(made.url.reveal() + "\n", done=done)
    if qr:
        _draw(invocation, made)
    number = "1 use" if asked.uses == 1 else f"{asked.uses} uses"
    terminal.say(f"- invite {made.id}: {number}, valid until {made.expires}")
    return made


def _draw(invocation: Invocation, made: MadeInvite) -> None:
    import segno

    code = segno.make_qr(made.url.reveal(), error="l")
    width, columns = code.symbol_size()[0], shutil.get_terminal_size().columns
    if width > columns:
        invocation.terminal.warn(f"not drawing the QR code: it needs {width} columns, and the terminal has {columns}")
        return
    drawing = io.StringIO()
    code.terminal(drawing, compact=True)
    invocation.terminal.drawing(drawing.getvalue())


def _create_batch(invocation: Invocation, source: Path, output: Path | None, target: Target) -> None:
    terminal = invocation.terminal
    if terminal.as_json and output is None:
        raise click.UsageError("with --json, --from needs --output, which keeps the invites of a run that stops")
    table = batch.read(table_of(source))
    keeps = _Keeper(output, source)
    client = operator_client(invocation, target)
    keeps.keep(table)
    total = table.left
    try:
        with terminal.progress("making invites", total) as advance:
            for done in batch.create(table, client.create_invites, client.api_url):
                # This comes first: Ctrl-C may come at any line, and what is not counted as made is discarded below.
                before, table = table, done
                keeps.keep(table)
                advance(before.left - table.left)
    except KeyboardInterrupt as error:
        keeps.keep(table)
        # The general hint would be wrong: the same command would find its own output in the way.
        hint = "Give the output as --from to continue: it has the invites made so far." if table.left < total else None
        raise InterruptedRunError("interrupted", hint=hint) from error
    finally:
        # Also after an error or Ctrl-C: what was made is not lost.
        if output is None:
            terminal.data(table.to_csv(), done=_made(total - table.left))
        if table.left:
            keeps.discard_if(nothing_made=table.left == total)
            terminal.warn(_how_to_go_on(total - table.left, total, output, target.options))
    if terminal.as_json:
        terminal.result(table.to_json(), "")
    elif output is not None:
        terminal.say(f"- {_made(total)}; {output} has {'it' if len(table.rows) == 1 else f'all {len(table.rows):,}'}")
    statuses = {row.requested.thing: row.made.thing_status for row in table.rows if row.made}
    _warn_of_enrolled(invocation, statuses, target)


def _warn_of_enrolled(invocation: Invocation, statuses: dict[str, str | None], target: Target) -> None:
    """Say what else has to be done before an invite for a Thing that is in the ledger can be used."""
    enrolled = [name for name, status in statuses.items() if status in {"claimed", "issued"}]
    if enrolled:
        are = "is" if len(enrolled) == 1 else "are"
        invocation.terminal.warn(
            f"{some(enrolled)} {are} enrolled already, and the API refuses another key. For a new device or a new key: "
            f"hsm-enroll fleet replace {enrolled[0]}{target.options} creates an invite that retires the present key."
        )
    if "revoked" in statuses.values():
        invocation.terminal.say("- a revoked Thing needs a new key: run hsm-enroll init --new-key on the device")


class _Keeper:
    """Keeps a batch in its file, complete at any moment, and readable by its owner only, since it holds codes."""

    def __init__(self, output: Path | None, source: Path) -> None:
        self._output = output
        self._fresh = output is not None and not os.path.lexists(output)
        if output is None or self._fresh or _is_same(output, source):
            return
        raise UsageError(
            f"{output} exists and may hold invites",
            hint="Name another file. To continue a run that stopped, give its output as both --from and --output.",
        )

    def keep(self, table: Batch) -> None:
        if self._output is not None:
            files.write(self._output, table.to_csv)

    def discard_if(self, *, nothing_made: bool) -> None:
        """Remove a file without invites, so that the same command can be run again."""
        if nothing_made and self._fresh and self._output is not None:
            files.remove(self._output)


def _is_same(output: Path, source: Path) -> bool:
    try:
        return output.samefile(source)
    except OSError:
        return False


def _made(number: int) -> str:
    return f"{counted(number, 'invite')} {_were(number)} made"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _how_to_go_on(made: int, total: int, output: Path | None, options: str) -> str:
    told = f"{made:,} of {counted(total, 'invite')} {_were(total)} made"
    if not made:
        return f"{told}; run the same command again"
    if output is None:
        return f"{told} and are in the output; give it as --from to continue"
    file = shlex.quote(str(output))
    return f"{told}; to continue, run: hsm-enroll invite create --from {file} --output {file}{options}"


@command("list", example="hsm-enroll invite list --status open --prefix line3-")
@list_options("open", "used", "expired", "revoked")
@api_options
def list_(invocation: Invocation, *, selection: Selection, target: Target) -> None:
    """List the invites, the newest first, without their codes, which the backend does not have. Times are in UTC."""
    client = operator_client(invocation, target)
    listing.show(invocation.terminal, selection, InviteRecord, client.list_invites, _SHAPE)


def _line(one: InviteRecord) -> str:
    uses = f"{one.uses - one.uses_left}/{one.uses}"
    notes = ["replacement"] if one.replaces_key else []
    notes += ["one TPM"] if one.ek_sha256 else ["needs a TPM"] if one.require_tpm else []
    note = f"  ({', '.join(notes)})" if notes else ""
    return f"{one.id}  {one.status:<7}  {uses:<5}  {minute(one.expires)}  {one.thing}{note}"


_HEADER = f"{'ID':<16}  {'STATUS':<7}  {'USES':<5}  {'EXPIRES (UTC)':<16}  THING"
_SHAPE = Shape("invite", "there are no invites", _HEADER, _line)


@command("revoke", example="hsm-enroll invite revoke 3fb1c94de2a07758")
@click.argument("invite_id", metavar="ID")
@api_options
def revoke(invocation: Invocation, *, invite_id: str, target: Target) -> None:
    """Make an invite invalid; invite list shows its ID. Devices that were enrolled with it stay enrolled."""
    check_id(invite_id)
    operator_client(invocation, target).revoke_invite(invite_id)
    done = f"invite {invite_id} is revoked"
    invocation.terminal.result({"id": invite_id, "revoked": True}, done, done=done)


for _command in (create, list_, revoke):
    invite.add_command(_command)
