"""The package under test, and one that differs in its version alone, which is older."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from booted.machine import Machine

_APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--quiet=2")
_BEFORE = "0.0.1"
_FOLDER = "srv"  # where the machine has them


class Packages:
    """A package and the one before it.

    Args:
        file: the package under test.
        place: a folder for this object's own files, which does not exist.

    Attributes:
        name: its name.
        version: the version of the program in it.
        current: its file in the machine.
        before: the file of the older one there.
    """

    def __init__(self, file: Path, place: Path) -> None:
        self.name, revision = (_field(file, field) for field in ("Package", "Version"))
        self.version = revision.rpartition("-")[0]
        self.current, self.before = f"/{_FOLDER}/{self.name}.deb", f"/{_FOLDER}/{self.name}-before.deb"
        self._files = {self.current: file, self.before: place / "before.deb"}
        unpacked = place / "unpacked"
        place.mkdir()
        subprocess.run(["dpkg-deb", "--raw-extract", str(file), str(unpacked)], check=True)
        _replace(unpacked / "DEBIAN/control", f"Version: {revision}", f"Version: {_BEFORE}-1")
        module = unpacked / "usr/lib" / self.name / self.name.replace("-", "_") / "version.py"
        _replace(module, f'"{self.version}"', f'"{_BEFORE}"')
        before = str(self._files[self.before])
        subprocess.run(
            ["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", str(unpacked), before],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        shutil.rmtree(unpacked)

    def install(self, machine: Machine, file: str) -> None:
        """Have apt install one of them."""
        machine.run(*_APT, "install", file)

    def purge(self, machine: Machine) -> str:
        """Have apt remove it with its settings and its state, and return what is said; what it depends on stays."""
        return machine.run("sh", "-c", f"{shlex.join(_APT)} purge {self.name} 2>&1")

    def copy_to(self, system: Path) -> None:
        """Copy both to the system of a machine."""
        for there, file in self._files.items():
            shutil.copyfile(file, system / there[1:])


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def _field(file: Path, name: str) -> str:
    command = ["dpkg-deb", "--field", str(file), name]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
