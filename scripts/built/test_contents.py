"""What is in the packages, for each format and architecture."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from built.unpacked import Unpacked, elf_machine
from packages import libraries
from tests.support.pages import ROOT

_MODULE = re.compile(r"(?P<name>.+)\.(?P<tag>cpython-(?P<version>\d+)-\w+-linux-gnu|abi3)\.so")
_UNITS = ("hsm-enroll-forward.service", "hsm-enroll-renew.service", "hsm-enroll-renew.timer")


def test_compiled_modules_are_for_its_machine_and_all_pythons(unpacked: Unpacked) -> None:
    """Each module of C or Rust has a file for each version of Python, or one for all, of the package's architecture."""
    found: dict[str, set[str]] = {}
    for file in unpacked.library.rglob("*.so"):
        assert elf_machine(file) == unpacked.machine
        matched = _MODULE.fullmatch(str(file.relative_to(unpacked.library)))
        assert matched is not None, file
        found.setdefault(matched["name"], set()).add(matched["version"] or matched["tag"])
    versions = {python.replace(".", "") for python in libraries.PYTHONS}
    assert {name.rpartition("/")[2] for name in found} >= {"_awscrt", "_cffi_backend", "_pkcs11", "_rust"}
    assert all(tags in (versions, {"abi3"}) for tags in found.values()), found


def test_it_carries_the_versions_that_were_tested(unpacked: Unpacked) -> None:
    """Each Python package has the version of constraints.txt."""
    pins = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    carried = {name: each.version for name, each in unpacked.distributions.items() if name != "hsm-enroll"}
    assert carried == {name: pins[name] for name in carried}


@pytest.mark.parametrize("python", libraries.PYTHONS)
def test_it_carries_all_that_it_needs(unpacked: Unpacked, python: str) -> None:
    """What each Python package requires is there, under each version of Python."""
    carried = unpacked.distributions
    environment: dict[str, str] = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    for each in carried.values():
        for requirement in map(Requirement, each.requires or []):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                name = requirement.name.lower().replace("_", "-")
                assert requirement.specifier.contains(carried[name].version), (each.name, requirement)


def test_it_has_the_units_as_they_are(unpacked: Unpacked) -> None:
    """systemd's units and users are those of hsm_enroll/service/files, in the folders of the distribution."""
    source = ROOT / "hsm_enroll/service/files"
    for unit in _UNITS:
        assert (unpacked.root / "usr/lib/systemd/system" / unit).read_bytes() == (source / unit).read_bytes()
    users = unpacked.root / "usr/lib/sysusers.d/hsm-enroll.conf"
    assert users.read_bytes() == (source / "hsm-enroll.sysusers").read_bytes()
    assert {file.name for file in source.iterdir()} == {*_UNITS, "hsm-enroll.sysusers"}


def test_its_files_are_roots_and_nothing_is_compiled(unpacked: Unpacked) -> None:
    """Files have mode 0644, or 0755 if they are programs; there is no bytecode, and nothing of pip's own."""
    programs = {file for file in unpacked.files() if (unpacked.root / file[1:]).stat().st_mode & 0o111}
    assert programs <= {"/usr/bin/hsm-enroll", "/usr/share/python3/runtime.d/hsm-enroll.rtupdate"}
    assert "/usr/bin/hsm-enroll" in programs
    assert {(unpacked.root / file[1:]).stat().st_mode & 0o777 for file in unpacked.files()} == {0o644, 0o755}
    assert not [file for file in unpacked.files() if file.endswith((".pyc", "/RECORD", "/direct_url.json"))]
    assert not {"bin", "share"} & {entry.name for entry in unpacked.library.iterdir()}
    command = ["dpkg-deb", "-c"] if unpacked.package.suffix == ".deb" else ["rpm", "-qplv", "--nosignature"]
    listed = subprocess.run([*command, str(unpacked.package)], capture_output=True, text=True, check=True).stdout
    assert all(re.search(r"\sroot[ /]+root\s", line) for line in listed.splitlines())


def test_its_man_pages_are_right(unpacked: Unpacked, tmp_path: Path) -> None:
    """man formats each of them without a warning."""
    folder = unpacked.root / "usr/share/man/man1"
    assert len(list(folder.iterdir())) > 30
    for page in folder.iterdir():
        text = tmp_path / page.stem
        text.write_bytes(gzip.decompress(page.read_bytes()))
        command = ["man", "--warnings", "--encoding=UTF-8", "--local-file"]
        formatted = subprocess.run([*command, text], capture_output=True, text=True, check=True)
        assert formatted.stderr == ""
        assert "NAME" in formatted.stdout


def test_its_completions_are_right(unpacked: Unpacked) -> None:
    """bash, zsh and fish find them in the folders of the distribution, and read them without an error."""
    share = unpacked.root / "usr/share"
    zsh = share / "zsh" / ("vendor-completions" if unpacked.package.suffix == ".deb" else "site-functions")
    loaded = {
        "bash": f"source {share}/bash-completion/completions/hsm-enroll; complete -p hsm-enroll",
        "zsh": f"fpath=({zsh} $fpath); autoload compinit; compinit -u -D; autoload +X _hsm-enroll; print $_comps",
        "fish": f"source {share}/fish/vendor_completions.d/hsm-enroll.fish; complete -c hsm-enroll",
    }
    for shell, script in loaded.items():
        options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
        done = subprocess.run([shell, *options, "-c", script], capture_output=True, text=True, check=True)
        assert done.stderr == "", shell
        assert "hsm" in done.stdout, shell


def test_fish_completes_commands(unpacked: Unpacked) -> None:
    """Tab offers what the command itself would accept there."""
    script = unpacked.root / "usr/share/fish/vendor_completions.d/hsm-enroll.fish"
    press_tab = f'source {script}; complete -C "hsm-enroll in"'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["fish", "--no-config", "-c", press_tab]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["init", "invite"]


def test_its_copyright_names_all_that_it_carries(unpacked: Unpacked) -> None:
    """Each Python package is there with its version and its licence, whose text the package has too."""
    text = (unpacked.root / "usr/share/doc/hsm-enroll/copyright").read_text()
    for name, each in unpacked.distributions.items():
        if name == "hsm-enroll":
            continue
        assert re.search(rf"^  {each.name} {re.escape(each.version)}: \S+", text, re.MULTILINE), name


def test_hsm_enroll_knows_that_a_package_installed_it(unpacked: Unpacked) -> None:
    """The metadata say so, and where an extra is missing, pip is not what the command advises."""
    assert (unpacked.distributions["hsm-enroll"].read_text("INSTALLER") or "").strip() == libraries.INSTALLER
    done = subprocess.run(
        ["/usr/bin/python3", "-IS", "-c", _WITHOUT_AN_EXTRA, unpacked.library],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "virtual environment" in done.stdout


_WITHOUT_AN_EXTRA = """\
import sys
sys.dont_write_bytecode = True
sys.path.append(sys.argv[1])
from hsm_enroll.extras import require
from hsm_enroll.errors import UsageError
try:
    require("operator", "no_such_module")
except UsageError as error:
    print(error.hint)
"""
