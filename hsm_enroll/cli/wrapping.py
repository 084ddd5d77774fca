"""Wraps text at a terminal's width, between words."""

from __future__ import annotations

import re

_NARROWEST = 20  # columns; below that, lines are left to the terminal
_SHALLOW = 4  # columns; the indent of what would begin beyond the middle
_SHALLOWEST = 2  # columns; the indent of a word for which there is no room below the others
# Where the last column of a row begins: after two blanks or more.
_COLUMN = re.compile(r"\S {2,}(?=\S)")
_PADDING = re.compile(r" {2,}")
# A command: its name, that of a subcommand, options with their values, and placeholders.
_COMMAND = re.compile(
    r"hsm-enroll(?: (?:token|backend|invite|fleet|local))? [a-z]+"
    r"(?: (?:--[a-z0-9-]+(?: '[^']*'| (?!-)\S+)?|@\w+|[A-Z][A-Z0-9-]+\b))*\S*"
)
_KEPT_BLANK = "\0"  # in no text: a blank where a line does not break


def wrapped(text: str, width: int) -> str:
    """Return text with its long lines wrapped; a word that is longer than a line stays whole, so that it can be copied.

    So does a command, unless it is longer than a line. The lines that follow hang: below the last column of a row that
    begins in the first half of the width, or a bit to the right of where a sentence begins.

    Args:
        text: lines, without escape sequences.
        width: the terminal's, in columns.
    """
    if width < _NARROWEST:
        return text
    return "\n".join(line if len(line) <= width else _wrapped_line(line, width) for line in text.split("\n"))


def _wrapped_line(line: str, width: int) -> str:
    import textwrap

    text = line.lstrip(" ")
    start = len(line) - len(text)
    if start > width // 2:
        start = _SHALLOW
    columns = [column for found in _COLUMN.finditer(text) if (column := start + found.end()) <= width // 2]
    if not columns:
        # There is no room for columns, if there are any.
        text = _PADDING.sub("  ", text)
    # A hint is indented already; a sentence that begins at the margin is not.
    hanging = columns[-1] if columns else start or 2
    lines = textwrap.wrap(
        _with_whole_commands(text, width),
        width,
        initial_indent=" " * start,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    whole = "\n".join(line if len(line) <= width else _moved_left(line, width) for line in lines)
    return whole.replace(_KEPT_BLANK, " ")


def _with_whole_commands(text: str, width: int) -> str:
    """Return text with the blanks replaced in each command that fits on a line."""

    def kept(found: re.Match[str]) -> str:
        command = found[0]
        return command.replace(" ", _KEPT_BLANK) if len(command) <= width else command

    return _COMMAND.sub(kept, text)


def _moved_left(line: str, width: int) -> str:
    """Return a line that is one long word with the smallest indent, or none if there is no room for that."""
    word = line.lstrip(" ")
    return " " * _SHALLOWEST + word if len(word) <= width - _SHALLOWEST else word
