"""AWS IoT policy → mosquitto ACL, so that broker and deployed policy cannot drift apart.

Only what mosquitto can hold is translated; anything else in the policy is an error, never a silent difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hsm_enroll.errors import LocalCloudError

_THING_NAME = "${iot:Connection.Thing.ThingName}"
_STATEMENT_KEYS = frozenset({"Sid", "Effect", "Action", "Resource", "Condition"})
_KINDS = {
    "iot:Connect": "client",
    "iot:Publish": "topic",
    "iot:Receive": "topic",
    "iot:Subscribe": "topicfilter",
}
# Only certificates attached to their Thing get as far as the ACL, so this holds for whoever it is asked about.
_ATTACHED = {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}
_RESOURCE = re.compile(r"arn:[^:]+:iot:[^:]*:[^:]*:(client|topic|topicfilter)/(.+)")
# What has a meaning of its own in a mosquitto ACL, once the Thing's name and a closing "/*" are taken out.
_UNTRANSLATABLE = re.compile(r"[*?#+%$\s]")


def access_control_list(document: Mapping[str, Any]) -> str:
    """Translate a device policy into the lines of a mosquitto ACL (``acl_file`` of mosquitto.conf(5)).

    Args:
        document: the policy document, with every CloudFormation function resolved.

    Returns:
        ``pattern`` lines, which hold for every user; ``%u`` is the user's name, the CN of the certificate. A topic may
        be read if the policy allows both to subscribe to it and to receive from it.

    Raises:
        LocalCloudError: the policy says something that mosquitto would not enforce.

    mosquitto does not refuse a subscription, as AWS IoT would: it delivers nothing to it.
    """
    allowed: dict[str, set[str]] = {action: set() for action in _KINDS}
    for action, resource in _grants(document):
        allowed[action].add(_pattern(action, resource))
    if allowed["iot:Connect"] - {"%u"}:
        raise _unenforceable(f"iot:Connect to anything but client/{_THING_NAME}")
    if not allowed["iot:Connect"]:
        return ""
    lines = [f"pattern write {topic}" for topic in sorted(allowed["iot:Publish"])]
    lines += [f"pattern read {topic}" for topic in sorted(allowed["iot:Receive"] & allowed["iot:Subscribe"])]
    return "".join(f"{line}\n" for line in lines)


def _grants(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for statement in _listed(document["Statement"]):
        if not _STATEMENT_KEYS.issuperset(statement):
            raise _unenforceable(", ".join(sorted(set(statement) - _STATEMENT_KEYS)))
        if statement["Effect"] != "Allow":
            raise _unenforceable("Effect Deny")
        if statement.get("Condition", _ATTACHED) != _ATTACHED:
            raise _unenforceable(f"the condition {statement['Condition']}")
        for action in _listed(statement["Action"]):
            if action not in _KINDS:
                raise _unenforceable(f"the action {action}")
            for resource in _listed(statement["Resource"]):
                yield action, resource


def _pattern(action: str, resource: str) -> str:
    matched = _RESOURCE.fullmatch(resource)
    if matched is None or matched[1] != _KINDS[action]:
        raise _unenforceable(f"{action} on {resource}")
    topic = matched[2]
    stem = topic.removesuffix("/*")
    if _UNTRANSLATABLE.search(stem.replace(_THING_NAME, "")):
        raise _unenforceable(f"{action} on {resource}")
    # "a/#" would match the topic "a" as well (MQTT 5 §4.7.1.2), and the policy's "a/*" does not.
    tail = "/+/#" if stem != topic else ""
    return stem.replace(_THING_NAME, "%u") + tail


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _unenforceable(what: str) -> LocalCloudError:
    return LocalCloudError(
        f"The device policy has {what}; the local broker cannot enforce that.",
        hint="Teach hsm_enroll/local/policy.py to translate it, or take it out of the template.",
    )
