"""What is wrong with an operator's own device policy, whatever it allows."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from hsm_enroll.iot_policy import Policy
from hsm_enroll.operator import policy_mistakes
from hsm_enroll.operator.device_policy import KINDS as KINDS
from hsm_enroll.operator.policy_mistakes import mistakes

ARNS = "arn:aws:iot:us-east-1:123456789012:"
THING = "${iot:Connection.Thing.ThingName}"
CONNECT = {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARNS}client/{THING}"}
NO_CONNECTION = "it does not allow iot:Connect on any client/...: no device could connect"


def found(*statements: dict[str, Any]) -> list[str]:
    """Return what is wrong with a policy of these statements."""
    return mistakes(Policy.parse({"Version": "2012-10-17", "Statement": list(statements)}), ARNS)


def beside(resource: str, action: str = "iot:Publish", effect: str = "Allow", **more: Any) -> list[str]:
    """Return what is wrong with a statement beside one that lets devices connect."""
    whole = resource if resource == "*" or resource.startswith("arn:") else ARNS + resource
    return found(CONNECT, {"Effect": effect, "Action": action, "Resource": whole, **more})


@pytest.mark.parametrize("effect", ["Allow", "Deny"])
@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("iot:publsh", "unknown action iot:publsh (did you mean iot:Publish?)"),
        ("Publish", "unknown action Publish (did you mean iot:Publish?)"),
        ("iot:GetShadow", "unknown action iot:GetShadow (did you mean iot:GetThingShadow?)"),
        ("IOT:Conect", "unknown action IOT:Conect (did you mean iot:Connect?)"),
        ("iot:CreateThing", "unknown action iot:CreateThing"),
        ("iot:", "unknown action iot:"),
        ("", "unknown action "),
        ("iot:\x1b", r"unknown action iot:\x1b"),
    ],
)
def test_an_action_that_aws_iot_does_not_know_is_a_mistake(action: str, expected: str, effect: str) -> None:
    """It would allow nothing, or deny nothing; what is most like it is suggested."""
    assert beside("topic/x", action, effect) == [expected]


@pytest.mark.parametrize(
    "action",
    [
        *policy_mistakes.ACTIONS,
        "iot:publish",
        "IoT:PUBLISH",
        "iot:*",
        "*",
        "iot:Publs?",
        "greengrass:Discover",
        "greengrass:Discovr",
    ],
)
def test_known_actions_wildcards_and_other_services_are_no_mistakes(action: str) -> None:
    """Whether they are loose is another question."""
    assert beside("*", action) == []


def test_what_is_checked_for_looseness_is_known() -> None:
    """And everything that is known exists: Service Authorization Reference, AWS IoT and AWS IoT Jobs."""
    reference = json.loads((files("cfnlint") / "data/AdditionalSpecs/Policies.json").read_text("utf-8"))
    actions = {f"iot:{name}" for service in ("iot", "iotjobsdata") for name in reference[service]["Actions"]}
    # Those that the reference leaves out are checked by the broker and the credential provider alone.
    missing = policy_mistakes.KNOWN_ACTIONS - actions
    assert missing <= {"iot:publish", "iot:receive", "iot:assumerolewithcertificate"}
    assert set(KINDS) < policy_mistakes.KNOWN_ACTIONS


@pytest.mark.parametrize(
    ("variable", "suggested"),
    [
        ("iot:ThingName", "iot:Connection.Thing.ThingName"),
        ("ThingName", "iot:Connection.Thing.ThingName"),
        ("iot:Connection.Thing.Name", "iot:Connection.Thing.ThingName"),
        ("iot:connection.thing.thingname", "iot:Connection.Thing.ThingName"),
        ("iot:Connection.Thing.ThingName, 'x'", "iot:Connection.Thing.ThingName"),
        ("iot:ClientID", "iot:ClientId"),
        ("iot:ClientId.1", None),
        ("iot:Certificate.Subject.CommanName", "iot:Certificate.Subject.CommonName"),
        ("AWS::Region", None),
        ("iot:Connection.Thing.Attributes[]", None),
        ("iot:Unknown", None),
        ("", None),
    ],
)
def test_a_variable_that_aws_iot_does_not_know_is_a_mistake(variable: str, suggested: str | None) -> None:
    """It stands for nothing, and so what has it matches nothing; what is most like it is suggested."""
    suggestion = f" (did you mean ${{{suggested}}}?)" if suggested else ""
    expected = [f"unknown variable ${{{variable}}}{suggestion}"]
    assert beside(f"topic/x/${{{variable}}}") == expected
    condition = {"StringLike": {"iot:ClientId": ["x", f"${{{variable}}}*"]}}
    assert beside("topic/x", Condition=condition) == expected


@pytest.mark.parametrize(
    "variable",
    [
        *policy_mistakes.VARIABLES,
        "iot:Connection.Thing.Attributes[site.line-1]",
        "iot:Certificate.Subject.CommonName.2",
        "iot:Certificate.Issuer.AlternativeName.DNSName.List",
        "aws:SourceIp",
        "aws:CurrentTime",
        "*",
        "?",
        "$",
    ],
)
def test_the_variables_that_aws_documents_are_known(variable: str) -> None:
    """The basic ones, a Thing's, a certificate's, and AWS's own."""
    assert beside(f"topic/x/${{{variable}}}") == []


@pytest.mark.parametrize(
    ("arns", "expected"),
    [
        ("arn:aws:iot:eu-west-1:123456789012:", ["this policy is for eu-west-1; the deployment is in us-east-1"]),
        ("arn:aws:iot:eu-west-1:*:", ["this policy is for eu-west-1; the deployment is in us-east-1"]),
        (
            "arn:aws:iot:us-east-1:210987654321:",
            ["this policy is for account 210987654321; the deployment is in account 123456789012"],
        ),
        (
            "arn:aws-cn:iot:cn-north-1:123456789012:",
            [
                "this policy is for the partition aws-cn; the deployment is in aws",
                "this policy is for cn-north-1; the deployment is in us-east-1",
            ],
        ),
    ],
)
@pytest.mark.parametrize("effect", ["Allow", "Deny"])
def test_arns_of_elsewhere_are_a_mistake(arns: str, expected: list[str], effect: str) -> None:
    """Nothing here has them; the first resource that has them is shown, once for all that do."""
    resources = [f"{arns}topic/device/{THING}", f"{arns}topic/other/{THING}"]
    wrong = {"Effect": effect, "Action": "iot:Publish", "Resource": resources}
    assert found(CONNECT, wrong) == [f"{line} ({arns}topic/device/<thing>)" for line in expected]


@pytest.mark.parametrize(
    "beginning",
    [
        "arn:aws:iot:REGION:ACCOUNT:",
        "arn:PARTITION:iot:REGION:ACCOUNT:",
        "arn:aws:iot:us-east-1:ACCOUNT:",
        "arn:aws:iot:<region>:<account>:",
        "arn:aws:iot:us-east-1:1234-5678-9012:",
        "arn:aws:iot::123456789012:",
        "arn:aws:iot:::",
        "arn:aws:iot:${AWS::Region}:${AWS::AccountId}:",
        "arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:",
        "arn:aws:iot:${aws_region}:*:",
    ],
)
def test_placeholders_in_an_arn_are_a_mistake(beginning: str) -> None:
    """Whatever stands for region and account; the line says what to write."""
    wrong = {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{beginning}client/{THING}"}
    assert found(wrong) == [f"write {ARNS} in place of {beginning}"]


@pytest.mark.parametrize("resource", ["topic/device/x", "device/x", "", "ARN:aws:iot:us-east-1:123456789012:topic/x"])
def test_a_resource_that_is_no_arn_is_a_mistake(resource: str) -> None:
    """It matches nothing."""
    wrong = {"Effect": "Allow", "Action": "iot:Publish", "Resource": resource}
    assert found(CONNECT, wrong) == [f"{resource} is not an ARN: it has to begin with {ARNS}"]


@pytest.mark.parametrize(
    "resource",
    [
        "*",
        "arn:*",
        "arn:*:topic/x",
        "arn:aws:iot:*:*:topic/x",
        "arn:aws:iot:us-*:123456789012:topic/x",
        "arn:aws:iot:us-east-?:123456789012:topic/x",
        "arn:aws:iot:us-east-1:123456789012*",
        "arn:aws:greengrass:eu-west-1:210987654321:x",
    ],
)
def test_wildcards_and_other_services_in_an_arn_are_no_mistakes(resource: str) -> None:
    """They match something; whether they are loose is another question."""
    assert beside(resource) == []


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("iot:Publish", f"{ARNS}topic/x"),
        ("iot:Connect", f"{ARNS}topic/x"),
        ("iot:Connect", f"{ARNS}client"),
        ("iot:P*", "*"),
    ],
)
def test_a_policy_under_which_no_device_could_connect_is_a_mistake(action: str, resource: str) -> None:
    """Nothing else of it would matter."""
    assert found({"Effect": "Allow", "Action": action, "Resource": resource}) == [NO_CONNECTION]
    assert found({**CONNECT, "Effect": "Deny"}) == [NO_CONNECTION]


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("iot:Connect", "*"),
        ("iot:con*", f"{ARNS}client/x"),
        ("*", "arn:*"),
        ("iot:Connec?", f"{ARNS}*"),
        ("iot:Connect", f"{ARNS}${{iot:ClientId}}"),
        ("iot:Connect", f"{ARNS}cl?ent/x"),
    ],
)
def test_a_wildcard_may_let_devices_connect(action: str, resource: str) -> None:
    """It is given the benefit of the doubt."""
    assert found({"Effect": "Allow", "Action": action, "Resource": resource}) == []


def test_each_mistake_is_told_once() -> None:
    """However often it is made."""
    statement = {"Effect": "Allow", "Action": "iot:publsh", "Resource": f"{ARNS}topic/${{iot:ThingName}}/${{x}}"}
    assert found(CONNECT, statement, statement) == [
        "unknown action iot:publsh (did you mean iot:Publish?)",
        "unknown variable ${iot:ThingName} (did you mean ${iot:Connection.Thing.ThingName}?)",
        "unknown variable ${x}",
    ]
