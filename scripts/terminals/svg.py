"""What a terminal shows, as an SVG picture that needs nothing from elsewhere, and back."""

from __future__ import annotations

import io
from xml.etree import ElementTree

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME, TerminalTheme
from rich.text import Text

THEMES = {"dark": SVG_EXPORT_THEME, "light": DEFAULT_TERMINAL_THEME}
NO_BREAK_SPACE = "\u00a0"  # which rich writes for every blank

# Rich's own template names fonts on a server.
_TEMPLATE = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def drawn(ansi: str, columns: int, theme: TerminalTheme, name: str) -> str:
    """Return the picture.

    Args:
        ansi: the lines, with escape sequences for the colours.
        columns: the terminal's width.
        theme: the terminal's colours.
        name: what the picture is called; makes its identifiers its own.
    """
    console = Console(
        width=columns,
        record=True,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print(Text.from_ansi(ansi.rstrip("\n")), soft_wrap=True, highlight=False)
    picture = console.export_svg(title="", theme=theme, code_format=_TEMPLATE, unique_id=name)
    return "".join(f"{line.rstrip()}\n" for line in picture.splitlines() if line.strip())


def text(picture: str) -> str:
    """Return the lines that a picture shows."""
    rows: dict[float, list[tuple[float, str]]] = {}
    for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text"):  # noqa: S314 - our own
        row = rows.setdefault(float(element.get("y", "0")), [])
        row.append((float(element.get("x", "0")), (element.text or "").strip("\n")))
    lines = ("".join(part for _, part in sorted(row)) for _, row in sorted(rows.items()))
    return "".join(f"{line.replace(NO_BREAK_SPACE, ' ').rstrip()}\n" for line in lines)
