"""What the doctor says of the state folder is what init does with it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_enroll.doctor import Patient, Status, checks_state
from hsm_enroll.errors import StateError
from hsm_enroll.settings import Settings
from hsm_enroll.store import files
from hsm_enroll.token.tokens import Tokens
from tests.support.nobody import as_nobody


def _status(folder: Path) -> Status:
    return checks_state.state_folder(Patient(Settings(state=folder), {}, Tokens())).status


@pytest.mark.parametrize(
    "spoil",
    [lambda folder: folder.write_text(""), lambda folder: folder.symlink_to(folder.parent / "nowhere")],
    ids=["a file", "a link to nothing"],
)
def test_what_is_no_folder_fails_as_in_init(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    """D11: a file, or a link to nothing, in the place of the state folder is failed where init would be exit 50."""
    folder = tmp_path / "state"
    spoil(folder)
    with pytest.raises(StateError, match="is a file, or a link to nothing"), files.locked(folder):
        pass
    assert _status(folder) is Status.FAILED


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("mode", "status"), [(0o755, Status.FAILED), (0o777, Status.SKIPPED)])
def test_a_folder_that_cannot_be_created_fails_as_in_init(mode: int, status: Status) -> None:
    """D11: a folder that is still missing is only a failure if this user could not create it."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(mode)
        folder = Path(parent) / "hsm-enroll" / "state"
        with as_nobody():
            assert _status(folder) is status
            if status is Status.FAILED:
                with pytest.raises(StateError), files.locked(folder):
                    pass
