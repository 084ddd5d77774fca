"""The command line: arguments that are wrong or not text, and standard streams that are full or closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.devices import Machine

_COMMAND = [sys.executable, "-m", "hsm_enroll"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that is not enrolled."""
    return Machine(tmp_path, {})


def _run(machine: Machine, *arguments: str | bytes, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run([*_COMMAND, *arguments], env=machine.environment, timeout=60, check=False, **pipes)


def test_a_full_stderr_changes_no_status(machine: Machine) -> None:
    """D30: where stderr is full, the exit status is the command's own."""
    with Path("/dev/full").open("wb") as full:
        assert _run(machine, "status", stderr=full).returncode == 3
        assert _run(machine, "tokens", stderr=full).returncode == 0


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_stdout_is_an_error_on_stderr(machine: Machine, options: tuple[str, ...]) -> None:
    """D30: where stdout is full, stderr says so, with ``--json`` too, and the exit status is 1."""
    with Path("/dev/full").open("wb") as full:
        run = _run(machine, "tokens", *options, stdout=full)
    assert run.returncode == 1
    assert run.stderr.decode().startswith("error: standard output cannot be written: No space left on device\n")


def test_an_error_that_stdout_does_not_take_is_told_on_stderr(machine: Machine) -> None:
    """D30: with ``--json`` and stdout full, an error is text on stderr, and its exit status stays."""
    with Path("/dev/full").open("wb") as full:
        run = _run(machine, "status", "--json", stdout=full)
    assert (run.returncode, run.stderr.decode().partition(":")[0]) == (3, "error")


def test_all_streams_full(machine: Machine) -> None:
    """D30: with nowhere to say anything, the exit status is still one of the table."""
    with Path("/dev/full").open("wb") as full:
        assert _run(machine, "status", "--json", stdout=full, stderr=full).returncode == 3
        assert _run(machine, "tokens", stdout=full, stderr=full).returncode == 1
        assert _run(machine, "--help", stdout=full, stderr=full).returncode == 1


def test_a_reader_that_has_gone_is_not_told_of(machine: Machine) -> None:
    """D30: ``tokens | head -0`` prints no error and no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        run = _run(machine, "tokens", stdout=closed)
    assert (run.returncode, run.stderr) == (1, b"")


@pytest.mark.parametrize(
    "arguments", [(b"publish", b"x", b"\xff"), (b"init", b"\xff"), (b"\xff",), (b"status", b"\xff")]
)
def test_an_argument_that_is_not_text_is_wrong_usage(machine: Machine, arguments: tuple[bytes, ...]) -> None:
    """Bytes that are not UTF-8 are exit 2 and are not shown: they might have been an invite."""
    run = _run(machine, *arguments)
    expected = f"error: argument {len(arguments)} is not valid text (UTF-8)\n"
    assert (run.returncode, run.stderr.decode().startswith(expected)) == (2, True)
    assert b"xff" not in run.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("stats",), "No such command 'stats'. Did you mean 'status'?"),
        (("statu", "--json"), "Did you mean 'status'?"),
        (("status", "--jsno"), "'--json'"),
        (("token", "creat"), "No such command 'creat'"),
        (("publish", "x", "-5"), "put -- before all values"),
        (("csr", "--key-type", "dsa"), "'dsa'; must be one of ec-p256"),
        (("subscribe", "x", "--count", "0"), "0 is not in the range"),
    ],
    ids=str,
)
def test_a_mistake_is_told_with_what_was_meant(machine: Machine, arguments: tuple[str, ...], expected: str) -> None:
    """A mistyped command or option, and a value that looks like one, get an error that shows the way."""
    run = _run(machine, *arguments)
    assert run.returncode == 2
    assert expected in (run.stdout + run.stderr).decode()


def test_a_value_that_begins_with_a_dash_follows_two(machine: Machine) -> None:
    """What the hint of ``publish x -5`` says is so: behind ``--`` it is a message."""
    assert _run(machine, "publish", "--", "x", "-5").returncode == 3


def test_the_defaults_that_csr_names_are_true(machine: Machine) -> None:
    """``csr --help`` says whose name the subject has where none is given."""
    told = " ".join(_run(machine, "csr", "--help").stdout.decode().split())
    assert "default CN=THING, or the key's label if no Thing is configured" in told
