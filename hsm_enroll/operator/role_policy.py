"""An operator's IAM policy for devices: what they may do with AWS credentials. Read, and checked for its width.

Every device gets credentials of the same role. What tells one from another is the variable credentials-iot:ThingName
(AWS IoT developer guide, "Authorizing direct calls to AWS services using AWS IoT Core credential provider").
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.errors import UsageError

_VERSION = "2012-10-17"  # earlier versions have no variables
_MAX_CHARACTERS = 4096  # CloudFormation quotas, "Parameter value", in bytes
_MEMBERS = {"Version", "Id", "Statement"}
_REQUIRED = (("Effect",), ("Action", "NotAction"), ("Resource", "NotResource"))
_NOT_OF_A_ROLE = {"Principal", "NotPrincipal"}
_WHOLE_SERVICE = re.compile(r"[*?]*|[^:]*:[*?]*")
# In the last part of an ARN, a wildcard in front of the variable stands for other Things' names too. So does one behind
# it, or another variable, with nothing in between that no name has: by <thing>-*, Thing a has what is Thing a-b's.
_OWN = re.compile(
    r"([^:]*:){5}[^*?]*(?<!\})\$\{credentials-iot:(ThingName|AwsCertificateId)\}(?![a-zA-Z0-9:_-]*([*?]|\$\{)).*",
    re.DOTALL,
)
_HINT = "An IAM policy is JSON with a Version and statements of Effect, Action, Resource and, if needed, Condition."


class RolePolicy(NamedTuple):
    """A policy that an operator wants devices to have.

    Attributes:
        file: name of its file, for messages.
        text: the document as compact JSON in ASCII.
    """

    file: str
    text: str

    @property
    def statements(self) -> list[Mapping[str, Any]]:
        """Its statements."""
        statements = json.loads(self.text)["Statement"]
        return statements if isinstance(statements, list) else [statements]


def read(content: bytes, file: str) -> RolePolicy:
    """Read a role's policy.

    Does *not* check that actions, resources and conditions exist: IAM does, when the policy is deployed.

    Args:
        content: JSON in UTF-8, with or without a byte order mark.
        file: name of its file, for messages.

    Raises:
        UsageError: it is not an IAM policy of a role, or too long.
    """
    try:
        document = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_members)
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8", hint="Save the policy as JSON in UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON, or has two members with the same name", hint=_HINT) from error
    why = _why_no_policy(document)
    if why is not None:
        raise UsageError(f"{file} cannot be deployed: {why}", hint=_HINT)
    # In ASCII, since CloudFormation replaces all other characters of a parameter by question marks.
    compact = json.dumps(document, separators=(",", ":"))
    if len(compact) > _MAX_CHARACTERS:
        raise UsageError(
            f"{file} has {len(compact):,} characters without white space; CloudFormation allows {_MAX_CHARACTERS:,}",
            hint="Shorten it: statements with the same actions or the same resources can be merged.",
        )
    return RolePolicy(file, compact)


def whole_services(policy: RolePolicy) -> list[str]:
    """Return what a policy allows of whole services, one line each; an empty list means nothing.

    AWS IoT Device Defender reports such a role, too ("Role alias overly permissive").
    """
    found = []
    for statement in _allowing(policy):
        if "NotAction" in statement:
            found.append(f"everything but {printable(', '.join(_listed(statement['NotAction'])))}")
        found += [
            f"{printable(action)} on {printable(', '.join(_resources(statement)))}"
            for action in _listed(statement.get("Action", []))
            if _WHOLE_SERVICE.fullmatch(action)
        ]
    return found


def shared(policy: RolePolicy) -> list[str]:
    """Return what a policy allows all devices on the same resources, one line each, without looking at conditions."""
    return [
        f"all devices share {printable(resource)} (role policy: {printable(', '.join(_listed(statement['Action'])))})"
        for statement in _allowing(policy)
        if "Action" in statement
        for resource in _resources(statement)
        if not _OWN.fullmatch(resource)
    ]


def _why_no_policy(document: Any) -> str | None:
    if not isinstance(document, dict) or not _MEMBERS.issuperset(document) or "Statement" not in document:
        return "a policy must be a JSON object with Version and Statement"
    if document.get("Version") != _VERSION:
        return f'it needs "Version": "{_VERSION}"'
    statements = document["Statement"]
    listed = statements if isinstance(statements, list) else [statements]
    if not listed:
        return "it has no statements"
    return next((why for why in map(_why_no_statement, listed) if why is not None), None)


def _why_no_statement(statement: Any) -> str | None:
    if not isinstance(statement, dict):
        return "a statement must be a JSON object"
    for names in _REQUIRED:
        if not any(name in statement for name in names):
            return f"a statement has no {names[0]}"
    if statement["Effect"] not in ("Allow", "Deny"):
        return "the Effect of a statement must be Allow or Deny"
    if not _NOT_OF_A_ROLE.isdisjoint(statement):
        return "a role's policy has no Principal: it is about whoever has the role"
    if not all(_are_texts(statement.get(name, "*")) for name in itertools.chain(*_REQUIRED[1:])):
        return "Action and Resource must be strings or lists of strings"
    return None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("two members with the same name")
    return members


def _allowing(policy: RolePolicy) -> Iterator[Mapping[str, Any]]:
    return (statement for statement in policy.statements if statement["Effect"] == "Allow")


def _resources(statement: Mapping[str, Any]) -> list[str]:
    return _listed(statement["Resource"]) if "Resource" in statement else ["*"]


def _are_texts(value: Any) -> bool:
    return bool(_listed(value)) and all(isinstance(text, str) for text in _listed(value))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
