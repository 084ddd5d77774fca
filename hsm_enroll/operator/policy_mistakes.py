"""Mistakes in an operator's own device policy, as opposed to loose grants.

AWS IoT accepts a policy with actions or variables that do not exist, or with the ARNs of another account. Such a rule
never applies, and devices are refused without a reason. Nobody intends that, so no option allows it.

AWS IoT Core developer guide: "AWS IoT Core policy actions"; "Basic AWS IoT Core policy variables", "Thing policy
variables" and "X.509 certificate AWS IoT Core policy variables".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import product

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.iot_policy import CLIENT_ID, IS_ATTACHED, THING_NAME, Policy, Statement, variables_of
from hsm_enroll.operator.device_policy import short

_CONNECT = "iot:Connect"
ACTIONS = (
    _CONNECT,
    "iot:DeleteConnection",
    "iot:GetRetainedMessage",
    "iot:ListRetainedMessages",
    "iot:Publish",
    "iot:Receive",
    "iot:RetainPublish",
    "iot:Subscribe",
    "iot:DeleteThingShadow",
    "iot:GetThingShadow",
    "iot:ListNamedShadowsForThing",
    "iot:UpdateThingShadow",
    "iot:DescribeJobExecution",
    "iot:GetPendingJobExecutions",
    "iot:StartNextPendingJobExecution",
    "iot:UpdateJobExecution",
    "iot:AssumeRoleWithCertificate",
)
KNOWN_ACTIONS = {action.lower() for action in ACTIONS}

_IN_A_NAME = (
    "DistinguishedNameQualifier",
    "Country",
    "Organization",
    "OrganizationalUnit",
    "State",
    "CommonName",
    "SerialNumber",
    "Title",
    "Surname",
    "GivenName",
    "Initials",
    "Pseudonym",
    "GenerationQualifier",
    "AlternativeName.RFC822Name",
    "AlternativeName.DNSName",
    "AlternativeName.DirectoryName",
    "AlternativeName.UniformResourceIdentifier",
    "AlternativeName.IPAddress",
)
VARIABLES = (
    CLIENT_ID,
    "iot:DomainName",
    "aws:SourceIp",
    THING_NAME,
    "iot:Connection.Thing.ThingTypeName",
    IS_ATTACHED,
    "iot:CertificateId",
    "iot:Certificate.SerialNumber",
    "iot:Certificate.AvailableKeys",
    *(f"iot:Certificate.{whose}.{name}" for whose, name in product(("Subject", "Issuer"), _IN_A_NAME)),
)
_CHARACTERS = ("*", "?", "$")  # ${*} stands for a star, and so on
_ATTRIBUTE = re.compile(r"iot:Connection\.Thing\.Attributes\[[a-zA-Z0-9_.,@/:#-]{1,128}\]")  # IoT API: AttributeName
_ONE_OF_SEVERAL = re.compile(r"(iot:Certificate\.(?:Subject|Issuer)\..+)\.(?:[0-9]+|List)")

_LIKE_ENOUGH = 0.75  # between 0 and 1

# The quantifier is possessive, since a variable may contain colons, as CloudFormation's ${AWS::Region} does.
_FIELD = r"((?:\$\{[^}]*\}|[^:])*+)"
_ARN = re.compile(rf"(arn:{_FIELD}:iot:{_FIELD}:{_FIELD}:)(.*)", re.DOTALL)
_WILDCARDS = ("*", "?")
_WELL_FORMED = (
    re.compile(r"aws(-[a-z]+)*"),
    re.compile(r"[a-z]+(-[a-z]+)+-[0-9]+"),
    re.compile(r"[0-9]{12}"),
)
_ELSEWHERE = (
    "this policy is for the partition {}; the deployment is in {}",
    "this policy is for {}; the deployment is in {}",
    "this policy is for account {}; the deployment is in account {}",
)


def mistakes(policy: Policy, arns: str) -> list[str]:
    """Return the mistakes in a policy, one line for each; an empty list means that it can be deployed.

    Does *not* check the keys of conditions, nor actions with wildcards or of other services.

    Args:
        policy: any.
        arns: what the AWS IoT ARNs of the account and region begin with: ``arn:PARTITION:iot:REGION:ACCOUNT:``.
    """
    resources = [resource for statement in policy.statements for resource in statement.resources]
    found = [*_unknown_actions(policy), *_unknown_variables(policy), *_not_arns(resources, arns)]
    found += _of_elsewhere(resources, arns)
    if not any(_lets_connect(statement) for statement in policy.statements):
        found.append(f"it does not allow {_CONNECT} on any client/...: no device could connect")
    return list(dict.fromkeys(found))


def _unknown_actions(policy: Policy) -> Iterator[str]:
    for action in (action for statement in policy.statements for action in statement.actions):
        if not _is_known_action(action):
            yield f"unknown action {printable(action)}{_did_you_mean(action, ACTIONS)}"


def _is_known_action(action: str) -> bool:
    service, colon, _ = action.partition(":")
    if _has_wildcard(action) or (colon and service.lower() != "iot"):
        return True
    return action.lower() in KNOWN_ACTIONS


def _unknown_variables(policy: Policy) -> Iterator[str]:
    suggested = [f"${{{name}}}" for name in VARIABLES]
    for text in _with_variables(policy):
        for name in variables_of(text):
            if not _is_known_variable(name):
                yield f"unknown variable ${{{printable(name)}}}{_did_you_mean(f'${{{name}}}', suggested)}"


def _with_variables(policy: Policy) -> Iterator[str]:
    for statement in policy.statements:
        for resource in statement.resources:
            arn = _ARN.fullmatch(resource)
            # A variable in the beginning of an ARN is another mistake.
            yield arn[5] if arn else resource
        for _, _, values in statement.conditions:
            yield from values


def _is_known_variable(name: str) -> bool:
    if name in VARIABLES or name in _CHARACTERS or name.startswith("aws:") or _ATTRIBUTE.fullmatch(name):
        return True
    several = _ONE_OF_SEVERAL.fullmatch(name)
    return several is not None and several[1] in VARIABLES


def _did_you_mean(wrong: str, known: Iterable[str]) -> str:
    likeness, name = max((_likeness(wrong.lower(), name.lower()), name) for name in known)
    return f" (did you mean {name}?)" if likeness > _LIKE_ENOUGH else ""


def _likeness(one: str, other: str) -> float:
    """Compare two names, 0 to 1; the last part counts half: ``iot:ThingName`` is ``iot:Connection.Thing.ThingName``."""
    part, other_part = (re.split(r"[.:{]", text)[-1] for text in (one, other))
    return (SequenceMatcher(None, one, other).ratio() + SequenceMatcher(None, part, other_part).ratio()) / 2


def _not_arns(resources: Iterable[str], arns: str) -> Iterator[str]:
    for resource in resources:
        if not _may_begin_with(resource, "arn:"):
            yield f"{short(resource)} is not an ARN: it has to begin with {arns}"


def _of_elsewhere(resources: Iterable[str], arns: str) -> list[str]:
    """Return what is wrong with the beginnings of ARNs, each with the first resource that has it."""
    here = arns.split(":")
    found: dict[str, str] = {}
    for resource in resources:
        arn = _ARN.fullmatch(resource)
        if arn is None:
            continue
        beginning, *there, _ = arn.groups()
        fields = list(zip(there, _WELL_FORMED, strict=True))
        if any(not _has_wildcard(field) and not form.fullmatch(field) for field, form in fields):
            found.setdefault(f"write {arns} in place of {printable(beginning)}", "")
            continue
        for field, own, text in zip(there, (here[1], here[3], here[4]), _ELSEWHERE, strict=True):
            if not _has_wildcard(field) and field != own:
                found.setdefault(text.format(field, own), f" ({short(resource)})")
    return [f"{text}{where}" for text, where in found.items()]


def _lets_connect(statement: Statement) -> bool:
    if not statement.allows or not any(_may_be(action.lower(), _CONNECT.lower()) for action in statement.actions):
        return False
    arns = [_ARN.fullmatch(resource) for resource in statement.resources]
    # A resource that is not an ARN is "*", or another mistake.
    return any(arn is None or _may_begin_with(arn[5], "client/") for arn in arns)


def _may_be(pattern: str, text: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, text) is not None


def _may_begin_with(pattern: str, text: str) -> bool:
    """Whether a pattern can match something that starts with a text; compared up to its first wildcard or variable."""
    literal = re.split(r"[*?]|\$\{", pattern, maxsplit=1)[0]
    return literal.startswith(text) or (literal != pattern and text.startswith(literal))


def _has_wildcard(text: str) -> bool:
    return any(wildcard in text for wildcard in _WILDCARDS)
