"""docs/threat-model.md names tests that there are."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.support.pages import ROOT, code, page

_PAGE = page("docs/threat-model.md")
_DEFENCES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in _PAGE.text.splitlines()
    if line.startswith("| ") and "::" in line
]


@cache
def _tests_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", _DEFENCES, ids=lambda row: row[0])
def test_each_defence_names_tests_that_exist(row: list[str]) -> None:
    """Whoever renames or removes a test of a defence learns that the page names it."""
    named = code(row[1])
    assert named
    for name in named:
        file, _, test = name.partition("::")
        assert test in _tests_of(file), name


def test_no_defence_is_without_a_test() -> None:
    """Every row of the tables of defences names one."""
    tables = re.split(r"^\| defence \| tests \|\n\|---\|---\|\n", _PAGE.text, flags=re.MULTILINE)[1:]
    rows = [line for text in tables for line in text.partition("\n\n")[0].splitlines()]
    assert len(rows) == len(_DEFENCES) > 40
