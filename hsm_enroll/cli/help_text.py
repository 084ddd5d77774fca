"""Lays out the help texts."""

from __future__ import annotations

from collections.abc import Iterable

import click

_HYPHEN = "\0"  # in no text: a hyphen where a line does not break
_NARROWEST_NAMES, _WIDEST_DESCRIPTIONS = 8, 45  # columns; a terminal of 80 has room for more


class WholeWords(click.HelpFormatter):
    """Click's layout, but without line breaks within ``hsm-enroll`` and the names of options."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write a usage line."""
        super().write_usage(_whole(prog), _whole(args), prefix)

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        super().write_text(_whole(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write a list of names and their descriptions; on a narrow terminal, long names get a line of their own."""
        col_max = min(col_max, max(_NARROWEST_NAMES, self.width - _WIDEST_DESCRIPTIONS))
        super().write_dl([(_whole(name), _whole(text)) for name, text in rows], col_max, col_spacing)

    def write(self, string: str) -> None:
        """Write text that is laid out already."""
        super().write(string.replace(_HYPHEN, "-"))


def _whole(text: str) -> str:
    return text.replace("-", _HYPHEN)
