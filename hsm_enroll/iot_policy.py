"""Parses AWS IoT policies, and evaluates them as AWS IoT Core does (developer guide, "AWS IoT Core policies").

A request is allowed if a statement allows it and no statement denies it. A resource may contain the wildcards ``*``
(any number of characters, including slashes) and ``?`` (one character), and variables, ``${NAME}``. The value of a
variable is taken literally, and a resource with a variable that has no value matches nothing. MQTT's own wildcards,
``+`` and ``#``, are ordinary characters.
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

MAX_DOCUMENT_CHARACTERS = 2048  # AWS IoT CreatePolicy; whitespace does not count

_POLICY_MEMBERS = {"Version", "Id", "Statement"}
_STATEMENT_MEMBERS = {"Sid", "Effect", "Action", "Resource", "Condition"}
_REQUIRED = {"Effect", "Action", "Resource"}
_STRING_MEMBERS = {"Version", "Id", "Sid"}
_OPERATORS = {"Bool", "StringEquals", "StringLike", "StringNotEquals", "StringNotLike"}
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_PIECE = re.compile(r"\$\{[^}]*\}|[*?]|[^*?$]+|\$")


class PolicyUnreadableError(ValueError):
    """The document is not a valid policy, or uses something that is not supported here; the message says what."""


class Statement(NamedTuple):
    """One statement.

    Attributes:
        allows: whether its effect is Allow; otherwise it is Deny.
        actions: such as ``iot:Publish``; may contain wildcards.
        resources: ARNs, or ``*``; may contain wildcards and variables.
        conditions: operator, key, and values, one of which has to match.
    """

    allows: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...]

    def applies(self, action: str, resource: str, variables: Mapping[str, str]) -> bool:
        """Whether the statement applies to a request; see `allows` for the arguments."""
        return (
            any(_matches(pattern.lower(), action.lower(), {}) for pattern in self.actions)
            and any(_matches(pattern, resource, variables) for pattern in self.resources)
            and all(_holds(condition, variables) for condition in self.conditions)
        )


class Policy(NamedTuple):
    """A policy document.

    Attributes:
        statements: its statements, in their order.
    """

    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, document: str | Mapping[str, Any]) -> Policy:
        """Parse a policy document.

        Args:
            document: JSON text, or the object that was parsed from it.

        Raises:
            PolicyUnreadableError: it is not a policy, or has a member, an operator or a value that is not supported.

        Does *not* check that actions and variables exist, or that resources are ARNs.
        """
        if isinstance(document, str):
            document = _json(document)
        if not isinstance(document, Mapping) or not _POLICY_MEMBERS.issuperset(document) or "Statement" not in document:
            raise PolicyUnreadableError("a policy must be a JSON object with Version and Statement")
        _check_string_members(document)
        statements = document["Statement"]
        listed = statements if isinstance(statements, list) else [statements]
        return cls(tuple(_statement(statement) for statement in listed))


def allows(policies: Iterable[Policy], action: str, resource: str, variables: Mapping[str, str]) -> bool:
    """Whether policies allow a request.

    Args:
        policies: all policies that are attached.
        action: such as ``iot:Publish``.
        resource: the resource's ARN.
        variables: the values of the policy variables, by name; those without a value are left out.
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
    # RFC 8259 §4: parsers disagree on which of two members with the same name counts, and AWS's may use the other one.
    members = dict(pairs)
    if len(members) < len(pairs):
        raise PolicyUnreadableError("a JSON object has two members with the same name")
    return members


def _check_string_members(members: Mapping[str, Any]) -> None:
    for name in sorted(_STRING_MEMBERS.intersection(members)):
        if not isinstance(members[name], str):
            raise PolicyUnreadableError(f"{name} must be a string")


def _statement(statement: Any) -> Statement:
    if not isinstance(statement, Mapping):
        raise PolicyUnreadableError("a statement must be a JSON object")
    unknown = sorted(str(member) for member in set(statement) - _STATEMENT_MEMBERS)
    if unknown:
        raise PolicyUnreadableError(f"{unknown[0]} in a statement is not supported")
    missing = sorted(_REQUIRED - set(statement))
    if missing:
        raise PolicyUnreadableError(f"a statement has no {missing[0]}")
    if statement["Effect"] not in ("Allow", "Deny"):
        raise PolicyUnreadableError("the Effect of a statement must be Allow or Deny")
    _check_string_members(statement)
    return Statement(
        statement["Effect"] == "Allow",
        _strings(statement["Action"], "Action"),
        _strings(statement["Resource"], "Resource"),
        tuple(_conditions(statement.get("Condition", {}))),
    )


def _conditions(conditions: Any) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    if not isinstance(conditions, Mapping):
        raise PolicyUnreadableError("a Condition must be a JSON object")
    for operator, keys in conditions.items():
        if operator not in _OPERATORS or not isinstance(keys, Mapping):
            raise PolicyUnreadableError(f"the condition {operator} is not supported")
        for key, values in keys.items():
            texts = ["true" if value is True else "false" if value is False else value for value in _as_list(values)]
            yield operator, key, _strings(texts, operator)


def _strings(value: Any, member: str) -> tuple[str, ...]:
    strings = _as_list(value)
    if not strings or not all(isinstance(string, str) for string in strings):
        raise PolicyUnreadableError(f"{member} must be a string or a list of strings")
    return tuple(strings)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(pattern: str, text: str, variables: Mapping[str, str], *, wildcards: bool = True) -> bool:
    expression = _expression(pattern, variables, wildcards)
    return expression is not None and re.fullmatch(expression, text, re.DOTALL) is not None


def _expression(pattern: str, variables: Mapping[str, str], wildcards: bool) -> str | None:
    """Return a regular expression for a pattern; None if one of its variables has no value.

    A part between two stars is matched at the first possible place, without backtracking. That still finds every match,
    and stays fast when a pattern has many stars.
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
    """Whether a condition holds. A key without a value matches nothing, so only negated operators hold for it."""
    operator, key, values = condition
    negated, actual = operator.startswith("StringNot"), variables.get(key)
    if actual is None:
        return negated
    if operator == "Bool":
        return actual.lower() in {value.lower() for value in values}
    wildcards = operator.endswith("Like")
    return any(_matches(value, actual, variables, wildcards=wildcards) for value in values) != negated
