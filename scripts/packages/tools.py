"""Runs the tools that packages are built with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


class ToolError(Exception):
    """A tool has failed; the text is what it has said."""


def run(*command: str | Path, folder: Path | None = None, variables: Mapping[str, str] | None = None) -> None:
    """Run a tool, which says something only if it fails.

    Args:
        command: the tool and its arguments.
        folder: its working directory, instead of this process's.
        variables: added to its environment.

    Raises:
        ToolError: its exit status is not 0.
    """
    done = subprocess.run(
        command,
        cwd=folder, env={**os.environ, **(variables or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise ToolError(f"{' '.join(map(str, command[:4]))} … failed:\n{done.stdout.rstrip()}")
