"""The picture of the figures that have a limit: each ratio with its spread and its limit, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.figures import Figure

_LEFT, _TOP, _WIDTH, _ROW = 410, 84, 400, 22
_LOW, _HIGH = 0.25, 8.0  # of the axis, which is logarithmic
_TICKS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_TITLE = "Speed and memory as ratios to the peer, with their limits"
_KEY = "dot: median; line: lowest to highest; red: beyond the limit; 1 is as fast, or as large, as the peer"
_STYLE = 'font-family="system-ui, \'Segoe UI\', \'DejaVu Sans\', Arial, sans-serif" font-size="13" fill="#1b2733"'
_BEYOND, _INK, _GRID = "#f6d5d0", "#153e6b", "#e3e8ed"


def shown(figures: Sequence[Figure]) -> list[Figure]:
    """Return the figures that the picture shows."""
    return [figure for figure in figures if figure.unit == "ratio" and figure.is_limited]


def chart(figures: Sequence[Figure]) -> str:
    """Return the picture; it has a background of its own, so that it can be read on a dark page too."""
    drawn = shown(figures)
    bottom, height = _TOP + _ROW * len(drawn), _TOP + _ROW * len(drawn) + 40
    size = f'viewBox="0 0 880 {height}" width="880" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {_STYLE}>',
        f"<title>{_TITLE}</title>",
        f"<desc>{escape('. '.join(map(_sentence, drawn)))}.</desc>",
        f'<rect x="1" y="1" width="878" height="{height - 2}" rx="10" fill="#ffffff" stroke="#c3ccd5"/>',
        f'<text x="24" y="34" font-weight="bold">{_TITLE}</text>',
        f'<text x="24" y="56" font-size="12">{_KEY}</text>',
    ]
    parts += [part for index, figure in enumerate(drawn) for part in _beyond(figure, _TOP + _ROW * index)]
    for tick in _TICKS:
        colour = "#40566b" if tick == 1 else _GRID
        parts += [
            f'<path d="M{_x(tick)} {_TOP - 6}V{bottom}" stroke="{colour}"/>',
            f'<text x="{_x(tick)}" y="{bottom + 20}" text-anchor="middle">{tick:g}</text>',
        ]
    parts += [part for index, figure in enumerate(drawn) for part in _row(figure, _TOP + _ROW * index)]
    return "\n".join([*parts, "</svg>\n"])


def _sentence(figure: Figure) -> str:
    return f"{figure.subject}: {figure.middle}, limit {figure.limit}"


def _beyond(figure: Figure, top: int) -> list[str]:
    """Return the part of the row in which the median must not be."""
    ends = (figure.at_most, _HIGH) if figure.at_most is not None else (_LOW, figure.at_least or _LOW)
    begin, end = map(_x, ends)
    width = round(end - begin, 1)
    return [f'<rect x="{begin}" y="{top + 1}" width="{width}" height="{_ROW - 2}" fill="{_BEYOND}"/>']


def _row(figure: Figure, top: int) -> list[str]:
    middle = top + _ROW // 2
    return [
        f'<text x="{_LEFT - 14}" y="{middle + 4}" text-anchor="end" font-size="12">{escape(figure.subject)}</text>',
        f'<path d="M{_x(figure.low)} {middle}H{_x(figure.high)}" stroke="{_INK}" stroke-width="2"/>',
        f'<circle cx="{_x(figure.median)}" cy="{middle}" r="4.5" fill="{_INK}"/>',
        f'<text x="{_LEFT + _WIDTH + 14}" y="{middle + 4}" font-size="12">{figure.middle}</text>',
    ]


def _x(ratio: float) -> float:
    """Return where a ratio stands; one that is beyond the axis stands at its end."""
    share = math.log(min(max(ratio, _LOW), _HIGH) / _LOW) / math.log(_HIGH / _LOW)
    return round(_LEFT + _WIDTH * share, 1)
