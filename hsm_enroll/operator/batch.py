"""Many invites at once: reads a table of Things (CSV, RFC 4180) and writes the same table with its invites.

The output is valid input: rows that already have their invite stay as they are. A batch that stopped half-way is
finished by giving its output as the next input.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hsm_enroll.errors import UsageError
from hsm_enroll.operator.invites import (
    DEFAULT_TTL_SECONDS,
    MOST_IN_A_REQUEST,
    NewInvite,
    NewReplacement,
    fitting,
    ttl_seconds,
)
from hsm_enroll.operator.records import CreatedInvite, instant
from hsm_enroll.secret import Secret

_ASKED = ("thing", "uses", "ttl", "ek_sha256", "existing_thing", "deactivate_existing", "require_tpm", "reuse_tpm")
_MADE = ("invite", "id", "expires")
_FLAGS = {"": False, "false": False, "no": False, "0": False, "true": True, "yes": True, "1": True}
_NUMBER = re.compile(r"[0-9]{1,10}")
_ID = re.compile(r"[0-9a-f]{16}")
_EXPIRES = re.compile(r"[0-9TZ:-]{20}")
_INVITE = re.compile(r"https://[!-~]{1,2000}#[0-9A-Za-z-]{1,64}")

Create = Callable[[Sequence[NewInvite]], list[CreatedInvite]]


@dataclass(frozen=True, slots=True)
class MadeInvite:
    """An invite as it is written to the table, and what its Thing was then; None if it was not in the ledger."""

    url: Secret
    id: str
    expires: str
    thing_status: str | None = None

    def to_json(self, requested: NewInvite | NewReplacement) -> dict[str, Any]:
        """Return the JSON document of ``invite create``: the one place that shows a code."""
        return {
            "invite": self.url.reveal(),
            "thing": requested.thing,
            "uses": requested.uses,
            "expires": self.expires,
            "id": self.id,
            "thingStatus": self.thing_status,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: its cells as written, the invite that they ask for, and that invite once it was made."""

    cells: dict[str, str]
    requested: NewInvite
    made: MadeInvite | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A table of invites.

    Attributes:
        columns: those of the input that describe an invite, in its order.
        rows: in the input's order.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def left(self) -> int:
        """Number of rows without an invite."""
        return sum(row.made is None for row in self.rows)

    def to_csv(self) -> str:
        """Return the table with the columns ``invite``, ``id`` and ``expires``, empty in rows without an invite."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow((*self.columns, *_MADE))
        for row in self.rows:
            made = row.made
            finished = (made.url.reveal(), made.id, made.expires) if made else ("", "", "")
            writer.writerow((*(row.cells[column] for column in self.columns), *finished))
        return out.getvalue()

    def to_json(self) -> list[dict[str, Any]]:
        """Return the JSON documents of the invites that were made."""
        return [row.made.to_json(row.requested) for row in self.rows if row.made]


def made_invite(created: CreatedInvite, api_url: str) -> MadeInvite:
    """Return an invite as it is written to the table."""
    return MadeInvite(created.url(api_url), created.id, instant(created.expires), created.thing_status)


def read(content: bytes) -> Batch:
    """Read a table and check every row of it.

    Args:
        content: CSV in UTF-8, with or without a byte order mark, lines ended by LF or CRLF. Its header has ``thing``,
            and may have ``uses``, ``ttl``, ``ek_sha256``, ``existing_thing``, ``deactivate_existing``, ``require_tpm``,
            ``reuse_tpm``; ``invite``, ``id`` and ``expires`` of an earlier run. An empty cell means the default.

    Raises:
        UsageError: the header or a row is invalid. The message gives the line number and quotes no cell, since a cell
            may hold a code.
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
            if row.requested.thing in seen:
                raise UsageError(f"line {seen[row.requested.thing]} has the same thing", hint="Keep one of the two.")
        except UsageError as error:
            raise UsageError(f"line {lines.line_num}: {error.message}", hint=error.hint) from None
        seen[row.requested.thing] = lines.line_num
        rows.append(row)
    if not rows:
        raise UsageError("the table has no rows", hint="Below the header, write one row per Thing.")
    return Batch(tuple(column for column in header if column not in _MADE), tuple(rows))


def create(batch: Batch, create_invites: Create, api_url: str) -> Iterator[Batch]:
    """Make the missing invites, up to 100 in a request, and yield the batch after each request.

    Raises:
        HsmEnrollError: as ``create_invites``. The last batch that was yielded has all invites made before that.
    """
    left = [place for place, row in enumerate(batch.rows) if row.made is None]
    rows = list(batch.rows)
    while left:
        requested = [rows[place].requested for place in left[:MOST_IN_A_REQUEST]]
        count = fitting(requested)
        places, left = left[:count], left[count:]
        created = create_invites(requested[:count])
        for place, invite in zip(places, created, strict=True):
            rows[place] = replace(rows[place], made=made_invite(invite, api_url))
        yield replace(batch, rows=tuple(rows))


def _next(lines: Any) -> list[str] | None:
    try:
        cells: list[str] | None = next(lines, None)
    except csv.Error:
        raise UsageError(f"line {lines.line_num}: not valid CSV", hint="Save the table as CSV in UTF-8.") from None
    return cells


def _header(cells: list[str] | None) -> tuple[str, ...]:
    names = tuple(cell.strip().lower() for cell in cells or ())
    known = f"The columns are {', '.join(_ASKED)}, separated by commas."
    if "thing" not in names:
        raise UsageError("line 1: the header has no column 'thing'", hint=known)
    if not set(names) <= {*_ASKED, *_MADE}:
        raise UsageError("line 1: the header has an unknown column", hint=known)
    if len(set(names)) < len(names):
        raise UsageError("line 1: the header has the same column twice", hint=known)
    return names


def _row(header: tuple[str, ...], cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise UsageError(f"{len(cells)} cells, but {len(header)} columns", hint="Write an empty cell as ,,.")
    written = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    made = _made(*(Secret(written.pop(name, "")) for name in _MADE))
    uses, ttl = written.get("uses", ""), written.get("ttl", "")
    if uses and not _NUMBER.fullmatch(uses):
        raise UsageError("uses must be a number, 1 or more", hint="An empty cell means 1.")
    requested = NewInvite(
        thing=written["thing"],
        uses=int(uses) if uses else 1,
        ttl_seconds=ttl_seconds(ttl) if ttl else DEFAULT_TTL_SECONDS,
        ek_sha256=written.get("ek_sha256") or None,
        existing_thing=_flag(written, "existing_thing"),
        deactivate_existing=_flag(written, "deactivate_existing"),
        require_tpm=_flag(written, "require_tpm"),
        reuse_tpm=_flag(written, "reuse_tpm"),
    )
    return Row(written, requested, made)


def _flag(written: Mapping[str, str], name: str) -> bool:
    flag = written.get(name, "").lower()
    if flag not in _FLAGS:
        raise UsageError(f"{name} must be true or false", hint="An empty cell means false.")
    return _FLAGS[flag]


def _made(url: Secret, invite_id: Secret, expires: Secret) -> MadeInvite | None:
    if not (url or invite_id or expires):
        return None
    for value, form in ((url, _INVITE), (invite_id, _ID), (expires, _EXPIRES)):
        if not form.fullmatch(value.reveal()):
            raise UsageError(
                "invite, id or expires is not as an earlier run wrote it", hint="Empty all three to get a new invite."
            )
    return MadeInvite(url, invite_id.reveal(), expires.reveal())
