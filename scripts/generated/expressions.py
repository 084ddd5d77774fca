"""What an expression in the doctor's source may say: texts, in which names stand for what only a run can know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from types import FunctionType

from hsm_enroll.doctor import Status

UNKNOWN = "…"
"""Stands for what only a run can know; if it has a simple name, that does: ``{folder}``."""

# Variables and attributes whose names say nothing to a reader; mostly they hold a sentence of another object.
_NAMELESS = {
    *("advice", "count", "failure", "hello", "hint", "lost", "message", "next_try", "outcome", "own", "reason"),
    *("recovery", "refused", "st_uid", "summary", "text", "tls", "what", "who", "why"),
}
_PLACEHOLDER = re.compile(r"…|\{\w+\}")

Variables = dict[str, list["Bound"]]
"""What each local name may stand for."""


@dataclass(frozen=True, eq=False)
class Bound:
    """An expression that was assigned, with the local names as they were then."""

    expression: ast.expr
    variables: Variables


@dataclass(frozen=True)
class Place:
    """Where an expression stands.

    Attributes:
        function: the function, whose module has the other names.
        variables: its local ones, as they are there.
    """

    function: FunctionType
    variables: Variables

    def value(self, expression: ast.expr) -> object:
        """Return what a name of the module, or an attribute of one, stands for; None for anything else."""
        match expression:
            case ast.Name(id=name) if name not in self.variables:
                return self.function.__globals__.get(name)
            case ast.Attribute(value=value, attr=name):
                return getattr(self.value(value), name, None)
        return None

    def statuses(self, expression: ast.expr) -> list[Status]:
        """Return the results that an expression may have."""
        match expression:
            case ast.IfExp(body=body, orelse=orelse):
                return [*self.statuses(body), *self.statuses(orelse)]
            case ast.Name(id=name):
                return [status for place, value in self._assigned(name) for status in place.statuses(value)]
        return [Status(str(self.value(expression)))]

    def texts(self, expression: ast.expr) -> list[str]:
        """Return the texts that an expression may have."""
        match expression:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                return self._joined(parts)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._joined([left, right])
            case ast.FormattedValue(value=value):
                return self.texts(value)
            case ast.IfExp(body=body, orelse=orelse):
                return [*self.texts(body), *self.texts(orelse)]
            case ast.Call(func=called, args=arguments):
                return [self._called(called, arguments)]
        return self._of_name(expression)

    def _assigned(self, name: str) -> Iterator[tuple[Place, ast.expr]]:
        return ((Place(self.function, bound.variables), bound.expression) for bound in self.variables[name])

    def _joined(self, parts: Iterable[ast.expr]) -> list[str]:
        return ["".join(choice) for choice in product(*map(self.texts, parts))]

    def _called(self, called: ast.expr, arguments: Iterable[ast.expr]) -> str:
        values = [self.value(argument) for argument in arguments]
        function = self.value(called)
        if not isinstance(function, FunctionType):
            return UNKNOWN
        return _named(function.__name__) if None in values else str(function(*values))

    def _of_name(self, expression: ast.expr) -> list[str]:
        match expression:
            case ast.Name(id=name) if name in self.variables:
                found = [text for place, value in self._assigned(name) for text in place.texts(value)]
                return [_named(name) if _PLACEHOLDER.fullmatch(text) else text for text in found]
            case ast.Name(id=name) | ast.Attribute(attr=name):
                value = self.value(expression)
                return [value if isinstance(value, str) else _named(name)]
        return [UNKNOWN]


def _named(name: str) -> str:
    return UNKNOWN if name in _NAMELESS or name.startswith("_") else f"{{{name}}}"
