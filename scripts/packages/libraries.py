"""The Python packages that a package carries: hsm-enroll's wheel and its dependencies, in one folder."""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packages import tools

PYTHONS = ("3.11", "3.12", "3.13")
"""The versions of Python that a package runs on, the oldest first."""

INSTALLER = "nfpm"
"""What `INSTALLER` says in the metadata of hsm-enroll: this installation is not pip's to change."""

# Debian 12's glibc is 2.36, that of RHEL 9 is 2.34. pip accepts a wheel only under a name that it is given.
_PLATFORMS = (*(f"manylinux_2_{minor}" for minor in range(34, 16, -1)), "manylinux2014")
# Written by pip about its own installation.
_OF_PIP = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}
# Programs and documentation, for which a package has folders of its own.
_NOT_MODULES = {"bin", "share"}


class ConflictError(Exception):
    """Two wheels have different files of one name."""


def install(wheel: Path, machine: str, constraints: Path, folder: Path) -> None:
    """Unpack the wheel and what it depends on for all of `PYTHONS` into one folder.

    Compiled modules have the version in their names; those for Python's stable ABI (``.abi3.so``) are the ones for the
    oldest version.

    Args:
        wheel: hsm-enroll's.
        machine: the machine as wheels name it: ``x86_64`` or ``aarch64``.
        constraints: pip's file of the versions.
        folder: what is made; does not exist.

    Raises:
        ConflictError: two wheels have different files of one name.
        tools.ToolError: pip has failed.
    """
    folder.mkdir()
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as name:
            unpacked = Path(name)
            _pip(wheel, machine, constraints, python, unpacked)
            _merge(unpacked, folder)
    (own,) = folder.glob("hsm_enroll-*.dist-info")
    (own / "INSTALLER").write_text(f"{INSTALLER}\n")


def licences(folder: Path) -> str:
    """Return the paragraphs of a copyright file about what is in the folder (copyright format 1.0)."""
    found = sorted(distributions(path=[str(folder)]), key=lambda each: each.name.lower())
    lines = [f"  {each.name} {each.version}: {_licence(each)}" for each in found if each.name != "hsm-enroll"]
    own = [
        *("", "Files: *", "Copyright: 2026, the authors of hsm-enroll", "License: Apache-2.0"),
        " On Debian systems, the text of the Apache License 2.0 is in",
        " /usr/share/common-licenses/Apache-2.0.",
    ]
    return "\n".join([*lines, *own, ""])


def _licence(package: Distribution) -> str:
    metadata = package.metadata
    named = metadata["License-Expression"] or metadata["License"]
    of_classifiers = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if "License ::" in line]
    return named if named and "\n" not in named and "::" not in named else ", ".join(of_classifiers)


def _pip(wheel: Path, machine: str, constraints: Path, python: str, folder: Path) -> None:
    platforms = [f"--platform={name}_{machine}" for name in _PLATFORMS]
    tools.run(
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
        "--target", folder, "--no-compile", "--only-binary=:all:", "--implementation=cp",
        f"--python-version={python}", *platforms, "--constraint", constraints, wheel,
    )  # fmt: skip


def _merge(source: Path, folder: Path) -> None:
    for file in source.rglob("*"):
        name = file.relative_to(source)
        if file.is_dir() or name.parts[0] in _NOT_MODULES or (_is_metadata(name) and name.name in _OF_PIP):
            continue
        target = folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        elif not _may_differ(name) and file.read_bytes() != target.read_bytes():
            raise ConflictError(f"{name} is not the same in the wheels for all of {', '.join(PYTHONS)}")


def _is_metadata(name: Path) -> bool:
    return name.parts[0].endswith(".dist-info")


def _may_differ(name: Path) -> bool:
    """Whether the oldest Python's file does for all: in the stable ABI, or which wheel it was."""
    return name.name.endswith(".abi3.so") or (_is_metadata(name) and name.name == "WHEEL")
