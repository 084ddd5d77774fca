"""The function's zip, built by the operator's command: the same from a checkout and from an installed wheel."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from generated import troubleshooting
from hsm_enroll import backend_folder
from hsm_enroll.errors import HsmEnrollError, PackageError
from hsm_enroll.operator import package
from tests.support.pages import page

ROOT = Path(__file__).parents[2]
REQUIREMENTS = "lambda/requirements.txt"
_TIME_LIMIT = 300.0  # seconds; wheels that pip has not kept come from afar
_PIN = re.compile(r"([\w.-]+)==([\w.]+)(?: \\)?")
_HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")


def pins(name: str) -> dict[str, str]:
    """Return the versions that a file of pip's requirements pins."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    matched = [_PIN.fullmatch(line) for line in lines if line and not line.startswith("#")]
    return {found[1].lower(): found[2] for found in matched if found}


def requirement(name: str) -> str:
    """Return what the function's requirements say about one package: the pin and its hashes."""
    text = (ROOT / REQUIREMENTS).read_text("utf-8")
    found = re.search(rf"^{name}==(?:.*\\\n)*.*\n", text, re.MULTILINE)
    assert found is not None
    return found[0]


def quick(folder: Path) -> Path:
    """Make a function of one file, whose only wheel is a small one."""
    (folder / "enrollment_backend").mkdir(parents=True)
    (folder / "handler.py").write_text("")
    (folder / "requirements.txt").write_text(requirement("pycparser"))
    return folder


def test_the_requirements_are_those_of_the_constraints() -> None:
    """The zip, built without constraints.txt, gets the versions that the tests run on: pins and hashes only."""
    lines = [line for line in (ROOT / REQUIREMENTS).read_text("utf-8").splitlines() if not line.startswith("#")]
    constraints = pins("constraints.txt")
    hashes = [line for line in lines if _HASH.fullmatch(line)]
    assert len(pins(REQUIREMENTS)) + len(hashes) == len(lines)
    assert all("--hash=sha256:" in requirement(name) for name in pins(REQUIREMENTS))
    assert {name: constraints.get(name) for name in pins(REQUIREMENTS)} == pins(REQUIREMENTS)


def test_the_requirements_are_complete() -> None:
    """What a required package requires is required too, at a version: nothing is left to the day of the building."""
    pinned = pins(REQUIREMENTS)
    for name in pinned:
        needed = [Requirement(line) for line in requires(name) or []]
        there = {"extra": "", "python_version": package.PYTHON, "platform_python_implementation": "CPython"}
        assert {one.name for one in needed if one.marker is None or one.marker.evaluate(there)} <= pinned.keys()


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this project's wheel is installed, without what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    project = folder / "project"
    project.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    for name in ("docs", "hsm_enroll", "lambda"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--ignore-installed"]
    command = [*pip, "--no-warn-script-location", "--prefix", str(folder / "prefix"), str(project)]
    subprocess.run(command, check=True, timeout=_TIME_LIMIT, capture_output=True)
    return folder / "prefix"


def _run_installed(prefix: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Run Python with the installed wheel's modules; return its exit status, its output and its errors."""
    environment = os.environ | {"PYTHONPATH": str(_modules(prefix)), **variables}
    run = subprocess.run(
        [sys.executable, *arguments], cwd="/", env=environment, capture_output=True, text=True,
        timeout=_TIME_LIMIT, check=False,
    )  # fmt: skip
    return run.returncode, run.stdout, run.stderr


def _modules(prefix: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(prefix)}))


def test_an_installed_wheel_builds_the_same_zip(prefix: Path) -> None:
    """The wheel carries all that it takes: no constraints, no scripts, no checkout."""
    content = package.build(prefix.parent / "project/lambda")
    program = (
        "import hashlib, hsm_enroll\n"
        "from hsm_enroll.backend_folder import backend_folder\n"
        "from hsm_enroll.operator import package\n"
        "print(hsm_enroll.__file__, hashlib.sha256(package.build(backend_folder())).hexdigest())\n"
    )
    status, output, errors = _run_installed(prefix, "-c", program)
    assert status == 0, errors
    installed = _modules(prefix) / "hsm_enroll/__init__.py"
    assert output.split() == [str(installed), hashlib.sha256(content).hexdigest()]


def test_an_installed_wheels_errors_name_a_page_that_is_there(prefix: Path, tmp_path: Path) -> None:
    """The wheel brings the page that explains them, and the pages that it links to."""
    _, _, errors = _run_installed(prefix, "-m", "hsm_enroll", "status", HSM_ENROLL_HOME=str(tmp_path))
    named, _, anchor = errors.splitlines()[-1].removeprefix("  See ").partition("#")
    assert anchor == "not-enrolled"
    assert Path(named).is_relative_to(prefix)
    assert Path(named).read_bytes() == (ROOT / troubleshooting.PAGE).read_bytes()
    targets = {target.partition("#")[0] for target in page(troubleshooting.PAGE).links}
    assert [target for target in targets if not (Path(named).parent / target).exists()] == []


def test_the_functions_folder_is_found_in_checkout_and_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel carries it inside the package, a checkout beside the package; without it there is an error."""
    assert (backend_folder.backend_folder() / "template.yaml").is_file()
    installed = tmp_path / "site-packages" / "hsm_enroll"
    (installed / "_lambda").mkdir(parents=True)
    monkeypatch.setattr(backend_folder, "__file__", str(installed / "backend_folder.py"))
    with pytest.raises(HsmEnrollError, match="missing"):
        backend_folder.backend_folder()
    (installed / "_lambda" / "handler.py").touch()
    assert backend_folder.backend_folder() == installed / "_lambda"


def test_wheels_that_cannot_be_had_are_an_error_with_what_pip_says(tmp_path: Path) -> None:
    """A version that there is not ends the build, and pip's last words are the hint."""
    source = quick(tmp_path / "lambda")
    (source / "requirements.txt").write_text(f"cryptography==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(PackageError, match="pip could not get the wheels") as raised:
        package.build(source)
    assert "cryptography==1.0" in raised.value.hint


@pytest.mark.parametrize("hashes", [f" --hash=sha256:{'0' * 64}", ""])
def test_a_wheel_that_is_not_the_one_we_know_is_refused(hashes: str, tmp_path: Path) -> None:
    """A registry that has other content under the same name and version is not believed; nor is a line without hash."""
    source = quick(tmp_path / "lambda")
    (source / "requirements.txt").write_text(f"pycparser=={pins(REQUIREMENTS)['pycparser']}{hashes}\n")
    with pytest.raises(PackageError, match="pip could not get the wheels") as raised:
        package.build(source)
    assert raised.value.hint


def test_a_python_without_pip_is_an_error(tmp_path: Path) -> None:
    """Some installers make environments without it; the hint says what is missing."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True, timeout=60)
    with pytest.raises(PackageError) as raised:
        package.build(quick(tmp_path / "lambda"), interpreter=bare / "bin/python")
    assert "No module named pip" in raised.value.hint
