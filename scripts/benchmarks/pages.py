"""The figures on the pages: each stands between two comments, and is filled in from ``bench/results.json``.

``<!-- bench:NAME -->…<!-- /bench -->`` is one figure in the middle of a sentence; ``limits``, ``others``, ``runs`` and
``storm`` are tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import table
from benchmarks.figures import Figure
from benchmarks.results import Results

_PLACE = re.compile(r"(?P<begin><!-- bench:(?P<name>[a-z0-9-]+) -->).*?(?P<end><!-- /bench -->)", re.DOTALL)


def texts(results: Results, storm: str) -> dict[str, str]:
    """Return what can stand on a page, by its name.

    Args:
        results: of the benchmarks.
        storm: the table of the storms.
    """
    figures = results.figures()
    tables = {
        "limits": table.markdown(figure for figure in figures if figure.is_limited),
        "others": table.markdown(figure for figure in figures if not figure.is_limited),
        "runs": "\n".join(_runs(results)),
        "storm": storm,
    }
    return {
        **{figure.name: _inline(figure) for figure in figures},
        **{name: f"\n\n{text}\n\n" for name, text in tables.items()},
    }


def filled(page: str, texts: Mapping[str, str]) -> str:
    """Return a page with the present figures.

    Raises:
        LookupError: it wants a figure that does not exist.
    """
    unknown = {found["name"] for found in _PLACE.finditer(page)} - set(texts)
    if unknown:
        raise LookupError(f"no such figure: {', '.join(sorted(unknown))}. bench/results.json has their names")
    return _PLACE.sub(lambda found: f"{found['begin']}{texts[found['name']]}{found['end']}", page)


def emptied(page: str) -> str:
    """Return a page without its figures."""
    return _PLACE.sub("", page)


def _inline(figure: Figure) -> str:
    return figure.middle + (f" ({figure.spread})" if figure.spread else "")


def _runs(results: Results) -> Iterator[str]:
    """Describe each run: its day and benchmarks, its machine, and the versions of what took part."""
    for name, run in results.runs.items():
        seconds = {of: measured.seconds for of, measured in results.benchmarks.items() if measured.run == name}
        yield from _item(name[:10], run, seconds)


def _item(day: str, run: Mapping[str, Any], seconds: Mapping[str, int]) -> Iterator[str]:
    machine = run["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['memoryGb']} GB"
    system = f"{machine['system']}, Linux {machine['kernel']}, Python {machine['python']}"
    versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
    yield f"- {day}: {', '.join(seconds)}; {sum(seconds.values())} s in all."
    yield f"  Machine: {where}; load average at the beginning {machine['load']:g}. {system}."
    yield f"  Versions: {versions}."
