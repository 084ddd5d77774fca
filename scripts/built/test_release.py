"""What scripts/release builds, and what the distributions' own tools find in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from built.unpacked import DEBS, PACKAGES, RPMS
from hsm_enroll.version import __version__
from tests.support.pages import ROOT
from tests.support.releases import Releases, released

_WHEEL, _SDIST = f"hsm_enroll-{__version__}-py3-none-any.whl", f"hsm_enroll-{__version__}.tar.gz"


def test_a_release_is_wheel_sdist_and_packages_with_their_sums(dist: Path) -> None:
    """scripts/release builds all from the commit, the Lambda function's code in the wheel; SHA256SUMS is right."""
    names = sorted([*PACKAGES, _WHEEL, _SDIST])
    assert sorted(entry.name for entry in dist.iterdir()) == sorted([*names, "SHA256SUMS"])
    sums = (dist / "SHA256SUMS").read_text().splitlines()
    assert sums == [f"{hashlib.sha256((dist / name).read_bytes()).hexdigest()}  {name}" for name in names]
    assert "hsm_enroll/_lambda/handler.py" in zipfile.ZipFile(dist / _WHEEL).namelist()


def test_a_release_has_the_same_bytes_wherever_it_is_built(releases: Releases, dist: Path) -> None:
    """Another clone of the commit, with other times and modes of files, and leftovers, gives the same SHA256SUMS."""
    other = releases.clone("other")
    (other / "hsm_enroll/__pycache__").mkdir()
    (other / "hsm_enroll/__pycache__/left.pyc").touch()
    os.utime(other / "hsm_enroll/version.py", (1, 1))
    (other / "hsm_enroll/version.py").chmod(0o600)
    # A file that one's own git does not show.
    (other / ".git/info/exclude").write_text("notes.py\n")
    (other / "hsm_enroll/notes.py").touch()
    before = os.umask(0o077)
    try:
        assert released(other)[0] == 0
    finally:
        os.umask(before)
    assert (other / "dist/SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()


@pytest.mark.parametrize("name", DEBS)
def test_lintian_has_nothing_to_say(dist: Path, name: str) -> None:
    """At its default level, and each override is of something that it would have said."""
    command = ["lintian", "--allow-root", "--fail-on=error,warning", "--display-info", "--tag-display-limit=0"]
    done = subprocess.run([*command, dist / name], capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if line.startswith(("E:", "W:")) or "-override" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("name", RPMS)
def test_rpm_can_read_its_package(dist: Path, name: str) -> None:
    """Its digests are right, and its header has what it is, what it needs, and its scripts."""
    checked = subprocess.run(
        ["rpm", "--checksig", "--nosignature", dist / name], capture_output=True, text=True, check=True
    )
    assert checked.stdout.endswith(" OK\n")
    query = ["rpm", "-qp", "--nosignature", "--queryformat", "%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{LICENSE}\n"]
    shown = subprocess.run([*query, "--requires", "--scripts", dist / name], capture_output=True, text=True, check=True)
    architecture = name.split(".")[-2]
    assert f"hsm-enroll {__version__} 1 {architecture} Apache-2.0" in shown.stdout
    assert "python3 >= 3.11" in shown.stdout
    for script in (ROOT / "packaging/rpm").iterdir():
        assert script.read_text().strip() in shown.stdout


@pytest.mark.parametrize("format_", ["deb", "rpm"])
def test_shellcheck_has_nothing_to_say(format_: str) -> None:
    """About what the packages run when they are installed and removed."""
    scripts = [*(ROOT / "packaging" / format_).iterdir(), ROOT / "packaging/rtupdate"]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
