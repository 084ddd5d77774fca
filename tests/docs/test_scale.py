"""The storm that ``docs/scale.md`` tells of: its bars, and that the page shows what the simulation says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from tests.support.pages import ROOT, page
from tests.support.stack import template

if TYPE_CHECKING:
    from types import ModuleType

_ROWS: list[dict[str, Any]] = json.loads((ROOT / "docs/storm.json").read_text(encoding="utf-8"))
_PAGE = page("docs/scale.md")
_OURS = [row for row in _ROWS if row["client"] == "hsm-enroll"]
_LONGEST = {1_000: 1.5, 10_000: 1.15, 100_000: 1.15}


@pytest.fixture
def storm() -> Iterator[ModuleType]:
    """``scripts/bench storm``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        from benchmarks import storm

        yield storm


@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize("lost", [0.0, 0.01])
def test_s24_a_thousand_gateways_at_once(storm: ModuleType, lost: float, seed: int) -> None:
    """S24: all are enrolled within 1.5 times what the quota takes, with one certificate each, answers lost or not."""
    outcome = storm.ours.storm(1000, lost, seed=seed)
    assert len(outcome.enrolled) == 1000
    assert outcome.ratio <= 1.5
    assert outcome.wasted <= 1
    assert outcome.active_wasted == 0


def test_the_figures_are_what_the_simulation_says(storm: ModuleType) -> None:
    """docs/storm.json is the output of ``scripts/bench storm`` with this code."""
    runs = (storm.COLD, storm.LOSSY, storm.SILENT, storm.ARTICLE_COLD, storm.ARTICLE_LOSSY)
    assert [row for row in _ROWS if row["gateways"] == 1000] == [storm.row(run, run.storm(1000)) for run in runs]


@pytest.mark.parametrize("row", [row for row in _OURS if "noticed" not in row["answers"]], ids=lambda row: str(row))
def test_every_size_keeps_its_bar(row: dict[str, Any]) -> None:
    """S24: up to 100,000 gateways at once take little longer than the quota, and waste at most 0.1 %, none active."""
    assert row["lastOverBound"] <= _LONGEST[row["gateways"]]
    assert row["wasted"] <= row["gateways"] / 1000
    assert row["activeWasted"] == 0


def test_ours_is_faster_than_the_articles_at_every_size() -> None:
    """The article's client takes longer, and sends more requests, in every storm of the same kind."""
    for ours in _OURS:
        for peer in _ROWS:
            same = (ours["gateways"], ours["answers"]) == (peer["gateways"], peer["answers"])
            if peer["client"] != "hsm-enroll" and same:
                assert ours["lastOverBound"] < peer["lastOverBound"]
                assert ours["requests"] < peer["requests"]


def test_the_page_shows_the_figures(storm: ModuleType) -> None:
    """The table is the one that the bench has printed."""
    assert storm.table(_ROWS) in _PAGE.text
    assert f"{1000 / 15:.0f} seconds for 1,000" in " ".join(_PAGE.text.split())
    assert f"{100_000 / 15 / 60:.0f} minutes for 100,000" in " ".join(_PAGE.text.split())


def test_the_plot_has_a_curve_for_each_storm() -> None:
    """The plot is an image with a line for every client and size, and a legend that names them."""
    image = ElementTree.parse(ROOT / "docs/storm.svg")  # noqa: S314 - our own file
    texts = {element.text for element in image.iter("{http://www.w3.org/2000/svg}text")}
    assert {f"{row['client']}, {row['gateways']:,}" for row in _ROWS} <= texts


def test_the_simulation_is_configured_as_a_deployment_is(storm: ModuleType) -> None:
    """Rate, burst, concurrency and turns are the template's defaults."""
    from benchmarks.storms import cloud

    assert storm.ours is not None
    defaults = {name: parameter.get("Default") for name, parameter in template()["Parameters"].items()}
    assert (defaults["ThrottleRate"], defaults["ThrottleBurst"]) == (cloud.GATEWAY_RATE, cloud.GATEWAY_BURST)
    assert defaults["ReservedConcurrency"] == cloud.CONCURRENCY
    assert defaults["CertificateRate"] == cloud.CERTIFICATE_RATE
