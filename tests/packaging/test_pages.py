"""The man pages that the packages have, from the commands' own help."""

from __future__ import annotations

import re

import click
import pytest

from hsm_enroll.cli import app
from hsm_enroll.cli.invocation import command
from packages import pages
from tests.support.pages import REFERENCE, code, page

_2026 = 1_767_225_600
_TROUBLESHOOTING = page("docs/troubleshooting.md")
_PAGES = pages.all_pages(REFERENCE.text, _TROUBLESHOOTING.text, _2026)


def _paths(group: click.Group, path: tuple[str, ...] = ("hsm-enroll",)) -> list[tuple[str, ...]]:
    """Return the names that lead to each command."""
    context = click.Context(group)
    found = [path]
    for name in group.list_commands(context):
        below = group.get_command(context, name)
        assert below is not None
        found += _paths(below, (*path, name)) if isinstance(below, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", _paths(app), ids="-".join)
def test_each_command_has_its_page(path: tuple[str, ...]) -> None:
    """The page is called like the command with dashes, names it in its synopsis, and leads to the page above."""
    page = _PAGES["-".join(path)]
    assert page.startswith(f'.TH "{"-".join(path).upper()}" "1" "2026-01-01" ')
    assert f".B {' '.join(path)}\n".replace("-", r"\-") in page
    if len(path) > 1:
        assert page.endswith(rf"\fB{'-'.join(path[:-1])}\fP(1)".replace("-", r"\-") + "\n")


def test_there_is_no_page_of_anything_else() -> None:
    """Each page is of a command that exists."""
    assert set(_PAGES) == {"-".join(path) for path in _paths(app)}


def test_a_page_has_what_the_help_has() -> None:
    """Description, each option with its argument, and the example: all with hyphens that can be copied."""
    page = _PAGES["hsm-enroll-init"]
    assert "INVITE is the URL that the operator gave you;" in page
    assert "\\fB\\-\\-wait\\fP DURATION\nHow long to go on" in page
    assert ".SH EXAMPLE\n.nf\nhsm\\-enroll init @invite\n.fi\n" in page


def test_the_commands_own_page_has_the_tables_of_the_guides() -> None:
    """Each exit status and each variable is there, without the marks of Markdown."""
    page = _PAGES["hsm-enroll"]
    for first, *_ in [*_TROUBLESHOOTING.table("exit"), *REFERENCE.table("variable")]:
        name = (code(first) or [first])[0]
        assert f"\n.TP\n\\fB{name}\\fP\n" in page
    assert "`" not in page
    assert "](" not in page


def test_a_line_of_text_is_no_request_to_roff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backslashes are shown, and a line that begins with a dot or a quote is text (groff(7))."""

    @command("odd", example="odd C:\\new")
    def odd() -> None:
        r"""Show something odd.

        .TH is what a page begins with; \fB is bold.

        'so' it is.
        """

    group = click.Group(commands={"odd": odd})
    monkeypatch.setattr(pages, "app", group)
    page = pages.all_pages(REFERENCE.text, _TROUBLESHOOTING.text, _2026)["hsm-enroll-odd"]
    assert "\n\\&.TH is what a page begins with; \\efB is bold.\n.PP\n\\&'so' it is.\n" in page
    assert "odd C:\\enew" in page
    assert len(re.findall(r"^\.TH ", page, re.MULTILINE)) == 1
