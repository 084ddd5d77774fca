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

from hsm_enroll.cli.extras import install_command, require
from hsm_enroll.errors import UsageError
from tests.support.pages import ROOT

_EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
_PIP = [sys.executable, "-m", "pip", "install"]


@pytest.mark.parametrize("extra", ["operator", "local"])
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
    program = "from hsm_enroll.cli.extras import install_command; print(install_command('local'))"
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


def test_a_distributions_package_is_not_pips_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the metadata says that nfpm's package was installed, the hint is a virtual environment."""
    metadata = tmp_path / "hsm_enroll-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hsm-enroll\nVersion: 1\n")
    (metadata / "INSTALLER").write_text("nfpm\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as raised:
        require("local", "no_such_module")
    assert raised.value.hint is not None
    assert "with its extra 'local' in a virtual environment" in raised.value.hint
