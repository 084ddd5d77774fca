"""When scripts/test-package runs its tests: it is run with a pytest that only writes down that it was called.

And that CI runs it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.pages import ROOT
from tests.support.releases import commit, git

_STUBS = {
    "scripts/setup": "exit 0",
    ".venv/bin/python": """[ "$1" != -m ] || { echo "$*" >>"$HOME/calls"; exit "$(cat "$HOME/status")"; }""",
    "bin/id": "echo 0",
}
_SOURCES = (
    "hsm_enroll/service/files/a.service",
    "lambda/a.py",
    "packaging/deb/postrm",
    "scripts/booted/a.py",
    "docs/a.md",
    "tests/support/a.py",
    "conftest.py",
    "constraints.txt",
    "pyproject.toml",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "README.ja.md",
)
_UNCHANGED = "test-package: passed before with the same sources\n"


class _Checkout:
    """A repository with the script, a source, and stubs of what it calls."""

    def __init__(self, home: Path) -> None:
        self._home, self._folder = home, home / "checkout"
        self.cache = home / "cache/hsm-enroll/test-package"
        for name, text in _STUBS.items():
            stub = self._folder / name
            stub.parent.mkdir(parents=True, exist_ok=True)
            stub.write_text(f"#!/bin/sh\n{text}\n")
            stub.chmod(0o755)
        shutil.copy(ROOT / "scripts/test-package", self._folder / "scripts")
        self.change("a source")
        self.let_tests_exit_with(0)
        git(home, "init", "--quiet", str(self._folder))
        commit(self._folder)

    def change(self, text: str, source: str = "hsm_enroll/a.py") -> None:
        """Change a source."""
        file = self._folder / source
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def let_tests_exit_with(self, status: int) -> None:
        """Say with which status pytest ends from now on."""
        (self._home / "status").write_text(str(status))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        environment = {
            **os.environ,
            "HOME": str(self._home),
            "XDG_CACHE_HOME": str(self._home / "cache"),
            "PATH": f"{self._folder}/bin:{os.environ['PATH']}",
        }
        command = [str(self._folder / "scripts/test-package"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def calls(self) -> list[str]:
        """Return the command lines of pytest since the last time."""
        file = self._home / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> _Checkout:
    """A checkout."""
    return _Checkout(tmp_path)


def test_sources_that_have_passed_are_not_tested_again(checkout: _Checkout) -> None:
    """With --if-changed it says so and does nothing, until a source changes; without, it tests them all the same."""
    assert checkout.run("--if-changed").returncode == 0
    assert len(checkout.calls()) == 1
    again = checkout.run("--if-changed")
    assert (again.returncode, again.stdout, checkout.calls()) == (0, _UNCHANGED, [])
    assert checkout.run().returncode == 0
    assert len(checkout.calls()) == 1
    checkout.change("another")
    assert checkout.run("--if-changed").returncode == 0
    assert len(checkout.calls()) == 1


def test_all_that_goes_into_a_package_or_its_test_is_a_source(checkout: _Checkout) -> None:
    """Whichever of them is new or changed, it is tested again; what is in neither does not count."""
    assert checkout.run("--if-changed").returncode == 0
    for source in _SOURCES:
        checkout.calls()
        checkout.change("another", source)
        assert checkout.run("--if-changed").returncode == 0
        assert len(checkout.calls()) == 1, source
    checkout.change("another", "tests/client/test_a.py")
    assert checkout.run("--if-changed").stdout == _UNCHANGED


@pytest.mark.parametrize(("arguments", "status"), [((), 1), (("-k", "life"), 0)])
def test_only_a_whole_run_that_passes_counts(checkout: _Checkout, arguments: tuple[str, ...], status: int) -> None:
    """A run that fails, and says so by its exit status, and one of some tests, do not count as passed."""
    checkout.let_tests_exit_with(status)
    assert checkout.run(*arguments).returncode == status
    assert checkout.calls()[0].endswith(" ".join(arguments))
    checkout.let_tests_exit_with(0)
    assert checkout.run("--if-changed").stdout == ""
    assert len(checkout.calls()) == 1


@pytest.mark.parametrize(("status", "called"), [(0, ["test", "test-package --if-changed"]), (1, ["test"])])
def test_ci_runs_both_scripts(tmp_path: Path, status: int, called: list[str]) -> None:
    """All tests, and then those of the packages, if what goes into them has changed; none after a failure."""
    for name in ("test", "test-package"):
        stub = tmp_path / "scripts" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f'#!/bin/sh\necho "${{0##*/}}${{1:+ $1}}" >>calls\nexit {status}\n')
        stub.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    assert subprocess.run([tmp_path / ".ci/run"], timeout=60, check=False).returncode == status
    assert (tmp_path / "calls").read_text().splitlines() == called


def test_it_leaves_nothing_but_its_systems(checkout: _Checkout) -> None:
    """What a run made is removed, and also what one has left that was killed; systems stay."""
    for name in ("run-killed/machine", "bookworm-1"):
        (checkout.cache / name).mkdir(parents=True)
    assert checkout.run().returncode == 0
    assert {file.name for file in checkout.cache.iterdir()} == {"bookworm-1", "lock", "passed"}


def test_a_second_run_at_the_same_time_is_refused(checkout: _Checkout) -> None:
    """While another run holds the cache folder, it says which one that is, and tests nothing."""
    checkout.cache.mkdir(parents=True)
    with (checkout.cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = checkout.run()
    assert (refused.returncode, checkout.calls()) == (1, [])
    assert refused.stderr == f"test-package: another run uses {checkout.cache}\n"
