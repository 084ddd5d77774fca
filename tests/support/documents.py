"""The JSON documents of the commands, checked against their schemas in docs/schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
SHARED, ERROR = "definitions", "error"
STREAMS = {"subscribe", "forward"}
"""The commands that write a document a line, as many as there are."""

_formats = FormatChecker(formats=())


def read(arguments: Sequence[str], stdout: str) -> Any:
    """Return what a command wrote to stdout with ``--json``, checked against its schema or that of errors.

    A reader of the schemas lets unknown members be. Here they are refused: a new member needs its schema.

    Args:
        arguments: the command's own, the name first: ``["token", "create", "--json"]``.
        stdout: all of it.

    Returns:
        The document; of ``subscribe`` and ``forward`` the list of them, or the error where that is all.
    """
    name = schema_name(arguments)
    written = [json.loads(text) for text in (stdout.splitlines() if name in STREAMS else [stdout])]
    for document in written:
        failed = isinstance(document, dict) and set(document) == {"error"}
        validator(ERROR if failed else name).validate(document)
    return written if name in STREAMS and not (len(written) == 1 and "error" in written[0]) else written[0]


def schema_name(arguments: Sequence[str]) -> str:
    """Return the name of a command's schema: its words, at most three, joined by dashes."""
    candidates = ("-".join(arguments[:number]) for number in (3, 2))
    return next((name for name in candidates if name in names()), arguments[0])


@cache
def names() -> frozenset[str]:
    """Return the names of all schemas of commands, and of the errors' one."""
    return frozenset(file.stem for file in SCHEMAS.glob("*.json")) - {SHARED}


@cache
def validator(name: str, *, closed: bool = True) -> Draft202012Validator:
    """Return what checks a document and its formats.

    Args:
        name: the schema's.
        closed: refuse members that the schema does not know.
    """
    registry = Registry[Any]().with_resources(
        (file.name, Resource[Any].from_contents(_closed(content) if closed else content))
        for file in SCHEMAS.glob("*.json")
        for content in [json.loads(file.read_text(encoding="utf-8"))]
    )
    return Draft202012Validator({"$ref": f"{name}.json"}, registry=registry, format_checker=_formats)


def _closed(schema: Any) -> Any:
    """Return a schema whose objects have no members but those that it names."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    return {"additionalProperties": False, **closed} if "properties" in closed else closed


@_formats.checks("date-time", ValueError)
def _is_timestamp(value: object) -> bool:
    """RFC 3339 §5.6; of its forms the commands write the one in UTC without fractions."""
    return not isinstance(value, str) or bool(datetime.strptime(value, "%Y-%m-%dT%H:%M:%S%z"))


@_formats.checks("uri", ValueError)
def _is_uri(value: object) -> bool:
    """RFC 3986 §4.3, as far as the standard library sees: a scheme, a host, a port that is a number, ASCII alone."""
    if not isinstance(value, str):
        return True
    parts = urlsplit(value)
    named = bool(parts.scheme and parts.hostname) and parts.port != 0
    return named and value.isascii() and not set(value) & set(' "<>\\^`{|}')
