"""The README's first command, what scripts/setup does for somebody who may not install anything, and a release."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hsm_enroll.version import __version__
from tests.docs.shown import matches
from tests.support.pages import README, ROOT
from tests.support.processes import run
from tests.support.releases import Releases, commit, git, released

_TIME_LIMIT = 600
_NOBODY = "65534"
# All that scripts/setup calls before it would install something.
_TOOLS = ("bash", "cat", "dirname", "dpkg-query", "env", "id", "python3", "sha256sum", "touch")


def _processes_that_know(folder: Path) -> list[str]:
    """The command lines of the processes that name a folder, or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = str((process / "cwd").readlink())
        except OSError:  # it has ended, or is the kernel's
            continue
        if str(folder) in command or place.startswith(str(folder)):
            found.append(command)
    return found


def _processes_of_session(session: int) -> list[str]:
    """The names of the processes of a session (proc(5), /proc/pid/stat), which its background processes stay in."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            before, _, after = (process / "stat").read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        if int(after.split()[3]) == session:
            found.append(before)
    return found


def _demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demo in a session of its own, its temporary files in a folder."""
    return subprocess.Popen(
        [ROOT / "scripts/demo", *arguments],
        env={**os.environ, "TMPDIR": str(folder), "NO_PROXY": "localhost,127.0.0.1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def _nothing_is_left(demo: subprocess.Popen[str], folder: Path) -> bool:
    return list(folder.iterdir()) == [] and _processes_that_know(folder) + _processes_of_session(demo.pid) == []


@pytest.mark.parametrize("options", [[], ["--tpm"]], ids=["softhsm", "tpm"])
def test_the_demo_shows_the_main_job_and_leaves_nothing_behind(tmp_path: Path, options: list[str]) -> None:
    """scripts/demo exits 0 and ends as the README shows: Thing, certificate id, key URI and the received message."""
    demo = _demo(tmp_path, *options)
    stdout, stderr = demo.communicate(timeout=_TIME_LIMIT)
    assert demo.returncode == 0, stdout + stderr
    (shown,) = README.blocks_of("text")
    ending = stdout.splitlines(keepends=True)[-len(shown.text.splitlines()) :]
    assert matches(shown.text, "".join(ending), str(tmp_path)), stdout
    assert ("SoftHSM" in "".join(ending)) is (options == [])
    # Where the backend requires proof, the TPM's key has it, and a gateway with SoftHSM is refused.
    assert ("\nAttested        yes" in stdout) is ("\nexit status 31\n" in stdout) is (options == ["--tpm"])
    assert ("hsm-enroll token create --label LABEL --backend tpm2" in stderr) is (options == ["--tpm"])
    assert _nothing_is_left(demo, tmp_path)


def test_a_demo_that_is_ended_takes_all_of_it_down(tmp_path: Path) -> None:
    """SIGTERM while the TPM and the cloud are up ends the demo with 143, and nothing that it started is left."""
    demo = _demo(tmp_path, "--tpm")
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("AWS APIs"):
            break
    assert "swtpm" in "".join(_processes_of_session(demo.pid))
    demo.terminate()
    demo.communicate(timeout=_TIME_LIMIT)
    assert demo.returncode == 143
    assert _nothing_is_left(demo, tmp_path)


def test_an_option_that_is_none_starts_no_demo(tmp_path: Path) -> None:
    """An unknown argument is refused with its usage, before anything is set up."""
    demo = _demo(tmp_path, "--hsm")
    stdout, stderr = demo.communicate(timeout=_TIME_LIMIT)
    assert (demo.returncode, stdout) == (2, "")
    assert stderr == "usage: scripts/demo [--tpm]\n"


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A copy of what scripts/setup needs of a checkout, which belongs to nobody."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "checkout"
        shutil.copytree(ROOT / "scripts", copy / "scripts")
        for file in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / file, copy)
        yield copy


@pytest.mark.parametrize("sudo", ["none", "one that refuses"])
@pytest.mark.parametrize("purpose", ["demo", "demo-tpm", "test"])
def test_without_root_and_sudo_setup_names_the_packages_and_changes_nothing(
    checkout: Path, sudo: str, purpose: str
) -> None:
    """With packages missing and no right to install them, setup says which, fails, and has not begun anything."""
    # mosquitto was removed and left its configuration; softhsm2 was never installed.
    removed = "Package: mosquitto\nStatus: deinstall ok config-files\n"
    bin_folder = _tools(checkout.parent, {"mosquitto": removed, "softhsm2": ""})
    if sudo == "one that refuses":
        _script(bin_folder / "sudo", f'[ "$1" = -v ] || touch {checkout.parent / "trace"}; exit 1')
    setup = _set_up(checkout, purpose)
    assert setup.returncode != 0
    assert "apt-get install softhsm2 mosquitto\n" in setup.stderr
    assert setup.stdout == ""


def test_a_package_that_another_one_provides_is_not_missing(checkout: Path) -> None:
    """Debian 13 has renamed libraries, which provide the old name: nobody has to be root to find all in place."""
    renamed = "Package: mosquitto2t64\nStatus: install ok installed\nProvides: mosquitto-broker, mosquitto (= 2.1), x\n"
    _tools(checkout.parent, {"mosquitto": renamed})
    (checkout / ".venv").mkdir()
    wanted = _sha256(checkout / "pyproject.toml", checkout / "constraints.txt")
    (checkout / ".venv/.installed-demo").write_text(f"{wanted}  -\n")
    setup = _set_up(checkout, "demo")
    assert (setup.returncode, setup.stdout, setup.stderr) == (0, "", "")


@pytest.mark.parametrize("arguments", [["test", "oldest"], ["tests"], ["--help"], []])
def test_an_unknown_argument_is_refused_before_anything_is_installed(checkout: Path, arguments: list[str]) -> None:
    """scripts/setup says its usage, whichever argument is wrong or missing."""
    _tools(checkout.parent, {})
    setup = _set_up(checkout, *arguments)
    assert setup.returncode == 2
    assert setup.stderr == "usage: scripts/setup demo|demo-tpm|test|package [lowest|latest]\n"


def test_the_lowest_versions_are_the_bounds_of_every_dependency() -> None:
    """scripts/test --lowest runs on the very lower bounds of pyproject.toml, with the tests' tools as pinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tools = {Requirement(text).name for text in extras.pop("dev")}
    printed = run([sys.executable, str(ROOT / "scripts/lowest-versions")]).splitlines()
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    wanted = [Requirement(text) for text in itertools.chain(project["dependencies"], *extras.values())]
    bounds = [f"{requirement.name}{str(requirement.specifier).replace('>=', '==')}" for requirement in wanted]
    assert printed == [pin for pin in pins if pin.partition("==")[0] in tools] + bounds
    assert all(re.fullmatch(r"[\w.-]+==[\d.]+", line) for line in printed)


def test_a_program_that_a_test_starts_has_ctrl_c_at_its_default() -> None:
    """Ctrl-C can be sent to whatever a test starts: SIGINT is not among the signals that it ignores (proc(5))."""
    ignored = run(["grep", "SigIgn", "/proc/self/status"]).split()[1]
    assert not int(ignored, 16) & 1 << (signal.SIGINT - 1)


def test_the_tests_may_be_started_with_ctrl_c_ignored() -> None:
    """So does a script that starts them with ``&``: the programs they start have Ctrl-C at its default all the same."""
    inner = f"{__file__}::{test_a_program_that_a_test_starts_has_ctrl_c_at_its_default.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", inner]
    assert "1 passed" in run(["sh", "-c", 'trap "" INT; cd "$1"; shift; exec "$@"', "sh", str(ROOT), *command])


def _tools(place: Path, packages: dict[str, str]) -> Path:
    """A PATH of what scripts/setup calls, and the machine's database of packages with some entries in place of others.

    Args:
        place: the folder they lie in.
        packages: the fields that matter of an entry (deb-control(5)), by the name of the package it stands in for.
    """
    bin_folder = place / "bin"
    bin_folder.mkdir()
    for tool in _TOOLS:
        found = shutil.which(tool, path="/usr/bin:/bin")
        assert found is not None, tool
        (bin_folder / tool).symlink_to(found)
    _script(bin_folder / "apt-get", f"touch {place / 'trace'}")
    text = Path("/var/lib/dpkg/status").read_text()
    for name, fields in packages.items():
        common = "Version: 2.1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
        entry = re.compile(rf"^Package: {name}\n(?:.+\n)+", re.MULTILINE)
        assert len(entry.findall(text)) == 1, name
        text = entry.sub(fields and fields + common, text)
    (place / "dpkg").mkdir()
    (place / "dpkg/status").write_text(text)
    return bin_folder


def _set_up(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/setup as nobody, who owns all of it, and see that it has changed and installed nothing."""
    place = checkout.parent
    _give_to_nobody(place)
    before = _files(checkout)
    setup = subprocess.run(
        [*_as_nobody(), str(checkout / "scripts/setup"), *arguments],
        cwd=place, env={"PATH": str(place / "bin"), "HOME": str(place), "DPKG_ADMINDIR": str(place / "dpkg")},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert _files(checkout) == before
    assert not (place / "trace").exists()
    return setup


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("a file that is not committed", "uncommitted changes"),
        ("a change that is not committed", "uncommitted changes"),
        ("a tag", f"v{__version__} is tagged already"),
        ("an entry without a date", f"no dated entry for {__version__}"),
        ("an entry for another version", f"no dated entry for {__version__}"),
    ],
)
def test_what_is_no_release_is_not_built(tmp_path: Path, fault: str, words: str) -> None:
    """Uncommitted changes, a tagged version, and a changelog without the version and its date are refused."""
    clone = Releases(tmp_path).clone("clone")
    if fault == "a file that is not committed":
        (clone / "hsm_enroll/new.py").touch()
    elif fault == "a change that is not committed":
        (clone / "README.md").write_text("changed\n")
    elif fault == "a tag":
        git(clone, "tag", f"v{__version__}")
    else:
        heading = f"[{__version__}] - unreleased" if "date" in fault else "[0.0.1] - 2026-01-31"
        (clone / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n")
        commit(clone)
    status, said = released(clone)
    assert status == 1
    assert words in said
    assert not (clone / "dist").exists()


def _sha256(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _script(file: Path, text: str) -> None:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def _as_nobody() -> list[str]:
    """A command that gives up root; who runs the tests as somebody else has nothing to give up."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    return [setpriv, f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]


def _give_to_nobody(place: Path) -> None:
    """Let nobody write there: that nothing is made has to be setup's own decision."""
    place.chmod(0o755)
    if os.geteuid() == 0:
        for entry in (place, *place.rglob("*")):
            os.chown(entry, int(_NOBODY), int(_NOBODY), follow_symlinks=False)


def _files(folder: Path) -> dict[str, float]:
    return {str(entry): entry.stat().st_mtime for entry in folder.rglob("*")}
