"""packaging/nfpm.yaml and the scripts that the packages run, as far as they can be looked at without building."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from packages import libraries
from tests.support.pages import ROOT, code, page

_PACKAGING = ROOT / "packaging"
_DESCRIPTION: dict[str, Any] = yaml.safe_load((_PACKAGING / "nfpm.yaml").read_text())
_SCRIPTS = sorted(
    file for file in _PACKAGING.rglob("*") if file.is_file() and file.read_bytes().startswith(b"#!/bin/sh")
)


def test_every_script_of_the_description_is_there() -> None:
    """What runs when a package is installed and removed is one of the scripts that are checked here."""
    named = {_PACKAGING / script for each in _DESCRIPTION["overrides"].values() for script in each["scripts"].values()}
    assert named == {file for file in _SCRIPTS if file.parent != _PACKAGING}
    assert {path.parent.name for path in named} == {"deb", "rpm"}


@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda script: str(script.relative_to(_PACKAGING)))
def test_a_script_is_one_that_sh_can_read(script: Path) -> None:
    """Its syntax is POSIX's, as Debian's sh has it."""
    subprocess.run(["sh", "-n", script], check=True)


def test_the_packages_run_on_the_pythons_that_they_have_modules_for() -> None:
    """Both formats ask for the oldest of them or newer, and for less than the one after the newest."""
    oldest, newest = libraries.PYTHONS[0], libraries.PYTHONS[-1]
    major, minor = newest.split(".")
    after = f"{major}.{int(minor) + 1}"
    deb, rpm = (_DESCRIPTION["overrides"][name]["depends"] for name in ("deb", "rpm"))
    assert {f"python3 (>= {oldest}~)", f"python3 (<< {after}~)"} <= set(deb)
    assert {f"python3 >= {oldest}", f"python3 < {after}"} <= set(rpm)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={oldest}"


def test_what_other_programs_need_for_the_key_is_suggested() -> None:
    """Whoever installs the Debian package is told of what docs/integrator.md wants for export and run."""
    _, _, section = page("docs/integrator.md").text.partition("\n## Other programs\n")
    named = re.findall(r"Debian's\s+packages?\s+(`[^)]*?)\)", section.partition("\n## ")[0])
    packages = {name for text in named for name in code(text)}
    assert "stunnel4" in packages
    assert packages <= set(_DESCRIPTION["overrides"]["deb"]["suggests"])


def test_the_launcher_is_isolated() -> None:
    """It is run by the system's own Python, which is told to ignore variables, and packages of others (-I, -S)."""
    assert (_PACKAGING / "launcher").read_text().startswith("#!/usr/bin/python3 -IS\n")
