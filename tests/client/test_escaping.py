"""Text that others wrote is shown without what could steer a terminal."""

from __future__ import annotations

import pytest

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.cli.terminal import visible
from hsm_enroll.escaping import escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\x00\x7f\x9b", r"a\r\x00\x7f\x9b"),
        ("gateway\u202etxt", r"gateway\u202etxt"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("Zürich 网关 😀 ~", "Zürich 网关 😀 ~"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    """Controls, marks that reverse the direction, line separators and half characters are escaped, letters are not."""
    assert escaped(text) == shown
    assert escaped(text).isprintable()
    assert visible(text) == printable(text) == shown


def test_a_layout_is_kept_where_there_is_one() -> None:
    """Line ends and tabs of a result, and the blanks of other languages, stay; in a message of one line they do not."""
    text = "a\n\tb\u00a0%\u3000c"
    assert visible(text) == text
    assert printable(text) == r"a\n\tb\xa0%\u3000c"


def test_a_quotation_is_short() -> None:
    """A message quotes at most 300 characters."""
    assert printable("x" * 1000) == "x" * 300
