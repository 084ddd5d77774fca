"""Names of Things, given on the command line or in a file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

from hsm_enroll.errors import UsageError

_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
_COLUMN = "thing"
_NAME_HINT = "A name has 1 to 128 of the characters a-z A-Z 0-9 : _ -."


def checked(names: Iterable[str]) -> list[str]:
    """Return names, each once, in their order. Does *not* check that the Things exist.

    Raises:
        UsageError: one is not a valid name of a Thing.
    """
    unique = list(dict.fromkeys(names))
    for name in unique:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a valid Thing name", hint=_NAME_HINT, reason="thing-name")
    return unique


def check_prefix(text: str) -> None:
    """Check that names of Things can begin with a text.

    Raises:
        UsageError: they cannot.
    """
    if not _NAME.fullmatch(text):
        raise UsageError(
            f"no Thing name begins with {text!r}", hint=f"{_NAME_HINT} Leave a * at the end out.", reason="prefix"
        )


def read(content: bytes) -> list[str]:
    """Read the names in a file: one per line, or the column ``thing`` of a table in CSV (RFC 4180) with a header.

    Args:
        content: UTF-8, with or without a byte order mark; empty lines are skipped.

    Raises:
        UsageError: it has no names, or is not such a file. The message quotes no cell, since a cell may hold a code.
    """
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = [[cell.strip() for cell in row] for row in lines if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable("the file is neither lines of names nor CSV in UTF-8", _NAME_HINT) from error
    header = [cell.lower() for cell in rows[0]] if rows else []
    column = header.index(_COLUMN) if _COLUMN in header else None
    if column is None and any(len(row) != 1 for row in rows):
        raise _unreadable(f"the table has no column {_COLUMN!r}", "Its first line has the columns' names.")
    if column is None:
        names = [name for (name,) in rows]
    elif any(len(row) != len(header) for row in rows):
        raise _unreadable("a row has more or fewer cells than the table's header", "Write an empty cell as ,,.")
    else:
        names = [row[column] for row in rows[1:]]
    if not names:
        raise _unreadable("the file has no names", "Write one name per line.")
    return names


def _unreadable(message: str, hint: str) -> UsageError:
    return UsageError(message, hint=hint, reason="names")
