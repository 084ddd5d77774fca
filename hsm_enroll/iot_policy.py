"""AWS IoT policies: read, and evaluated as AWS IoT Core does (developer guide, "AWS IoT Core policies").

A request is allowed where a statement allows it and none denies it. Resources may have the wildcards ``*`` (any run of
characters, slashes too) and ``?`` (one), and variables, ``${NAME}``; what a variable stands for is taken literally, and
a resource with a variable that stands for nothing matches nothing. MQTT's own wildcards, ``+`` and ``#``, are ordinary
characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

CLIENT_ID = "iot:ClientId"
THING_NAME = "iot:Connection.Thing.ThingName"
IS_ATTACHED = "iot:Connection.Thing.IsAttached"
"""Names of policy variables and of condition keys."""

MAX_DOCUMENT_CHARACTERS = 2048  # AWS IoT CreatePolicy, without white space

_TOP = {"Version", "Id", "Statement"}
_MEMBERS = {"Sid", "Effect", "Action", "Resource", "Condition"}
_REQUIRED = {"Effect", "Action", "Resource"}
_NAMES = {"Version", "Id", "Sid"}
_OPERATORS = {"Bool", "StringEquals", "StringLike", "StringNotEquals", "StringNotLike"}
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_PIECE = re.compile(r"\$\{[^}]*\}|[*?]|[^*?$]+|\$")


class PolicyUnreadableError(ValueError):
    """The document is no policy, or says something that is not evaluated here; the text says what."""


class Statement(NamedTuple):
    """One statement.

    Attributes:
        allows: whether its effect is Allow; else it is Deny.
        actions: such as ``iot:Publish``, with wildcards.
        resources: ARNs, or ``*``, with wildcards and variables.
        conditions: operator, key, and the values of which one has to fit.
    """

    allows: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...]

    def applies(self, action: str, resource: str, variables: Mapping[str, str]) -> bool:
        """Whether it says anything about a request."""
        return (
            any(_matches(pattern.lower(), action.lower(), {}) for pattern in self.actions)
            and any(_matches(pattern, resource, variables) for pattern in self.resources)
            and all(_holds(condition, variables) for condition in self.conditions)
        )


class Policy(NamedTuple):
    """A policy document.

    Attributes:
        statements: in their order.
    """

    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, document: str | Mapping[str, Any]) -> Policy:
        """Read a policy document, as JSON text or as what JSON makes of it.

        Raises:
            PolicyUnreadableError: it is none, or has a member, an operator or a value that is not known here.

        Does *not* check that actions and variables exist, or that resources are ARNs.
        """
        if isinstance(document, str):
            document = _json(document)
        if not isinstance(document, Mapping) or not _TOP.issuperset(document) or "Statement" not in document:
            raise PolicyUnreadableError("a policy is a JSON object with Version and Statement")
        _check_names(document)
        statements = document["Statement"]
        listed = statements if isinstance(statements, list) else [statements]
        return cls(tuple(_statement(statement) for statement in listed))


def allows(policies: Iterable[Policy], action: str, resource: str, variables: Mapping[str, str]) -> bool:
    """Decide on a request.

    Args:
        policies: all that are attached.
        action: such as ``iot:Publish``.
        resource: its ARN.
        variables: what the variables stand for, by name; those that stand for nothing are left out.
    """
    effects = {
        statement.allows
        for policy in policies
        for statement in policy.statements
        if statement.applies(action, resource, variables)
    }
    return effects == {True}


def variables_of(resource: str) -> list[str]:
    """Return the names of the variables in a resource, in their order."""
    return _VARIABLE.findall(resource)


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_members)
    except PolicyUnreadableError:
        raise
    except (ValueError, RecursionError) as error:
        raise PolicyUnreadableError("it is not JSON") from error


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 8259 section 4: which of two members of one name counts is left to the reader, and AWS's may be another one.
    members = dict(pairs)
    if len(members) < len(pairs):
        raise PolicyUnreadableError("a JSON object has two members of the same name")
    return members


def _check_names(members: Mapping[str, Any]) -> None:
    for name in sorted(_NAMES.intersection(members)):
        if not isinstance(members[name], str):
            raise PolicyUnreadableError(f"{name} is a string")


def _statement(statement: Any) -> Statement:
    if not isinstance(statement, Mapping):
        raise PolicyUnreadableError("a statement is a JSON object")
    unknown = sorted(str(member) for member in set(statement) - _MEMBERS)
    if unknown:
        raise PolicyUnreadableError(f"{unknown[0]} in a statement is not supported")
    missing = sorted(_REQUIRED - set(statement))
    if missing:
        raise PolicyUnreadableError(f"a statement has no {missing[0]}")
    if statement["Effect"] not in ("Allow", "Deny"):
        raise PolicyUnreadableError("the Effect of a statement is Allow or Deny")
    _check_names(statement)
    return Statement(
        statement["Effect"] == "Allow",
        _texts(statement["Action"], "Action"),
        _texts(statement["Resource"], "Resource"),
        tuple(_conditions(statement.get("Condition", {}))),
    )


def _conditions(conditions: Any) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    if not isinstance(conditions, Mapping):
        raise PolicyUnreadableError("a Condition is a JSON object")
    for operator, wanted in conditions.items():
        if operator not in _OPERATORS or not isinstance(wanted, Mapping):
            raise PolicyUnreadableError(f"the condition {operator} is not supported")
        for key, values in wanted.items():
            texts = ["true" if value is True else "false" if value is False else value for value in _listed(values)]
            yield operator, key, _texts(texts, operator)


def _texts(value: Any, member: str) -> tuple[str, ...]:
    texts = _listed(value)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise PolicyUnreadableError(f"{member} is a string or a list of strings")
    return tuple(texts)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(pattern: str, text: str, variables: Mapping[str, str], *, wildcards: bool = True) -> bool:
    expression = _expression(pattern, variables, wildcards)
    return expression is not None and re.fullmatch(expression, text, re.DOTALL) is not None


def _expression(pattern: str, variables: Mapping[str, str], wildcards: bool) -> str | None:
    """Return a regular expression for a pattern; None where a variable stands for nothing.

    What stands between two stars is taken at the first place that it fits, and no other place is tried. That finds
    every match, and takes no time to speak of where a pattern has many stars.
    """
    parts = [""]
    for piece in _PIECE.findall(pattern):
        if piece == "*" and wildcards:
            parts.append("")
        elif piece == "?" and wildcards:
            parts[-1] += "."
        elif not piece.startswith("${"):
            parts[-1] += re.escape(piece)
        elif piece[2:-1] in variables:
            parts[-1] += re.escape(variables[piece[2:-1]])
        else:
            return None
    first, *others = parts
    if not others:
        return first
    *between, last = others
    return first + "".join(f"(?>.*?{part})" for part in between) + ".*" + last


def _holds(condition: tuple[str, str, tuple[str, ...]], variables: Mapping[str, str]) -> bool:
    """Whether a condition holds. A key without a value fits nothing, and so holds under a negated operator alone."""
    operator, key, values = condition
    negated, actual = operator.startswith("StringNot"), variables.get(key)
    if actual is None:
        return negated
    if operator == "Bool":
        return actual.lower() in {value.lower() for value in values}
    wildcards = operator.endswith("Like")
    return any(_matches(value, actual, variables, wildcards=wildcards) for value in values) != negated
