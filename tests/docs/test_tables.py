"""The tables of the pages against the code they describe, both ways."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from pathlib import Path

from hsm_enroll import errors
from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.service import units
from hsm_enroll.settings import Settings
from tests.support.pages import README, REFERENCE, ROOT, Block, code, page

_TROUBLESHOOTING = page("docs/troubleshooting.md")

_NOT_DUE, _TERMINATED = 4, 143
_HELP_ROW = re.compile(r"^  (?P<name>[a-z]+(?:-[a-z]+)*)  +\S", re.MULTILINE)


def _kinds(kind: type[HsmEnrollError] = HsmEnrollError) -> Iterator[type[HsmEnrollError]]:
    yield kind
    for narrower in kind.__subclasses__():
        if narrower.__name__ in errors.__all__:
            yield from _kinds(narrower)


def test_the_exit_codes_are_those_of_the_errors() -> None:
    """Each error has its row, with its code, and each row an error; but for success, renew --check and SIGTERM."""
    documented = {int(status): set(code(codes)) for status, codes, *_ in _TROUBLESHOOTING.table("exit")}
    raised: dict[int, set[str]] = {0: set(), _NOT_DUE: set(), _TERMINATED: set()}
    for kind in _kinds():
        raised.setdefault(kind.exit_status, set()).add(kind.code)
    assert documented == raised


def test_every_failure_says_what_to_do() -> None:
    """No row of the exit codes leaves the reader alone."""
    for status, _, meaning, advice in _TROUBLESHOOTING.table("exit"):
        assert meaning
        assert advice != "-" or status == "0"


def test_a_technician_is_told_what_to_do_about_each_exit_code() -> None:
    """The technician's table has the statuses of the long one, each once."""
    rows = [status for statuses, _ in page("docs/technician.md").table("status") for status in statuses.split(", ")]
    assert sorted(map(int, rows)) == sorted(int(status) for status, *_ in _TROUBLESHOOTING.table("exit"))


def test_a_unit_of_systemd_runs_a_command_with_its_options() -> None:
    """What the units execute is in the command's help."""
    pattern = re.compile(r"^Exec\w+=\S+/hsm-enroll (\w+)(?: (\S+))?$", re.MULTILINE)
    executed = [run for text in map(units.packaged, units.UNITS) for run in pattern.findall(text)]
    assert executed == [("forward", ""), ("renew", "--if-due")]
    for name, option in executed:
        assert f"  {option}" in _help(name)


def test_the_units_of_the_page_have_a_new_identity_used() -> None:
    """A new identity restarts what uses it."""
    _, path, restart = map(_unit, page("docs/technician.md").blocks_of("ini"))
    assert dict(path["Path"]) == {"PathChanged": "/var/lib/hsm-enroll/identity.json"}
    assert dict(restart["Service"]) == {
        "Type": "oneshot",
        "ExecStart": "/usr/bin/systemctl try-restart gateway.service",
    }
    assert path["Install"]["WantedBy"] == "multi-user.target"


def test_the_drop_in_of_the_page_has_metrics_written() -> None:
    """forward may write to the folder of the file that it is told, by an option that it has."""
    drop_in, *_ = map(_unit, page("docs/technician.md").blocks_of("ini"))
    command, option, file = drop_in["Service"]["ExecStart"].rsplit(maxsplit=2)
    assert f"ExecStart={command}\n" in units.packaged(units.FORWARD)
    assert f"  {option} FILE" in _help("forward")
    assert Path(file).parent == Path(drop_in["Service"]["ReadWritePaths"])


def _unit(block: Block) -> ConfigParser:
    unit = ConfigParser(interpolation=None, delimiters="=", strict=False)  # a list is emptied first
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    unit.read_string(block.text)
    return unit


def test_the_variables_are_those_that_the_program_reads() -> None:
    """Each setting has its variable in the table, and the table names no variable that nothing reads."""
    documented = {code(row[0])[0] for row in REFERENCE.table("variable")}
    settings = {f"HSM_ENROLL_{name.upper()}" for name in Settings._fields if name != "state"}
    named = set[str]()
    for source in (ROOT / "hsm_enroll").rglob("*.py"):
        named.update(re.findall(r"\bHSM_ENROLL_[A-Z_]*[A-Z]\b", source.read_text(encoding="utf-8")))
    assert settings <= documented
    assert documented <= settings | named
    assert named <= documented


def test_the_configurations_keys_and_options_are_the_settings() -> None:
    """Beside each variable stands its key of ``config.toml`` and an option that a command really has."""
    helps = "".join(_help(*name.split()) for name in _command_names())
    keys = set()
    for variable, key, options, _ in REFERENCE.table("variable"):
        if key == "-":
            assert options == "-"
            continue
        assert code(key)[0] == code(variable)[0].removeprefix("HSM_ENROLL_").lower()
        keys.add(code(key)[0])
        assert [option for option in code(options) if f"  {option} " not in helps] == []
    assert keys == set(Settings._fields) - {"state"}


def test_the_commands_are_those_of_the_help() -> None:
    """The table lists every command that ``--help`` lists, those of groups by their whole name, and no other."""
    documented = {
        code(row[0])[0].removeprefix("hsm-enroll ").removesuffix(" [INVITE]") for row in REFERENCE.table("command")
    }
    assert documented == _command_names()


def test_each_option_in_the_command_table_is_the_commands_own() -> None:
    """An option that the table mentions with a command stands in that command's help."""
    for row in REFERENCE.table("command"):
        name = code(row[0])[0].removeprefix("hsm-enroll ").removesuffix(" [INVITE]")
        for option in (piece for piece in code(row[1]) if piece.startswith("-")):
            assert f"  {option} " in _help(*name.split())


def test_the_packages_to_install_are_among_those_of_setup() -> None:
    """What the README has a technician install is what ``scripts/setup`` knows, so that the demo proves it enough."""
    (line,) = re.findall(r"^apt-get install ([^./].+)$", README.text, re.MULTILINE)
    (known,) = re.findall(r"^packages=\((.+)\)$", (ROOT / "scripts/setup").read_text(), re.MULTILINE)
    assert set(line.split()) <= set(known.split())


def test_the_extras_are_those_that_can_be_installed() -> None:
    """The table has each extra of the project, but for the one of its developers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    documented = {code(row[0])[0] for row in REFERENCE.table("extra")}
    assert documented == set(project["optional-dependencies"]) - {"dev"}


def _command_names(*group: str) -> set[str]:
    names = set[str]()
    for name in _listed(_help(*group)):
        names |= _command_names(*group, name) or {" ".join((*group, name))}
    return names


def _listed(text: str) -> list[str]:
    _, _, rows = text.partition("\nCommands:\n")
    return [found["name"] for found in _HELP_ROW.finditer(rows)]


@cache
def _help(*names: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "hsm_enroll", *names, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    return run.stdout
