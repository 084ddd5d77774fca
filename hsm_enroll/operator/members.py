"""Readers of a JSON object's members. For what is invalid, each raises a ValueError that does not repeat the value."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_LARGEST_COUNT = 2**53 - 1  # what every JSON reader can hold (RFC 8259 §6)
_LONGEST_TOKEN = 4096

T = TypeVar("T")


def as_object(value: object) -> dict[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise ValueError("an item is not a JSON object")  # noqa: TRY004 - foreign data, not a caller's mistake
    return value


def required(members: dict[str, Any], name: str, read: Callable[[object], T]) -> T:
    """Read a member that has to be there."""
    try:
        return read(members.get(name))
    except ValueError as error:
        raise ValueError(f"{name} is missing or invalid") from error


def optional(members: dict[str, Any], name: str, read: Callable[[object], T]) -> T | None:
    """Read a member that may be missing or null."""
    return None if members.get(name) is None else required(members, name, read)


def text(pattern: str) -> Callable[[object], str]:
    """Return a reader of texts that match a pattern."""
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(pattern)
        return value

    return read


def listed(value: object, name: str, read: Callable[[object], T]) -> list[T]:
    """Read each item of the list in an object's member."""
    found = as_object(value).get(name)
    if not isinstance(found, list):
        raise ValueError(f"{name} is not a list")  # noqa: TRY004 - foreign data, not a caller's mistake
    return [read(one) for one in found]


def next_token(value: object) -> str | None:
    """Read ``next``: the token of the following page, or None."""
    return optional(as_object(value), "next", TOKEN)


def count(value: object) -> int:
    """Read a whole number from 0 on."""
    if type(value) is not int or not 0 <= value <= _LARGEST_COUNT:
        raise ValueError("not a count")
    return value


def flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError("not a flag")  # noqa: TRY004 - foreign data, not a caller's mistake
    return value


def moment(value: object) -> datetime:
    """Read a time, in UTC."""
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        raise ValueError("not a time")
    return datetime.strptime(value, "%Y-%m-%dT%H:%M:%S%z")


SHA256 = text("[0-9a-f]{64}")
THING = text("[a-zA-Z0-9:_-]{1,128}")
WORD = text("[a-z-]{1,20}")
ARN = text("[!-~]{1,2048}")
TOKEN = text(f"[!-~]{{1,{_LONGEST_TOKEN}}}")
