"""Ctrl-C and SIGTERM at any moment of a command: the exit status says so, and nothing else does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.devices import Machine

_TOLD = "\nerror: interrupted\n  Run the same command again: it resumes.\n  See docs/troubleshooting.md#interrupted\n"
_STATUSES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]

# Runs the command in this process, which gets a signal when it imports a module.
_INTERRUPTED = """
import os, sys

module, number = sys.argv[1], int(sys.argv[2])

class Interruption:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Interruption())
sys.argv = ["hsm-enroll", "status", *sys.argv[3:]]
from hsm_enroll.__main__ import main
main()
"""
# The signal comes while a module that the command imports makes a class: the members of an
# enumeration, as other descriptors, have a ``__set_name__``.
_IN_A_CLASS = """
import os, sys

number = int(sys.argv[1])

class Member:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), number)

class Interruption:
    def find_spec(self, name, path=None, target=None):
        if name == "tomllib":
            type("Made", (), {"member": Member()})

sys.meta_path.insert(0, Interruption())
sys.argv = ["hsm-enroll", "status"]
from hsm_enroll.__main__ import main
main()
"""
# Built-in modules are imported without asking the hook: here the signal comes when both handlers have been installed.
_AT_THE_BEGINNING = """
import _signal, os, sys
install, installed, before = _signal.signal, [], {*sys.modules}

def signal(number, handler):
    install(number, handler)
    installed.append(number)
    if len(installed) == 2:
        assert not {"enum", "gc", "typing", "click", "hsm_enroll.cli"} & ({*sys.modules} - before)
        os.kill(os.getpid(), int(sys.argv[1]))

_signal.signal = signal
import hsm_enroll.__main__
"""


def _run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    machine = Machine(folder, {})
    machine.home.mkdir(parents=True)
    (machine.home / "config.toml").touch()
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=machine.environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("number", "status"), _STATUSES)
def test_the_handlers_stand_before_anything_is_imported(tmp_path: Path, number: int, status: int) -> None:
    """D20: from its first line on the command ends without a traceback."""
    run = _run(tmp_path, _AT_THE_BEGINNING, str(int(number)))
    assert (run.returncode, run.stdout, run.stderr) == (status, "", "")


@pytest.mark.parametrize(("number", "status"), _STATUSES)
@pytest.mark.parametrize("module", ["hsm_enroll.token.worker", "click", "hsm_enroll.cli.status", "tomllib"])
def test_a_signal_during_an_import_ends_the_command(tmp_path: Path, module: str, number: int, status: int) -> None:
    """D20: whatever is being imported, before the command runs or while it does, there is no traceback."""
    run = _run(tmp_path, _INTERRUPTED, module, str(int(number)))
    assert (run.returncode, run.stdout) == (status, "")
    assert run.stderr in {"", _TOLD}


@pytest.mark.parametrize(("number", "status"), _STATUSES)
def test_both_signals_say_how_to_go_on(tmp_path: Path, number: int, status: int) -> None:
    """D20: whoever ends a command while it runs, or finds that in a service's log, reads that it can be run again."""
    assert _run(tmp_path / "1", _INTERRUPTED, "tomllib", str(int(number))).stderr == _TOLD
    run = _run(tmp_path / "2", _INTERRUPTED, "tomllib", str(int(number)), "--json")
    error = json.loads(run.stdout)["error"]
    assert (error["code"], error["exitStatus"], run.returncode) == ("interrupted", status, status)


@pytest.mark.parametrize(("number", "status"), _STATUSES)
def test_a_signal_while_a_class_is_made_ends_the_command(tmp_path: Path, number: int, status: int) -> None:
    """D20: where Python wraps whatever a ``__set_name__`` raises, the exit status is the signal's nevertheless."""
    run = _run(tmp_path, _IN_A_CLASS, str(int(number)))
    assert (run.returncode, run.stdout) == (status, "")
    assert run.stderr in {"", _TOLD}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["click", "tomllib"])
def test_a_signal_that_the_caller_ignores_stays_ignored(tmp_path: Path, module: str, number: int) -> None:
    """D20: a shell's job in the background is not ended by Ctrl-C, which is meant for another."""
    ignoring = f"import _signal\n_signal.signal({int(number)}, _signal.SIG_IGN)\n"
    run = _run(tmp_path, ignoring + _INTERRUPTED, module, str(int(number)))
    assert (run.returncode, run.stderr.partition(":")[0]) == (3, "error")
