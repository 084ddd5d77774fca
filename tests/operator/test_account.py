"""The operator's account: whose it is, the bucket for the code, and what AWS's refusals become."""

from __future__ import annotations

import base64
import hashlib
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ConnectTimeoutError, ParamValidationError
from botocore.parsers import ResponseParserError

from hsm_enroll.errors import AwsError, HsmEnrollError, ThrottledError, UsageError
from tests.operator.conftest import ACCOUNT_ID, REGION, code
from tests.operator.deploying import (
    BUCKET,
    NOTHING_TO_DO,
    UNKNOWN_TO_MOTO,
    answers,
    calls,
    client,
    deploy,
    hear,
    objects,
    refusal,
    requests,
)

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


@pytest.mark.parametrize(
    ("unreserved", "reserved", "burst"),
    [(1000, "20", "20"), (120, "20", "20"), (119, "0", "20"), (10, "0", "10")],
)
def test_a_small_account_reserves_no_concurrency(
    unreserved: int, reserved: str, burst: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lambda refuses a reservation that leaves less than 100; a new account has 10 in all, can deploy, and is told."""
    answers(monkeypatch, "GetAccountSettings", {"AccountLimit": {"UnreservedConcurrentExecutions": unreserved}})
    deployed = deploy()
    parameters = stack_parameters()
    assert (parameters["ReservedConcurrency"], parameters["ThrottleBurst"]) == (reserved, burst)
    assert [f"{unreserved} unreserved" in note for note in deployed.notes] == ([True] if reserved == "0" else [])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"ReservedConcurrency": "5", "ThrottleBurst": "5"}, ("5", "5")),
        ({"ThrottleBurst": "3"}, ("0", "3")),
    ],
)
def test_in_a_small_account_too_the_operator_decides(
    asked: dict[str, str], expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for is deployed; if Lambda refuses that reservation, CloudFormation says so."""
    answers(monkeypatch, "GetAccountSettings", {"AccountLimit": {"UnreservedConcurrentExecutions": 10}})
    deployed = deploy(settings=asked)
    parameters = stack_parameters()
    assert (parameters["ReservedConcurrency"], parameters["ThrottleBurst"]) == expected
    assert bool(deployed.notes) is ("ReservedConcurrency" not in asked)


def stack_parameters() -> dict[str, str]:
    """Return the parameters of the deployed stack."""
    (there,) = client("cloudformation").describe_stacks(StackName="hsm-enroll")["Stacks"]
    return {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in there["Parameters"]}


def put(body: bytes) -> str:
    """Put another object under the zip's key, as somebody with access to the bucket may, and return its version."""
    answer = client("s3").put_object(Bucket=BUCKET, Key=objects()[0], Body=body, ChecksumAlgorithm="SHA256")
    return str(answer["VersionId"])


def test_the_stack_gets_the_version_that_was_uploaded() -> None:
    """The bucket keeps versions, and CloudFormation is told which; what is put under that key later is another one."""
    deploy()
    s3 = client("s3")
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    pinned = stack_parameters()["CodeVersion"]
    assert put(b"swapped") != pinned
    assert s3.get_object(Bucket=BUCKET, Key=objects()[0], VersionId=pinned)["Body"].read() == code()


def test_an_object_of_that_name_with_other_content_is_not_used() -> None:
    """It has the name of our zip and another SHA-256: ours is uploaded again, as a new version, and deployed."""
    deploy()
    first, swapped = stack_parameters()["CodeVersion"], put(b"swapped")
    deploy()
    again = stack_parameters()["CodeVersion"]
    assert again not in {first, swapped}
    assert client("s3").get_object(Bucket=BUCKET, Key=objects()[0], VersionId=again)["Body"].read() == code()


@pytest.mark.parametrize("unversioned", [{"VersionId": "null"}, {}])
def test_an_object_from_before_the_versioning_is_not_used(
    unversioned: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version is "null", which can be overwritten: the zip is uploaded again."""
    sha256 = base64.b64encode(hashlib.sha256(code()).digest()).decode()
    asked = requests(monkeypatch)

    def respond(model: Any, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]] | None:
        if model.name != "HeadObject" or "versionId" in params["query_string"]:
            return None
        return SimpleNamespace(status_code=200), {"ChecksumSHA256": sha256, **unversioned}

    hear(monkeypatch, "before-call", respond)
    deploy()
    assert [operation for operation, _ in asked].count("PutObject") == 1
    assert stack_parameters()["CodeVersion"] not in {"", "null"}


@pytest.mark.parametrize("found", [{"ChecksumSHA256": "other", "VersionId": "1"}, {"VersionId": "1"}, {}])
def test_what_s3_does_not_confirm_is_not_deployed(found: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another checksum than the zip's, none, or no version: the deployment ends before CloudFormation is asked."""
    answers(monkeypatch, "HeadObject", found)
    called = calls(monkeypatch)
    with pytest.raises(AwsError, match="S3 does not confirm the zip"):
        deploy()
    assert "CreateChangeSet" not in called


def test_s3_is_given_the_checksum_that_it_has_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """PutObject carries the SHA-256, so that S3 refuses a body that was changed on its way."""
    asked = requests(monkeypatch)
    deploy()
    (put_object,) = (arguments for operation, arguments in asked if operation == "PutObject")
    assert put_object["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(code()).digest()).decode()


@pytest.mark.parametrize("again", [False, True])
def test_a_function_that_runs_other_code_is_an_error(again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda says which code it runs; also where nothing was to be changed, that has to be what was built here."""
    if again:
        deploy()
        answers(monkeypatch, "DescribeChangeSet", NOTHING_TO_DO)
    answers(monkeypatch, "GetFunction", {"Configuration": {"CodeSha256": "other"}})
    with pytest.raises(AwsError, match="runs other code than") as raised:
        deploy()
    assert "aws lambda update-function-code" in raised.value.hint


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
        "HeadBucket", "CreateBucket", "PutPublicAccessBlock", "PutBucketEncryption", "PutBucketVersioning",
        "HeadObject", "PutObject",
    }  # fmt: skip
    del asked["CreateBucket"]
    assert {arguments["ExpectedBucketOwner"] for arguments in asked.values()} == {ACCOUNT_ID}
