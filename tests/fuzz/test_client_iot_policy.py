"""Properties of reading AWS IoT policies and of evaluating them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.iot_policy import CLIENT_ID, IS_ATTACHED, THING_NAME, Policy, PolicyUnreadableError, allows

_RUN = settings(database=None, deadline=None, max_examples=150)
_WORDS = ["Allow", "Deny", "iot:Publish", "*", "arn:aws:iot:r:1:topic/x", "${iot:ClientId}", "true", "2012-10-17", "${"]
_TEXTS = st.sampled_from(_WORDS) | st.text(st.characters(codec=None), max_size=6)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
_CONDITIONS = st.dictionaries(
    st.sampled_from(["Bool", "StringEquals", "StringLike", "StringNotEquals", "StringNotLike", "IpAddress"]),
    st.dictionaries(
        st.sampled_from([IS_ATTACHED, THING_NAME, CLIENT_ID]), _TEXTS | st.lists(_TEXTS) | _JSON, max_size=2
    )
    | _JSON,
    max_size=2,
)
_STATEMENTS = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Deny"]) | _JSON,
        "Action": _TEXTS | st.lists(_TEXTS, max_size=3) | _JSON,
        "Resource": _TEXTS | st.lists(_TEXTS, max_size=3) | _JSON,
    },
    optional={"Sid": _JSON, "Condition": _CONDITIONS | _JSON, "NotAction": _JSON},
)
_DOCUMENTS = st.fixed_dictionaries(
    {"Statement": _STATEMENTS | st.lists(_STATEMENTS, max_size=3) | _JSON}, optional={"Version": _TEXTS, "Id": _JSON}
)
_VARIABLES = st.dictionaries(st.sampled_from([IS_ATTACHED, THING_NAME, CLIENT_ID]), _TEXTS)
_PATTERNS = st.text("ab/*?.[\\", max_size=12)
_NAMES = st.text("ab/*?.[\\", max_size=12)


@_RUN
@given(text=st.text(max_size=40) | _JSON.map(json.dumps) | _DOCUMENTS.map(json.dumps), device=_VARIABLES, name=_TEXTS)
def test_any_text_is_a_policy_that_can_be_evaluated_or_refused(text: str, device: dict[str, str], name: str) -> None:
    """Nothing but the one error ever comes out of it."""
    try:
        policy = Policy.parse(text)
    except PolicyUnreadableError:
        return
    assert allows([policy], name, name, device) in {True, False}


@_RUN
@given(document=_DOCUMENTS)
def test_text_and_what_json_makes_of_it_are_read_alike(document: dict[str, Any]) -> None:
    """It does not matter who has parsed the JSON."""

    def outcome(read: str | dict[str, Any]) -> Policy | str:
        try:
            return Policy.parse(read)
        except PolicyUnreadableError as error:
            return str(error)

    assert outcome(json.dumps(document)) == outcome(document)


@_RUN
@given(pattern=_PATTERNS, name=_NAMES)
def test_wildcards_match_what_they_are_defined_to_match(pattern: str, name: str) -> None:
    """The quick matcher finds what a slow one finds that tries everything."""
    statement = {"Effect": "Allow", "Action": "x", "Resource": pattern}
    assert allows([Policy.parse({"Statement": statement})], "x", name, {}) is _matches(pattern, name)


@_RUN
@given(before=_PATTERNS, after=_PATTERNS, value=_NAMES, name=_NAMES)
def test_a_variable_is_its_value_with_the_wildcards_taken_for_what_they_are(
    before: str, after: str, value: str, name: str
) -> None:
    """A client that chooses ``*`` for its id gets the topic of that name, and nobody else's."""
    statement = {"Effect": "Allow", "Action": "x", "Resource": f"{before}${{{CLIENT_ID}}}{after}"}
    ends = [place for place in range(len(name) + 1) if name[place:].startswith(value)]
    expected = any(_matches(before, name[:end]) and _matches(after, name[end + len(value) :]) for end in ends)
    assert allows([Policy.parse({"Statement": statement})], "x", name, {CLIENT_ID: value}) is expected


@cache
def _matches(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(_matches(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and pattern[0] in {"?", name[0]} and _matches(pattern[1:], name[1:])
