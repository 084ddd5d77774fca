"""``scripts/bench`` says which limits are met, and fails if one is missed."""

from __future__ import annotations

import runpy
import sys
from types import ModuleType

import pytest

from tests.support.pages import ROOT


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What shows the figures, none of which has missed its limit so far."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    from benchmarks import measuring

    monkeypatch.setattr(measuring, "missed", [])
    return measuring


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({}, ""),
        ({"at_least": 2.0}, "   at least 2: met"),
        ({"at_least": 2.01}, "   at least 2.01: MISSED"),
        ({"at_most": 2.0}, "   at most 2: met"),
        ({"at_most": 1.99}, "   at most 1.99: MISSED"),
    ],
)
def test_a_figure_is_shown_with_its_limit(
    measuring: ModuleType, capsys: pytest.CaptureFixture[str], limits: dict[str, float], verdict: str
) -> None:
    """The median counts: a line says whether it keeps its limit, and what does not is noted."""
    measuring.show("speed", [9.0, 2.0, 1.0], **limits)
    assert capsys.readouterr().out == f"{'speed':<60} median 2.00   1.00 to 9.00   3 runs{verdict}\n"
    assert measuring.missed == (["speed"] if "MISSED" in verdict else [])


@pytest.mark.parametrize("arguments", [["tpm"], ["soak", "1"]])
@pytest.mark.parametrize(("figure", "status"), [(1.0, 0), (1.1, 1)])
def test_the_bench_fails_if_a_limit_is_missed(
    measuring: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    figure: float,
    status: int,
) -> None:
    """Exit 1, with the names of the figures at the end; exit 0 if all limits are met."""
    benchmark = ModuleType(f"benchmarks.{arguments[0]}")
    benchmark.__dict__["measure"] = lambda *_: measuring.show("memory", [figure], at_most=1.0)
    monkeypatch.setitem(sys.modules, benchmark.__name__, benchmark)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "scripts/bench"), run_name="__main__")
    assert caught.value.code == status
    assert capsys.readouterr().err == ("missed its limit: memory\n" if status else "")


def test_every_limit_is_judged() -> None:
    """No benchmark only writes its limit into the name of a figure."""
    for file in (ROOT / "scripts/benchmarks").glob("*.py"):
        for line in file.read_text(encoding="utf-8").splitlines():
            assert not any(words in line for words in (", at most", ", at least", ", below")) or "def " in line, line
