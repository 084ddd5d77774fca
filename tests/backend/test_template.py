"""The template as CloudFormation deploys it: what a device may do, and nothing beyond it."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import boto3
import pytest
from moto import mock_aws

from tests.backend.csr_factory import THING as THING_NAME
from tests.backend.csr_factory import pem_of, request
from tests.backend.deployment import ENVIRONMENT, LAMBDA, POLICY, REGION, deployed

ARN = f"arn:aws:iot:{REGION}:123456789012"
THING = "${iot:Connection.Thing.ThingName}"


@pytest.fixture
def account() -> Iterator[None]:
    """An empty account."""
    with mock.patch.dict(os.environ, ENVIRONMENT, clear=True), mock_aws():
        yield


def deploy(**parameters: str) -> dict[str, str]:
    """Deploy the template and return the stack's outputs."""
    cloudformation = boto3.client("cloudformation", region_name=REGION)
    cloudformation.create_stack(
        StackName="backend",
        TemplateBody=(LAMBDA / "template.yaml").read_text("utf-8"),
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
    )
    (stack,) = cloudformation.describe_stacks(StackName="backend")["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def policy_document(name: str) -> dict[str, Any]:
    """Return the policy as AWS IoT holds it. Moto shows CloudFormation's as a Python literal, not as JSON."""
    shown = boto3.client("iot", region_name=REGION).get_policy(policyName=name)["policyDocument"]
    document: dict[str, Any] = ast.literal_eval(shown)
    return document


@pytest.mark.usefixtures("account")
def test_the_policy_has_the_name_that_was_asked_for() -> None:
    """The name is a parameter with a default, and an output: the function's POLICY_NAME."""
    assert deploy() == {"PolicyName": POLICY}
    assert policy_document(POLICY)["Version"] == "2012-10-17"


@pytest.mark.usefixtures("account")
def test_another_name_can_be_chosen() -> None:
    """Two deployments can share an account."""
    assert deploy(PolicyName="other") == {"PolicyName": "other"}
    assert policy_document("other")["Statement"]


def test_an_enrolled_device_gets_the_deployed_policy() -> None:
    """What the stack says is what the function is given, and what the certificate ends up with."""
    with deployed({"POLICY_NAME": "other"}) as backend:
        deploy(PolicyName="other")
        answer = backend.enroll(pem_of(request()), THING_NAME)
        attached = backend.iot.list_attached_policies(target=answer.json["certificateArn"])["policies"]
        assert [policy["policyName"] for policy in attached] == ["other"]


@pytest.mark.usefixtures("account")
def test_a_device_connects_as_its_own_thing_only_and_only_if_attached() -> None:
    """The client id is the attached Thing's name; AWS IoT's variables reach AWS IoT as they are."""
    deploy()
    connect = policy_document(POLICY)["Statement"][0]
    assert connect == {
        "Effect": "Allow",
        "Action": "iot:Connect",
        "Resource": f"{ARN}:client/{THING}",
        "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}},
    }


@pytest.mark.usefixtures("account")
def test_a_device_speaks_and_listens_under_its_own_name_only() -> None:
    """Publish and receive on its topics, subscribe to the same as filters, and no fourth statement."""
    deploy()
    _, speak, listen = policy_document(POLICY)["Statement"]
    own = [f"certtest/{THING}", f"{THING}/*"]
    assert speak["Action"] == ["iot:Publish", "iot:Receive"]
    assert speak["Resource"] == [f"{ARN}:topic/{name}" for name in own]
    assert listen["Action"] == "iot:Subscribe"
    assert listen["Resource"] == [f"{ARN}:topicfilter/{name}" for name in own]


@pytest.mark.usefixtures("account")
def test_every_resource_is_bound_to_the_thing() -> None:
    """Least privilege: no resource and no action is a wildcard beyond the Thing's own name."""
    deploy()
    for statement in policy_document(POLICY)["Statement"]:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        assert all(THING in resource for resource in resources)
        assert all("*" not in resource.partition(THING)[0] for resource in resources)
        assert "*" not in str(statement["Action"])
