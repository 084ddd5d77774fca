"""``--profile`` and ``--region``: as of AWS's own tools, down to the signature of a request."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from hsm_enroll.errors import AwsError, BackendUnreachableError, UsageError
from hsm_enroll.operator import aws, endpoint
from hsm_enroll.operator.account import Account
from hsm_enroll.operator.api import OperatorClient
from tests.operator.api.running import Run
from tests.operator.api.stand_in import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, Backend
from tests.operator.deploying import hear

COMMANDS = [
    ["backend", "deploy", "--yes"],
    ["backend", "status"],
    ["backend", "delete", "--yes"],
    ["invite", "create", "--thing", "gateway-17"],
    ["invite", "list"],
    ["invite", "revoke", "0" * 16],
    ["fleet", "list"],
    ["fleet", "show", "gateway-17"],
    ["fleet", "revoke", "gateway-17", "--yes"],
    ["fleet", "sweep"],
    ["fleet", "list-ek"],
    ["fleet", "forget-ek", "0" * 64],
    ["fleet", "ek-ca", "list"],
    ["fleet", "ek-ca", "remove", "0" * 64],
]


@pytest.fixture
def profiles(operator_credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: ARG001
    """Two profiles in AWS's files: one that the stand-in knows, with its region, and another; and nothing else."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text(f"[profile factory]\nregion = {REGION}\n[profile other]\nregion = {REGION}\n")
    keys = f"aws_access_key_id = {ACCESS_KEY_ID}\naws_secret_access_key = {SECRET_ACCESS_KEY}\n"
    other = "aws_access_key_id = AKIAOTHER\naws_secret_access_key = other\n"
    (tmp_path / "credentials").write_text(f"[factory]\n{keys}[other]\n{other}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.usefixtures("profiles")
def test_a_profile_signs(run: Run, backend: Backend) -> None:
    """The requests bear the signature of its credentials, for its region: the stand-in checks both."""
    backend.add_thing("gateway-17")
    assert "gateway-17" in run("fleet", "list", "--profile", "factory").out
    refused = run("fleet", "list", "--profile", "other")
    assert (refused.status, backend.refused) == (31, 1)


@pytest.mark.usefixtures("profiles")
def test_a_profile_goes_before_the_environments_credentials(
    run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with AWS's own tools."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    assert run("fleet", "list", "--profile", "factory").status == 0
    assert backend.refused == 0


@pytest.mark.parametrize(("region", "status"), [(REGION, 0), ("eu-west-1", 31)])
def test_a_region_signs(run: Run, backend: Backend, region: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes before AWS_REGION; the stand-in refuses what is signed for another than its own."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1" if status == 0 else REGION)
    listed = run("fleet", "list", "--region", region)
    assert listed.status == status
    assert backend.refused == (status != 0)
    assert (f"signed for {region}" in listed.err) is (status != 0)


@pytest.mark.usefixtures("profiles")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_takes_both(run: Run, command: list[str]) -> None:
    """A profile that does not exist is named, with those that do; a region that cannot be one is named."""
    wrong = run(*command, "--profile", "fabrik", "--json")
    assert wrong.status == 2
    assert wrong.document["error"]["message"] == "there is no AWS profile 'fabrik'"
    assert "factory, other" in wrong.document["error"]["hint"]
    nowhere = run(*command, "--profile", "factory", "--region", "Frankfurt", "--json")
    assert (nowhere.status, "'Frankfurt'" in nowhere.document["error"]["message"]) == (2, True)


def test_without_profiles_the_hint_says_so(run: Run) -> None:
    """An empty list would be a riddle."""
    assert "none" in run("fleet", "list", "--profile", "factory", "--json").document["error"]["hint"]


@pytest.mark.usefixtures("operator_credentials")
@pytest.mark.parametrize(
    ("region", "hint"),
    [
        ("eu-centrall-1", "did you mean eu-central-1?"),
        ("xx-moon-9", "is not a known region"),
        (REGION, f"region {REGION}"),
    ],
)
def test_a_region_that_cannot_be_reached_is_named(region: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelled one has a host name that does not exist; what is meant is said."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)
    session = aws.session(region=region)
    with pytest.raises(BackendUnreachableError, match=f"CloudFormation in {region}") as unreachable:
        endpoint.find_api_url(session)
    assert hint in unreachable.value.hint
    with pytest.raises(AwsError, match="cannot reach STS") as nobody:
        Account.of(session)
    assert hint in nobody.value.hint


def test_a_region_that_is_not_the_apis_is_a_contradiction(run: Run) -> None:
    """API Gateway's host name says the region; a signature for another one would only be refused."""
    url = "https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com"
    OperatorClient(url, region="eu-central-1")
    with pytest.raises(UsageError, match="in the region eu-central-1, not in eu-west-1"):
        OperatorClient(url, region="eu-west-1")
    assert run("fleet", "list", "--api", url, "--region", "eu-west-1").status == 2


@pytest.mark.usefixtures("profiles")
def test_the_stack_is_looked_for_in_that_account_and_region(
    run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no URL is given, the profile's credentials and the region find the stack too."""
    monkeypatch.delenv("HSM_ENROLL_API_URL")
    template = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}, "Outputs": {"ApiUrl": {"Value": backend.url}}}
    with mock_aws(config={"core": {"mock_credentials": False}}):
        session = boto3.session.Session(profile_name="factory")
        session.client("cloudformation").create_stack(StackName="hsm-enroll", TemplateBody=json.dumps(template))
        assert run("fleet", "list", "--profile", "factory").status == 0
        elsewhere = run("fleet", "list", "--profile", "factory", "--region", "eu-west-1")
    assert (elsewhere.status, "'hsm-enroll' in eu-west-1" in elsewhere.err) == (2, True)


@pytest.mark.usefixtures("profiles")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_role_that_may_not_be_assumed_is_an_error_of_the_profile(
    run: Run, command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """STS refuses the profile's role: exit 2, with STS's reason, and not something unexpected."""
    (tmp_path / "config").write_text(
        f"[profile factory]\nregion = {REGION}\n"
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = factory\n"
        f"region = {REGION}\n"
    )
    error = ClientError({"Error": {"Code": "AccessDenied", "Message": "not authorized to assume it"}}, "AssumeRole")

    def refuse(**_: object) -> None:
        raise error

    hear(monkeypatch, "before-call", refuse)
    result = run(*command, "--profile", "role", "--json")
    assert (result.status, result.document["error"]["code"]) == (2, "usage")
    assert "AssumeRole: not authorized to assume it (AccessDenied)" in result.document["error"]["message"]
