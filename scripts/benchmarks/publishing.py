"""What a run leaves behind: the results, the picture, and the figures on the pages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import chart, pages, storm
from benchmarks.results import Measured, Results

RESULTS, PICTURE = Path("bench/results.json"), Path("bench/ratios.svg")


def record(root: Path, run: str, told: Mapping[str, Any], measured: Mapping[str, Measured]) -> None:
    """Put what a run has measured into the results; see :meth:`Results.replaced`."""
    (root / RESULTS).parent.mkdir(exist_ok=True)
    Results.load(root / RESULTS).replaced(run, told, measured).save(root / RESULTS)


def publish(root: Path) -> None:
    """Write the picture and the pages anew, where the results say something else than they do."""
    for file, text in published(root):
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def published(root: Path) -> Iterator[tuple[Path, str]]:
    """Return the picture and the pages as they should be: each file, and its text."""
    results = Results.load(root / RESULTS)
    yield root / PICTURE, chart.chart(results.figures())
    rows = json.loads((root / "docs/storm.json").read_text(encoding="utf-8"))
    texts = pages.texts(results, storm.table(rows))
    for page in sorted([*root.glob("*.md"), *root.glob("docs/*.md")]):
        yield page, pages.filled(page.read_text(encoding="utf-8"), texts)
