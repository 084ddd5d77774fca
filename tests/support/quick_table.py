"""moto's DynamoDB without what would take most of its time."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from moto.dynamodb.parsing.ast_nodes import DepthFirstTraverser, Node
from moto.dynamodb.parsing.expressions import UpdateExpressionParser
from moto.dynamodb.parsing.validators import ActionCountValidator, UpdateExpressionValidator


@contextmanager
def quick_table() -> Iterator[None]:
    """Let moto parse each update expression once, count its clauses once, and walk through it with less ado.

    moto validates a copy of what it has parsed, so one parse may be used again; here that copy is made by pickle, which
    is written in C. moto asks each node of an expression for its kind as if kinds could change.
    """
    with (
        mock.patch.object(UpdateExpressionParser, "make", _parsed),
        mock.patch("moto.dynamodb.parsing.validators.deepcopy", _copied),
        mock.patch.object(UpdateExpressionValidator, "get_ast_processors", _processors),
        mock.patch.object(DepthFirstTraverser, "traverse", _traverse),
    ):
        yield


_parse: Callable[[str], Any] = UpdateExpressionParser.make
_all_processors = UpdateExpressionValidator.get_ast_processors


@cache
def _parsed(expression: str) -> Any:
    return _traverse(ActionCountValidator(), _parse(expression))


def _copied(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))  # noqa: S301 - our own


def _processors(validator: Any) -> list[Any]:
    """Return all but the one that looks at nothing but the expression: that has been asked when it was parsed."""
    return [one for one in _all_processors(validator) if not isinstance(one, ActionCountValidator)]


def _traverse(traverser: Any, root: Any) -> Any:
    """Process the nodes below a node, children first, and then itself; as moto does."""
    processors = traverser._processing_map()  # noqa: SLF001
    prepares = type(traverser).pre_processing_of_child is not DepthFirstTraverser.pre_processing_of_child
    prepare = traverser.pre_processing_of_child if prepares else None
    return _walk(processors, _processed_by(tuple(processors)), prepare, root, -1)


def _walk(processors: Any, kinds: _Kinds, prepare: Callable[[Any, int], None] | None, node: Any, place: int) -> Any:
    parent = node.parent
    for number, child in enumerate(node.children or ()):
        if prepare is not None:
            prepare(node, number)
        if _NODES[type(child)]:
            _walk(processors, kinds, prepare, child, number)
    kind = kinds[type(node)]
    if kind is None:
        return node
    processed = processors[kind](node)
    processed.parent = parent
    if parent:
        parent.children[place] = processed
    return processed


class _Kinds(dict[type, type | None]):
    """For each kind of node, the first of some kinds to which it belongs."""

    def __init__(self, some: tuple[type, ...]) -> None:
        self.some = some

    def __missing__(self, kind: type) -> type | None:
        self[kind] = next((each for each in self.some if issubclass(kind, each)), None)
        return self[kind]


_processed_by = cache(_Kinds)
_NODES = _Kinds((Node,))
