"""JSON as RFC 8259 has it, without what Python's parser adds or forgives."""

from __future__ import annotations

import json
import math
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
    except RecursionError as error:
        raise JsonTooDeepError from error
    return value


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
