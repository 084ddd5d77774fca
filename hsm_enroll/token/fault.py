"""What is wrong with the surroundings of a token: a file, a device, a service."""

from __future__ import annotations

import grp
import pwd
from typing import NamedTuple


class Fault(NamedTuple):
    """Why a module cannot use its tokens, as found by looking, not assumed.

    Attributes:
        message: what is wrong, with which object; the words of one sentence, without a full stop.
        hint: what to do about it; sentences.
    """

    message: str
    hint: str


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
