"""Reads in the doctor's source which problems a check can find: its calls of ``Finding``, with their possible texts."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from types import FunctionType
from typing import TypeGuard, cast

from generated.expressions import UNKNOWN, Bound, Place, Variables
from hsm_enroll.doctor import Finding, Status

_ARGUMENTS = ("id", "status", "message", "hint")
_LEAVING = (ast.Return, ast.Raise, ast.Continue, ast.Break)

Check = Callable[..., Finding]


@dataclass(frozen=True)
class Said:
    """One thing that a check can say.

    Attributes:
        check: the check's id, or `UNKNOWN`.
        status: its result.
        message: what it says; `UNKNOWN` alone is the message of an error or a fault.
        hint: what to do, likewise; "" if it has none.
    """

    check: str
    status: Status
    message: str
    hint: str


def check_id(check: Check) -> str:
    """Return the id that a check's findings have."""
    return next(said.check for said in _all(check) if said.check != UNKNOWN)


def problems(check: Check) -> list[Said]:
    """Return the warnings and failures that a check can find, in the order of the source, each once."""
    return [said for said in _all(check) if said.status in {Status.WARNING, Status.FAILED}]


def _all(check: Check) -> list[Said]:
    function = cast("FunctionType", check)
    return list(dict.fromkeys(_said_by(function, {function.__name__})))


def _said_by(function: FunctionType, seen: set[str]) -> Iterator[Said]:
    """Yield what a function says, and what the functions say whose findings it returns."""
    definition = cast("ast.FunctionDef", ast.parse(inspect.getsource(function)).body[0])
    for call, variables in _calls(definition.body, {}):
        place = Place(function, variables)
        if isinstance(call.func, ast.Name) and call.func.id in {"Finding", "replace"}:
            yield from _said(call, place)
            continue
        called = place.value(call.func)
        if _makes_a_finding(called) and called.__name__ not in seen:
            yield from _said_by(called, {*seen, called.__name__})


def _makes_a_finding(called: object) -> TypeGuard[FunctionType]:
    return isinstance(called, FunctionType) and called.__annotations__.get("return") == "Finding"


def _calls(body: Sequence[ast.stmt], variables: Variables) -> Iterator[tuple[ast.Call, Variables]]:
    """Yield the calls in a block, each with the local names as they are there.

    As they are behind the block, they are in ``variables`` afterwards.
    """
    for statement in body:
        for part in _expressions(statement):
            yield from ((node, variables) for node in ast.walk(part) if isinstance(node, ast.Call))
        then = dict(variables)
        variables.update({name: [Bound(value, then)] for name, value in _assigned(statement)})
        ways = []
        for block in _blocks(statement):
            inner = dict(variables)
            yield from _calls(block, inner)
            if not isinstance(block[-1], _LEAVING):
                ways.append(inner)
        for way in ways:
            for name, values in way.items():
                variables[name] = list(dict.fromkeys([*variables.get(name, []), *values]))


def _expressions(statement: ast.stmt) -> Iterator[ast.expr]:
    """Yield a statement's expressions, but not its condition: what another check says there is not this one's."""
    for field, value in ast.iter_fields(statement):
        if isinstance(value, ast.expr) and field != "test":
            yield value


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        if block := getattr(statement, field, None):
            yield block
    for handler in getattr(statement, "handlers", ()):
        yield handler.body


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
            for target, one in zip(targets, values, strict=True):
                yield cast("ast.Name", target).id, one


def _said(call: ast.Call, place: Place) -> Iterator[Said]:
    """Yield what a call of ``Finding``, or of ``replace`` for one, may make."""
    makes_new = cast("ast.Name", call.func).id == "Finding"
    arguments = dict(zip(_ARGUMENTS, call.args, strict=False)) if makes_new else {}
    arguments |= {str(keyword.arg): keyword.value for keyword in call.keywords}
    if "status" not in arguments:
        return
    yield from (
        Said(*choice)
        for choice in product(
            place.texts(arguments["id"]) if makes_new else [UNKNOWN],
            place.statuses(arguments["status"]),
            place.texts(arguments["message"]),
            place.texts(arguments["hint"]) if "hint" in arguments else [""],
        )
    )
