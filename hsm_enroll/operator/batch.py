"""Many invites at once: a table of Things (CSV, RFC 4180) in, the same table with its invites out.

What comes out can go in again: rows that have their invite already are passed on as they are. So a batch that broke off
half-way is finished by giving its output as the next input.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hsm_enroll.errors import UsageError
from hsm_enroll.operator.invites import DEFAULT_TTL_SECONDS, MOST_IN_A_REQUEST, NewInvite, fitting, ttl_seconds
from hsm_enroll.operator.records import CreatedInvite, instant
from hsm_enroll.secret import Secret

_ASKED = ("thing", "uses", "ttl", "ek_sha256", "existing_thing")
_MADE = ("invite", "id", "expires")
_FLAGS = {"": False, "false": False, "no": False, "0": False, "true": True, "yes": True, "1": True}
_NUMBER = re.compile(r"[0-9]{1,10}")
_ID = re.compile(r"[0-9a-f]{16}")
_EXPIRES = re.compile(r"[0-9TZ:-]{20}")
_INVITE = re.compile(r"https://[!-~]{1,2000}#[0-9A-Za-z-]{1,64}")

Create = Callable[[Sequence[NewInvite]], list[CreatedInvite]]


@dataclass(frozen=True, slots=True)
class MadeInvite:
    """A finished invite, as it is written down."""

    url: Secret
    id: str
    expires: str

    def to_json(self, asked: NewInvite) -> dict[str, Any]:
        """Return the contract's document for an invite: the one place that shows a code."""
        return {
            "invite": self.url.reveal(),
            "thing": asked.thing,
            "uses": asked.uses,
            "expires": self.expires,
            "id": self.id,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: its cells as they were written, what they ask for, and the invite once there is one."""

    cells: dict[str, str]
    asked: NewInvite
    made: MadeInvite | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A table of invites.

    Attributes:
        columns: those of the input that ask for something, in its order.
        rows: in the input's order.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def left(self) -> int:
        """How many rows have no invite yet."""
        return sum(row.made is None for row in self.rows)

    def to_csv(self) -> str:
        """Return the table with the columns ``invite``, ``id`` and ``expires``; empty where there is none yet."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow((*self.columns, *_MADE))
        for row in self.rows:
            made = row.made
            finished = (made.url.reveal(), made.id, made.expires) if made else ("", "", "")
            writer.writerow((*(row.cells[column] for column in self.columns), *finished))
        return out.getvalue()

    def to_json(self) -> list[dict[str, Any]]:
        """Return the contract's documents of the invites that there are."""
        return [row.made.to_json(row.asked) for row in self.rows if row.made]


def made_invite(created: CreatedInvite, api_url: str) -> MadeInvite:
    """Return an invite as it is written down."""
    return MadeInvite(created.url(api_url), created.id, instant(created.expires))


def read(content: bytes) -> Batch:
    """Read a table and check all of it.

    Args:
        content: CSV in UTF-8, with or without a byte order mark, lines ended by LF or CRLF. Its header has ``thing``,
            and may have ``uses``, ``ttl``, ``ek_sha256``, ``existing_thing``; ``invite``, ``id`` and ``expires`` of an
            earlier run. An empty cell is the default.

    Raises:
        UsageError: a row or the header breaks a rule; the message has the line's number and repeats no cell, since a
            cell may hold a code.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("the table is not UTF-8", hint="Save it as CSV in UTF-8.") from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = _header(_next(lines))
    rows: list[Row] = []
    seen: dict[str, int] = {}
    while (cells := _next(lines)) is not None:
        if not any(cells):
            continue
        try:
            row = _row(header, cells)
            if row.asked.thing in seen:
                raise UsageError(f"the same thing stands in line {seen[row.asked.thing]}", hint="Keep one of them.")
        except UsageError as error:
            raise UsageError(f"line {lines.line_num}: {error.message}", hint=error.hint) from None
        seen[row.asked.thing] = lines.line_num
        rows.append(row)
    if not rows:
        raise UsageError("the table has no rows", hint="Below the header write one row for each Thing.")
    return Batch(tuple(column for column in header if column not in _MADE), tuple(rows))


def create(batch: Batch, create_invites: Create, api_url: str) -> Iterator[Batch]:
    """Make the invites that are left, up to 100 in a request; after each one, the batch as it then is.

    Raises:
        HsmEnrollError: as ``create_invites``; what was yielded before stays true.
    """
    left = [place for place, row in enumerate(batch.rows) if row.made is None]
    rows = list(batch.rows)
    while left:
        asked = [rows[place].asked for place in left[:MOST_IN_A_REQUEST]]
        count = fitting(asked)
        places, left = left[:count], left[count:]
        created = create_invites(asked[:count])
        for place, invite in zip(places, created, strict=True):
            rows[place] = replace(rows[place], made=made_invite(invite, api_url))
        yield replace(batch, rows=tuple(rows))


def _next(lines: Any) -> list[str] | None:
    try:
        cells: list[str] | None = next(lines, None)
    except csv.Error:
        raise UsageError(f"line {lines.line_num}: this is no CSV", hint="Save the table as CSV, in UTF-8.") from None
    return cells


def _header(cells: list[str] | None) -> tuple[str, ...]:
    names = tuple(cell.strip().lower() for cell in cells or ())
    known = f"Columns, separated by commas: {', '.join(_ASKED)}."
    if "thing" not in names:
        raise UsageError("line 1: the table's header has no column 'thing'", hint=known)
    if not set(names) <= {*_ASKED, *_MADE}:
        raise UsageError("line 1: the table's header has a column that is none of these", hint=known)
    if len(set(names)) < len(names):
        raise UsageError("line 1: the table's header has a column twice", hint=known)
    return names


def _row(header: tuple[str, ...], cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise UsageError(f"it has {len(cells)} cells, the header {len(header)}", hint="Write an empty cell as ,,.")
    written = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    made = _made(*(Secret(written.pop(name, "")) for name in _MADE))
    uses, ttl = written.get("uses", ""), written.get("ttl", "")
    if uses and not _NUMBER.fullmatch(uses):
        raise UsageError("uses is no number from 1 on", hint="An empty cell is 1.")
    flag = written.get("existing_thing", "").lower()
    if flag not in _FLAGS:
        raise UsageError("existing_thing is neither true nor false", hint="An empty cell is false.")
    asked = NewInvite(
        thing=written["thing"],
        uses=int(uses) if uses else 1,
        ttl_seconds=ttl_seconds(ttl) if ttl else DEFAULT_TTL_SECONDS,
        ek_sha256=written.get("ek_sha256") or None,
        existing_thing=_FLAGS[flag],
    )
    return Row(written, asked, made)


def _made(url: Secret, invite_id: Secret, expires: Secret) -> MadeInvite | None:
    if not (url or invite_id or expires):
        return None
    for value, form in ((url, _INVITE), (invite_id, _ID), (expires, _EXPIRES)):
        if not form.fullmatch(value.reveal()):
            raise UsageError(
                "invite, id and expires are not what an earlier run wrote", hint="Empty all three to have a new invite."
            )
    return MadeInvite(url, invite_id.reveal(), expires.reveal())
