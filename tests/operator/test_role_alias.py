"""The role alias of a deployment: made with the operator's policy, kept, shown, replaced and taken away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.cli import backend as command
from hsm_enroll.errors import UsageError
from hsm_enroll.operator.policy_notes import NO_CREDENTIALS
from hsm_enroll.operator.role_policy import RolePolicy, read, shared, whole_services
from tests.operator.deploying import UNKNOWN_TO_MOTO, client, status
from tests.support import documents
from tests.support.pages import page

OWN = "arn:aws:s3:::plant/${credentials-iot:ThingName}/*"
BOUNDARY = "arn:aws:iam::123456789012:policy/hsm-enroll-device-boundary"


def statement(action: object = "s3:PutObject", resource: object = OWN, **more: Any) -> dict[str, Any]:
    """Return a statement that allows something."""
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def text(*statements: Any) -> str:
    """Return a policy as JSON."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def policy(*statements: Any) -> RolePolicy:
    """Return a policy as it is read from a file."""
    return read(text(*statements).encode(), "role.json")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A policy that lets each device write what is its own."""
    written = tmp_path / "role.json"
    written.write_text(text(statement()))
    return written


def run(*arguments: str | Path) -> None:
    """Run ``hsm-enroll backend deploy`` with arguments."""
    words = ["deploy", "--yes", *map(str, arguments)]
    command.backend.main(words, prog_name="backend", standalone_mode=False)


def parameters() -> dict[str, str]:
    """Return the parameters of the deployed stack."""
    (there,) = client("cloudformation").describe_stacks(StackName="hsm-enroll")["Stacks"]
    return {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in there["Parameters"]}


def aliases() -> list[str]:
    """Return the role aliases in AWS IoT."""
    return list(client("iot").list_role_aliases()["roleAliases"])


@pytest.mark.usefixtures("account", "quick_build")
@pytest.mark.filterwarnings(UNKNOWN_TO_MOTO)
def test_an_alias_is_made_kept_replaced_and_taken_away(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the account's credentials provider; a later deployment that does not name it leaves it, policy and all."""
    run("--role-alias", "gateways", "--role-policy", file, "--role-boundary", BOUNDARY)
    assert aliases() == ["gateways"]
    there = parameters()
    assert json.loads(there["RolePolicyDocument"]) == json.loads(file.read_text())
    assert there["RoleBoundary"] == BOUNDARY
    assert ".credentials.iot." in there["CredentialsEndpoint"]
    assert status().role_alias == "gateways"
    capsys.readouterr()

    run("--json", "--sweep-limit", "3")
    assert documents.read(["backend", "deploy"], capsys.readouterr().out)["roleAlias"] == "gateways"
    assert parameters()["RolePolicyDocument"] == there["RolePolicyDocument"]

    run("--role-alias", "others")
    assert aliases() == ["others"]
    shown = capsys.readouterr()
    assert "warning: devices that know the present role alias get no AWS credentials" in shown.err
    assert "  new  AssumeRoleWithCertificate on rolealias/others" in shown.err
    assert "Role      others, the role alias for AWS credentials" in shown.out

    run("--role-alias", "none")
    assert aliases() == []
    assert {parameters()[name] for name in ("RoleAlias", "RolePolicyDocument", "CredentialsEndpoint")} == {""}
    assert "set what devices may do with AWS credentials: nothing" in capsys.readouterr().err
    assert status().to_json()["roleAlias"] is None


@pytest.mark.usefixtures("account", "quick_build")
@pytest.mark.filterwarnings(UNKNOWN_TO_MOTO)
def test_alias_and_policy_need_each_other(file: Path) -> None:
    """A role that may do nothing, or permissions for nobody, are mistakes: nothing is deployed."""
    with pytest.raises(UsageError, match="needs a policy"):
        run("--role-alias", "gateways")
    with pytest.raises(UsageError, match="no effect without a role alias"):
        run("--role-policy", file)
    assert not status().deployed


@pytest.mark.usefixtures("account", "quick_build")
@pytest.mark.filterwarnings(UNKNOWN_TO_MOTO)
def test_whole_services_take_a_word_more(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names them; what all devices share is a note, since it may be meant."""
    file.write_text(text(statement("s3:*"), statement("s3:GetObject", "arn:aws:s3:::software/*")))
    with pytest.raises(UsageError, match=r"whole services:\n  s3:\* on arn:aws:s3:::plant") as refused:
        run("--role-alias", "gateways", "--role-policy", file)
    assert "--allow-loose-policy" in refused.value.hint
    run("--role-alias", "gateways", "--role-policy", file, "--allow-loose-policy")
    assert "note: all devices share arn:aws:s3:::software/* (role policy: s3:GetObject)" in capsys.readouterr().err


@pytest.mark.usefixtures("account", "quick_build")
@pytest.mark.filterwarnings(UNKNOWN_TO_MOTO)
@pytest.mark.parametrize(
    ("resource", "noted"),
    [("rolealias/gateways", False), ("rolealias/other", True)],
)
def test_an_own_device_policy_has_to_allow_the_alias(
    resource: str, noted: bool, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It replaces the built-in one, which does; a note says if it does not."""
    arn = "arn:aws:iot:eu-central-1:123456789012"
    thing = "${iot:Connection.Thing.ThingName}"
    own = [
        statement("iot:Connect", f"{arn}:client/{thing}/*"),
        statement("iot:Publish", f"{arn}:topic/certtest/{thing}"),
        statement("iot:AssumeRoleWithCertificate", f"{arn}:{resource}"),
    ]
    (tmp_path / "device.json").write_text(text(*own))
    run("--role-alias", "gateways", "--role-policy", file, "--device-policy", tmp_path / "device.json")
    assert (f"note: {NO_CREDENTIALS.format('gateways')}" in capsys.readouterr().err) is noted


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff", "not UTF-8"),
        (b"", "not JSON"),
        (b'{"Version": "2012-10-17", "Version": "2012-10-17", "Statement": []}', "two members"),
        (b"[]", "JSON object"),
        (b'{"Version": "2012-10-17"}', "JSON object"),
        (b'{"Version": "2008-10-17", "Statement": []}', '"Version": "2012-10-17"'),
        (text().encode(), "no statements"),
        (text("Allow").encode(), "must be a JSON object"),
        (text({"Effect": "Allow", "Resource": "*"}).encode(), "no Action"),
        (text({"Effect": "Allow", "Action": "s3:GetObject"}).encode(), "no Resource"),
        (text(statement(Effect="Maybe")).encode(), "Allow or Deny"),
        (text(statement(Principal="*")).encode(), "no Principal"),
        (text(statement([])).encode(), "strings"),
        (text(statement("s3:GetObject", 7)).encode(), "strings"),
        (text(statement(resource=[f"arn:aws:s3:::{number:060}" for number in range(70)])).encode(), "CloudFormation"),
    ],
)
def test_what_is_no_policy_of_a_role_is_refused(content: bytes, why: str) -> None:
    """With the file's name and the reason, before AWS is asked."""
    with pytest.raises(UsageError, match=why) as refused:
        read(content, "role.json")
    assert refused.value.message.startswith("role.json ")


@pytest.mark.parametrize("action", ["*", "s3:*", "*:*", "s3:**"])
def test_a_wildcard_for_all_actions_of_a_service_is_found(action: str) -> None:
    """As one action or one of several; a Deny takes something away, and is none."""
    assert whole_services(policy(statement(["s3:GetObject", action]))) == [f"{action} on {OWN}"]
    assert whole_services(policy(statement(action, Effect="Deny"), statement("s3:Get*"))) == []


def test_everything_but_something_is_found() -> None:
    """NotAction allows whatever AWS adds tomorrow."""
    wide = {"Effect": "Allow", "NotAction": "iam:*", "Resource": OWN}
    assert whole_services(policy(wide)) == ["everything but iam:*"]


@pytest.mark.parametrize(
    ("resource", "is_shared"),
    [
        (OWN, False),
        ("arn:aws:s3:::plant/${credentials-iot:ThingName}", False),
        ("arn:aws:s3:::plant/${credentials-iot:AwsCertificateId}/x", False),
        ("*", True),
        ("arn:aws:s3:::plant/*", True),
        ("arn:aws:s3:::plant/to-${credentials-iot:ThingName}/${aws:PrincipalAccount}/*", False),
        ("arn:aws:dynamodb:*:*:table/${credentials-iot:ThingName}", False),
        ("arn:aws:s3:::plant/${credentials-iot:ThingName}*", True),
        ("arn:aws:s3:::plant/${credentials-iot:ThingName}-*", True),
        ("arn:aws:s3:::plant/${credentials-iot:ThingName}_old?", True),
        ("arn:aws:s3:::plant/${credentials-iot:ThingName}:${aws:PrincipalAccount}", True),
        ("arn:aws:s3:::plant/${aws:PrincipalAccount}${credentials-iot:ThingName}", True),
        ("arn:aws:s3:::plant/*${credentials-iot:ThingName}/x", True),
        ("arn:aws:s3:::*/${credentials-iot:ThingName}/*", True),
        ("arn:aws:s3:::plant/${credentials-iot:ThingTypeName}/*", True),
        ("arn:aws:s3:::plant/${aws:username}/*", True),
    ],
)
def test_what_devices_share_is_told_from_what_is_their_own(resource: str, is_shared: bool) -> None:
    """The variable has to begin and end where the name does, or Thing a has what belongs to Thing ab, ba or a-b."""
    assert bool(shared(policy(statement(resource=resource)))) is is_shared


def test_the_page_shows_a_policy_that_can_be_deployed_as_it_is() -> None:
    """docs/operator.md's example is read, and gives no device what is another's."""
    (block,) = (block for block in page("docs/operator.md").blocks_of("json") if "credentials-iot" in block.text)
    found = read(block.text.encode(), "role.json")
    assert whole_services(found) == []
    assert shared(found) == []
