"""An optional part that is missing is named with the command that installs it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hsm_enroll.errors import UsageError
from hsm_enroll.extras import hint, install_command, require
from tests.support.pages import ROOT

_EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
_PIP = [sys.executable, "-m", "pip", "install"]


@pytest.mark.parametrize("extra", ["operator", "local", "tpm", "web"])
def test_the_command_installs_the_packages_of_the_extra(extra: str) -> None:
    """Installed from a wheel or a checkout, the command has this Python's pip install what pyproject.toml lists."""
    words = shlex.split(install_command(extra))
    assert words[:4] == _PIP
    assert {str(Requirement(word)) for word in words[4:]} == {str(Requirement(listed)) for listed in _EXTRAS[extra]}


def test_where_nothing_was_installed_the_command_names_the_checkout(tmp_path: Path) -> None:
    """Run from a checkout that is not installed, pip is given the checkout with its extra."""
    click = find_spec("click")
    assert click is not None
    assert click.origin is not None
    (tmp_path / "click").symlink_to(Path(click.origin).parent)
    program = "from hsm_enroll.extras import install_command; print(install_command('local'))"
    run = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    words = shlex.split(run.stdout)
    assert words[1:] == [*_PIP[1:], f"{ROOT}[local]"]


def test_what_is_missing_is_named() -> None:
    """The error says which module is not there, and nothing is said where all are."""
    with pytest.raises(UsageError, match=r"extra 'operator'; not installed: no_such_module$") as raised:
        require("operator", "click", "no_such_module")
    assert raised.value.hint == f"Run: {install_command('operator')}"
    require("operator", "click")


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed was installed by nfpm's package, as the metadata says."""
    metadata = tmp_path / "hsm_enroll-1.dist-info"
    metadata.mkdir()
    requirement = "Requires-Dist: tpm2-pytss>=3; extra == 'tpm'"
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: hsm-enroll\nVersion: 1\n{requirement}\n")
    (metadata / "INSTALLER").write_text("nfpm\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("packaged")
def test_a_distributions_package_is_not_pips_to_change() -> None:
    """Where a distribution's package is installed, the hint is a virtual environment."""
    with pytest.raises(UsageError) as raised:
        require("local", "no_such_module")
    assert raised.value.hint is not None
    assert "with its extra 'local' in a virtual environment" in raised.value.hint


@pytest.mark.usefixtures("packaged")
def test_a_distributions_package_finds_a_tpms_library_beside_it() -> None:
    """tpm2-pytss, which a package cannot contain, is installed for it in the folder that its launcher looks into."""
    words = shlex.split(hint("tpm"))
    assert words[:6] == ["Run:", "python3", "-m", "pip", "install", "--target"]
    assert f'"{words[6]}"' in (ROOT / "packaging/launcher").read_text()
    assert words[7:] == ["--no-deps", "tpm2-pytss>=3", "packaging"]
