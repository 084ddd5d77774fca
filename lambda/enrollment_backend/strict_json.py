"""JSON as RFC 8259 has it, without what Python's parser adds or forgives."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from enrollment_backend.errors import (
    BodyEmptyError,
    BodyNotUtf8Error,
    JsonDuplicateKeyError,
    JsonMalformedError,
    JsonNotObjectError,
    JsonNumberError,
    JsonSurrogateError,
    JsonTooDeepError,
)

_INTEGER_DIGITS = 15  # every integer this long is exact in an IEEE 754 double (RFC 8259 §6)

# RFC 8259 §9 lets a parser limit the depth. No request needs more than a few levels. Where Python's own parser stops
# depends on its version and on the stack at hand, so the depth is measured before it.
_MAX_DEPTH = 32
# A string (§7), also one without an end, or a bracket outside of strings.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse one JSON object.

    Args:
        body: the bytes as they came; the caller has bounded their number.

    Returns:
        The object. All its strings, at any depth, are Unicode text without surrogates.

    Raises:
        RequestRefusedError: one of its classes for JSON, each with its own code.

    Does not check which fields there are or of what type.
    """
    if not body.strip():
        raise BodyEmptyError
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BodyNotUtf8Error from error
    value = _parse(text)
    if not isinstance(value, dict):
        raise JsonNotObjectError
    return value


def _parse(text: str) -> Any:
    if _is_too_deep(text):
        raise JsonTooDeepError
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
        # Writing it out again visits every string at every depth, which is what finding a lone surrogate takes.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise JsonMalformedError from error
    except UnicodeEncodeError as error:
        raise JsonSurrogateError from error
    return value


def _is_too_deep(text: str) -> bool:
    """Whether brackets open more levels than are allowed, whatever else is wrong with the text."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > _MAX_DEPTH:
            return True
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise JsonDuplicateKeyError
    return result


def _refuse_constant(_: str) -> NoReturn:
    raise JsonNumberError


def _integer(literal: str) -> int:
    if len(literal.lstrip("-")) > _INTEGER_DIGITS:
        raise JsonNumberError
    return int(literal)


def _float(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise JsonNumberError
    return number
