"""The operator's account: whose it is, the bucket for the code, and what AWS's refusals become."""

from __future__ import annotations

import hashlib

import boto3
import pytest
from botocore.exceptions import ConnectTimeoutError, ParamValidationError
from botocore.parsers import ResponseParserError

from hsm_enroll.errors import AwsError, HsmEnrollError, ThrottledError, UsageError
from tests.operator.conftest import ACCOUNT_ID, REGION, code
from tests.operator.deploying import BUCKET, UNKNOWN_TO_MOTO, answers, calls, client, deploy, objects, refusal, requests

pytestmark = [
    pytest.mark.usefixtures("account", "quick_build"),
    pytest.mark.filterwarnings(UNKNOWN_TO_MOTO),
]


def test_the_code_bucket_is_private_and_encrypted_and_named_after_account_and_region() -> None:
    """Nobody else can read the code or put other code in its place; the zip's name is its hash."""
    deploy()
    s3 = client("s3")
    assert set(s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values()) == {True}
    rules = s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules] == ["AES256"]
    assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == REGION
    assert objects() == [f"{hashlib.sha256(code()).hexdigest()}.zip"]


def test_in_us_east_1_the_bucket_names_no_location(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 refuses the name of its first region."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    deploy()
    buckets = boto3.client("s3", region_name="us-east-1").list_buckets()["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == [f"hsm-enroll-code-{ACCOUNT_ID}-us-east-1"]


@pytest.mark.parametrize(("unreserved", "reserved"), [(1000, "10"), (110, "10"), (109, "0"), (10, "0")])
def test_a_small_account_reserves_no_concurrency(
    unreserved: int, reserved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lambda refuses a reservation that leaves less than 100; a new account has 10 in all, and can deploy too."""
    answers(monkeypatch, "GetAccountSettings", {"AccountLimit": {"UnreservedConcurrentExecutions": unreserved}})
    deploy()
    (there,) = client("cloudformation").describe_stacks(StackName="hsm-enroll")["Stacks"]
    assert {"ParameterKey": "ReservedConcurrency", "ParameterValue": reserved} in there["Parameters"]


@pytest.mark.parametrize(
    ("missing", "hint"),
    [(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "AWS_PROFILE"), (("AWS_REGION",), "AWS_REGION")],
)
def test_without_credentials_or_region_there_is_a_hint(
    missing: tuple[str, ...], hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is built and nothing is asked."""
    for name in missing:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UsageError) as raised:
        deploy()
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (
            refusal("ExpiredToken"),
            UsageError,
            r"AWS rejected the credentials: because\\nof that \(ExpiredToken\)",
        ),
        (refusal("InvalidClientTokenId"), UsageError, "credentials"),
        (refusal("Throttling"), ThrottledError, "CloudFormation is busy"),
        (
            refusal("AccessDenied"),
            AwsError,
            r"CloudFormation refused DescribeStacks: because\\nof that \(AccessDenied\)",
        ),
        (ConnectTimeoutError(endpoint_url="https://x"), AwsError, "cannot reach CloudFormation"),
        (ParamValidationError(report="no"), AwsError, "the request to CloudFormation failed"),
        (ResponseParserError("<html>"), AwsError, "^unexpected response from CloudFormation$"),
    ],
)
def test_what_aws_says_becomes_an_error_of_ours(
    raised: Exception, kind: type[HsmEnrollError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person is told which service it was and what to do; a stranger's text cannot steer the terminal."""
    answers(monkeypatch, "DescribeStacks", raised)
    with pytest.raises(kind, match=said) as translated:
        deploy()
    assert translated.value.hint
    assert translated.value.__cause__ is raised


def test_somebody_elses_bucket_of_that_name_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name can be guessed: code is never put where another account could exchange it."""
    answers(monkeypatch, "HeadBucket", refusal("403", "HeadBucket"))
    called = calls(monkeypatch)
    with pytest.raises(AwsError, match=f"no access to the bucket {BUCKET}, or somebody else owns it"):
        deploy()
    assert {"PutObject", "CreateChangeSet"}.isdisjoint(called)


def test_every_request_about_the_bucket_says_whose_it_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 compares the owner itself, also where it changed between two requests."""
    everything = requests(monkeypatch)
    deploy()
    asked = {operation: arguments for operation, arguments in everything if arguments.get("Bucket")}
    assert set(asked) == {
        "HeadBucket", "CreateBucket", "PutPublicAccessBlock", "PutBucketEncryption", "HeadObject", "PutObject",
    }  # fmt: skip
    del asked["CreateBucket"]
    assert {arguments["ExpectedBucketOwner"] for arguments in asked.values()} == {ACCOUNT_ID}
