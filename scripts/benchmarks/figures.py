"""One figure: what was compared with what, the median and the spread, and the limit that the median has to keep."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Unit = Literal["ratio", "share", "ms", "MB", "count"]

_DIGITS = 4
_LIMIT_UNITS: dict[Unit, tuple[int, str]] = {"share": (100, " %"), "ms": (1, " ms"), "MB": (1, " MB")}
_SEPARATORS = re.compile(r"[ _]+")


class Figure(NamedTuple):
    """One figure.

    Attributes:
        name: by which pages and results refer to it; it stays the same.
        what: what was measured.
        peer: what it was divided by; empty if it is no ratio.
        unit: ``ratio`` is ``what`` over ``peer``, ``share`` its part of ``peer``, from 0 to 1.
        median, low, high: of the samples, rounded to four digits.
        samples: how many.
        at_least, at_most: the limits that the median has to keep, if any.
    """

    name: str
    what: str
    peer: str
    unit: Unit
    median: float
    low: float
    high: float
    samples: int
    at_least: float | None = None
    at_most: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        what: str,
        peer: str,
        samples: Sequence[float],
        *,
        unit: Unit = "ratio",
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> Figure:
        """Summarize samples."""
        median, low, high = _rounded(statistics.median(samples)), _rounded(min(samples)), _rounded(max(samples))
        return cls(name, what, peer, unit, median, low, high, len(samples), at_least, at_most)

    @classmethod
    def shares(cls, name: str, whole: str, samples: Sequence[Mapping[str, float]]) -> Iterator[Figure]:
        """Summarize the shares of the parts of a whole; a part that a sample does not have took no time in it.

        Args:
            name: of the whole; each part's is that and its own.
            whole: what was measured.
            samples: the share of each part, by its name.
        """
        for part in dict.fromkeys(name for sample in samples for name in sample):
            values = [sample.get(part, 0.0) for sample in samples]
            yield cls.of(f"{name}-{_SEPARATORS.sub('-', part.lower())}", part, whole, values, unit="share")

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self.at_least is not None or self.at_most is not None

    @property
    def is_met(self) -> bool:
        """Whether the median keeps its limits; it does if there are none."""
        above = self.at_least is None or self.median >= self.at_least
        return above and (self.at_most is None or self.median <= self.at_most)

    @property
    def subject(self) -> str:
        """What was compared with what, in words."""
        return f"{self.what} / {self.peer}" if self.peer else self.what

    @property
    def middle(self) -> str:
        """The median, as it is shown to people."""
        return _shown(self.median, self.unit)

    @property
    def spread(self) -> str:
        """The lowest and the highest sample, as they are shown to people."""
        low, high = _shown(self.low, self.unit), _shown(self.high, self.unit)
        return "" if self.samples == 1 else f"{low.split()[0]} to {high}"

    @property
    def limit(self) -> str:
        """The limits, as they are shown to people."""
        limits = {"≥": self.at_least, "≤": self.at_most}
        factor, unit = _LIMIT_UNITS.get(self.unit, (1, ""))
        return ", ".join(f"{sign} {limit * factor:g}{unit}" for sign, limit in limits.items() if limit is not None)

    @property
    def verdict(self) -> str:
        """Whether the limit is met, in a word; empty where there is none."""
        return ("met" if self.is_met else "MISSED") if self.is_limited else ""

    def document(self) -> dict[str, Any]:
        """Return it as ``bench/results.json`` has it."""
        limits = {"atLeast": self.at_least, "atMost": self.at_most}
        rest = {name: value for name, value in limits.items() if value is not None}
        return {**{name: getattr(self, name) for name in self._fields[:-2]}, **rest}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Figure:
        """Read one of ``bench/results.json``."""
        members = {name: document[name] for name in cls._fields[:-2]}
        return cls(**members, at_least=document.get("atLeast"), at_most=document.get("atMost"))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _shown(value: float, unit: Unit) -> str:
    if unit == "share":
        return f"{value * 100:.{0 if value >= 0.1 or value == 0 else 1}f} %"
    if unit == "count":
        return f"{value:g}"
    digits = 2 if value < 10 else (1 if value < 100 else 0)
    return f"{value:.{digits}f}" + ("" if unit == "ratio" else f" {unit}")
