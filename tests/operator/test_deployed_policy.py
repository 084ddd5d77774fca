"""The device policy of a deployment: the template's or the operator's own, kept, exchanged, and what that changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.backend_folder import backend_folder
from hsm_enroll.errors import InterruptedRunError, UsageError
from hsm_enroll.iot_policy import Policy
from hsm_enroll.operator import deployment
from hsm_enroll.operator.change_set import Plan
from hsm_enroll.operator.device_policy import TEMPLATES_OWN, DevicePolicy, compare, read
from hsm_enroll.operator.template_policy import template_policy
from tests.operator.conftest import ACCOUNT_ID, REGION
from tests.operator.deploying import UNKNOWN_TO_MOTO, answers, calls, client, deploy, refusal, status

ARNS = f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:"
THING = "${iot:Connection.Thing.ThingName}"

pytestmark = [
    pytest.mark.usefixtures("account", "quick_build"),
    pytest.mark.filterwarnings(UNKNOWN_TO_MOTO),
]


def own(*topics: str, arns: str = ARNS) -> DevicePolicy:
    """Return a policy of one's own that lets devices connect, and publish to these topics."""
    client_ids = [f"{arns}client/{THING}", f"{arns}client/{THING}/*"]
    statements = [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": client_ids},
        {"Effect": "Allow", "Action": "iot:Publish", "Resource": [f"{arns}topic/{topic}" for topic in topics]},
    ]
    return read(json.dumps({"Version": "2012-10-17", "Statement": statements}).encode(), "own.json")


TIGHT = own(f"plant/{THING}/*")


def in_force(name: str) -> Any:
    """Return the document that AWS IoT has."""
    return json.loads(client("iot").get_policy(policyName=name)["policyDocument"])


def attached_to_a_device(name: str) -> str:
    """Attach the policy to a certificate, as an enrollment does, and return the certificate's ARN."""
    arn = client("iot").create_keys_and_certificate(setAsActive=True)["certificateArn"]
    client("iot").attach_policy(policyName=name, target=arn)
    return str(arn)


def earlier_template(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have a template of an earlier version, whose policy had the Thing's name as a topic's first level."""
    template = (backend_folder() / "template.yaml").read_text("utf-8")
    start, end = template.index("  DevicePolicyDocument:"), template.index("  RoleAlias:")
    earlier = template[:start] + template[end:].replace(
        '  HasOwnDevicePolicy: !Not [!Equals [!Ref DevicePolicyDocument, ""]]\n', ""
    )
    earlier = earlier.replace(
        "!If\n        - HasOwnDevicePolicy\n        - !Ref DevicePolicyDocument\n        - ", "\n          "
    )
    (folder / "template.yaml").write_text(earlier.replace("/device/$", "/$"), "utf-8")
    monkeypatch.setattr(deployment, "backend_folder", lambda: folder)


def test_a_policy_of_ones_own_takes_the_place_of_the_templates_in_place() -> None:
    """The policy keeps its name and what it is attached to: enrolled devices have the new rules, and need nothing."""
    first = deploy()
    assert first.status.device_policy == "default"
    name = first.status.outputs["PolicyName"]
    device = attached_to_a_device(name)
    second = deploy(policy=TIGHT)
    assert second.changed
    assert second.status.loose == ()
    assert second.status.device_policy == "own"
    assert second.status.outputs["PolicyName"] == name
    assert in_force(name) == json.loads(TIGHT.text)
    assert [found["policyName"] for found in client("iot").list_attached_policies(target=device)["policies"]] == [name]


def test_a_deployment_can_begin_with_a_policy_of_ones_own() -> None:
    """There is nobody yet for whom anything changes."""
    deployed = deploy(policy=TIGHT)
    assert deployed.policy_change is None
    assert status().device_policy == "own"
    assert in_force(deployed.status.outputs["PolicyName"]) == json.loads(TIGHT.text)


def test_it_is_kept_until_another_one_is_named() -> None:
    """Who deploys new code says nothing about policies; the word default goes back to the template's."""
    name = deploy(policy=TIGHT).status.outputs["PolicyName"]
    kept = deploy("open")
    assert (kept.status.device_policy, kept.status.auth) == ("own", "open")
    assert in_force(name) == json.loads(TIGHT.text)

    back = deploy(policy=TEMPLATES_OWN)
    assert back.status.device_policy == "default"
    assert f"{ARNS}topic/device/{THING}/*" in str(in_force(name))
    assert deploy().status.device_policy == "default"


def test_a_policy_can_be_changed_more_often_than_aws_iot_keeps_versions() -> None:
    """AWS IoT keeps five; CloudFormation drops the oldest."""
    name = deploy().status.outputs["PolicyName"]
    for number in range(7):
        deploy(policy=own(f"plant{number}/{THING}"))
        assert f"plant{number}/" in str(in_force(name))
    assert len(client("iot").list_policy_versions(policyName=name)["policyVersions"]) == 5


def test_a_loose_policy_is_refused_and_each_loose_grant_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is built, uploaded or changed; the error names the file and the way to have it all the same."""
    called = calls(monkeypatch)
    with pytest.raises(UsageError) as raised:
        deploy(policy=own("all", f"plant/{THING}", f"{THING}/*"))
    head, *lines = raised.value.message.splitlines()
    assert head == "own.json lets a device reach what is not its own:"
    assert [line.partition(": ")[0] for line in lines] == [
        "  iot:Publish on topic/all",
        "  iot:Publish on topic/<thing>/*",
    ]
    assert "--allow-loose-policy" in raised.value.hint
    assert set(called) == {"GetCallerIdentity"}


def test_a_loose_policy_is_deployed_where_that_is_allowed_and_is_told() -> None:
    """Each loose grant comes back, for a person to be shown; later deployments and the status have them too."""
    loose = own("all", f"plant/{THING}")
    deployed = deploy(policy=loose, loose_allowed=True)
    assert in_force(deployed.status.outputs["PolicyName"]) == json.loads(loose.text)
    for found in (deployed.status, deploy("open").status, status()):
        assert found.loose is not None
        assert [grant.resource for grant in found.loose] == ["topic/all"]
        assert found.to_json()["looseGrants"] == 1
    assert deploy(policy=TEMPLATES_OWN).status.loose == ()


def test_a_policy_that_keeps_hsm_enroll_from_something_is_deployed_and_noted() -> None:
    """Also by a later deployment that keeps it; the template's own has no notes."""
    deployed = deploy(policy=TIGHT)
    assert deployed.notes == deploy("open").notes
    assert len(deployed.notes) == 1
    assert "certtest/<thing>" in deployed.notes[0]
    assert deploy(policy=own(f"certtest/{THING}")).notes == ()
    assert deploy(policy=TEMPLATES_OWN).notes == ()


@pytest.mark.parametrize("parameter", ["none", "{}", '{"Statement": {"Effect": "Allow"}}'])
def test_what_is_loose_about_a_policy_that_cannot_be_read_is_not_known(
    parameter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have set the stack's parameter with another tool; the status says as much as it can."""
    deploy(policy=TIGHT)
    described = client("cloudformation").describe_stacks(StackName="hsm-enroll")
    for entry in described["Stacks"][0]["Parameters"]:
        if entry["ParameterKey"] == "DevicePolicyDocument":
            entry["ParameterValue"] = parameter
    answers(monkeypatch, "DescribeStacks", described)
    found = status()
    assert (found.device_policy, found.loose, found.to_json()["looseGrants"]) == ("own", None, None)


@pytest.mark.parametrize("loose_allowed", [False, True])
def test_a_policy_with_mistakes_is_never_deployed_and_each_is_listed(
    loose_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is built, uploaded or changed; what is loose is told when the mistakes are gone."""
    called = calls(monkeypatch)
    with pytest.raises(UsageError) as raised:
        deploy(policy=own("all", "${iot:ThingName}", "${iot:x}"), loose_allowed=loose_allowed)
    assert raised.value.message.splitlines() == [
        "own.json cannot be deployed:",
        "  unknown variable ${iot:ThingName} (did you mean ${iot:Connection.Thing.ThingName}?)",
        "  unknown variable ${iot:x}",
    ]
    assert "does not skip this check" in raised.value.hint
    assert set(called) == {"GetCallerIdentity"}


@pytest.mark.parametrize(
    ("arns", "why"),
    [
        ("arn:aws:iot:eu-central-1:210987654321:", "this policy is for account 210987654321; the deployment is in"),
        ("arn:aws:iot:us-east-1:123456789012:", "this policy is for us-east-1; the deployment is in eu-central-1"),
        ("arn:aws-cn:iot:eu-central-1:123456789012:", "this policy is for the partition aws-cn; the deployment is in"),
        ("arn:aws:iot:REGION:ACCOUNT:", f"write {ARNS} in place of arn:aws:iot:REGION:ACCOUNT:"),
    ],
)
def test_a_policy_that_was_written_for_another_account_is_refused(arns: str, why: str) -> None:
    """It would lock every device out of this one, so that allowing loose grants does not help."""
    with pytest.raises(UsageError, match=why):
        deploy(policy=own(f"plant/{THING}", arns=arns), loose_allowed=True)
    assert status().state is None


def test_what_a_new_template_changes_for_devices_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resources that an earlier version's policy had and this one has not, and the other way round."""
    with monkeypatch.context() as earlier:
        earlier_template(earlier, tmp_path)
        name = deploy().status.outputs["PolicyName"]
        assert f"{ARNS}topic/{THING}/*" in str(in_force(name))
    device = attached_to_a_device(name)
    change = deploy().policy_change
    assert change is not None
    assert [(rule.action, rule.resource) for rule in change.removed] == [
        ("iot:Publish", f"{ARNS}topic/{THING}/*"),
        ("iot:Receive", f"{ARNS}topic/{THING}/*"),
        ("iot:Subscribe", f"{ARNS}topicfilter/{THING}/*"),
    ]
    assert [(rule.action, rule.resource) for rule in change.added] == [
        ("iot:Publish", f"{ARNS}topic/device/{THING}/*"),
        ("iot:Receive", f"{ARNS}topic/device/{THING}/*"),
        ("iot:Subscribe", f"{ARNS}topicfilter/device/{THING}/*"),
    ]
    assert [found["policyName"] for found in client("iot").list_attached_policies(target=device)["policies"]] == [name]
    assert deploy("open").policy_change == ((), ())


def test_a_policy_that_cannot_be_read_stops_no_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody without iot:GetPolicy can deploy; that nothing is known about changes is told."""
    name = deploy().status.outputs["PolicyName"]
    answers(monkeypatch, "GetPolicy", refusal("AccessDeniedException", "GetPolicy"))
    reported: list[str] = []
    deployed = deploy(policy=TIGHT, report=reported.append)
    assert (deployed.changed, deployed.policy_change) == (True, None)
    assert f"the policy {name} cannot be read: AWS IoT refused GetPolicy" in reported[0]
    assert reported[0].startswith("cannot tell what changes for devices")


@pytest.mark.parametrize(
    "document", ["", "{}", '{"Statement": {"Effect": "Allow", "NotAction": "*", "Resource": "*"}}']
)
def test_a_policy_that_somebody_has_put_in_its_place_stops_no_deployment(
    document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What AWS IoT has need not be what can be compared."""
    deploy()
    answers(monkeypatch, "GetPolicy", {"policyDocument": document})
    reported: list[str] = []
    assert deploy(policy=TIGHT, report=reported.append).policy_change is None
    assert "cannot tell what changes for devices" in reported[0]


def test_two_deployments_have_each_its_own_policy() -> None:
    """One stack's policy is none of another one's business."""
    deploy("invite", name="one", policy=TIGHT)
    deploy("invite", name="two")
    assert (status("one").device_policy, status("two").device_policy) == ("own", "default")


def test_the_templates_policy_is_known_before_it_is_deployed() -> None:
    """What AWS IoT gets from the template and what a plan says of it are the same."""
    document = in_force(deploy().status.outputs["PolicyName"])
    assert compare(Policy.parse(document), template_policy(ARNS)) == ((), ())


def test_what_changes_for_devices_is_in_the_plan() -> None:
    """It is approved like everything else, and nothing has changed before."""
    name = deploy().status.outputs["PolicyName"]
    before = in_force(name)
    seen: list[Plan] = []

    def refuse(plan: Plan) -> None:
        seen.append(plan)
        raise InterruptedRunError("no")

    with pytest.raises(InterruptedRunError):
        deploy(policy=TIGHT, approve=refuse)
    change = seen[0].policy_change
    assert change is not None
    assert [rule.resource for rule in change.added if rule.action == "iot:Publish"] == [f"{ARNS}topic/plant/{THING}/*"]
    assert in_force(name) == before


def test_what_somebody_changed_in_aws_iot_is_not_said_to_change() -> None:
    """CloudFormation leaves a resource alone whose definition is the same."""
    name = deploy().status.outputs["PolicyName"]
    client("iot").create_policy_version(policyName=name, policyDocument=TIGHT.text, setAsDefault=True)
    assert deploy("open").policy_change == ((), ())
