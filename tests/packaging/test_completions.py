"""The scripts that complete commands in a shell, as click generates them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from packages import completions

# What bash does when Tab is pressed after these words (bash(1), "Programmable Completion").
_PRESS_TAB = """
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_hsm_enroll_completion "$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["in"], ["init", "invite"]),
        (["token", ""], ["create", "prune"]),
        (["init", "--create"], ["--create-token"]),
    ],
)
def test_bash_completes_commands_and_options(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    """Tab offers what the command itself would accept there."""
    script = tmp_path / "hsm-enroll"
    script.write_text(completions.scripts()["bash"])
    command = str(Path(sys.executable).with_name("hsm-enroll"))
    done = subprocess.run(
        ["bash", "-c", _PRESS_TAB, "bash", script, command, *words], capture_output=True, text=True, check=True
    )
    assert (done.stdout.split(), done.stderr) == (expected, "")


def test_zsh_is_offered_commands_with_what_they_do() -> None:
    """What its script asks for, it gets: a type, a value and a description for each, on lines of their own."""
    asked = {"_HSM_ENROLL_COMPLETE": "zsh_complete", "COMP_WORDS": "hsm-enroll in", "COMP_CWORD": "1"}
    assert all(name in completions.scripts()["zsh"] for name in [*asked, "zsh_complete"])
    command = str(Path(sys.executable).with_name("hsm-enroll"))
    done = subprocess.run([command], env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert (lines[::3], lines[1::3], done.stderr) == (["plain"] * 2, ["init", "invite"], "")
    assert all(len(description) > 10 for description in lines[2::3])


def test_there_is_one_for_each_shell() -> None:
    """bash, zsh and fish each have a script that asks the installed command."""
    scripts = completions.scripts()
    assert set(scripts) == {"bash", "zsh", "fish"}
    assert all("_HSM_ENROLL_COMPLETE" in script for script in scripts.values())
