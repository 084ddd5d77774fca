"""An operator's own device policy: read, checked for grants that let one device reach another's topics, and compared.

What is wrong with a policy, whatever it allows, is the subject of `policy_mistakes`.

A grant is tight if no two Things can use it for the same topic, client id, shadow or job. It is not enough that the
Thing's name is somewhere in the resource:

- a fixed first level must come before the name, since a Thing may be named like the first level of any topic;
- the name must be a whole level, since ``device/${...}*`` gives Thing ``a`` what belongs to Thing ``ab``;
- no wildcard may come before it, since a wildcard matches whole levels, and among them another Thing's name;
- no other resource may have a fixed level where this one has the name: with ``site/${...}/*`` and
  ``site/line1/${...}``, a Thing named ``line1`` reaches everybody's topics.

``${iot:ClientId}`` limits nothing: the device chooses it, within what the policy lets it connect as.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.errors import UsageError
from hsm_enroll.iot_policy import (
    CLIENT_ID,
    MAX_DOCUMENT_CHARACTERS,
    THING_NAME,
    Policy,
    PolicyUnreadableError,
)

_VERSION = "2012-10-17"  # earlier versions have no variables
_THING = f"${{{THING_NAME}}}"
_CLIENT = f"${{{CLIENT_ID}}}"
_NAME_OF_A_THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
# Wildcards of policies and of MQTT, and the beginning of a variable.
_NOT_LITERAL = re.compile(r"[*?+#]|\$\{")
_RULES = ["$aws", "rules"]
_REGISTRY = ["$aws", "things"]

# The kind of resource of each action (Service Authorization Reference, AWS IoT and AWS IoT Jobs; developer guide,
# "Authorizing direct calls to AWS services", for the last one). All other actions are for operators, or for what
# devices share.
KINDS = {
    "iot:connect": "client",
    "iot:publish": "topic",
    "iot:receive": "topic",
    "iot:retainpublish": "topic",
    "iot:getretainedmessage": "topic",
    "iot:subscribe": "topicfilter",
    "iot:getthingshadow": "thing",
    "iot:updatethingshadow": "thing",
    "iot:deletethingshadow": "thing",
    "iot:listnamedshadowsforthing": "thing",
    "iot:describejobexecution": "thing",
    "iot:getpendingjobexecutions": "thing",
    "iot:startnextpendingjobexecution": "thing",
    "iot:updatejobexecution": "thing",
    # Devices share the role behind an alias: what tells them apart is in the role's policy.
    "iot:assumerolewithcertificate": "rolealias",
}
_OF_TOPICS = {"topic", "topicfilter"}
_ROLE_ALIAS = "rolealias"

SEVERAL_ACTIONS = "a wildcard allows several actions; list those that devices need"
OTHER_ACTION = "this action cannot be checked"
UNBOUND = "it is not limited to one Thing"
BY_CLIENT_ID = "a device chooses its own client id, so this limits nothing"
ROOT = "put a fixed level before <thing>: a Thing could be named like the first level of another topic"
VARIES_BEFORE = "a wildcard or a variable comes before <thing>"
PART_OF_A_LEVEL = "<thing> must be a whole level, or Thing a can reach what belongs to Thing ab"
RESERVED = "this reserved topic of AWS IoT does not belong to one Thing"
SEVERAL_ALIASES = "a wildcard or a variable allows several role aliases; name those that devices need"
SHARED = "a shared subscription can receive messages that are meant for other devices"

_CANNOT = "cannot be deployed"
_HINT = "An AWS IoT policy is JSON with a Version and statements of Effect, Action, Resource and, if needed, Condition."


class DevicePolicy(NamedTuple):
    """A policy that an operator wants to deploy.

    Attributes:
        file: name of its file, for messages.
        policy: the parsed policy.
        text: the document as compact JSON in ASCII; "" stands for the template's own policy.
    """

    file: str
    policy: Policy
    text: str


TEMPLATES_OWN = DevicePolicy("", Policy(()), "")


class LooseGrant(NamedTuple):
    """Something that a policy allows without limiting it to one Thing.

    Attributes:
        actions: as in the policy.
        resource: as in the policy, without the beginning that all ARNs of this account share.
        why: what is loose about it.
    """

    actions: tuple[str, ...]
    resource: str
    why: str

    def __str__(self) -> str:
        return f"{printable(', '.join(self.actions))} on {short(self.resource)}: {self.why}"


class Rule(NamedTuple):
    """One action on one resource, allowed or denied.

    Attributes:
        effect: Allow or Deny.
        action: such as ``iot:Publish``.
        resource: an ARN, or ``*``.
        condition: operators, keys and values, sorted by name; empty if the rule is unconditional.
    """

    effect: str
    action: str
    resource: str
    condition: tuple[tuple[str, str, tuple[str, ...]], ...]

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend deploy --json``, with the condition as in a policy."""
        condition: dict[str, dict[str, list[str]]] = {}
        for operator, key, values in self.condition:
            condition.setdefault(operator, {})[key] = list(values)
        shown: dict[str, Any] = {"effect": self.effect, "action": self.action, "resource": self.resource}
        return shown | ({"condition": condition} if condition else {})


class Change(NamedTuple):
    """The difference between two policies.

    Attributes:
        removed: rules of the first policy only, in its order.
        added: rules of the second policy only, in its order.
    """

    removed: tuple[Rule, ...]
    added: tuple[Rule, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of ``backend deploy --json``."""
        return {
            "removed": [rule.to_json() for rule in self.removed],
            "added": [rule.to_json() for rule in self.added],
        }


def read(content: bytes, file: str) -> DevicePolicy:
    """Read a device policy.

    Does *not* check what it allows; `loose_grants` does. Does *not* check whether that makes sense; `mistakes` does.

    Args:
        content: JSON in UTF-8, with or without a byte order mark.
        file: name of its file, for messages.

    Raises:
        UsageError: it is not a policy, AWS IoT would refuse it, or it uses something that cannot be evaluated here.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8", hint="Save the policy as JSON in UTF-8.") from error
    try:
        policy = Policy.parse(text)
    except PolicyUnreadableError as error:
        raise UsageError(f"{file} {_CANNOT}: {error}", hint=_HINT) from error
    document = json.loads(text)
    if not _is_text(document):
        raise UsageError(f"{file} {_CANNOT}: it contains half of a surrogate pair", hint=_HINT)
    if "Version" not in document:
        raise UsageError(f'{file} {_CANNOT}: it has no Version; add "Version": "{_VERSION}"', hint=_HINT)
    if document["Version"] != _VERSION:
        raise UsageError(f"{file} {_CANNOT}: its Version must be {_VERSION}", hint=_HINT)
    if not policy.statements:
        raise UsageError(f"{file} {_CANNOT}: it has no statements", hint=_HINT)
    # In ASCII, since CloudFormation replaces all other characters of a parameter by question marks. Escapes, and white
    # space inside strings, count at least as much here as they do in AWS IoT.
    compact = json.dumps(document, separators=(",", ":"))
    if len(compact) > MAX_DOCUMENT_CHARACTERS:
        raise UsageError(
            f"{file} has {len(compact):,} characters without white space; AWS IoT allows {MAX_DOCUMENT_CHARACTERS:,}",
            hint="Shorten it: statements with the same actions or the same resources can be merged.",
        )
    return DevicePolicy(file, policy, compact)


def loose_grants(policy: Policy, arns: str) -> list[LooseGrant]:
    """Return what a policy allows without limiting it to one Thing; an empty list means that it is tight.

    With a tight policy, no two Things may publish or receive on the same topic, retain a message there, subscribe to a
    filter that covers the other's topic, connect with the same client id, or reach the same shadow or job.
    Does *not* consider Deny statements and conditions: both can only take something away.

    Args:
        policy: any.
        arns: what the AWS IoT ARNs of the account and region begin with: ``arn:PARTITION:iot:REGION:ACCOUNT:``.
    """
    grants = list(_grants(policy, arns))
    reasons = [(grant, _why_loose(grant, arns)) for grant in grants]
    topics = [grant for grant, why in reasons if why is None and grant.wanted in _OF_TOPICS]
    actions: dict[tuple[str, str], dict[str, None]] = {}
    for grant, why in [*reasons, *_overlapping(topics)]:
        if why is not None:
            actions.setdefault((grant.shown, why), {})[grant.action] = None
    return [LooseGrant(tuple(names), resource, why) for (resource, why), names in actions.items()]


def _is_text(document: Any) -> bool:
    r"""Whether every string in it is valid Unicode: JSON allows a lone ``\ud800`` (RFC 8259 §8.2)."""
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def short(resource: str) -> str:
    """Return a resource for a person to read: ``<thing>`` instead of the variable, and no control characters."""
    return printable(resource.replace(_THING, "<thing>"))


def compare(before: Policy, after: Policy) -> Change:
    """Return the difference between two policies, however their rules are grouped in statements."""
    old, new = dict.fromkeys(_rules(before)), dict.fromkeys(_rules(after))
    return Change(
        removed=tuple(rule for rule in old if rule not in new), added=tuple(rule for rule in new if rule not in old)
    )


def _rules(policy: Policy) -> Iterator[Rule]:
    for statement in policy.statements:
        for resource in statement.resources:
            for action in statement.actions:
                yield Rule("Allow" if statement.allows else "Deny", action, resource, statement.conditions)


class _Grant(NamedTuple):
    """One action allowed on one resource.

    Attributes:
        action: as in the policy.
        wanted: the kind of resource that the action applies to; None for an action that is unknown here.
        resource: as in the policy.
        shown: the resource without the beginning that all ARNs of this account share.
    """

    action: str
    wanted: str | None
    resource: str
    shown: str

    @property
    def kind(self) -> str:
        """Kind of the resource, such as ``topic``."""
        return self.shown.partition("/")[0]

    @property
    def levels(self) -> list[str]:
        """Levels of the resource's name."""
        return self.shown.partition("/")[2].split("/")

    @property
    def before(self) -> list[str]:
        """The literal levels at the beginning.

        ``$aws/rules/RULE/TOPIC`` (Basic Ingest) gives a message to a rule as if it had been published to TOPIC, so
        these are the levels of TOPIC.
        """
        before = list(itertools.takewhile(_is_literal, self.levels))
        return before[3:] if before[:2] == _RULES and len(before) > 2 else before

    @property
    def after(self) -> list[str]:
        """The levels after `before`; the first is the Thing's name if the grant is limited to one Thing."""
        return list(itertools.dropwhile(_is_literal, self.levels))


def _is_literal(level: str) -> bool:
    return not _NOT_LITERAL.search(level)


def _grants(policy: Policy, arns: str) -> Iterator[_Grant]:
    for statement in policy.statements:
        if not statement.allows:
            continue
        wanted = {action: KINDS.get(action.lower()) for action in statement.actions}
        for resource, action in itertools.product(statement.resources, statement.actions):
            grant = _Grant(action, wanted[action], resource, resource.removeprefix(arns))
            # A statement of several actions and resources has pairs that make no sense. AWS IoT never evaluates those.
            # So they are left out if the resource fits another of the actions.
            if grant.wanted in (None, grant.kind) or grant.kind not in wanted.values():
                yield grant


def _why_loose(grant: _Grant, arns: str) -> str | None:
    """Return what is loose about a grant by itself; None if it is tight."""
    if "*" in grant.action or "?" in grant.action:
        return SEVERAL_ACTIONS
    if grant.wanted is None:
        return OTHER_ACTION
    if grant.resource == "*":
        return UNBOUND
    if not grant.resource.startswith(arns):
        return f"it does not begin with {arns}"
    if grant.kind != grant.wanted:
        return f"this action is about {grant.wanted}/..., not {printable(grant.kind)}/..."
    if grant.kind == _ROLE_ALIAS:
        return None if _is_literal(grant.levels[0]) else SEVERAL_ALIASES
    return _why_loose_topic(grant) if grant.kind in _OF_TOPICS else _why_loose_name(grant.levels[0])


def _why_loose_name(first: str) -> str | None:
    """As `_why_loose`, for the first level of a client id, or of a Thing with or without the name of a shadow."""
    if first == _THING:
        return None
    if _CLIENT in first:
        return BY_CLIENT_ID
    return PART_OF_A_LEVEL if _THING in first else UNBOUND


def _why_loose_topic(grant: _Grant) -> str | None:
    level = next(iter(grant.after), "")
    if level != _THING:
        return _why_unbound(level, grant.after)
    if not any(grant.before[:1]):
        return ROOT
    if grant.before[0] == "$share":
        return SHARED
    if grant.before[0] == "$aws" and grant.before != _REGISTRY:
        return RESERVED
    return None


def _why_unbound(level: str, after: list[str]) -> str:
    if _CLIENT in level:
        return BY_CLIENT_ID
    if _THING in level:
        return PART_OF_A_LEVEL
    return VARIES_BEFORE if any(_THING in other for other in after) else UNBOUND


def _overlapping(grants: list[_Grant]) -> Iterator[tuple[_Grant, str]]:
    """Yield the grants that give a Thing of a certain name what another grant gives to other Things, and why."""
    for grant in grants:
        if len(grant.after) == 1:
            continue  # one topic per Thing, and nothing below it
        depth = len(grant.before)
        for other in grants:
            taken = "".join(other.before[depth : depth + 1])
            if other.before[:depth] == grant.before and _NAME_OF_A_THING.fullmatch(taken):
                yield grant, f"a Thing named {taken} could reach {short(other.shown)}"
