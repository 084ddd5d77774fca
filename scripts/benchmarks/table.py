"""The table of figures: on a terminal of 80 columns, and on a page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.figures import Figure

_HEAD = ("figure", "median", "spread", "limit", "")
_WIDTHS = (35, 8, 17, 9, 6)


def head() -> str:
    """Return the first lines of the terminal's table."""
    return f"{_line(_HEAD)}\n{_line(['-' * width for width in _WIDTHS])}"


def row(figure: Figure) -> str:
    """Return a figure's lines in the terminal's table; a share stands below its whole."""
    subject = f"  of it, {figure.what}" if figure.unit == "share" else figure.subject
    first, *others = textwrap.wrap(subject, _WIDTHS[0], subsequent_indent="  ")
    cells = (first, figure.middle, figure.spread, figure.limit, figure.verdict)
    return "\n".join([_line(cells), *others])


def _line(cells: Sequence[str]) -> str:
    """Return a line of the table; numbers stand at the right of their columns."""
    aligned = [f"{cells[0]:<{_WIDTHS[0]}}", f"{cells[1]:>{_WIDTHS[1]}}", f"{cells[2]:>{_WIDTHS[2]}}"]
    return " ".join([*aligned, f"{cells[3]:<{_WIDTHS[3]}}", cells[4]]).rstrip()


def markdown(figures: Iterable[Figure]) -> str:
    """Return figures as a table in Markdown."""
    rows = [("what", "compared with", "median", "spread", "samples", "limit", "met"), ("---",) * 7, *_rows(figures)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _rows(figures: Iterable[Figure]) -> Iterator[tuple[str, ...]]:
    for figure in figures:
        verdict = {"met": "yes", "MISSED": "**no**", "": ""}[figure.verdict]
        subject = (figure.what, figure.peer or "-", figure.middle, figure.spread or "-")
        yield (*subject, str(figure.samples), figure.limit or "-", verdict or "-")
