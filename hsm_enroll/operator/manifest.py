"""A manifest of TPMs: a table (CSV, RFC 4180) that says which chip is which Thing, such as a delivery note.

The chip is named by the SHA-256 of its endorsement key (EK), or of the EK's certificate. What a chip says of itself,
``tpm info --json``, is the manifest of one Thing.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from hsm_enroll.errors import UsageError
from hsm_enroll.operator import fingerprints

_THING, _EK = "thing", "ek_sha256"
_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,64}")  # a certificate's CN, see `invites`
_MOST_IN_A_REQUEST = 100  # with the longest names they take 15.5 of the 16 KiB of a body
_MOST_TOLD = 5  # bad rows, in a message
_NAME_HINT = "A name has 1 to 64 of the characters a-z A-Z 0-9 : _ -."
_INFO_HINT = "Run it on the device; leave --thing out if the file is a table in CSV."
_HINT = f"Nothing was imported. A table needs the columns {_THING} and {_EK}, separated by commas; others are ignored."
_TABLE_OR_INFO = "Nothing was imported. If this is what hsm-enroll tpm info --json printed, add --thing NAME."


@dataclass(frozen=True, slots=True)
class ListedChip:
    """Which Thing the TPM with an EK is.

    Attributes:
        ek_sha256: SHA-256 of the EK's DER SubjectPublicKeyInfo, or of its DER certificate, in lower-case hexadecimal.
    """

    ek_sha256: str
    thing: str


Entries = dict[ListedChip, int | None]
"""The entries of a manifest in its order, each with the number of its line, if it has lines."""


def read(content: bytes) -> Entries:
    """Read a manifest and check every row of it.

    Args:
        content: CSV in UTF-8, with or without a byte order mark, lines ended by LF or CRLF. Its header has ``thing``
            and ``ek_sha256``. A Thing may have several rows, since a TPM usually has several EKs.

    Raises:
        UsageError: the header is invalid, or rows are: the message gives their lines. An EK that comes twice is an
            error, for the same Thing too.
    """
    lines = _lines(content)
    header = [cell.strip().lower() for cell in next(lines, (1, []))[1]]
    for column in (_THING, _EK):
        if header.count(column) != 1:
            hint = _TABLE_OR_INFO if content.lstrip().startswith(b"{") else _HINT
            raise UsageError(f"line 1: the header needs one column {column!r}", hint=hint)
    entries: Entries = {}
    first_lines: dict[str, int] = {}
    mistakes: list[str] = []
    for number, cells in lines:
        try:
            chip = _chip(header, cells)
            if chip.ek_sha256 in first_lines:
                raise UsageError(f"the same EK as line {first_lines[chip.ek_sha256]}")
        except UsageError as error:
            mistakes.append(f"line {number}: {error.message}")
            continue
        first_lines[chip.ek_sha256] = number
        entries[chip] = number
    if mistakes:
        _refuse(mistakes)
    if not entries:
        raise UsageError("the table has no rows", hint="Below the header, write one row per EK.")
    return entries


def read_info(content: bytes, thing: str) -> Entries:
    """Read what ``hsm-enroll tpm info --json`` printed: all EKs of one TPM, which is the named Thing.

    Raises:
        UsageError: the name is invalid, or the content is not such a document.
    """
    if not _NAME.fullmatch(thing):
        raise UsageError("--thing is not a valid Thing name", hint=_NAME_HINT)
    try:
        keys = json.loads(content)["endorsementKeys"]
        chips = [ListedChip(fingerprints.sha256(key["publicSha256"], "publicSha256"), thing) for key in keys]
    except (ValueError, LookupError, TypeError, AttributeError, UsageError) as error:
        raise UsageError("the file is not the output of hsm-enroll tpm info --json", hint=_INFO_HINT) from error
    if not chips:
        raise UsageError("the TPM in this file has no endorsement key", hint=_INFO_HINT)
    return dict.fromkeys(chips)


def parts(chips: Iterable[ListedChip]) -> Iterator[list[ListedChip]]:
    """Divide entries into parts that fit into a request each."""
    left = list(chips)
    for start in range(0, len(left), _MOST_IN_A_REQUEST):
        yield left[start : start + _MOST_IN_A_REQUEST]


def _lines(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, each with its line's number."""
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    except UnicodeDecodeError:
        raise UsageError("the table is not UTF-8", hint="Save it as CSV in UTF-8.") from None
    try:
        for cells in lines:
            if any(cells):
                yield lines.line_num, cells
    except csv.Error:
        raise UsageError(f"line {lines.line_num}: not valid CSV", hint="Save the table as CSV in UTF-8.") from None


def _chip(header: list[str], cells: list[str]) -> ListedChip:
    if len(cells) != len(header):
        raise UsageError(f"{len(cells)} cells, but {len(header)} columns")
    thing, ek = (cells[header.index(column)].strip() for column in (_THING, _EK))
    if not _NAME.fullmatch(thing):
        raise UsageError("thing is not a valid Thing name")
    return ListedChip(fingerprints.sha256(ek, _EK), thing)


def _refuse(mistakes: list[str]) -> NoReturn:
    left = len(mistakes) - _MOST_TOLD
    more = f"; and {left:,} more" if left > 0 else ""
    raise UsageError("; ".join(mistakes[:_MOST_TOLD]) + more, hint=_HINT)
