"""The command that writes the table of docs/tokens.md."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.pages import ROOT, Page
from tests.tokens import table

_PAGE = "docs/tokens.md"
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "dist")


def test_the_command_writes_the_table(tmp_path: Path) -> None:
    """``scripts/tokens-table`` puts the rows of the tests' tokens where the page had others, and loses no text."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=_LEFT_OUT)
    here = (ROOT / _PAGE).read_text(encoding="utf-8")
    stale, rows = re.subn(r"^\| (SoftHSM project|[^|]*tpm2)[^|]*\|.*\n", "", here, count=1, flags=re.MULTILINE)
    assert rows == 1
    (checkout / _PAGE).write_text(stale, encoding="utf-8")
    subprocess.run([sys.executable, checkout / "scripts/tokens-table"], cwd=tmp_path, check=True, timeout=300)
    written = (checkout / _PAGE).read_text(encoding="utf-8")
    assert _rows(written) == _rows(here)
    assert _without_table(written) == _without_table(here)


def _rows(text: str) -> list[list[str]]:
    return [table.without_times(cells) for cells in Page(_PAGE, text).table("token")]


def _without_table(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("|")]
