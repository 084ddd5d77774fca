"""The folder of a run: its own while it lives, and gone with it or with the next run."""

from __future__ import annotations

import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hsm_enroll.errors import StateError
from hsm_enroll.store import run_folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_private_and_goes_with_its_run(base: Path) -> None:
    """Whatever is in it; one that a dead run has left goes, and what is no such folder stays."""
    (base / "hsm-enroll-run.dead").mkdir()
    (base / "hsm-enroll-run.dead" / "curl.conf").write_text("")
    others = {base / "hsm-enroll-run.file", base / "hsm-enroll-run.link", base / "other"}
    (base / "hsm-enroll-run.file").write_text("")
    (base / "hsm-enroll-run.link").symlink_to(base / "other")
    (base / "other").mkdir()
    with run_folder.held() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "curl.conf").write_text("")
        assert set(base.iterdir()) == {folder, *others}
    assert set(base.iterdir()) == others


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_another_users_stays(base: Path) -> None:
    """Root would be able to remove it, and whoever it belongs to could lead root to something else."""
    theirs = base / "hsm-enroll-run.theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with run_folder.held():
        assert theirs.exists()


def test_many_at_once_have_one_each(base: Path) -> None:
    """None takes another's for a dead run's, not even in the moment between its making and its lock."""

    def use(_: int) -> str:
        with run_folder.held() as folder:
            (folder / "curl.conf").write_text("")
            return folder.name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(use, range(1000)))
    assert len(names) == 1000
    assert list(base.iterdir()) == []


def test_no_place_for_temporary_files_is_an_error_of_its_own(base: Path) -> None:
    """It names the folder, and the variable that names another one."""
    base.rmdir()
    with pytest.raises(StateError) as caught, run_folder.held():
        pass
    assert str(base) in caught.value.message
    assert "TMPDIR" in caught.value.hint
