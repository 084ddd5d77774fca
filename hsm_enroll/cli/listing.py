"""What ``invite list`` and ``fleet list`` share: which entries they show, and in which form."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import click

from hsm_enroll.cli.invocation import Invocation
from hsm_enroll.cli.operator_client import counted, telling
from hsm_enroll.cli.terminal import Terminal
from hsm_enroll.operator import names, records
from hsm_enroll.operator.records import InviteRecord, ThingRecord
from hsm_enroll.operator.tpm_records import EkRecord

Record = TypeVar("Record", InviteRecord, ThingRecord, EkRecord)


class Selection(NamedTuple):
    """Which entries a list shows.

    Attributes:
        status: of the entries; None for all.
        prefix: what their Things' names begin with; None for any.
        limit: at most so many, the newest; None for all.
        as_csv: whether they are shown as CSV.
    """

    status: str | None
    prefix: str | None
    limit: int | None
    as_csv: bool


def list_options(*statuses: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add ``--status``, ``--prefix``, ``--limit`` and ``--csv``; the function is given a ``selection``.

    Args:
        statuses: those that the entries can have; if there are none, there is no ``--status``.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(
            invocation: Invocation,
            *,
            prefix: str | None,
            limit: int | None,
            as_csv: bool,
            status: str | None = None,
            **rest: Any,
        ) -> None:
            if as_csv and invocation.terminal.as_json:
                raise click.UsageError("give --csv or --json, not both")
            if prefix is not None:
                names.check_prefix(prefix)
            function(invocation, selection=Selection(status, prefix, limit, as_csv), **rest)

        for option in (
            click.option("--csv", "as_csv", is_flag=True, help="Print a table in CSV, with all columns."),
            click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the newest N."),
            click.option("--prefix", metavar="TEXT", help="Only those whose Thing's name begins with this."),
        ):
            run = option(run)
        if statuses:
            run = click.option("--status", type=click.Choice(statuses), help="Only those with this status.")(run)
        return run

    return decorate


class Shape(NamedTuple):
    """How one kind of entry is shown to people.

    Attributes:
        what: one entry in words: ``"Thing"``. In lower case, with an s, it is the member of the document.
        nothing: the sentence for an empty list.
        header: of the table.
        line: returns an entry's line of the table.
    """

    what: str
    nothing: str
    header: str
    line: Callable[[Any], str]


def show(
    terminal: Terminal,
    selection: Selection,
    kind: type[Record],
    entries: Callable[[str | None, str | None, int | None], Iterator[Record]],
    shape: Shape,
) -> None:
    """Show a list as it was asked for, then how many entries it has.

    Args:
        terminal: where.
        selection: what was asked for.
        kind: what the entries are.
        entries: yields those with a status and a prefix, the newest first; the third argument is how many are taken.
        shape: how they are shown to people.
    """
    # One more than is shown tells whether there are more.
    wanted = None if selection.limit is None else selection.limit + 1
    coming = islice(entries(selection.status, selection.prefix, wanted), wanted)
    found = list(telling(terminal, coming, lambda _: 1, shape.what))
    shown: list[Record] = found[: selection.limit]
    more = len(found) > len(shown)
    if selection.as_csv:
        terminal.data(_csv(kind, shown))
    else:
        nothing = f"no {shape.what} matches" if selection.status or selection.prefix else shape.nothing
        text = "\n".join([shape.header, *map(shape.line, shown)]) if shown else nothing
        member = f"{shape.what.lower()}s"
        terminal.result({member: [records.to_json(entry) for entry in shown], "more": more}, text)
    if shown:
        number = counted(len(shown), shape.what)
        terminal.say(f"- the newest {number}; there are more" if more else f"- {number}")


def _csv(kind: type[Record], entries: list[Record]) -> str:
    """Return entries as CSV (RFC 4180), lines ended by LF, the header first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(records.columns(kind))
    writer.writerows(map(records.to_row, entries))
    return out.getvalue()
