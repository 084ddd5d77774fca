"""Stored documents: JSON objects that every later version of the program reads, and no earlier one damages.

A document names the version of its format. A new version is needed only if the meaning of a member changes; adding a
member does not need one: whoever reads a document keeps the members it does not know, and writes them back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from hsm_enroll.errors import StateCorruptError, StateTooNewError
from hsm_enroll.store import files

Value = TypeVar("Value")
Choice = TypeVar("Choice", bound=StrEnum)
# Turns the members of one version into those of the next.
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


_CHOICE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class NewerValueError(ValueError):
    """A value that a newer version of the program may have added."""


@dataclass(frozen=True, slots=True)
class Format:
    """The format of one kind of document, through all its versions.

    Attributes:
        upgrades: one function for each version before the current one, beginning with version 1. It takes the members
            of that version and returns those of the next, including the ones it does not know; it raises ValueError
            if they are damaged.
        hint: what to do about a damaged document; None is the hint of the error's class.
    """

    upgrades: tuple[Upgrade, ...] = ()
    hint: str | None = None

    @property
    def version(self) -> int:
        """The current version, which is the one that is written."""
        return len(self.upgrades) + 1

    def load(self, file: Path, parse: Callable[[dict[str, Any]], Value]) -> Value | None:
        """Read a document of this version or of any earlier one.

        Args:
            file: where it is.
            parse: makes the value from the members of the current version; it raises ValueError if they are damaged.

        Returns:
            What ``parse`` returns, or None if there is no such file.

        Raises:
            StateCorruptError: it is not a JSON object, or its members are damaged.
            StateTooNewError: a newer version of the program wrote it, or a value in it.
            StateError: it cannot be read; see :func:`files.read`.
        """
        try:
            return self._loaded(file, parse)
        except StateCorruptError as error:
            error.hint = self.hint or error.hint
            raise

    def _loaded(self, file: Path, parse: Callable[[dict[str, Any]], Value]) -> Value | None:
        text = files.read(file)
        if text is None:
            return None
        document = _object(file, text)
        # The local cloud's document had no version at first.
        version = document.pop("version", 1)
        if type(version) is not int or version < 1:
            raise StateCorruptError(f"{file} is damaged: its version is not a positive integer")
        if version > self.version:
            raise StateTooNewError(f"{file} has format {version}; this program reads formats up to {self.version}")
        try:
            for upgrade in self.upgrades[version - 1 :]:
                document = upgrade(document)
            return parse(document)
        except NewerValueError as error:
            raise StateTooNewError(f"{file} has a value that this version does not know: {error}") from error
        except ValueError as error:
            raise StateCorruptError(f"{file} is damaged: {error}") from error

    def save(self, file: Path, members: Mapping[str, Any], unknown: Mapping[str, Any]) -> None:
        """Write a document of the current version; see :func:`files.write`.

        Args:
            file: where; its folder must exist.
            members: what this version knows, as JSON values.
            unknown: what :func:`unknown_members` returned when the document was read; empty for a new one.

        Raises:
            StateError: it cannot be written; the old content is unchanged.
        """
        document = {"version": self.version, **merged(members, unknown)}
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        # JSON may hold half a surrogate pair, and so may a path; UTF-8 cannot, so it is escaped as JSON escapes it.
        files.write(file, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _object(file: Path, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StateCorruptError(f"{file} is not JSON") from error
    if not isinstance(document, dict):
        raise StateCorruptError(f"{file} is damaged: it is not a JSON object")
    return document


def members(document: object, types: Mapping[str, type]) -> dict[str, Any]:
    """Return the named members of a JSON object, each of exactly the given type; others are left out.

    Raises:
        ValueError: it is not an object, or a member is missing or of another type.
    """
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - foreign data, not a caller's mistake
    for name, kind in types.items():
        if type(document.get(name)) is not kind:
            raise ValueError(f"{name} is missing or not of type {kind.__name__}")
    return {name: document[name] for name in types}


def choice(text: str, choices: type[Choice]) -> Choice:
    """Return the one of several values that a text names.

    Raises:
        NewerValueError: this version does not know it.
        ValueError: it cannot be the name of a value.
    """
    try:
        return choices(text)
    except ValueError as error:
        if _CHOICE.fullmatch(text):
            raise NewerValueError(text) from error
        raise


def unknown_members(document: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a document that this version does not know, including those of objects inside it.

    Args:
        document: as it was read.
        known: what this version would write for it.
    """
    unknown = {name: value for name, value in document.items() if name not in known}
    for name, value in known.items():
        if isinstance(value, Mapping) and (inside := unknown_members(document[name], value)):
            unknown[name] = inside
    return unknown


def merged(known: Mapping[str, Any], unknown: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole document: what this version knows, and what :func:`unknown_members` returned."""
    nested = {name: merged(known[name], value) for name, value in unknown.items() if name in known}
    return {**known, **unknown, **nested}
