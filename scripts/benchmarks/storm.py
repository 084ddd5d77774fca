"""A storm: up to 100,000 gateways are switched on at once, ours against the original article's, in simulated time.

It writes the figures and the plot that ``docs/scale.md`` shows. With the same code they are the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import Figure
from benchmarks.storms import article, ours
from benchmarks.storms.cloud import Outcome
from benchmarks.storms.plot import Curve, plot
from hsm_enroll.backend_api.transport import READ_SECONDS

_DOCS = Path(__file__).parents[2] / "docs"
SIZES = (1_000, 10_000, 100_000)
_LOST = 0.01
_LIMITS = {1_000: 1.5, 10_000: 1.15, 100_000: 1.15}
_MOST_WASTED = 0.001
_HEAD = (
    "| client | gateways | answers | last enrolled / bound | minutes | requests each | AWS IoT calls each | wasted "
    "certificates | of these active |\n|---|---|---|---|---|---|---|---|---|"
)


class Run(NamedTuple):
    """A kind of storm.

    Attributes:
        client: whose gateways and backend.
        answers: what becomes of the API's answers.
        storm: returns the outcome for a number of gateways.
    """

    client: str
    answers: str
    storm: Callable[[int], Outcome]


COLD = Run("hsm-enroll", "all arrive", ours.storm)
LOSSY = Run("hsm-enroll", "1 % lost", partial(ours.storm, lost=_LOST))
SILENT = Run(
    "hsm-enroll",
    f"1 % lost, noticed after {READ_SECONDS:.0f} s",
    partial(ours.storm, lost=_LOST, silence=READ_SECONDS),
)
ARTICLE_COLD = Run("the article's", "all arrive", article.storm)
ARTICLE_LOSSY = Run("the article's", "1 % lost", partial(article.storm, lost=_LOST))
_RUNS = (COLD, LOSSY, SILENT, ARTICLE_COLD, ARTICLE_LOSSY)


def row(run: Run, outcome: Outcome) -> dict[str, str | float]:
    """Return what ``docs/storm.json`` has about an outcome."""
    return {
        "client": run.client,
        "gateways": outcome.gateways,
        "answers": run.answers,
        "lastOverBound": round(outcome.ratio, 2),
        "minutes": round(outcome.enrolled[-1] / 60, 1),
        "requests": round(outcome.requests / outcome.gateways, 1),
        "iotCalls": round(outcome.iot_calls / outcome.gateways, 1),
        "wasted": outcome.wasted,
        "activeWasted": outcome.active_wasted,
    }


def table(rows: list[dict[str, str | float]]) -> str:
    """Return rows as the table in Markdown that ``docs/scale.md`` has."""
    shown = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in each.values()] for each in rows]
    return "\n".join([_HEAD, *(f"| {' | '.join(cells)} |" for cells in shown)])


def measure(*, quick: bool) -> Iterator[Figure]:
    """Run the storms; unless it is a quick run, which leaves the largest ones out, write table and plot to docs."""
    sizes = SIZES[:2] if quick else SIZES
    outcomes = {(run, gateways): run.storm(gateways) for run in _RUNS for gateways in sizes}
    if not quick:
        _write(outcomes)
    for gateways in sizes:
        own, other = outcomes[LOSSY, gateways], outcomes[ARTICLE_LOSSY, gateways]
        storm, limit = f"{gateways:,} gateways enrolled, {LOSSY.answers}", _LIMITS[gateways]
        yield Figure.of(f"storm-{gateways}", storm, "what the quota takes", [own.ratio], at_most=limit)
        last = own.enrolled[-1] / other.enrolled[-1]
        yield Figure.of(f"storm-{gateways}-article", storm, "the article's client and backend", [last])
        name, wasted = f"storm-{gateways}-wasted", [own.wasted / gateways]
        yield Figure.of(name, "wasted certificates", storm, wasted, unit="share", at_most=_MOST_WASTED)
        active = f"active wasted certificates of {gateways:,} gateways"
        yield Figure.of(f"storm-{gateways}-active", active, "", [own.active_wasted], unit="count", at_most=0)


def _write(outcomes: Mapping[tuple[Run, int], Outcome]) -> None:
    rows = [row(run, outcome) for (run, _), outcome in outcomes.items()]
    (_DOCS / "storm.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    curves = [
        Curve(run.client, gateways, [time / outcome.bound for time in outcome.enrolled])
        for (run, gateways), outcome in outcomes.items()
        if run in {LOSSY, ARTICLE_LOSSY}
    ]
    (_DOCS / "storm.svg").write_text(plot(curves), encoding="utf-8")
