"""From an AWS IoT policy to a mosquitto ACL."""

from __future__ import annotations

from typing import Any

import pytest

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.policy import access_control_list

ARN = "arn:aws:iot:us-east-1:123456789012:"
THING = "${iot:Connection.Thing.ThingName}"
CONNECT = {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}client/{THING}"}


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [CONNECT, *statements]}


def _allow(action: str | list[str], *resources: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": [ARN + resource for resource in resources]}


def test_the_devices_own_topics() -> None:
    """The Thing's name becomes %u, and "/*" at the end what lies below, the level itself not included."""
    document = _policy(
        _allow(["iot:Publish", "iot:Receive"], f"topic/certtest/{THING}", f"topic/{THING}/*"),
        _allow("iot:Subscribe", f"topicfilter/certtest/{THING}", f"topicfilter/{THING}/*"),
    )
    assert access_control_list(document).splitlines() == [
        "pattern write %u/+/#",
        "pattern write certtest/%u",
        "pattern read %u/+/#",
        "pattern read certtest/%u",
    ]


def test_reading_takes_both_subscribe_and_receive() -> None:
    """A topic that may only be subscribed to, or only be received from, cannot be read."""
    document = _policy(_allow("iot:Receive", "topic/a", "topic/b"), _allow("iot:Subscribe", "topicfilter/b"))
    assert access_control_list(document) == "pattern read b\n"


def test_without_connect_there_are_no_rules() -> None:
    """A policy that lets nobody connect gives nobody a topic."""
    assert access_control_list({"Statement": [_allow("iot:Publish", "topic/a")]}) == ""
    assert access_control_list({"Statement": []}) == ""


def test_the_condition_that_the_thing_is_attached_is_known() -> None:
    """It holds for every certificate the broker lets in."""
    attached = {"Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}}
    assert access_control_list({"Statement": {**CONNECT, **attached}}) == ""


@pytest.mark.parametrize(
    "statement",
    [
        _allow("iot:Connect", "client/*"),
        _allow("iot:Connect", "client/${iot:ClientId}"),
        _allow("iot:*", "*"),
        _allow("iot:Publish", "topic/*"),
        _allow("iot:Publish", "topic/a*"),
        _allow("iot:Publish", "topic/a/*/b"),
        _allow("iot:Publish", "topic/a?"),
        _allow("iot:Publish", "topic/%u"),
        _allow("iot:Publish", "topic/+/a"),
        _allow("iot:Publish", "topic/a#"),
        _allow("iot:Publish", "topic/${iot:ClientId}"),
        _allow("iot:Publish", "topic/two words"),
        _allow("iot:Publish", "topicfilter/a"),
        _allow("iot:Subscribe", "topic/a"),
        _allow("iot:RetainPublish", "topic/a"),
        {**_allow("iot:Publish", "topic/a"), "Effect": "Deny"},
        {**_allow("iot:Publish", "topic/a"), "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
        {"Effect": "Allow", "Action": "iot:Publish", "NotResource": [f"{ARN}topic/a"]},
        {"Effect": "Allow", "NotAction": "iot:Publish", "Resource": "*"},
    ],
    ids=str,
)
def test_what_the_broker_cannot_enforce_is_an_error(statement: dict[str, Any]) -> None:
    """Nothing in a policy is passed over in silence."""
    with pytest.raises(LocalCloudError, match="cannot enforce"):
        access_control_list(_policy(statement))
