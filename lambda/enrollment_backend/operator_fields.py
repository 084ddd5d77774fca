"""Reads the fields and query parameters of operators' requests; what is invalid raises a FieldInvalidError."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from enrollment_backend.errors import FieldInvalidError
from enrollment_backend.http import Event, parameter

if TYPE_CHECKING:
    from enrollment_backend.operator import Page
    from enrollment_backend.table import Position

NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")  # of a Thing
SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_KEY_LENGTH = 1024  # characters: a sort key of DynamoDB
_MAX_PAGE_SIZE = _DEFAULT_PAGE_SIZE = 1000  # entries: less than a megabyte, where a function may answer six
_LIMIT = re.compile(r"[1-9][0-9]{0,3}")
_POSITION = re.compile(r"([0-9]{1,12})\.([a-zA-Z0-9:_-]{1,128})")
_ANSWERS = {None: None, "yes": True, "no": False}


def flag(fields: dict[str, Any], name: str) -> bool:
    """Return a field that is true or false; it is false if it is missing."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise FieldInvalidError(name)
    return value


def matching(fields: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    """Return a field whose text matches a pattern."""
    text = fields.get(name)
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise FieldInvalidError(name)
    return text


def fingerprint(fields: dict[str, Any]) -> str | None:
    """Return the field `ekSha256`; None if it is missing."""
    return matching(fields, "ekSha256", SHA256) if "ekSha256" in fields else None


def integer(fields: dict[str, Any], name: str, default: int, minimum: int, maximum: int) -> int:
    """Return a field that is an integer within bounds; the default if it is missing."""
    value = fields.get(name, default)
    if type(value) is not int or not minimum <= value <= maximum:  # `isinstance` would accept True
        raise FieldInvalidError(name)
    return value


def page(event: Event, statuses: Iterable[str] = ()) -> Page:
    """Return which page of a list is asked for.

    Args:
        event: the request.
        statuses: those that the list's entries can have.
    """
    from enrollment_backend.operator import Page

    status, prefix, limit = (parameter(event, name) for name in ("status", "prefix", "limit"))
    if status is not None and status not in statuses:
        raise FieldInvalidError("status")
    if prefix is not None and not NAME.fullmatch(prefix):
        raise FieldInvalidError("prefix")
    if limit is not None and not (_LIMIT.fullmatch(limit) and int(limit) <= _MAX_PAGE_SIZE):
        raise FieldInvalidError("limit")
    return Page(status, prefix, _position(event), int(limit or _DEFAULT_PAGE_SIZE))


def yes_or_no(event: Event, name: str) -> bool | None:
    """Return a parameter that is ``yes`` or ``no``; None if it is missing."""
    text = parameter(event, name)
    if text not in _ANSWERS:
        raise FieldInvalidError(name)
    return _ANSWERS[text]


def marker(position: Position | None) -> str | None:
    """Return a position in a list as a text, which says nothing to clients."""
    return None if position is None else f"{position[0]}.{position[1]}"


def key(event: Event, name: str) -> str | None:
    """Return a parameter that can be a name or an id; all of them are ASCII. None if it is missing."""
    value = parameter(event, name)
    if value is not None and not (value.isascii() and 1 <= len(value) <= _MAX_KEY_LENGTH):
        raise FieldInvalidError(name)
    return value


def required_key(event: Event, name: str) -> str:
    """Return the same, of a parameter that has to be there."""
    value = key(event, name)
    if value is None:
        raise FieldInvalidError(name)
    return value


def _position(event: Event) -> Position | None:
    """Return the position in the parameter `next`, which `marker` wrote."""
    text = parameter(event, "next")
    if text is None:
        return None
    matched = _POSITION.fullmatch(text)
    if matched is None:
        raise FieldInvalidError("next")
    return int(matched[1]), matched[2]
