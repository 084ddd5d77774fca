"""How the help texts are laid out."""

from __future__ import annotations

import pytest

from hsm_enroll.cli.help_text import WholeWords

_NAMES = ("--yes", "--allow-loose-policy", "--existing-things / --no-existing-things")
_DESCRIPTION = "Whether invites may be for Things that were not created here, which CloudFormation deploys."


@pytest.mark.parametrize(("width", "lines"), [(38, 14), (78, 10)])
def test_descriptions_are_readable_on_a_narrow_terminal(width: int, lines: int) -> None:
    """At 40 and at 80 columns no word of a description is broken, and the descriptions have most of the width."""
    formatter = WholeWords(width=width)
    formatter.write_dl([(name, _DESCRIPTION) for name in _NAMES])
    shown = formatter.getvalue()
    words = [word for name in _NAMES for word in (*name.split(), *_DESCRIPTION.split())]
    assert shown.split() == words
    assert shown.count("\n") <= lines
