"""Clones of a commit that can be released, and their releases."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from hsm_enroll.version import __version__
from tests.support.pages import ROOT
from tests.support.processes import program, run

_TIME_LIMIT = 1800.0  # seconds, for the packages; their wheels come from afar
_FOLDERS = ("docs", "hsm_enroll", "lambda", "packaging", "scripts")
_FILES = (".gitignore", "LICENSE", "README.md", "constraints.txt", "pyproject.toml")


class Releases:
    """A repository with one commit of these sources, whose changelog has a dated entry for the version.

    Args:
        place: an empty folder for it and its clones.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        origin = place / "origin"
        origin.mkdir()
        for name in _FOLDERS:
            shutil.copytree(ROOT / name, origin / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in _FILES:
            shutil.copy(ROOT / name, origin)
        (origin / "CHANGELOG.md").write_text(
            f"# Changelog\n\n## [{__version__}] - 2026-01-31\n\n### Added\n\n- Everything.\n"
        )
        git(origin, "init", "--quiet")
        commit(origin)

    def clone(self, name: str) -> Path:
        """Return a new clone, which has this Python's packages."""
        git(self._place, "clone", "--quiet", str(self._place / "origin"), name)
        (self._place / name / ".venv").symlink_to(sys.prefix)
        return self._place / name


def released(clone: Path) -> tuple[int, str]:
    """Run ``scripts/release``; return its exit status and its stderr."""
    release = subprocess.run(
        [clone / "scripts/release"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False,
    )  # fmt: skip
    return release.returncode, release.stderr


def commit(repository: Path) -> None:
    """Commit all that the folder has."""
    git(repository, "add", ".")
    author = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    git(repository, *author, "commit", "--quiet", "--message", "a release")


def git(folder: Path, *arguments: str) -> None:
    """Run git in a folder."""
    run([program("git", package="git"), "-C", str(folder), *arguments])
