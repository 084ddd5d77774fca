"""What is on a machine's disk, to see what a package has left there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path


def files(root: Path, others: Collection[str]) -> dict[str, str]:
    """Return all files and folders of a system by their paths, each with a text that changes with its content.

    Args:
        root: the system's folder.
        others: paths of folders and files that are left out.
    """
    found = {}
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if str(here / name) not in others]
        for name in [*folders, *names]:
            if str(here / name) not in others:
                found[str(here / name)] = _content(root / here / name)
    return found


def named(root: Path, words: Collection[str]) -> list[str]:
    """Return the paths in a system that have one of these words in their last part."""
    return sorted(
        str(Path(folder, name).relative_to(root))
        for folder, folders, names in os.walk(root)
        for name in [*folders, *names]
        if any(word in name for word in words)
    )


def _content(path: Path) -> str:
    mode = oct(path.lstat().st_mode)
    if path.is_symlink():
        return f"{mode} {path.readlink()}"
    return f"{mode} {hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else mode
