"""Prepares what goes into a package, and has nfpm build it as packaging/nfpm.yaml describes."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from hsm_enroll.version import __version__
from packages import changelog, completions, libraries, pages, tools

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Debian's names of the architectures that packages are built for, with the names that wheels have for them."""

_GUIDES = (
    *("docs/technician.md", "docs/technician.ja.md", "docs/reference.md", "docs/troubleshooting.md"),
    *("docs/attestation.md", "docs/tokens.md", "docs/integrator.md", "docs/api.md", "docs/json.md"),
)
_LINKED = (
    *("README.md", "README.ja.md", "SECURITY.md", "docs/schema/*.json", "docs/pictures/*-80-*.svg"),
    *("docs/examples/*.py", "lambda/openapi.yaml"),
)
_FORMATS = ("deb", "rpm")


def build(root: Path, output: Path, architectures: Iterable[str], epoch: int) -> Iterator[Path]:
    """Build the packages, and yield their files.

    Args:
        root: the checkout.
        output: the folder for the packages, which exists.
        architectures: of `ARCHITECTURES`.
        epoch: the time of all files in the packages, in seconds since 1970 (SOURCE_DATE_EPOCH).

    Raises:
        tools.ToolError: hatchling, pip or nfpm has failed.
        libraries.ConflictError: two wheels have different files of one name.
    """
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        wheel = _wheel(root, place / "wheel", epoch)
        _prepare(root, place, epoch)
        for architecture in architectures:
            shutil.rmtree(place / "lib", ignore_errors=True)
            libraries.install(wheel, ARCHITECTURES[architecture], root / "constraints.txt", place / "lib")
            written = (root / "packaging/copyright").read_text() + libraries.licences(place / "lib")
            (place / "copyright").write_text(written)
            _normalize(place, epoch)
            for format_ in _FORMATS:
                yield _package(place, output, format_, architecture, epoch)


def _wheel(root: Path, folder: Path, epoch: int) -> Path:
    tools.run(
        sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder,
        folder=root, variables={"SOURCE_DATE_EPOCH": str(epoch)},
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel


def _prepare(root: Path, place: Path, epoch: int) -> None:
    """Put in place all that is the same for each architecture."""
    shutil.copytree(root / "packaging", place, dirs_exist_ok=True)
    (place / "units").mkdir()
    for file in (root / "hsm_enroll/service/files").iterdir():
        shutil.copy(file, place if file.suffix == ".sysusers" else place / "units")
    copy_documentation(root, place / "doc")
    shutil.copy(root / "CHANGELOG.md", place)
    history = changelog.for_debian((root / "CHANGELOG.md").read_text(), epoch)
    (place / "changelog.Debian.gz").write_bytes(gzip.compress(history.encode(), mtime=0))
    (place / "man").mkdir()
    reference, troubleshooting = ((root / f"docs/{name}.md").read_text() for name in ("reference", "troubleshooting"))
    for page, text in pages.all_pages(reference, troubleshooting, epoch).items():
        (place / "man" / f"{page}.1.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (place / "completions").mkdir()
    for shell, script in completions.scripts().items():
        (place / "completions" / f"hsm-enroll.{shell}").write_text(script)


def copy_documentation(root: Path, folder: Path) -> None:
    """Copy what a gateway's users read, and what that links to, as it is in the checkout, so that its links lead there.

    The README's links into the source, and to what only operators need, lead nowhere.

    Args:
        root: the checkout.
        folder: where to; it does not exist yet.
    """
    for pattern in (*_GUIDES, *_LINKED):
        for file in root.glob(pattern):
            copy = folder / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


def _normalize(place: Path, epoch: int) -> None:
    """Give files the modes and times that they have in each build; the others are in nfpm.yaml."""
    for entry in place.rglob("*"):
        entry.chmod(0o755 if entry.is_dir() else 0o644)
        os.utime(entry, (epoch, epoch))


def _package(place: Path, output: Path, format_: str, architecture: str, epoch: int) -> Path:
    release = f"{__version__}-1"
    names = {
        "deb": f"hsm-enroll_{release}_{architecture}.deb",
        "rpm": f"hsm-enroll-{release}.{ARCHITECTURES[architecture]}.rpm",
    }
    target = output.absolute() / names[format_]
    nfpm = Path(sys.executable).with_name("nfpm")
    variables = {"ARCH": architecture, "VERSION": __version__, "SOURCE_DATE_EPOCH": str(epoch)}
    tools.run(
        nfpm, "package", "--config", "nfpm.yaml", "--packager", format_, "--target", target,
        folder=place, variables=variables,
    )  # fmt: skip
    return target
