"""The IAM policies of docs/iam: each is enough for its role, and allows nothing else.

CloudFormation works with the rights of whoever deploys. What it calls for a resource stands in the resource's schema
(``handlers``); which action knows which resources, in the Service Authorization Reference. cfn-lint has both. What our
own code calls is enforced by moto.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest
from moto.core.authorization import enable_iam_authentication
from moto.iam.access_control import IAMRequest, S3IAMRequest

from hsm_enroll.errors import AwsError, BackendRefusedError
from hsm_enroll.operator import aws
from hsm_enroll.operator.endpoint import find_api_url
from tests.operator.conftest import ACCOUNT_ID, REGION
from tests.operator.deploying import UNKNOWN_TO_MOTO, delete, deploy, status
from tests.support.stack import template

FOLDER = Path(__file__).parents[2] / "docs" / "iam"
ROLES = ["deployer", "deployer-credentials", "deployer-edge", "deployer-est", "inviter", "manager", "viewer"]
FILES = ["boundary", *ROLES]
PLACEHOLDERS = {"REGION": REGION, "ACCOUNT": ACCOUNT_ID, "API": "a1b2c3d4e5"}
LARGEST_POLICY = 6144  # characters of a managed policy, without white space
API = f"arn:aws:execute-api:{REGION}:{ACCOUNT_ID}:a1b2c3d4e5"

pytestmark = pytest.mark.filterwarnings(UNKNOWN_TO_MOTO)


def policy(role: str) -> dict[str, Any]:
    """Return a role's policy, its placeholders replaced as the page tells to."""
    text = (FOLDER / f"{role}.json").read_text("utf-8")
    for name, value in PLACEHOLDERS.items():
        text = re.sub(rf"\b{name}\b", value, text)
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def listed(value: str | list[str]) -> list[str]:
    """Return what a policy may give as one text or as a list."""
    return [value] if isinstance(value, str) else value


def allows(role: str, action: str, resource: str) -> bool:
    """Evaluate a policy that has nothing but Allow."""
    return any(
        any(fnmatchcase(action, pattern) for pattern in listed(statement["Action"]))
        and any(fnmatchcase(resource, pattern) for pattern in listed(statement["Resource"]))
        for statement in policy(role)["Statement"]
    )


@cache
def reference() -> Mapping[str, Any]:
    """Return the Service Authorization Reference, by service."""
    content: Mapping[str, Any] = json.loads(
        (files("cfnlint") / "data/AdditionalSpecs/Policies.json").read_text("utf-8")
    )
    return content


@cache
def handlers() -> Mapping[str, Any]:
    """Return what CloudFormation calls for each type of resource."""
    found = {}
    for file in (files("cfnlint") / "data" / "schemas" / "resources").iterdir():
        if file.name.endswith(".json"):
            schema = json.loads(file.read_text("utf-8"))
            found[schema["typeName"]] = schema.get("handlers", {})
    return found


def test_the_files_are_those_of_the_roles() -> None:
    """And the boundary of the functions' role. The page names each role."""
    assert sorted(file.stem for file in FOLDER.iterdir()) == FILES
    page = (FOLDER.parent / "operator.md").read_text("utf-8")
    assert all(f"(iam/{role}.json)" in page for role in ROLES)


@pytest.mark.parametrize("role", FILES)
def test_a_policy_is_one_that_iam_takes(role: str) -> None:
    """It has a version and statements that only allow, each with its own name, and fits into a managed policy."""
    document = policy(role)
    assert document["Version"] == "2012-10-17"
    assert {statement["Effect"] for statement in document["Statement"]} == {"Allow"}
    names = [statement["Sid"] for statement in document["Statement"]]
    assert all(re.fullmatch("[A-Za-z0-9]+", name) for name in names)
    assert len(set(names)) == len(names)
    assert len(json.dumps(document, separators=(",", ":"))) <= LARGEST_POLICY


@pytest.mark.parametrize("role", FILES)
def test_each_action_exists_and_is_granted_on_resources_that_it_knows(role: str) -> None:
    """No wildcards in actions; "*" as a resource only for actions that know none."""
    for statement in policy(role)["Statement"]:
        resources = listed(statement["Resource"])
        for action in listed(statement["Action"]):
            service, _, name = action.partition(":")
            actions = {known.lower(): facts for known, facts in reference()[service]["Actions"].items()}
            assert name.lower() in actions, action
            kinds = actions[name.lower()].get("Resources", [])
            assert (resources == ["*"]) is (not kinds), action
            known = reference()[service].get("Resources", {})
            formats = [arn for kind in kinds for arn in known.get(kind.lower(), {}).get("ARNFormats", [])]
            known_ones = [resource for resource in resources if any(_is_of(resource, arn) for arn in formats)]
            assert known_ones or not kinds, action


def _is_of(resource: str, arn_format: str) -> bool:
    """Whether an ARN has the form of one of the reference's, as far as the kind of resource."""
    own, known = resource.split(":", 5), arn_format.split(":", 5)
    if len(own) != 6 or len(known) != 6 or own[2] != known[2]:
        return False
    kind = re.match(r"/?[a-z-]*", known[5])
    return kind is not None and own[5].startswith(kind[0])


# What CloudFormation would call for features that the template does not use.
UNUSED_SERVICES = {
    *("ec2", "elasticfilesystem", "firehose", "kinesis", "kms", "s3files"),
    # what else a web ACL can be for
    *("amplify", "apprunner", "appsync", "bedrock-agentcore", "cognito-idp", "elasticloadbalancing", "payments"),
}
UNUSED = {
    # resource policies, rule groups of others, data protection
    *("AWS::ApiGateway::RestApi apigateway:UpdateRestApiPolicy", "AWS::SNS::Topic sns:PutDataProtectionPolicy"),
    *(f"AWS::WAFv2::WebACLAssociation wafv2:{verb}PermissionPolicy" for verb in ("Get", "Put")),
    *("AWS::ApiGatewayV2::Api s3:getObject", "AWS::Logs::LogGroup s3:REST.PUT.OBJECT"),  # from a file in S3; to S3
    # tags: IAM has no such actions, but PUT and DELETE
    *(f"AWS::ApiGatewayV2::Stage apigateway:{verb}Resource" for verb in ("Tag", "Untag")),
    # managed policies, and taking the boundary away
    *(f"AWS::IAM::Role iam:{verb}" for verb in ("AttachRolePolicy", "DetachRolePolicy")),
    "AWS::IAM::Role iam:DeleteRolePermissionsBoundary",
    # imports, replicas, streams, resource policies, contributor insights
    *(f"AWS::DynamoDB::Table dynamodb:{name}" for name in (
        "AssociateTableReplica", "BatchWriteItem", "CreateTableReplica", "DeleteItem", "DeleteResourcePolicy",
        "DescribeImport", "DisableKinesisStreamingDestination", "EnableKinesisStreamingDestination", "GetItem",
        "ImportTable", "PutItem", "PutResourcePolicy", "Query", "Scan", "UpdateContributorInsights", "UpdateItem",
        "UpdateKinesisStreamingDestination",
    )),
    *(f"AWS::DynamoDB::Table {name}" for name in (
        "iam:CreateServiceLinkedRole", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents",
        "s3:GetObjectMetadata",
    )),
    # code signing, layers, capacity providers, versions, settings that the template leaves alone
    *(f"AWS::Lambda::Function lambda:{name}" for name in (
        "AssociateRuntimeAlias", "DeleteFunctionCodeSigningConfig", "GetCodeSigningConfig", "GetLayerVersion",
        "PassCapacityProvider", "PublishVersion", "PutFunctionCodeSigningConfig", "PutFunctionRecursionConfig",
        "PutFunctionScalingConfig", "PutRuntimeManagementConfig",
    )),
    # data protection, indexes, keys, bearer tokens, deletion protection
    *(f"AWS::Logs::LogGroup logs:{name}" for name in (
        "AssociateKmsKey", "DeleteDataProtectionPolicy", "DeleteIndexPolicy", "DeleteResourcePolicy",
        "DisassociateKmsKey", "PutBearerTokenAuthentication", "PutDataProtectionPolicy", "PutIndexPolicy",
        "PutLogGroupDeletionProtection",
    )),
}  # fmt: skip


def test_the_deployer_may_do_what_cloudformation_does_for_each_resource() -> None:
    """Create, read, update and delete every type in the template: each permission of its handlers is granted."""
    deployers = (role for role in ROLES if role.startswith("deployer"))
    statements = [statement for role in deployers for statement in policy(role)["Statement"]]
    granted = {action for statement in statements for action in listed(statement["Action"])}
    missing = set()
    for kind in {resource["Type"] for resource in template()["Resources"].values()}:
        needed = {
            action
            for operation in ("create", "read", "update", "delete")
            for action in handlers()[kind].get(operation, {}).get("permissions", [])
        }
        missing |= {
            f"{kind} {action}" for action in needed - granted if action.partition(":")[0] not in UNUSED_SERVICES
        }
    assert missing == UNUSED


def test_the_deployers_resources_are_the_templates() -> None:
    """Names that CloudFormation makes begin with the stack's; an AWS IoT policy's may begin with the template's."""
    for action, resource in {
        "dynamodb:CreateTable": f"arn:aws:dynamodb:{REGION}:{ACCOUNT_ID}:table/hsm-enroll-Ledger-1A2B3C",
        "lambda:CreateFunction": f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:hsm-enroll-Function-1A2B3C",
        "iam:PassRole": f"arn:aws:iam::{ACCOUNT_ID}:role/hsm-enroll-Role-1A2B3C",
        "logs:CreateLogGroup": f"arn:aws:logs:{REGION}:{ACCOUNT_ID}:log-group:hsm-enroll-LogGroup-1A2B3C",
        "logs:DeleteLogGroup": f"arn:aws:logs:{REGION}:{ACCOUNT_ID}:log-group:/aws/vendedlogs/hsm-enroll-access",
        "sns:CreateTopic": f"arn:aws:sns:{REGION}:{ACCOUNT_ID}:hsm-enroll-Alarms-1A2B3C",
        "cloudwatch:PutDashboard": f"arn:aws:cloudwatch::{ACCOUNT_ID}:dashboard/hsm-enroll",
        "events:PutRule": f"arn:aws:events:{REGION}:{ACCOUNT_ID}:rule/hsm-enroll-SweepSchedule-1A2B3C",
        "apigateway:POST": f"arn:aws:apigateway:{REGION}::/apis/a1b2c3d4e5/routes",
    }.items():
        assert allows("deployer", action, resource), action
        assert not allows("deployer", action, resource.replace("hsm-enroll", "other").replace("/apis", "/restapis"))
    for name in ("DevicePolicy-1A2B3C", "hsm-enroll-DevicePolicy-1A2B3C"):
        assert allows("deployer", "iot:CreatePolicy", f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:policy/{name}")


def test_a_web_acl_takes_a_policy_of_its_own() -> None:
    """A deployer who never uses --edge needs no permissions for REST APIs and web ACLs."""
    for action, resource in {
        "apigateway:POST": f"arn:aws:apigateway:{REGION}::/restapis",
        "apigateway:SetWebACL": f"arn:aws:apigateway:{REGION}::/restapis/a1b2c3d4e5/stages/edge",
        "wafv2:CreateWebACL": f"arn:aws:wafv2:{REGION}:{ACCOUNT_ID}:regional/webacl/hsm-enroll-edge/0a1b",
    }.items():
        assert allows("deployer-edge", action, resource), action
        assert not allows("deployer", action, resource)
        assert not allows(
            "deployer-edge", action, resource.replace("hsm-enroll", "other").replace("/restapis", "/apis")
        )


def test_a_role_for_devices_takes_a_policy_of_its_own() -> None:
    """A deployer who never uses --role-alias needs no permissions for role aliases, nor to pass a role to them."""
    for action, resource in {
        "iot:CreateRoleAlias": f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:rolealias/gateways",
        "iam:PutRolePolicy": f"arn:aws:iam::{ACCOUNT_ID}:role/hsm-enroll-DeviceRole-1A2B3C",
        "iam:PassRole": f"arn:aws:iam::{ACCOUNT_ID}:role/hsm-enroll-DeviceRole-1A2B3C",
    }.items():
        assert allows("deployer-credentials", action, resource), action
    function = f"arn:aws:iam::{ACCOUNT_ID}:role/hsm-enroll-Role-1A2B3C"
    assert not allows("deployer-credentials", "iam:PassRole", function)
    assert not allows("deployer", "iot:CreateRoleAlias", f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:rolealias/gateways")


def test_nobody_but_functions_and_devices_is_passed_their_role() -> None:
    """Otherwise the deployer could give it to a service of their choice.

    What CreateRoleAlias says of the service is not documented: AWS's own policy for it allows both, or neither being
    said (AmazonSageMakerEdgeDeviceFleetPolicy).
    """
    devices = [f"{service}.amazonaws.com" for service in ("credentials.iot", "iot")]
    conditions = {
        "deployer": {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}},
        "deployer-credentials": {"StringEqualsIfExists": {"iam:PassedToService": devices}},
    }
    for role, condition in conditions.items():
        (statement,) = [one for one in policy(role)["Statement"] if "iam:PassRole" in listed(one["Action"])]
        assert statement["Condition"] == condition
        assert statement["Action"] == "iam:PassRole"


# What the deployers' policies let roles be given; the others let no role be given anything.
BOUNDARIES = {
    "deployer": f"arn:aws:iam::{ACCOUNT_ID}:policy/hsm-enroll-boundary",
    "deployer-credentials": f"arn:aws:iam::{ACCOUNT_ID}:policy/hsm-enroll-device-boundary",
}


def test_what_a_deployer_gives_a_role_stays_within_the_boundary() -> None:
    """A role is created, and given permissions, only with the boundary, which nobody takes away or changes."""
    grants = {
        f"iam:{name}" for name in ("CreateRole", "DeleteRolePolicy", "PutRolePermissionsBoundary", "PutRolePolicy")
    }
    free = set()
    for role in (role for role in ROLES if role.startswith("deployer")):
        within = {"StringEquals": {"iam:PermissionsBoundary": BOUNDARIES.get(role)}}
        statements = policy(role)["Statement"]
        bound = {action for one in statements if one.get("Condition") == within for action in listed(one["Action"])}
        assert bound == (grants if role in BOUNDARIES else set())
        free |= {action for one in statements if one.get("Condition") != within for action in listed(one["Action"])}
    assert {action for action in free if action.startswith("iam:")} == {
        f"iam:{name}"
        for name in (
            *("DeleteRole", "GetRole", "GetRolePolicy", "ListAttachedRolePolicies", "ListRolePolicies", "PassRole"),
            *("TagRole", "UntagRole", "UpdateAssumeRolePolicy", "UpdateRole", "UpdateRoleDescription"),
        )
    }


# As CloudFormation names them in a stack hsm-enroll.
NAMES = {
    "${AWS::Partition}": "aws",
    "${AWS::Region}": REGION,
    "${AWS::AccountId}": ACCOUNT_ID,
    "${Ledger.Arn}": f"arn:aws:dynamodb:{REGION}:{ACCOUNT_ID}:table/hsm-enroll-Ledger-1A2B3C",
    "${DevicePolicy.Arn}": f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:policy/DevicePolicy-1A2B3C",
    "${LogGroup.Arn}": f"arn:aws:logs:{REGION}:{ACCOUNT_ID}:log-group:hsm-enroll-LogGroup-1A2B3C:*",
    "${KmsKey}": f"arn:aws:kms:{REGION}:{ACCOUNT_ID}:key/1234abcd-12ab-34cd-56ef-1234567890ab",
}


def named(value: Any) -> str:
    """Return a resource of the template's role as an ARN."""
    if isinstance(value, dict):
        ((function, argument),) = value.items()
        value = {"Ref": "${%s}", "Fn::GetAtt": "${%s}"}.get(function, "%s") % (
            argument if isinstance(argument, str) else ".".join(argument)
        )
    for name, known in NAMES.items():
        value = value.replace(name, known)
    return str(value)


def test_the_boundary_is_what_the_functions_role_needs_and_no_more() -> None:
    """With an operator's own key too; what the role has is within it, and it has nothing else."""
    resources = template()["Resources"]
    documents = [one["PolicyDocument"] for one in resources["Role"]["Properties"]["Policies"]]
    documents.append(resources["KmsKeyUse"]["Properties"]["PolicyDocument"])
    needed = [
        (action, named(statement["Resource"]))
        for document in documents
        for statement in document["Statement"]
        for action in listed(statement["Action"])
    ]
    # A wildcard of the role's is written out in the boundary.
    granted = {action for statement in policy("boundary")["Statement"] for action in listed(statement["Action"])}
    pairs = [(each, arn) for action, arn in needed for each in granted if fnmatchcase(each, action)]
    assert all(allows("boundary", action, arn) for action, arn in pairs)
    assert {action for action, _ in pairs} == granted
    assert all(any(fnmatchcase(each, action) for each in granted) for action, _ in needed)
    (key,) = [one for one in policy("boundary")["Statement"] if one["Sid"] == "LedgerKey"]
    assert key["Condition"] == {"StringLike": {"kms:ViaService": f"dynamodb.{REGION}.amazonaws.com*"}}


def operator_routes() -> set[str]:
    """Return the operator's routes, as the template has them."""
    found = template()["Resources"].values()
    routes = [one["Properties"] for one in found if one["Type"] == "AWS::ApiGatewayV2::Route"]
    return {route["RouteKey"] for route in routes if route["AuthorizationType"] == "AWS_IAM"}


VIEWS = {f"GET /v1/operator/{name}" for name in ("invites", "fleet", "eks", "ek-authorities")}
# A TPM that is listed enrolls without an invite.
INVITES = {f"{method} /v1/operator/{name}" for method in ("POST", "DELETE") for name in ("invites", "eks")}
# They end the life of an enrolled Thing's key.
ENDINGS = {"POST /v1/operator/replacements", "DELETE /v1/operator/fleet"}


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("viewer", VIEWS), ("inviter", VIEWS | INVITES), ("manager", None), ("deployer", set())],
)
def test_each_role_has_its_routes_and_no_other(role: str, allowed: set[str] | None) -> None:
    """Viewers list; inviters make and revoke invites too; managers do everything; deployers nothing in the API."""
    routes = operator_routes()
    assert routes > VIEWS | INVITES | ENDINGS
    for stage in ("$default", "edge"):
        arns = {route: f"{API}/{stage}/{route.replace(' /', '/')}" for route in routes}
        granted = {route for route, arn in arns.items() if allows(role, "execute-api:Invoke", arn)}
        assert granted == (routes if allowed is None else allowed)
        elsewhere = [arn.replace("a1b2c3d4e5", "another") for arn in arns.values()]
        assert not any(allows(role, "execute-api:Invoke", arn) for arn in elsewhere)


@pytest.mark.parametrize(("role", "may"), [("viewer", True), ("inviter", True), ("manager", True), ("deployer", False)])
def test_who_may_list_things_may_see_when_they_were_connected(role: str, may: bool) -> None:
    """What the page of fleet web asks AWS IoT itself: fleet indexing, and nothing else."""
    index = f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:index/AWS_Things"
    assert allows(role, "iot:SearchIndex", index) is allows(role, "iot:GetIndexingConfiguration", "*") is may
    assert not allows(role, "iot:UpdateIndexingConfiguration", "*")


@pytest.mark.parametrize(("role", "may"), [("viewer", False), ("inviter", False), ("manager", True)])
def test_who_may_replace_a_things_key_may_revoke_the_thing(role: str, may: bool) -> None:
    """An inviter can do neither: no invite of theirs takes an enrolled Thing from its device."""
    for stage in ("$default", "edge"):
        arns = [f"{API}/{stage}/{route.replace(' /', '/')}" for route in sorted(ENDINGS)]
        assert [allows(role, "execute-api:Invoke", arn) for arn in arns] == [may, may]


@contextmanager
def acting_as(role: str) -> Iterator[set[str]]:
    """Have the credentials of a user with a role's policy, enforced by moto; yield the actions that are denied."""
    iam = boto3.client("iam", region_name=REGION)
    iam.create_user(UserName=role)
    iam.put_user_policy(UserName=role, PolicyName=role, PolicyDocument=json.dumps(policy(role)))
    key = iam.create_access_key(UserName=role)["AccessKey"]
    denied: set[str] = set()

    class Checked(IAMRequest):  # type: ignore[misc]  # moto has no types
        _action: str

        def check_signature(self) -> None:
            """Let it pass: it is not what is tested."""

        def check_action_permitted(self, resource: str) -> None:
            """Check action and resource as AWS knows them."""
            self._action = PERMISSIONS.get(self._action, self._action)
            try:
                super().check_action_permitted(RESOURCES.get(self._action, resource))
            except Exception:
                denied.add(self._action)
                raise

    class CheckedS3(Checked, S3IAMRequest):  # type: ignore[misc]
        """The same for S3, whose errors have another form."""

    keys = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    with (
        mock.patch.dict("os.environ", keys),
        mock.patch("moto.iam.access_control.IAMRequest", Checked),
        mock.patch("moto.iam.access_control.S3IAMRequest", CheckedS3),
        enable_iam_authentication(),
    ):
        yield denied


# moto names these by their operation; in IAM they have another name (S3's API reference, "Permissions").
PERMISSIONS = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration",
}
_STACK = f"arn:aws:cloudformation:{REGION}:{ACCOUNT_ID}:stack/hsm-enroll/0a1b"
RESOURCES = {
    "lambda:GetFunction": f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:hsm-enroll-Function-1A2B3C",
    "iot:GetPolicy": f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:policy/hsm-enroll-DevicePolicy-1A2B3C",
    **{
        f"cloudformation:{name}": _STACK
        for name in (
            *("CreateChangeSet", "DescribeChangeSet", "ExecuteChangeSet", "DeleteChangeSet"),
            *("DescribeStacks", "DescribeStackEvents", "DeleteStack", "DetectStackDrift"),
        )
    },
}


@pytest.mark.usefixtures("account", "quick_build")
def test_the_deployer_deploys_updates_shows_and_deletes() -> None:
    """Enforced by moto: what our own code asks of AWS is granted, and nothing is denied."""
    with acting_as("deployer") as denied:
        deploy()
        deploy("open")
        assert status().auth == "open"
        assert delete() is not None
        assert denied == set()


@pytest.mark.usefixtures("account", "quick_build")
@pytest.mark.parametrize("role", ["viewer", "inviter", "manager"])
def test_who_may_not_deploy_sees_the_deployment_and_cannot_change_it(role: str) -> None:
    """They find the API and see its status; deploying and deleting are refused, and change nothing."""
    before = deploy().status
    with acting_as(role) as denied:
        assert status() == before
        assert find_api_url(aws.session()) == before.outputs["ApiUrl"]
        with pytest.raises(AwsError, match="refused"):
            deploy("open")
        with pytest.raises(AwsError, match="refused"):
            delete()
        assert denied
    assert status() == before
    for action in ("CreateChangeSet", "ExecuteChangeSet", "DeleteStack"):
        assert not allows(role, f"cloudformation:{action}", _STACK)


@pytest.mark.usefixtures("account", "quick_build")
@pytest.mark.parametrize("role", ["viewer", "inviter", "manager"])
def test_of_other_stacks_they_see_nothing(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DescribeStacks is granted for this one."""
    deploy(name="other")
    monkeypatch.setitem(RESOURCES, "cloudformation:DescribeStacks", _STACK.replace("hsm-enroll", "other"))
    with acting_as(role), pytest.raises(BackendRefusedError, match="CloudFormation refused"):
        find_api_url(aws.session(), "other")
