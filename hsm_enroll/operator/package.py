"""The Lambda function's zip: handler, backend, and the wheels of ``requirements.txt``.

The wheels are those for Lambda, whatever machine builds the zip: for CPython on Linux with glibc 2.17 or newer. The
same input gives the same bytes, in any folder and at any time. Only a machine with another deflate implementation than
zlib's (zlib-ng, for example) gives other bytes. boto3 is not included: it comes with Lambda's Python.
"""

from __future__ import annotations

import io
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from hsm_enroll.errors import PackageError

MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
"""Architectures, by Lambda's name, with the name that wheels have for them."""
ARCHITECTURE = "arm64"
"""As in the template's ``Architectures``."""
PYTHON = "3.13"
"""As in the template's ``Runtime``."""
MAX_SIZE = 10_000_000
"""In bytes. Lambda accepts 50 MB in a direct upload, but each megabyte makes a cold start slower."""

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
# Written by pip about the installation.
_INSTALLERS = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}


def build(
    source: Path, *, architecture: str = ARCHITECTURE, python: str = PYTHON, interpreter: str | Path = sys.executable
) -> bytes:
    """Build the zip and return its bytes. Does *not* check that the function works.

    Args:
        source: the folder with ``handler.py``, ``enrollment_backend`` and ``requirements.txt``.
        architecture: one of `MACHINES`.
        python: version of the function's Python, ``X.Y``.
        interpreter: a Python with pip; pip's own configuration says where it gets the wheels.

    Raises:
        PackageError: pip is missing or cannot get the wheels, a wheel has another hash than in ``requirements.txt``, or
            the zip is larger than `MAX_SIZE`.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder)
        _install(wheels, source / "requirements.txt", MACHINES[architecture], python, interpreter)
        content = _zip(_own_files(source) | _third_party(wheels))
    if len(content) > MAX_SIZE:
        raise PackageError(
            f"the zip has {len(content):,} bytes; the limit is {MAX_SIZE:,}",
            hint="Check what is in the function's folder.",
        )
    return content


def _install(folder: Path, requirements: Path, machine: str, python: str, interpreter: str | Path) -> None:
    """Unpack the wheels with pip."""
    # The old and the new name of the same platform: pip accepts a wheel only under a name that it is given.
    platforms = [f"--platform={name}_{machine}" for name in ("manylinux2014", "manylinux_2_17")]
    command = [
        interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
        "--target", folder, "--no-compile", "--only-binary=:all:", "--require-hashes", "--implementation=cp",
        f"--python-version={python}", *platforms, "--requirement", requirements,
    ]  # fmt: skip
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        said = run.stderr.strip().splitlines()
        raise PackageError("pip could not get the wheels", hint=said[-1] if said else None)


def _own_files(source: Path) -> dict[str, Path]:
    """Return the function's own files by their names in the zip."""
    package = [file for file in _files(source / "enrollment_backend") if "__pycache__" not in file.parts]
    return {file.relative_to(source).as_posix(): file for file in (source / "handler.py", *package)}


def _third_party(folder: Path) -> dict[str, Path]:
    """Return the wheels' files by their names in the zip."""
    names = {file.relative_to(folder): file for file in _files(folder)}
    return {
        name.as_posix(): file
        for name, file in names.items()
        if name.parts[0] != "bin" and not (name.parts[0].endswith(".dist-info") and name.name in _INSTALLERS)
    }


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]


def _zip(members: Mapping[str, Path]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix, so that the mode is used
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            target.writestr(entry, members[name].read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=6)
    return archive.getvalue()
