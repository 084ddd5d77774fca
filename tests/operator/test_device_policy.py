"""An operator's own device policy: what is read, what is loose about it, and what differs from another one."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from hsm_enroll.errors import UsageError
from hsm_enroll.iot.device_topics import DeviceTopics
from hsm_enroll.iot_policy import IS_ATTACHED, MAX_DOCUMENT_CHARACTERS, THING_NAME, Policy, allows
from hsm_enroll.operator import device_policy, policy_notes
from hsm_enroll.operator.device_policy import compare, loose_grants, read
from hsm_enroll.operator.policy_mistakes import mistakes
from hsm_enroll.operator.policy_notes import notes
from tests.support.pages import page

ARNS = "arn:aws:iot:eu-central-1:123456789012:"
THING = "${iot:Connection.Thing.ThingName}"
CLIENT = "${iot:ClientId}"
ACTIONS = {
    "client": "iot:Connect",
    "topic": ["iot:Publish", "iot:Receive"],
    "topicfilter": "iot:Subscribe",
    "thing": "iot:GetThingShadow",
}


def statement(resource: str, action: Any = None, **more: Any) -> dict[str, Any]:
    """Allow what a kind of resource is for; of the account's own, unless it is an ARN or everything."""
    whole = resource if resource == "*" or resource.startswith("arn:") else ARNS + resource
    kind = resource.partition("/")[0]
    return {"Effect": "Allow", "Action": action or ACTIONS[kind], "Resource": whole, **more}


def document(*statements: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a policy."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def policy(*statements: dict[str, Any]) -> Policy:
    """Read a policy of these statements."""
    return Policy.parse(document(*statements))


def whys(*statements: dict[str, Any]) -> set[str]:
    """Return why a policy is loose; nothing if it is tight."""
    return {grant.why for grant in loose_grants(policy(*statements), ARNS)}


@pytest.mark.parametrize(
    "resource",
    [
        f"client/{THING}",
        f"client/{THING}/*",
        f"client/{THING}/{CLIENT}",
        f"topic/device/{THING}",
        f"topic/device/{THING}/*",
        f"topicfilter/device/{THING}/*",
        f"topicfilter/device/{THING}/#",
        f"topicfilter/device/{THING}/+/x",
        f"topic/site/line 1/{THING}/up/?/*{THING}*",
        f"topic/device/{THING}/{CLIENT}",
        f"topic/$aws/things/{THING}/shadow/*",
        f"topicfilter/$aws/things/{THING}/jobs/notify-next",
        f"topic/$aws/rules/ingest/device/{THING}/*",
        f"thing/{THING}",
        f"thing/{THING}/*",
    ],
)
def test_what_is_bound_to_the_thing_behind_a_literal_level_is_tight(resource: str) -> None:
    """The Thing's name is a whole level, something fixed comes before it, and no wildcard does."""
    assert whys(statement(resource)) == set()


@pytest.mark.parametrize(
    ("resource", "why"),
    [
        ("*", device_policy.UNBOUND),
        ("topic/*", device_policy.UNBOUND),
        ("topic/", device_policy.UNBOUND),
        ("topic", device_policy.UNBOUND),
        ("topic/all", device_policy.UNBOUND),
        ("topicfilter/#", device_policy.UNBOUND),
        ("topicfilter/device/+/x", device_policy.UNBOUND),
        ("topic/device/${iot:Connection.Thing.ThingTypeName}/*", device_policy.UNBOUND),
        ("topic/device/${iot:connection.thing.thingname}/*", device_policy.UNBOUND),
        ("topic/device/${iot:Connection.Thing.ThingName, 'x'}/*", device_policy.UNBOUND),
        (f"topic/{THING}", device_policy.ROOT),
        (f"topic/{THING}/*", device_policy.ROOT),
        (f"topic//{THING}/*", device_policy.ROOT),
        (f"topic/$aws/rules/ingest/{THING}/*", device_policy.ROOT),
        (f"topic/device/*/{THING}", device_policy.VARIES_BEFORE),
        (f"topic/dev?ce/{THING}", device_policy.VARIES_BEFORE),
        (f"topic/device*/{THING}", device_policy.VARIES_BEFORE),
        (f"topicfilter/device/+/{THING}", device_policy.VARIES_BEFORE),
        (f"topicfilter/+/{THING}/x", device_policy.VARIES_BEFORE),
        (f"topic/device/${{iot:Unknown}}/{THING}", device_policy.VARIES_BEFORE),
        (f"topic/device${{/{THING}", device_policy.VARIES_BEFORE),
        (f"topic/device/{THING}*", device_policy.PART_OF_A_LEVEL),
        (f"topic/device/x{THING}", device_policy.PART_OF_A_LEVEL),
        (f"topic/device/{THING}x/*", device_policy.PART_OF_A_LEVEL),
        (f"topic/device/{THING}{THING}", device_policy.PART_OF_A_LEVEL),
        (f"topicfilter/device/{THING}#", device_policy.PART_OF_A_LEVEL),
        (f"topic/device/{CLIENT}/*", device_policy.BY_CLIENT_ID),
        (f"topic/{CLIENT}/{THING}", device_policy.BY_CLIENT_ID),
        (f"topic/$aws/{THING}/*", device_policy.RESERVED),
        (f"topic/$aws/rules/{THING}/device/x", device_policy.RESERVED),
        (f"topic/$aws/events/presence/connected/{THING}", device_policy.RESERVED),
        (f"topic/$aws/things/other/{THING}", device_policy.RESERVED),
        (f"topicfilter/$share/group/device/{THING}/*", device_policy.SHARED),
        ("client/*", device_policy.UNBOUND),
        ("client/gateway", device_policy.UNBOUND),
        (f"client/x/{THING}", device_policy.UNBOUND),
        (f"client/{CLIENT}", device_policy.BY_CLIENT_ID),
        (f"client/{THING}*", device_policy.PART_OF_A_LEVEL),
        (f"client/{THING}-*", device_policy.PART_OF_A_LEVEL),
        ("thing/*", device_policy.UNBOUND),
        (f"thing/{THING}*", device_policy.PART_OF_A_LEVEL),
    ],
)
def test_everything_else_is_loose_and_the_reason_is_named(resource: str, why: str) -> None:
    """Each of them lets a Thing of some name, or a device that chooses its client id, reach what is not its own."""
    kind = "topic" if resource == "*" else resource.partition("/")[0]
    assert whys(statement(resource, ACTIONS[kind])) == {why}


@pytest.mark.parametrize(
    "resource",
    [
        f"arn:aws:iot:*:*:topic/device/{THING}/*",
        f"arn:aws:iot:eu-central-1:*:topic/device/{THING}/*",
        f"arn:aws:iot:eu-west-1:123456789012:topic/device/{THING}/*",
        f"arn:aws:iot:eu-central-1:210987654321:topic/device/{THING}/*",
        f"arn:aws-cn:iot:eu-central-1:123456789012:topic/device/{THING}/*",
        f"arn:aws:sns:eu-central-1:123456789012:topic/device/{THING}/*",
        f"arn:*:topic/device/{THING}/*",
    ],
)
def test_the_arns_are_those_of_the_account_and_region(resource: str) -> None:
    """A wildcard there would match a colon in a topic; another account's policy would lock every device out."""
    assert whys(statement(resource, "iot:Publish")) == {f"it does not begin with {ARNS}"}


def test_a_wildcard_in_the_region_is_loose_for_a_reason() -> None:
    """It takes the beginning of Thing b's topic, and the rest is Thing a's."""
    loose = policy(statement(f"arn:aws:iot:*:*:topic/device/{THING}/*", "iot:Publish"))
    assert allows([loose], "iot:Publish", f"{ARNS}topic/device/b/:topic/device/a/x", {THING_NAME: "a"})


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ("iot:*", device_policy.SEVERAL_ACTIONS),
        ("*", device_policy.SEVERAL_ACTIONS),
        ("iot:Publis?", device_policy.SEVERAL_ACTIONS),
        ("iot:AssumeRoleWithCertificate", "this action is about rolealias/..., not topic/..."),
        ("iot:DeleteCertificate", device_policy.OTHER_ACTION),
        ("iot:Subscribe", "this action is about topicfilter/..., not topic/..."),
        ("iot:Connect", "this action is about client/..., not topic/..."),
    ],
)
def test_an_action_is_one_of_those_that_a_device_needs_and_fits_its_resource(action: str, why: str) -> None:
    """What an action means for other devices is known for these only."""
    assert whys(statement(f"topic/device/{THING}/*", action)) == {why}


def test_the_actions_are_about_the_resources_that_aws_says_they_are() -> None:
    """Service Authorization Reference, AWS IoT and AWS IoT Jobs; it lacks the one that IAM does not know."""
    reference = json.loads((files("cfnlint") / "data/AdditionalSpecs/Policies.json").read_text("utf-8"))
    actions = reference["iotjobsdata"]["Actions"] | reference["iot"]["Actions"]
    for action, kind in device_policy.KINDS.items() - {("iot:assumerolewithcertificate", "rolealias")}:
        assert kind in actions[action.removeprefix("iot:")]["Resources"], action


def test_a_grant_of_one_role_alias_is_tight() -> None:
    """What tells devices apart is in the role's own policy; which aliases they may use is a matter of their names."""
    assert whys(statement("rolealias/gateways", "iot:AssumeRoleWithCertificate")) == set()
    for alias in ("*", "gate*", f"{THING}"):
        found = whys(statement(f"rolealias/{alias}", "iot:AssumeRoleWithCertificate"))
        assert found == {device_policy.SEVERAL_ALIASES}


def test_a_statement_may_mix_kinds_as_long_as_each_resource_fits_an_action() -> None:
    """AWS IoT never asks for the pairs that make no sense; a resource that no action fits is a mistake."""
    mixed = {
        "Effect": "Allow",
        "Action": ["iot:Publish", "iot:Subscribe"],
        "Resource": [f"{ARNS}topic/device/{THING}/*", f"{ARNS}topicfilter/device/{THING}/*"],
    }
    assert whys(mixed) == set()
    mixed["Resource"] = [*mixed["Resource"], f"{ARNS}client/{THING}"]
    assert whys(mixed) == {
        "this action is about topic/..., not client/...",
        "this action is about topicfilter/..., not client/...",
    }


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (f"topic/site/{THING}/*", f"topic/site/line1/{THING}", "line1"),
        (f"topicfilter/site/{THING}/#", f"topic/site/line1/{THING}", "line1"),
        (f"topic/site/{THING}/x/*", f"topicfilter/site/line1/x/{THING}", "line1"),
        (f"topic/device/{THING}/*", f"topic/$aws/rules/ingest/device/line1/{THING}", "line1"),
        (f"topic/$aws/rules/ingest/device/{THING}/*", f"topic/device/line1/{THING}", "line1"),
    ],
)
def test_no_level_is_one_things_name_and_another_resources_own(one: str, other: str, name: str) -> None:
    """Each is tight by itself; beside the other it gives the Thing of one name the topics of all the others."""
    assert whys(statement(one)) == whys(statement(other)) == set()
    for statements in ((one, other), (other, one)):
        reached = other.replace(THING, "<thing>")
        assert whys(*map(statement, statements)) == {f"a Thing named {name} could reach {reached}"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"topic/site/{THING}", f"topic/site/line1/{THING}"),
        (f"topic/site/{THING}/*", f"topic/site/line 1/{THING}"),
        (f"topic/site/{THING}/*", f"topic/site/{THING}"),
        (f"topic/site/{THING}/*", f"topic/sites/line1/{THING}"),
        (f"topic/site/{THING}/*", f"topic/sit/{THING}/*"),
    ],
)
def test_resources_that_cannot_meet_are_tight_together(one: str, other: str) -> None:
    """Nothing lies below one's topics, no Thing may bear the level's name, or the levels before it differ."""
    assert whys(statement(one), statement(other)) == set()


def test_denials_and_conditions_are_free() -> None:
    """They can only take away."""
    denial = {"Effect": "Deny", "Action": "iot:*", "Resource": "*"}
    condition = {"Condition": {"Bool": {IS_ATTACHED: "true"}}}
    assert whys(denial, statement(f"client/{THING}", **condition)) == set()
    assert whys(statement("client/*", **condition)) == {device_policy.UNBOUND}


def test_a_loose_grant_is_one_line_that_cannot_steer_the_terminal() -> None:
    """Actions, resource without what all of the account's share, and the reason; each grant once."""
    loose = loose_grants(policy(statement(f"topic/{THING}\x1b\nb"), statement(f"topic/{THING}\x1b\nb")), ARNS)
    assert [str(grant) for grant in loose] == [
        rf"iot:Publish, iot:Receive on topic/<thing>\x1b\nb: {device_policy.PART_OF_A_LEVEL}"
    ]


def test_a_policy_is_deployed_as_what_was_checked() -> None:
    """It is written anew from what was read: compact, in ASCII, without a byte order mark."""
    written = document(statement(f"topic/größe/{THING}"))
    text = json.dumps(written, indent=4, ensure_ascii=False)
    found = read(b"\xef\xbb\xbf" + text.encode(), "own.json")
    assert found.policy == Policy.parse(written)
    assert json.loads(found.text) == written
    assert found.text.isascii()
    assert " " not in found.text
    assert found == read(json.dumps(written).encode(), "own.json")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (json.dumps(document(statement("topic/x"))).encode("utf-16"), "not UTF-8"),
        (b"{}", "JSON object with Version and Statement"),
        (b"[]", "JSON object"),
        (json.dumps(document()).encode(), "no statements"),
        (json.dumps({"Statement": statement("topic/x")}).encode(), 'no Version; add "Version": "2012-10-17"'),
        (json.dumps({**document(statement("topic/x")), "Version": "2008-10-17"}).encode(), "Version must be 2012-"),
        (json.dumps(document({**statement("topic/x"), "NotAction": "*"})).encode(), "NotAction"),
        (b'{"Version": "2012-10-17", "Version": "2012-10-17", "Statement": []}', "two members"),
        (b"[" * 100_000, "not JSON"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_no_policy_is_wrong_usage_that_names_the_file(content: bytes, why: str) -> None:
    """The error says what is wrong with it, and what it has to be."""
    with pytest.raises(UsageError, match=rf"^own\.json .*{why}") as raised:
        read(content, "own.json")
    assert raised.value.hint


def test_a_policy_has_at_most_what_aws_iot_takes() -> None:
    """2,048 characters without the white space between them; one more is refused, with both numbers."""
    empty = len(read(json.dumps(document(statement("topic/"))).encode(), "own.json").text)

    def sized(length: int) -> bytes:
        return json.dumps(document(statement("topic/" + "x" * (length - empty))), indent=8).encode()

    assert len(read(sized(MAX_DOCUMENT_CHARACTERS), "own.json").text) == MAX_DOCUMENT_CHARACTERS
    with pytest.raises(UsageError, match=r"own\.json has 2,049 characters without white space; AWS IoT allows 2,048"):
        read(sized(MAX_DOCUMENT_CHARACTERS + 1), "own.json")


TAKES_OVER = policy_notes.TAKES_OVER
NO_CLIENT_ID = policy_notes.NO_CLIENT_ID
NO_FIRST_MESSAGE = policy_notes.NO_FIRST_MESSAGE


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([f"client/{THING}", f"client/{THING}/*", f"topic/certtest/{THING}"], []),
        ([f"client/{THING}/*", f"topic/certtest/{THING}"], []),
        ([f"client/{CLIENT}", "topic/certtest/*"], []),
        ([f"client/{THING}", f"topic/certtest/{THING}"], [TAKES_OVER]),
        ([f"client/{THING}", f"client/{THING}/*", f"topic/device/{THING}/*"], [NO_FIRST_MESSAGE]),
        ([f"client/{THING}", f"topic/certtest/{THING}/*"], [TAKES_OVER, NO_FIRST_MESSAGE]),
        (["client/other", f"topic/certtest/{THING}"], [NO_CLIENT_ID]),
    ],
)
def test_what_a_policy_keeps_hsm_enroll_from_is_noted(resources: list[str], expected: list[str]) -> None:
    """A client id of a connection's own, and the topic of the first message."""
    attached = {"Condition": {"Bool": {IS_ATTACHED: "true"}}}
    assert notes(policy(*(statement(resource, **attached) for resource in resources)), ARNS) == expected


def test_the_topic_that_is_asked_for_is_that_of_the_first_message() -> None:
    """As devices have it."""
    hello = DeviceTopics.of(policy_notes.ORDINARY).hello
    allowed = [statement("client/*"), statement(f"topic/{hello}")]
    assert notes(policy(*allowed), ARNS) == []
    assert hello.replace(policy_notes.ORDINARY, "<thing>") in NO_FIRST_MESSAGE


def test_a_denial_is_noted_too() -> None:
    """It takes away what is allowed elsewhere."""
    allowed = [statement("*", "iot:*")]
    assert notes(policy(*allowed), ARNS) == []
    denied = {**statement("topic/certtest/*", "iot:Publish"), "Effect": "Deny"}
    assert notes(policy(*allowed, denied), ARNS) == [NO_FIRST_MESSAGE]


def test_the_notes_say_what_to_do() -> None:
    """What happens, and what to write or to run."""
    assert TAKES_OVER == (
        "publish and subscribe will connect as <thing> and disconnect a program that is connected under that client "
        "id: allow client/${iot:Connection.Thing.ThingName}/* too"
    )
    assert NO_FIRST_MESSAGE.endswith(": run init --no-publish")


def example() -> str:
    """Return the policy on the page about policies of one's own."""
    return page("docs/device-policy.md").blocks_of("text")[0].text


def test_the_pages_example_can_be_deployed_as_it_is() -> None:
    """It is tight, has no mistakes, and keeps hsm-enroll from nothing."""
    arns = "arn:aws:iot:us-east-1:123456789012:"
    found = read(example().encode(), "policy.json").policy
    assert loose_grants(found, arns) == []
    assert mistakes(found, arns) == []
    assert notes(found, arns) == []


def test_the_pages_mistakes_are_told_as_the_page_shows_them() -> None:
    """The example with the three mistakes that it is about."""
    wrong = example().replace("iot:Publish", "iot:publsh").replace("123456789012:topicfilter/", "ACCOUNT:topicfilter/")
    wrong = wrong.replace(f"topic/plant/{THING}", "topic/plant/${iot:ThingName}")
    wrong = wrong.replace("us-east-1:ACCOUNT", "REGION:ACCOUNT")
    found = mistakes(read(wrong.encode(), "policy.json").policy, "arn:aws:iot:us-east-1:123456789012:")
    _, shown = page("docs/device-policy.md").blocks_of("text")
    assert shown.text.splitlines() == ["error: policy.json cannot be deployed:", *(f"  {line}" for line in found)]


def test_two_policies_differ_by_what_they_say_and_not_by_how() -> None:
    """Statements may be put together otherwise; an action, a resource, an effect or a condition may not."""
    together = {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": ["a", "b"]}
    apart = [
        {"Effect": "Allow", "Action": action, "Resource": resource, "Sid": "x"}
        for action in ("iot:Receive", "iot:Publish")
        for resource in ("b", "a")
    ]
    assert compare(policy(together), policy(*apart)) == ((), ())

    attached = {"Condition": {"Bool": {IS_ATTACHED: True}}}
    change = compare(policy(together), policy(*apart[1:], {**apart[0], **attached}, {**apart[1], "Effect": "Deny"}))
    assert change.to_json() == {
        "removed": [{"effect": "Allow", "action": "iot:Receive", "resource": "b"}],
        "added": [
            {
                "effect": "Allow",
                "action": "iot:Receive",
                "resource": "b",
                "condition": {"Bool": {IS_ATTACHED: ["true"]}},
            },
            {"effect": "Deny", "action": "iot:Receive", "resource": "a"},
        ],
    }
