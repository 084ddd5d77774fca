"""AWS IoT policies: what is read, and what is allowed by what was read."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from hsm_enroll.iot_policy import (
    CLIENT_ID,
    IS_ATTACHED,
    THING_NAME,
    Policy,
    PolicyUnreadableError,
    allows,
    variables_of,
)

ARN = "arn:aws:iot:eu-central-1:123456789012:"
DEVICE = {THING_NAME: "a", CLIENT_ID: "a/1", IS_ATTACHED: "true"}
TOPIC = "x/a"
STATEMENT = {"Effect": "Allow", "Action": "iot:Publish", "Resource": f"{ARN}topic/x"}
# A pattern that a matcher that tries every way of dividing the text among the stars does not come to an end with.
MANY_STARS = """
from hsm_enroll.iot_policy import Policy, allows
pattern, text = "*a" * 200 + "b", "a" * 5000
statement = {"Effect": "Allow", "Action": "x", "Resource": pattern}
policy = Policy.parse({"Statement": statement})
assert allows([policy], "x", text + "b", {})
assert not allows([policy], "x", text, {})
"""


def policy(*statements: dict[str, Any]) -> Policy:
    """Read a policy of these statements."""
    return Policy.parse({"Version": "2012-10-17", "Statement": list(statements)})


def may_publish(topic: str, *policies: Policy, variables: dict[str, str] | None = None) -> bool:
    """Ask whether a device may publish to a topic."""
    return allows(policies, "iot:Publish", f"{ARN}topic/{topic}", DEVICE if variables is None else variables)


def on(resource: str, **more: Any) -> Policy:
    """Allow to publish to what a resource says."""
    return policy({"Effect": "Allow", "Action": "iot:Publish", "Resource": f"{ARN}topic/{resource}", **more})


def test_what_nothing_allows_is_refused() -> None:
    """Without a statement that allows a request, the answer is no."""
    assert not may_publish("x")
    assert not may_publish("x", on("y"))
    assert may_publish("x", on("y"), on("x"))


def test_a_denial_wins_wherever_it_stands() -> None:
    """One statement that denies outweighs those that allow, in whichever of the policies."""
    denial = policy({"Effect": "Deny", "Action": "iot:*", "Resource": "*"})
    assert not may_publish("x", on("x"), denial)
    assert not may_publish("x", denial, on("x"))


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        ("iot:Publish", True),
        ("iot:publish", True),
        ("IOT:PUBLISH", True),
        ("iot:Pub*", True),
        ("iot:*", True),
        ("*", True),
        ("iot:Publis?", True),
        ("iot:Publis", False),
        ("iot:Subscribe", False),
        ("iot:${iot:ClientId}", False),
    ],
)
def test_actions_have_wildcards_and_no_case(action: str, allowed: bool) -> None:
    """They are compared as IAM's are."""
    assert may_publish("x", on("x", Action=["iot:Connect", action])) is allowed


@pytest.mark.parametrize(
    ("resource", "topic", "allowed"),
    [
        ("x", "x", True),
        ("x", "X", False),
        ("x", "x/", False),
        ("x", "xx", False),
        ("x/*", "x/a", True),
        ("x/*", "x/a/b", True),
        ("x/*", "x/", True),
        ("x/*", "x", False),
        ("*", "", True),
        ("*x*", "axb", True),
        ("*ab*ab", "ab", False),
        ("*ab*ab", "abab", True),
        ("a*b*c", "aXbXbXc", True),
        ("a*b*c", "acb", False),
        ("a?c", "a/c", True),
        ("a?c", "ac", False),
        ("a?*c", "abc", True),
        ("x/#", "x/#", True),
        ("x/#", "x/a", False),
        ("x/+", "x/+", True),
        ("x/+", "x/a", False),
        ("x.y", "xzy", False),
        ("x*", "x\ny", True),
        ("x[ab]", "xa", False),
        ("$aws/things/a/*", "$aws/things/a/shadow/get", True),
        ("$aws/*", "$AWS/x", False),
        ("a$", "a$", True),
        ("a{b}", "a{b}", True),
        ("a${b", "a${b", True),
    ],
)
def test_resources_have_a_policys_wildcards_and_mqtts_are_ordinary_characters(
    resource: str, topic: str, allowed: bool
) -> None:
    """``*`` is any run of characters, slashes too, and ``?`` is one; ``+``, ``#`` and the rest are themselves."""
    assert may_publish(topic, on(resource)) is allowed


@pytest.mark.parametrize(
    ("resource", "topic", "value", "allowed"),
    [
        ("x/${iot:Connection.Thing.ThingName}", "x/a", "a", True),
        ("x/${iot:Connection.Thing.ThingName}", "x/b", "a", False),
        ("x/${iot:Connection.Thing.ThingName}", "x/a", None, False),
        ("x/${iot:Connection.Thing.ThingName}", "x/", None, False),
        ("*${iot:Connection.Thing.ThingName}", "x/${iot:Connection.Thing.ThingName}", None, False),
        ("x/${iot:Connection.Thing.ThingName}", "x/b", "*", False),
        ("x/${iot:Connection.Thing.ThingName}", "x/*", "*", True),
        ("x/${iot:Connection.Thing.ThingName}", "x/b", "?", False),
        ("x/${iot:Connection.Thing.ThingName}", "x/b", ".", False),
        ("x/${iot:Connection.Thing.ThingName}", "x/a", "${iot:ClientId}", False),
        ("${iot:Connection.Thing.ThingName}*${iot:Connection.Thing.ThingName}", "a/b/a", "a", True),
        ("x/${iot:Unknown}", "x/a", "a", False),
        ("x/${}", "x/a", "a", False),
    ],
)
def test_a_variable_stands_for_its_value_and_for_nothing_else(
    resource: str, topic: str, value: str | None, allowed: bool
) -> None:
    """What it stands for is taken literally, wildcards in it too; one without a value matches nothing."""
    variables = {} if value is None else {THING_NAME: value}
    assert may_publish(topic, on(resource), variables=variables) is allowed


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({}, True),
        ({"Bool": {IS_ATTACHED: "true"}}, True),
        ({"Bool": {IS_ATTACHED: True}}, True),
        ({"Bool": {IS_ATTACHED: ["false", "TRUE"]}}, True),
        ({"Bool": {IS_ATTACHED: "false"}}, False),
        ({"Bool": {IS_ATTACHED: False}}, False),
        ({"Bool": {"iot:Unknown": "false"}}, False),
        ({"StringEquals": {THING_NAME: "a"}}, True),
        ({"StringEquals": {THING_NAME: ["b", "a"]}}, True),
        ({"StringEquals": {THING_NAME: "A"}}, False),
        ({"StringEquals": {THING_NAME: "*"}}, False),
        ({"StringEquals": {CLIENT_ID: "${iot:Connection.Thing.ThingName}/1"}}, True),
        ({"StringEquals": {CLIENT_ID: "${iot:Unknown}"}}, False),
        ({"StringLike": {CLIENT_ID: "${iot:Connection.Thing.ThingName}/*"}}, True),
        ({"StringLike": {CLIENT_ID: "b*"}}, False),
        ({"StringNotEquals": {THING_NAME: "a"}}, False),
        ({"StringNotEquals": {THING_NAME: "b"}}, True),
        ({"StringNotEquals": {"iot:Unknown": "b"}}, True),
        ({"StringNotLike": {CLIENT_ID: "a*"}}, False),
        ({"StringNotLike": {CLIENT_ID: ["b*", "c*"]}}, True),
        ({"Bool": {IS_ATTACHED: "true"}, "StringEquals": {THING_NAME: "b"}}, False),
        ({"StringEquals": {THING_NAME: "a", CLIENT_ID: "b"}}, False),
    ],
)
def test_a_statement_applies_where_all_its_conditions_hold(condition: dict[str, Any], holds: bool) -> None:
    """Of the values of one key any will do; a key without a value fits none of them."""
    assert may_publish("x", on("x", Condition=condition)) is holds


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    """Whoever writes a policy cannot make its evaluation hang."""
    subprocess.run([sys.executable, "-c", MANY_STARS], check=True, timeout=30)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"Statement": ' + "9" * 5000 + "}", "not JSON"),
        ("null", "JSON object"),
        ("[]", "JSON object"),
        ('"Statement"', "JSON object"),
        ({}, "JSON object"),
        ({"Version": "2012-10-17"}, "JSON object"),
        ({"Statement": [], "Principal": "*"}, "JSON object"),
        ({"Statement": [], "Version": 2012}, "Version must be a string"),
        ({"Statement": [], "Id": []}, "Id must be a string"),
        ({"Statement": "Allow"}, "a statement must be a JSON object"),
        ({"Statement": [[]]}, "a statement must be a JSON object"),
        ({"Statement": {**STATEMENT, "Sid": {}}}, "Sid must be a string"),
        ({"Statement": {**STATEMENT, "Effect": "allow"}}, "Allow or Deny"),
        ({"Statement": {**STATEMENT, "Effect": ["Allow"]}}, "Allow or Deny"),
        ({"Statement": {**STATEMENT, "NotAction": "iot:Connect"}}, "NotAction in a statement is not supported"),
        ({"Statement": {**STATEMENT, "NotResource": "*"}}, "NotResource"),
        ({"Statement": {**STATEMENT, "Principal": "*"}}, "Principal"),
        ({"Statement": {"Effect": "Allow", "Action": "iot:Publish"}}, "no Resource"),
        ({"Statement": {"Effect": "Allow", "Resource": "*"}}, "no Action"),
        ({"Statement": {"Action": "iot:Publish", "Resource": "*"}}, "no Effect"),
        ({"Statement": {**STATEMENT, "Action": []}}, "Action must be a string or a list of strings"),
        ({"Statement": {**STATEMENT, "Action": [None]}}, "Action must be a string or a list of strings"),
        ({"Statement": {**STATEMENT, "Resource": {"Ref": "Topic"}}}, "Resource must be a string or a list of strings"),
        ({"Statement": {**STATEMENT, "Resource": [["*"]]}}, "Resource must be a string or a list of strings"),
        ({"Statement": {**STATEMENT, "Condition": []}}, "a Condition must be a JSON object"),
        ({"Statement": {**STATEMENT, "Condition": {"IpAddress": {}}}}, "the condition IpAddress is not supported"),
        ({"Statement": {**STATEMENT, "Condition": {"Bool": "true"}}}, "the condition Bool is not supported"),
        ({"Statement": {**STATEMENT, "Condition": {"Bool": {IS_ATTACHED: []}}}}, "Bool must be a string"),
        ({"Statement": {**STATEMENT, "Condition": {"Bool": {IS_ATTACHED: 1}}}}, "Bool must be a string"),
        ('{"Statement": [], "Statement": []}', "two members with the same name"),
        ('{"Statement": {"Effect": "Deny", "Effect": "Allow", "Action": "*", "Resource": "*"}}', "two members"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_policy_is_refused_and_so_is_what_is_not_evaluated(document: Any, why: str) -> None:
    """Nothing in a document is passed over; the error says what it was."""
    with pytest.raises(PolicyUnreadableError, match=why):
        Policy.parse(document)
    if not isinstance(document, str):
        with pytest.raises(PolicyUnreadableError, match=why):
            Policy.parse(json.dumps(document))


def test_single_values_and_lists_are_the_same() -> None:
    """A policy may leave out the brackets around one statement, one action, one resource and one value."""
    single = {**STATEMENT, "Condition": {"Bool": {IS_ATTACHED: "true"}}}
    listed = {
        "Effect": "Allow",
        "Action": [single["Action"]],
        "Resource": [single["Resource"]],
        "Condition": {"Bool": {IS_ATTACHED: ["true"]}},
    }
    assert Policy.parse({"Statement": single}) == Policy.parse(json.dumps({"Statement": [listed]}))


def test_the_variables_of_a_resource_are_named_in_their_order() -> None:
    """Each as often as it is there."""
    assert variables_of("topic/${iot:ClientId}/*/${b}${b}/${") == [CLIENT_ID, "b", "b"]
    assert variables_of("topic/$aws/{x}") == []
