"""The commands that a command prints as the next ones can be copied as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.devices import Machine


def test_the_next_command_of_a_cloud_names_its_folder(tmp_path: Path) -> None:
    """What ``local up`` says is next points the shell at this cloud, also if its folder's name has a blank."""
    machine = Machine(tmp_path, {})
    home = str(tmp_path / "my cloud")
    started = machine.run("local", "up", "--detach", "--home", home)
    try:
        assert started.returncode == 0, started.stderr
        rows = dict(line.split(maxsplit=1) for line in started.stdout.splitlines())
        run = subprocess.run(
            ["bash", "-c", f'{rows["Next"]}; echo "$HSM_ENROLL_API_URL"'],
            env={**machine.environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        machine.run("local", "down", "--home", home)
    assert run.stdout.strip() == rows["API"]
