"""Properties of checking an operator's own device policy: what it calls tight keeps devices apart."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.errors import UsageError
from hsm_enroll.iot_policy import CLIENT_ID, IS_ATTACHED, THING_NAME, Policy, allows
from hsm_enroll.operator.device_policy import loose_grants, read
from hsm_enroll.operator.policy_mistakes import mistakes
from hsm_enroll.operator.policy_notes import notes

_RUN = settings(database=None, deadline=None, max_examples=150)
_ARNS = "arn:aws:iot:eu-central-1:123456789012:"
_THING, _CLIENT = f"${{{THING_NAME}}}", f"${{{CLIENT_ID}}}"
_ACTIONS = {
    "topic": ["iot:Publish", "iot:Receive"],
    "topicfilter": ["iot:Subscribe"],
    "client": ["iot:Connect"],
    "thing": ["iot:GetThingShadow"],
}
# Few of each, so that one resource's levels are another one's, and names of Things are levels too.
_THINGS = ["a", "ab", "x", "things"]
_LITERALS = ["x", "a", "things", "$aws", "$share", "x.y"]
_ODD = ["*", "?", "+", "#", _CLIENT, "${", f"{_THING}*", f"x{_THING}", f"{_THING}{_THING}", f"{_THING}?", "a*"]
# What a wildcard may stand for.
_FRAGMENTS = ["", "b", "x/a", "a/x", "#", "+/#"]


def _levels(name: str) -> list[str]:
    return name.split("/") if name else []


_BEFORE = st.sampled_from(["", "x", "x/a", "+", "?", "$aws", "$aws/things", "$share/x", "x/+", "x.y"]).map(_levels)
_AFTER = st.lists(st.sampled_from(["*", "#", _THING, *_LITERALS]), max_size=2)
_BOUND = st.builds(lambda before, after: [*before, _THING, *after], _BEFORE, _AFTER)
_ANY = st.lists(st.sampled_from([_THING, *_LITERALS, *_ODD]), min_size=1, max_size=4)
_NAMES = (_BOUND | _ANY).map("/".join)
_BEGINNINGS = st.sampled_from([_ARNS] * 8 + ["arn:aws:iot:*:*:", "arn:*:", "arn:aws:iot:eu-central-1:123456789012*"])
_KINDS = st.sampled_from(["topic"] * 4 + ["topicfilter"] * 4 + ["client", "thing"])
_RESOURCES = st.lists(st.tuples(_BEGINNINGS, _KINDS, _NAMES), min_size=2, max_size=10)


@settings(_RUN, max_examples=250)
@given(resources=_RESOURCES)
def test_two_things_never_meet_under_a_tight_policy(resources: list[tuple[str, str, str]]) -> None:
    """No topic, client id or shadow is two Things', no filter covers another's topic, and AWS's own topics are safe."""
    tight: list[tuple[str, str, str]] = []
    for resource in resources:
        if not loose_grants(Policy.parse(_document([*tight, resource])), _ARNS):
            tight.append(resource)
    policy, asked = Policy.parse(_document(tight)), _requests(tight)
    allowed = {thing: _allowed(policy, thing, asked) for thing in _THINGS}
    for one, other in itertools.permutations(_THINGS, 2):
        topics = {name for kind, name in allowed[other] if kind == "topic"} | {f"$aws/things/{other}/shadow/get"}
        filters = {name for kind, name in allowed[one] if kind == "topicfilter"}
        assert allowed[one].isdisjoint(allowed[other] | {("topic", topic) for topic in topics})
        assert [(name, topic) for name in filters for topic in topics if _covers(name, topic)] == []


@_RUN
@given(
    content=st.binary(max_size=40)
    | st.recursive(st.none() | st.text(max_size=5), st.lists, max_leaves=5).map(json.dumps)
)
def test_any_file_is_a_policy_or_wrong_usage(content: bytes | str) -> None:
    """Nothing but the one error ever comes out of it, and it names the file."""
    try:
        read(content if isinstance(content, bytes) else content.encode(), "own.json")
    except UsageError as error:
        assert error.message.startswith("own.json ")  # noqa: PT017 - most of what is given here raises it
    else:
        raise AssertionError(content)


@_RUN
@given(resources=_RESOURCES)
def test_what_is_deployed_is_what_was_checked(resources: list[tuple[str, str, str]]) -> None:
    """The text that goes to AWS says what was read, and is read the same again."""
    document = _document(resources)
    found = read(json.dumps(document, indent=2).encode(), "own.json")
    assert Policy.parse(found.text) == found.policy == Policy.parse(document)
    assert read(found.text.encode(), "own.json") == found


_PIECES = st.sampled_from(
    [*"ab:/*?#+$}{\x1b\n", "${", "${iot:", "Thing", "Name", _THING, _CLIENT, "arn:", ":iot:", "aws", "client/", _ARNS]
)
_TEXTS = st.lists(_PIECES, max_size=12).map("".join)
_STATEMENTS = st.fixed_dictionaries(
    {"Effect": st.sampled_from(["Allow", "Deny"]), "Action": _TEXTS | st.just("iot:Connect"), "Resource": _TEXTS},
    optional={"Condition": st.builds(lambda value: {"StringLike": {CLIENT_ID: value}}, _TEXTS)},
)


@_RUN
@given(statements=st.lists(_STATEMENTS, min_size=1, max_size=4))
def test_whatever_is_wrong_with_a_policy_is_told_in_lines_that_cannot_steer_the_terminal(
    statements: list[dict[str, Any]],
) -> None:
    """Any actions, resources and variables: each mistake and note is one printable line, told once."""
    policy = Policy.parse({"Version": "2012-10-17", "Statement": statements})
    for lines in (mistakes(policy, _ARNS), notes(policy, _ARNS)):
        assert all(line.isprintable() for line in lines)
        assert len(lines) == len(set(lines))


@_RUN
@given(resources=_RESOURCES, client=st.sampled_from([_THING, f"{_THING}/*", "*", "x"]))
def test_where_a_device_may_connect_no_mistake_says_otherwise(
    resources: list[tuple[str, str, str]], client: str
) -> None:
    """Beside any resources, a grant that lets a Thing connect is seen."""
    policy = Policy.parse(_document([*resources, (_ARNS, "client", client)]))
    assert not [line for line in mistakes(policy, _ARNS) if "no device could connect" in line]


def _document(resources: list[tuple[str, str, str]]) -> dict[str, Any]:
    allowed = [(kind, f"{beginning}{kind}/{name}") for beginning, kind, name in resources]
    statements = [{"Effect": "Allow", "Action": _ACTIONS[kind], "Resource": resource} for kind, resource in allowed]
    return {"Version": "2012-10-17", "Statement": statements}


def _requests(resources: list[tuple[str, str, str]]) -> set[tuple[str, str]]:
    """Return what Things might be allowed, by kind and name: each resource filled in, and one inside another."""
    asked = {("topic", f"$aws/things/{thing}/shadow/get") for thing in _THINGS}
    for _, kind, pattern in resources:
        own = {thing: pattern.replace(_THING, thing).replace(_CLIENT, f"{thing}/1") for thing in _THINGS}
        filled = itertools.product(own.values(), _FRAGMENTS)
        asked |= {(kind, name.replace("*", fragment).replace("?", "x")) for name, fragment in filled}
        asked |= {(kind, f"{one}:{kind}/{other}") for one, other in itertools.permutations(own.values(), 2)}
    return asked


def _allowed(policy: Policy, thing: str, asked: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return what of it one Thing may do."""
    device = {THING_NAME: thing, CLIENT_ID: f"{thing}/1", IS_ATTACHED: "true"}
    return {
        (kind, name)
        for kind, name in asked
        for action in _ACTIONS[kind]
        if allows([policy], action, f"{_ARNS}{kind}/{name}", device)
    }


def _covers(topic_filter: str, topic: str) -> bool:
    """Whether a filter matches a topic (MQTT 5 sections 4.7 and 4.8.2)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    wanted = wanted[2:] if wanted[0] == "$share" else wanted
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)
