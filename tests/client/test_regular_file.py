"""Reading a file that somebody else may have put in place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsm_enroll import regular_file


def test_a_regular_file_is_read_also_through_a_link(tmp_path: Path) -> None:
    """Up to its largest size, and no byte more."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"12345678")
    link.symlink_to(file)
    assert regular_file.read(file, 8) == regular_file.read(link, 8) == b"12345678"
    with pytest.raises(OSError, match="it is larger than 0 KiB"):
        regular_file.read(file, 7)


def test_anything_else_is_an_error_at_once(tmp_path: Path) -> None:
    """D29: a FIFO is not waited for, and a device that never ends is not read."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for file in (fifo, Path("/dev/zero")):
        with pytest.raises(OSError, match="it is not a regular file"):
            regular_file.read(file, 8)
