"""docs/api.md has what programs may use, as the docstrings and signatures have it."""

from __future__ import annotations

from importlib import import_module

import pytest

from generated import reference
from hsm_enroll import errors
from tests.support.pages import page

_PAGE = page(reference.PAGE)


def test_the_page_says_what_the_docstrings_say() -> None:
    """It is up to date; scripts/pages writes it."""
    assert reference.page("") == _PAGE.text


@pytest.mark.parametrize("module", ["hsm_enroll", "hsm_enroll.aio", "hsm_enroll.testing"])
def test_each_name_that_programs_may_use_has_its_section(module: str) -> None:
    """Every name in ``__all__`` is a heading, or for an error a row of the table."""
    listed = {cells[0] for cells in _PAGE.table("class")}
    prefix = module.removeprefix("hsm_enroll").lstrip(".")
    for name in import_module(module).__all__:
        if name in errors.__all__:
            assert any(f"`{name}`" in cell for cell in listed), name
        elif not name.startswith("__"):
            assert f"\n### {f'{prefix}.' if prefix else ''}{name}\n" in _PAGE.text, name


def test_nothing_on_the_page_is_without_words() -> None:
    """Each argument, attribute and error of the tables is described."""
    rows = [line for line in _PAGE.text.splitlines() if line.startswith("|")]
    assert rows
    assert [row for row in rows if "|  |" in row] == []


def test_what_only_the_command_uses_is_not_promised() -> None:
    """No constructor of a class that the library itself makes is shown, and no method for the rest of the program."""
    assert "Connection(keeper" not in _PAGE.text
    assert "Identity.to_members" not in _PAGE.text
