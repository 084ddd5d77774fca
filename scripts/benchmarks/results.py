"""``bench/results.json``: what the last measurement of each benchmark said, on which machine, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.figures import Figure


class Measured(NamedTuple):
    """What a benchmark has measured.

    Attributes:
        run: the run of ``scripts/bench``: the instant of its begin, as in RFC 3339.
        seconds: how long the benchmark took.
        figures: in the order in which they are shown.
    """

    run: str
    seconds: int
    figures: tuple[Figure, ...]


class Results(NamedTuple):
    """All figures.

    Attributes:
        runs: machine and versions of each run.
        benchmarks: the last measurement of each benchmark.
    """

    runs: dict[str, dict[str, Any]]
    benchmarks: dict[str, Measured]

    @classmethod
    def load(cls, file: Path) -> Results:
        """Read the file; there are no results where there is none."""
        if not file.exists():
            return cls({}, {})
        document = json.loads(file.read_text(encoding="utf-8"))
        benchmarks = {
            name: Measured(entry["run"], entry["seconds"], tuple(map(Figure.from_document, entry["figures"])))
            for name, entry in document["benchmarks"].items()
        }
        return cls(document["runs"], benchmarks)

    def save(self, file: Path) -> None:
        """Write the file."""
        benchmarks = {
            name: {**measured._asdict(), "figures": [figure.document() for figure in measured.figures]}
            for name, measured in self.benchmarks.items()
        }
        document = {"runs": self.runs, "benchmarks": benchmarks}
        file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def replaced(self, run: str, told: Mapping[str, Any], benchmarks: Mapping[str, Measured]) -> Results:
        """Return these results with those of a run in place of what its benchmarks had before.

        Args:
            run: the instant of its begin.
            told: machine and versions.
            benchmarks: what it has measured.
        """
        kept = {**self.benchmarks, **benchmarks}
        runs, used = {**self.runs, run: dict(told)}, {measured.run for measured in kept.values()}
        return Results({name: runs[name] for name in sorted(used)}, {name: kept[name] for name in sorted(kept)})

    def figures(self) -> list[Figure]:
        """Return the figures of all benchmarks."""
        return [figure for measured in self.benchmarks.values() for figure in measured.figures]
