"""The README's first command, and what scripts/setup does for somebody who may not install anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.shown import matches
from tests.support.pages import README, ROOT

_TIME_LIMIT = 600
_NOBODY = "65534"
# All that scripts/setup calls before it would install something.
_TOOLS = ("bash", "cat", "dirname", "env", "id", "python3", "sha256sum", "touch")


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
    place = checkout.parent
    trace = place / "trace"
    bin_folder = place / "bin"
    bin_folder.mkdir()
    for tool in _TOOLS:
        found = shutil.which(tool, path="/usr/bin:/bin")
        assert found is not None, tool
        (bin_folder / tool).symlink_to(found)
    absent = "[ $3 = mosquitto ] || [ $3 = softhsm2 ]"
    _script(bin_folder / "dpkg-query", f"if {absent}; then exit 1; else echo -n installed; fi")
    _script(bin_folder / "apt-get", f"touch {trace}")
    if sudo == "one that refuses":
        _script(bin_folder / "sudo", f'[ "$1" = -v ] || touch {trace}; exit 1')
    _give_to_nobody(place)
    before = _files(checkout)

    run = subprocess.run(
        [*_as_nobody(), str(checkout / "scripts/setup"), purpose],
        cwd=place, env={"PATH": str(bin_folder), "HOME": str(place)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    assert "apt-get install softhsm2 mosquitto\n" in run.stderr
    assert run.stdout == ""
    assert _files(checkout) == before
    assert not trace.exists()


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
