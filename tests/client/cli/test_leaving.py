"""How the process of a command ends."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import atexit, sys, threading
atexit.register(print, "finalized")
if sys.argv.pop() == "busy":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
from hsm_enroll import cli
cli.main()
"""


def _run(thread: str) -> tuple[int, bool, bool]:
    child = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "--version", thread], capture_output=True, text=True, timeout=60, check=False
    )
    return child.returncode, "version" in child.stdout, "finalized" in child.stdout


def test_a_thread_that_is_still_at_work_does_not_change_the_exit_status() -> None:
    """With a thread still running, the process ends at once after all its output, and Python finalizes nothing."""
    assert _run("busy") == (0, True, False)
    assert _run("idle") == (0, True, True)
