"""The tests' own way to run a command, a fork of an interpreter that is loaded already, makes no difference."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.devices import Machine

_TIME_LIMIT = 60
# Not among the variables that a fork obeys, and none that a command reads.
_STARTED_ANEW = {"TESTS_OWN": "1"}


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (("status", "--json"), ""),
        (("status", "--verbose"), ""),
        (("no-such-command",), ""),
        (("publish", "a", "-"), "Größe"),
        (("renew", "--help"), ""),
    ],
)
def test_a_forked_command_is_the_same(arguments: tuple[str, ...], stdin: str, tmp_path: Path) -> None:
    """A command that is forked writes and returns what it does in an interpreter of its own."""
    environment = Machine(tmp_path, {}).environment
    forked, started = (
        commands.run(arguments, environment | more, stdin=stdin, time_limit=_TIME_LIMIT) for more in ({}, _STARTED_ANEW)
    )
    assert vars(forked) == vars(started)


def test_a_forked_command_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """After its time limit it is killed, and the next one runs."""
    environment = Machine(tmp_path, {}).environment
    with pytest.raises(subprocess.TimeoutExpired):
        commands.run(["status"], environment, time_limit=0.001)
    assert commands.run(["--version"], environment, time_limit=_TIME_LIMIT).returncode == 0
