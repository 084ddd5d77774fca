"""Which API the operator's commands ask, found with AWS credentials alone."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import boto3
import pytest
from botocore.awsrequest import AWSRequest
from moto import mock_aws

from hsm_enroll.errors import BackendRefusedError, BackendUnreachableError, HsmEnrollError, ThrottledError, UsageError
from hsm_enroll.operator import aws
from hsm_enroll.operator.endpoint import find_api_url
from tests.operator.api.stand_in import REGION

pytestmark = pytest.mark.usefixtures("operator_credentials")
_TEMPLATE = {
    "Resources": {"Queue": {"Type": "AWS::SQS::Queue"}},
    "Outputs": {"Other": {"Value": "other"}, "ApiUrl": {"Value": "https://api.example"}},
}


@pytest.fixture
def account(operator_credentials: None) -> Iterator[None]:  # noqa: ARG001 - the environment comes first
    """An AWS account with one deployment, and a stack of something else."""
    with mock_aws():
        cloudformation = boto3.client("cloudformation", region_name=REGION)
        cloudformation.create_stack(StackName="hsm-enroll", TemplateBody=json.dumps(_TEMPLATE))
        without = {"Resources": _TEMPLATE["Resources"]}
        cloudformation.create_stack(StackName="another", TemplateBody=json.dumps(without))
        yield


@pytest.mark.usefixtures("account")
def test_the_stack_tells_its_api() -> None:
    """The default stack's output ApiUrl is the API."""
    assert find_api_url(aws.session()) == "https://api.example"


@pytest.mark.usefixtures("account")
def test_a_stack_that_is_not_there_is_named() -> None:
    """A stack that does not exist is named with its region, and the hint says how to make one or name the API."""
    with pytest.raises(UsageError, match=f"there is no stack 'staging' in {REGION}") as caught:
        find_api_url(aws.session(), "staging")
    assert "hsm-enroll backend deploy" in caught.value.hint
    assert "--api" in caught.value.hint


@pytest.mark.usefixtures("account")
def test_a_stack_without_an_api_is_named() -> None:
    """A stack that is no finished deployment is told with its status."""
    with pytest.raises(UsageError, match=r"'another' in .* has no output ApiUrl; its status is CREATE_COMPLETE"):
        find_api_url(aws.session(), "another")


@pytest.mark.parametrize(
    ("code", "error", "hint"),
    [
        ("AccessDenied", BackendRefusedError, "cloudformation:DescribeStacks"),
        ("ExpiredToken", UsageError, "aws sso login"),
        ("InvalidClientTokenId", UsageError, "aws sso login"),
        ("Throttling", ThrottledError, "again"),
    ],
)
def test_awss_refusals_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, code: str, error: type[HsmEnrollError], hint: str
) -> None:
    """AWS's errors are told apart by their code; missing rights, expired credentials and throttling have own hints."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    document = f"<ErrorResponse><Error><Code>{code}</Code><Message>Said \x85 so</Message></Error></ErrorResponse>"

    class Response:
        status_code = 400
        headers: dict[str, str] = {}  # noqa: RUF012 - read only
        content = document.encode()

    def send(self: object, request: AWSRequest) -> Response:  # noqa: ARG001 - botocore's signature
        return Response()

    monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", send)
    with pytest.raises(error) as caught:
        find_api_url(aws.session())
    assert type(caught.value) is error
    assert hint in caught.value.hint
    assert caught.value.message.isprintable()


def test_no_credentials_are_found_out_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, or without a region, nothing is asked."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UsageError, match="no AWS credentials were found"):
        find_api_url(aws.session())
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(UsageError, match="no AWS region is set") as caught:
        find_api_url(aws.session())
    assert "AWS_REGION" in caught.value.hint


def test_aws_out_of_reach_is_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    """D15: CloudFormation that cannot be reached is exit status 30."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(BackendUnreachableError, match="CloudFormation in") as caught:
        find_api_url(aws.session())
    assert caught.value.exit_status == 30
