"""A package's files, without installing it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from hsm_enroll.version import __version__

_RELEASE = f"{__version__}-1"
# e_machine of the ELF header (elf(5)), by the ends of packages' names.
_MACHINES = {"amd64.deb": 62, "arm64.deb": 183, "x86_64.rpm": 62, "aarch64.rpm": 183}

DEBS = tuple(f"hsm-enroll_{_RELEASE}_{architecture}.deb" for architecture in ("amd64", "arm64"))
RPMS = tuple(f"hsm-enroll-{_RELEASE}.{architecture}.rpm" for architecture in ("x86_64", "aarch64"))
PACKAGES = DEBS + RPMS
"""The names of a release's packages."""


@dataclass(frozen=True)
class Unpacked:
    """A package and its files.

    Attributes:
        package: its file.
        root: the folder that stands for ``/``.
    """

    package: Path
    root: Path

    @property
    def library(self) -> Path:
        """The folder of its Python packages."""
        return self.root / "usr/lib/hsm-enroll"

    @property
    def machine(self) -> int:
        """Its architecture, as ELF headers have it."""
        (machine,) = (number for end, number in _MACHINES.items() if self.package.name.endswith(end))
        return machine

    @property
    def distributions(self) -> dict[str, Distribution]:
        """What it carries, by normalized names (PEP 503)."""
        return {each.name.lower().replace("_", "-"): each for each in distributions(path=[str(self.library)])}

    def files(self) -> list[str]:
        """Return the paths of its files, as they are installed."""
        return sorted(f"/{file.relative_to(self.root)}" for file in self.root.rglob("*") if not file.is_dir())


def elf_machine(file: Path) -> int:
    """Return which machine a compiled module is for, from its ELF header; little-endian 64 bits alone."""
    header = file.read_bytes()[:20]
    if not header.startswith(b"\x7fELF\x02\x01"):
        raise ValueError(f"{file} is no 64-bit ELF file")
    machine: int = struct.unpack_from("<H", header, 18)[0]
    return machine
