"""Markdown: docstrings and messages as text of a page, and the parts of a page that are generated."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_LITERAL = re.compile(r"``([^`]+)``")


def prose(docstring: str) -> str:
    """Return a docstring's text, whose literals and references become code."""
    return _LITERAL.sub(r"`\1`", _ROLE.sub(r"`\1`", docstring))


def description(docstring: str) -> list[str]:
    """Return the paragraphs of a docstring before its first section (``Args:``, ``Attributes:`` …), a line each."""
    found = []
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        if re.match(r"\w+:\n", paragraph):
            break
        found.append(" ".join(prose(paragraph).split()))
    return found


def plain(text: str) -> str:
    """Return a message or a hint so that it is shown as it is, but for ``{names}``, which are shown in italics."""
    escaped = re.sub(r"[<*|\[\]]", r"\\\g<0>", text)
    return re.sub(r"\{(\w+)\}", lambda found: f"*{found[1].replace('_', ' ')}*", escaped)


def paragraphs(*texts: str) -> str:
    """Return texts as paragraphs with lines as long as those of the other pages; a table or a mark stays as it is."""
    kept = ("|", "<", "#")
    return "\n\n".join(text if text.startswith(kept) else _filled(text) for text in texts if text)


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" if cells != lines[1] else f"|{'|'.join(cells)}|" for cells in lines)


def replaced(page: str, part: str, text: str) -> str:
    """Return a page with one of its generated parts replaced.

    Raises:
        ValueError: the page does not have the part's two marks, once each and in their order.
    """
    begin, end = f"<!-- generated: {part} -->\n", f"<!-- end of {part} -->\n"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in after:
        raise ValueError(f"the page has not exactly one part {part!r}")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"
