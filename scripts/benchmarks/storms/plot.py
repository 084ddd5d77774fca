"""The plot of a storm, as SVG: how many gateways are enrolled by when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_POINTS = 80
_LEFT, _TOP, _WIDTH, _HEIGHT = 70, 60, 620, 300
_END = 3.6  # of the axis of time
_COLOURS = {"hsm-enroll": ("#8db4d9", "#3f7fbf", "#153e6b"), "the article's": ("#e8c39a", "#d08a3c", "#8a4f10")}
_TITLE = "Enrolled gateways, of those that were switched on at once; 1 % of the answers are lost"
_AXIS = "time, as a multiple of what the quota of AWS IoT takes for all of them"
_STYLE = 'font-family="system-ui, \'Segoe UI\', \'DejaVu Sans\', Arial, sans-serif" font-size="13" fill="#1b2733"'


class Curve(NamedTuple):
    """One storm.

    Attributes:
        client: whose gateways.
        gateways: how many.
        times: when each was enrolled, in order, as a multiple of what AWS IoT's quota takes for all.
    """

    client: str
    gateways: int
    times: Sequence[float]


def plot(curves: Sequence[Curve]) -> str:
    """Return the plot of some storms."""
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 430" width="880" height="430" role="img" {_STYLE}>',
        f"<title>{_TITLE}</title>",
        '<rect x="1" y="1" width="878" height="428" rx="10" fill="#ffffff" stroke="#c3ccd5"/>',
        f'<text x="{_LEFT}" y="34" font-weight="bold">{_TITLE}</text>',
    ]
    for percent in range(0, 101, 25):
        y = _y(percent / 100)
        parts += [
            f'<path d="M{_LEFT} {y}H{right}" stroke="#e3e8ed"/>',
            f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{percent} %</text>',
        ]
    parts += [
        f'<text x="{_x(tick / 2)}" y="{bottom + 20}" text-anchor="middle">{tick / 2:g}</text>' for tick in range(8)
    ]
    parts += [
        f'<path d="M{_x(1)} {_TOP}V{bottom}" stroke="#40566b" stroke-dasharray="4 4"/>',
        f'<text x="{_LEFT + _WIDTH / 2}" y="{bottom + 44}" text-anchor="middle">{_AXIS}</text>',
    ]
    drawn = dict.fromkeys(_COLOURS, 0)
    for index, curve in enumerate(curves):
        colour = _COLOURS[curve.client][drawn[curve.client]]
        drawn[curve.client] += 1
        y = _TOP + 16 + 24 * index
        parts += [
            f'<path d="{_path(curve)}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<path d="M{right + 14} {y - 4}h16" stroke="{colour}" stroke-width="3"/>',
            f'<text x="{right + 36}" y="{y}">{curve.client}, {curve.gateways:,}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])


def _path(curve: Curve) -> str:
    last = len(curve.times) - 1
    points = [(curve.times[last * step // _POINTS], step / _POINTS) for step in range(_POINTS + 1)]
    return "M" + "L".join(f"{_x(time)} {_y(part)}" for time, part in points)


def _x(time: float) -> float:
    return round(_LEFT + _WIDTH * time / _END, 1)


def _y(part: float) -> float:
    return round(_TOP + _HEIGHT * (1 - part), 1)
