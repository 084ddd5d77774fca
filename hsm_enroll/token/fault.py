"""What is wrong with the surroundings of a token: a file, a device, a service."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import NamedTuple


class Fault(NamedTuple):
    """Why a module cannot use its tokens, as found by looking, not assumed.

    Attributes:
        message: what is wrong, with which object; the words of one sentence, without a full stop.
        hint: what to do about it; sentences.
    """

    message: str
    hint: str


def barrier(path: Path) -> Path:
    """Return the first folder above a path, or above where links lead, that is closed to this user; or the path."""
    return next(filter(is_closed, reversed(Path(os.path.realpath(path)).parents)), path)


def is_closed(folder: Path) -> bool:
    """Whether a folder is closed to this user; False where there is none, as far as this user can see."""
    exists = os.path.isdir(folder)  # noqa: PTH112 - unlike is_dir, it never raises
    return exists and not os.access(folder, os.X_OK, effective_ids=True)


def user_name(number: int) -> str:
    """Return a user's name, or "user id N" if the system has no name for it."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user id {number}"


def group_name(number: int) -> str:
    """Return a group's name, or its number as text."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
