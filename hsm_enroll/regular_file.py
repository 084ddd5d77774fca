"""Reads files that others may have put in place: a FIFO would block for ever, and a device may never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read(file: Path, largest: int) -> bytes:
    """Return the content of a regular file, or of one that a link leads to. Does not block.

    Args:
        file: the file.
        largest: its largest size in bytes; no more is ever read.

    Raises:
        OSError: it is not a regular file, is too large, or cannot be read; ``strerror`` says which.
    """
    with open(file, "rb", opener=_open_at_once) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(0, "it is not a regular file")
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise OSError(0, f"it is larger than {largest // 1024} KiB")
    return content


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
