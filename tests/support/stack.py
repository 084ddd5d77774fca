"""The template, read and deployed into moto."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import boto3
from moto.cloudformation.models import Stack

from tests.support.deployment import LAMBDA, REGION

TEMPLATE = LAMBDA / "template.yaml"
UNKNOWN_TO_MOTO = "ignore:Tried to parse .* not supported:UserWarning"
"""Filter of warnings: moto says so of API Gateway and of alarms."""


def template() -> dict[str, Any]:
    """Return the template, CloudFormation's short forms written as its long ones."""
    return copy.deepcopy(_parsed())


@cache
def _parsed() -> dict[str, Any]:
    parsed: dict[str, Any] = Stack.parse_template(TEMPLATE.read_text("utf-8"))
    return parsed


def deploy(**parameters: str) -> dict[str, str]:
    """Create the stack, with a zip that holds nothing, and return its outputs."""
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket="code")
    s3.put_object(Bucket="code", Key="function.zip", Body=b"PK\5\6" + bytes(18))
    given = {"MqttEndpoint": "mqtt.example.com", "CodeBucket": "code", "CodeKey": "function.zip"} | parameters
    cloudformation = boto3.client("cloudformation", region_name=REGION)
    cloudformation.create_stack(
        StackName="backend",
        TemplateBody=TEMPLATE.read_text("utf-8"),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    (stack,) = cloudformation.describe_stacks(StackName="backend")["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
