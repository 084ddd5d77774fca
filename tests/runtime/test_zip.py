"""scripts/build-lambda: the same bytes from the same input, the right machine, the allowed files, and not too many."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import re
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.runtime.conftest import ARCHITECTURE, ROOT, Tree

_LIMIT = 10_000_000
_MACHINES = {"x86_64": 62, "arm64": 183}  # EM_X86_64, EM_AARCH64: e_machine of an ELF header
_WHEELS = {"x86_64": b"x86_64", "arm64": b"aarch64"}
_OTHER = {"x86_64": "arm64", "arm64": "x86_64"}[ARCHITECTURE]

_ALLOWED = re.compile(
    r"""
    handler\.py
    | enrollment_backend/(attestation/)?\w+\.py
    | enrollment_backend/amazon_roots\.pem
    | _cffi_backend\.cpython-\d+-\w+-linux-gnu\.so
    | cryptography/hazmat/bindings/_rust\.abi3\.so
    | (cffi|cryptography|pycparser)/([\w-]+/)*\w+\.(py|pyi|typed|h|cfg)
    | (cffi|cryptography|pycparser)-[\d.]+\.dist-info/
      (METADATA|WHEEL|top_level\.txt|entry_points\.txt|licenses/[\w.]+|sboms/[\w.-]+\.json)
    """,
    re.VERBOSE,
)


def _contents(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_same_input_gives_the_same_bytes(built: Path, tree: Tree, tmp_path: Path) -> None:
    """Neither the tree's place, nor its times and modes, nor the umask, nor what lies about in it, changes a byte."""
    other = tree.copy(tmp_path / "elsewhere, with spaces")
    cache = other.folder / "lambda/enrollment_backend/__pycache__"
    cache.mkdir()
    (cache / "http.cpython-311.pyc").write_bytes(b"stale")
    (other.folder / "lambda/enrollment_backend/.http.py.swp").write_bytes(b"an editor's")
    for file in (other.folder / "lambda").rglob("*"):
        file.chmod(0o700)
        os.utime(file, (1_000_000_000, 1_000_000_000))
    again = tmp_path / "new folder" / "again.zip"
    run = other.build("--platform", ARCHITECTURE, again, umask=0o077)
    assert run.returncode == 0, run.stderr
    assert again.read_bytes() == built.read_bytes()


def test_the_zip_holds_what_is_allowed_and_nothing_else(built: Path, tree: Tree) -> None:
    """Handler, backend and the required wheels: no test, template, client, SDK, bytecode, or trace of the building."""
    names = list(_contents(built))
    assert [name for name in names if not _ALLOWED.fullmatch(name)] == []
    source = tree.folder / "lambda"
    own = {file.relative_to(source).as_posix() for suffix in ("py", "pem") for file in source.rglob(f"*.{suffix}")}
    assert {name for name in names if name.partition("/")[0] in {"handler.py", "enrollment_backend"}} == own
    assert {"cffi/lock.py", "cryptography/x509/base.py", "pycparser/__init__.py"} <= set(names)


def test_every_entry_has_its_fixed_place_time_and_mode(built: Path) -> None:
    """Entries are sorted and unique, of 1980, deflated, and files that anybody may read: Lambda's user is another."""
    with zipfile.ZipFile(built) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == sorted(set(names))
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in entries} == {stat.S_IFREG | 0o644}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_DEFLATED}
    assert {(entry.create_system, entry.extra, entry.comment) for entry in entries} == {(3, b"", b"")}


def test_the_versions_are_those_of_the_constraints(built: Path, tree: Tree) -> None:
    """Each wheel in the zip is at the version that constraints.txt pins, which the tests run on too."""
    pins = dict(line.split("==") for line in (tree.folder / "constraints.txt").read_text().split())
    found = {name.split(".dist-info/")[0] for name in _contents(built) if ".dist-info/" in name}
    assert found == {f"{name}-{pins[name]}" for name in ("cffi", "cryptography", "pycparser")}


def test_the_zip_for_the_other_architecture_differs_in_its_machine_code_alone(
    built: Path, tree: Tree, tmp_path: Path
) -> None:
    """Each zip has its architecture's extension modules; all that is run here is what runs there, but for those."""
    other = tmp_path / "other.zip"
    run = tree.build("--platform", _OTHER, other)
    assert run.returncode == 0, run.stderr
    assert other.stat().st_size <= _LIMIT
    for archive, architecture in ((built, ARCHITECTURE), (other, _OTHER)):
        libraries = {name: content for name, content in _contents(archive).items() if name.endswith(".so")}
        assert len(libraries) == 2
        for name, content in libraries.items():
            magic, machine = struct.unpack_from("<4s14xH", content)
            assert (magic, machine) == (b"\x7fELF", _MACHINES[architecture]), name
        (tags,) = (content for name, content in _contents(archive).items() if re.match(r"cffi-.*/WHEEL", name))
        assert b"manylinux2014_" + _WHEELS[architecture] in tags

    here, there = _contents(built).items(), _contents(other).items()
    assert {name for name, _ in here ^ there if not name.endswith(".so")} <= {
        name for name, _ in here if name.endswith(".dist-info/WHEEL") or "/sboms/" in name
    }


def test_a_zip_above_the_limit_is_refused_and_not_written(tree: Tree, tmp_path: Path) -> None:
    """The script fails with size and limit, and leaves an earlier zip as it was."""
    large = tree.copy(tmp_path / "large")
    noise = random.Random(1).randbytes(_LIMIT)
    (large.folder / "lambda/enrollment_backend/noise.bin").write_bytes(noise)
    _require_only_pycparser(large)
    output = tmp_path / "function.zip"
    output.write_bytes(b"the earlier one")
    run = large.build("--platform", ARCHITECTURE, output)
    assert run.returncode == 1
    assert re.fullmatch(r"build-lambda: the zip has 10,\d{3},\d{3} bytes; the limit is 10,000,000", _last(run.stderr))
    assert output.read_bytes() == b"the earlier one"
    assert list(tmp_path.glob("function.zip*")) == [output]


def test_a_version_that_contradicts_the_constraints_fails_the_build(tree: Tree, tmp_path: Path) -> None:
    """Requirements and constraints that disagree end the build, with no zip."""
    drifted = tree.copy(tmp_path / "drifted")
    (drifted.folder / "lambda/requirements.txt").write_text(f"cryptography==1.0 --hash=sha256:{'0' * 64}\n")
    run = drifted.build(tmp_path / "function.zip")
    assert run.returncode == 1
    assert _last(run.stderr) == "build-lambda: pip could not get the wheels"
    assert not (tmp_path / "function.zip").exists()


def test_without_arguments_the_zip_is_for_arm64_and_lies_in_dist(tree: Tree, tmp_path: Path) -> None:
    """The script says where the zip is, its size, and the CodeSha256 that Lambda will show for it."""
    quick = tree.copy(tmp_path / "quick")
    _require_only_pycparser(quick)
    run = quick.build()
    assert run.returncode == 0, run.stderr
    output = quick.folder / "dist/hsm-enroll-lambda-arm64.zip"
    content = output.read_bytes()
    code_sha256 = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert run.stdout == f"{output}: {len(content):,} bytes, CodeSha256 {code_sha256}\n"


@pytest.mark.parametrize("arguments", [["--platform", "riscv64"], ["--platform"], ["a.zip", "b.zip"]])
def test_a_mistyped_command_shows_the_usage(arguments: list[str]) -> None:
    """Arguments that mean nothing end with status 2 before anything is built."""
    command = [sys.executable, str(ROOT / "scripts/build-lambda"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("usage: build-lambda")


def _require_only_pycparser(tree: Tree) -> None:
    """Leave one requirement, with its hash: that wheel is sooner there than the real ones."""
    requirements = tree.folder / "lambda/requirements.txt"
    text = requirements.read_text()
    requirements.write_text(text[text.index("\npycparser==") :])


def _last(text: str) -> str:
    return text.splitlines()[-1]
