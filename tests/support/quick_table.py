"""moto's DynamoDB without what would take most of its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from moto.dynamodb.parsing.ast_nodes import DepthFirstTraverser, Node
from moto.dynamodb.parsing.expressions import UpdateExpressionParser


@contextmanager
def quick_table() -> Iterator[None]:
    """Let moto parse each update expression once, and walk through it with less ado.

    moto validates a copy of what it has parsed, so one parse may be used again. It asks each node of an expression for
    its kind as if kinds could change.
    """
    with (
        mock.patch.object(UpdateExpressionParser, "make", _parsed),
        mock.patch.object(DepthFirstTraverser, "traverse", _traverse),
    ):
        yield


_parsed = cache(UpdateExpressionParser.make)


def _traverse(traverser: Any, root: Any) -> Any:
    """Process the nodes below a node, children first, and then itself; as moto does."""
    return _walk(traverser, traverser._processing_map(), root, -1)  # noqa: SLF001


def _walk(traverser: Any, processors: dict[type, Callable[[Any], Any]], node: Any, place: int) -> Any:
    own_kind: Any = type(node)
    if not issubclass(own_kind, Node):
        return node
    parent = node.parent
    for number, child in enumerate(node.children or ()):
        traverser.pre_processing_of_child(node, number)
        _walk(traverser, processors, child, number)
    kind = _processed_as(tuple(processors), own_kind)
    if kind is None:
        return node
    processed = processors[kind](node)
    processed.parent = parent
    if parent:
        parent.children[place] = processed
    return processed


@cache
def _processed_as(kinds: tuple[type, ...], kind: type) -> type | None:
    """Return the first of some kinds of node to which one belongs."""
    return next((each for each in kinds if issubclass(kind, each)), None)
