"""The command line: arguments that are wrong or not text, and standard streams that are full or closed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from hsm_enroll.uri import Pkcs11Uri
from hsm_enroll.version import __version__
from tests.support.devices import Device, Machine
from tests.support.screen import Screen

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


def test_a_stderr_that_nobody_reads_changes_no_status(machine: Machine) -> None:
    """D30: nor does ``2>&1 | head -1``, whose reader has gone when there is more to tell."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        assert _run(machine, "status", stderr=closed).returncode == 3
        assert _run(machine, "tokens", "--verbose", stderr=closed).returncode == 0


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_stdout_is_an_error_on_stderr(machine: Machine, options: tuple[str, ...]) -> None:
    """D30: where stdout is full, stderr says so, with ``--json`` too, and the exit status is its own."""
    with Path("/dev/full").open("wb") as full:
        run = _run(machine, "tokens", *options, stdout=full)
    assert run.returncode == 53
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
        assert _run(machine, "tokens", stdout=full, stderr=full).returncode == 53
        assert _run(machine, "--help", stdout=full, stderr=full).returncode == 53


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("status", "-h"), ("local", "--help")], ids=str)
def test_help_that_stdout_does_not_take_is_the_same_error(machine: Machine, arguments: tuple[str, ...]) -> None:
    """D30: what the library for the command line prints is treated as what the commands print."""
    with Path("/dev/full").open("wb") as full:
        run = _run(machine, *arguments, stdout=full)
    assert run.returncode == 53
    assert run.stderr.decode().startswith("error: standard output cannot be written: No space left on device\n")


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
        (("help",), "Run hsm-enroll --help to see its commands."),
        (("fleet", "help"), "Run hsm-enroll fleet --help to see its commands."),
        (("status", "--jsno"), "'--json'"),
        (("token", "creat"), "No such command 'creat'. Did you mean 'create'?"),
        (("invite", "lst"), "Did you mean 'list'?"),
        (("invite", "create", "--thin", "x"), "No such option '--thin'. Did you mean '--thing'?"),
        (("status", "--subject"), "No such option '--subject'.\n"),
        (("local", "fail"), "Missing option '--next'. Choose from: 503, lost, "),
        (("token", "create", "--label", ""), "error: the token's label is empty\n"),
        (("local", "up", "--auth", "opn"), "'opn' is not one of 'invite', 'open'"),
        (("tokens", "extra"), "Got unexpected extra argument (extra)"),
        (("publish", "x", "-5"), "put -- before all values"),
        (("publish", "x", "--5"), "put -- before all values"),
        (("init", "--api", "http://api.example", "--thing", "a"), "'http://api.example' must be an https:// URL"),
        (("init", "--api", "https://api.example:99999", "--thing", "a"), "'https://api.example:99999' is not a valid"),
        (("init", "--thing", "a b", "--api", "https://x"), "'a b' is not a valid Thing name"),
        (("csr", "--subject", "CN"), "'CN' is not an RFC 4514 name"),
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


@pytest.mark.parametrize("command", [("backend", "deploy"), ("init",), ("token", "create")], ids=str)
def test_help_breaks_no_word(machine: Machine, command: tuple[str, ...]) -> None:
    """No line of a help text ends at a hyphen: the program's name and the options can be copied."""
    text = _run(machine, *command, "--help").stdout.decode()
    assert not [line for line in text.splitlines() if line.endswith("-")]
    assert "hsm-enroll" in text
    assert "\0" not in text


def test_a_value_that_begins_with_a_dash_follows_two(machine: Machine) -> None:
    """What the hint of ``publish x -5`` says is so: behind ``--`` it is a message."""
    assert _run(machine, "publish", "--", "x", "-5").returncode == 3


def test_the_defaults_that_csr_names_are_true(machine: Machine) -> None:
    """``csr --help`` says whose name the subject has where none is given."""
    told = " ".join(_run(machine, "csr", "--help").stdout.decode().split())
    assert "By default the CN is the configured Thing's name, or else the key's label" in told
    assert "and the rest is the configured subject" in told


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, "CN=LABEL"),
        ({"HSM_ENROLL_THING": "gateway-17"}, "CN=gateway-17"),
        ({"HSM_ENROLL_THING": "gateway-17", "HSM_ENROLL_SUBJECT": "O=Example,C=CH"}, "CN=gateway-17,O=Example,C=CH"),
    ],
    ids=["nothing", "thing", "subject"],
)
def test_the_subject_by_default_is_what_csr_says(
    fresh_device: Device, tmp_path: Path, setting: dict[str, str], expected: str
) -> None:
    """Without ``--subject`` the request has the configured name and subject, and the key's label without a name."""
    device = Device(tmp_path / "device", setting)
    device.take_token_of(fresh_device)
    written = device.json("csr")
    label = Pkcs11Uri.parse(written["key"]["uri"]).object or ""
    request = x509.load_pem_x509_csr(written["csr"].encode())
    assert request.subject.rfc4514_string() == expected.replace("LABEL", label)


@pytest.mark.parametrize("group", [(), ("token",), ("backend",), ("invite",), ("fleet",), ("local",)], ids=str)
def test_no_summary_is_cut_off(machine: Machine, group: tuple[str, ...]) -> None:
    """The list of commands has whole sentences, of a terminal's width."""
    told = _run(machine, *group, "--help").stdout.decode()
    _, _, commands = told.partition("\nCommands:\n")
    assert commands
    assert "..." not in commands
    assert "\u2026" not in commands
    assert all(len(line) <= 80 for line in told.splitlines())


def test_help_fits_in_a_narrow_terminal(machine: Machine) -> None:
    """At 40 columns no line of the help is broken by the terminal."""
    for arguments in ((), ("csr",), ("fleet",)):
        with Screen(machine, *arguments, "--help", columns=40) as screen:
            assert screen.end() == 0
        lines = screen.text.splitlines()
        example = [line for line in lines if line.startswith("    hsm-enroll ")]
        assert [line for line in lines if len(line) > 40] in ([], example)


def test_a_report_of_a_fault_names_the_version(machine: Machine, tmp_path: Path) -> None:
    """The version is in what a user is asked to report: verbose errors, ``doctor``, and an unexpected error."""
    named = f"hsm-enroll {__version__}"
    assert (
        _run(machine, "status", "--verbose").stderr.decode().startswith(f"{named}, Python {platform.python_version()}")
    )
    assert _run(machine, "doctor").stderr.decode().startswith(f"{named}, Python {platform.python_version()}")
    assert machine.json("doctor", status=1)["version"] == __version__
    # A module that cannot be imported stands for a fault that nobody foresaw.
    (tmp_path / "asn1crypto.py").write_text("raise ZeroDivisionError")
    machine.extra["PYTHONPATH"] = str(tmp_path)
    machine.home.mkdir()
    (machine.home / "identity.json").write_text("{}")
    error = machine.error("status")
    assert (error["code"], error["message"]) == ("unexpected", f"unexpected error in {named}: ZeroDivisionError")


def test_a_wrong_setting_is_shown_with_its_source(machine: Machine) -> None:
    """The error has the value and where it stands, and the hint is not about options that were not given."""
    machine.extra["HSM_ENROLL_MQTT_PORT"] = "99999"
    error = machine.error("status")
    assert (error["message"], error["hint"]) == (
        "HSM_ENROLL_MQTT_PORT: invalid value '99999'",
        "Correct HSM_ENROLL_MQTT_PORT.",
    )
    machine.extra.clear()
    machine.home.mkdir()
    (machine.home / "config.toml").write_text('tls = "1.1"\n')
    error = machine.error("status")
    assert f"{machine.home / 'config.toml'}: tls: invalid value '1.1'; must be one of 1.2, auto" == error["message"]
    assert error["hint"] == f"Correct {machine.home / 'config.toml'}: tls."
