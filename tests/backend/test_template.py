"""The template: what a device may do, what the function may do, and what is made around them, and nothing beyond it."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest
from botocore.session import Session

from hsm_enroll.iot.device_topics import DeviceTopics
from hsm_enroll.iot_policy import CLIENT_ID, IS_ATTACHED, MAX_DOCUMENT_CHARACTERS, THING_NAME, Policy, allows
from hsm_enroll.operator import package
from hsm_enroll.operator.device_policy import loose_grants
from tests.support.csr_factory import THING as GATEWAY
from tests.support.csr_factory import pem_of, request
from tests.support.deployment import ENVIRONMENT, LAMBDA, REGION, deployed, load_handler
from tests.support.pages import code, page
from tests.support.quick_aws import quick_aws
from tests.support.stack import TEMPLATE, UNKNOWN_TO_MOTO, deploy, template

ARN = f"arn:aws:iot:{REGION}:123456789012"
THING = "${iot:Connection.Thing.ThingName}"
# Service Authorization Reference, AWS IoT: none has a resource type, so that "*" is all that can be said.
WITHOUT_RESOURCE_LEVEL = {"iot:CreateCertificateFromCsr", "iot:ListCertificates"}
# CreateStack's TemplateBody, in bytes; a larger one would have to lie in S3.
LARGEST_BODY = 51_200

pytestmark = pytest.mark.filterwarnings(UNKNOWN_TO_MOTO)


@pytest.fixture
def account() -> Iterator[None]:
    """An empty account."""
    with mock.patch.dict(os.environ, ENVIRONMENT, clear=True), quick_aws():
        yield


def resources(kind: str) -> dict[str, Any]:
    """Return the template's resources of a type, by name: their properties."""
    found = template()["Resources"].items()
    return {name: resource.get("Properties", {}) for name, resource in found if resource["Type"] == kind}


def the(kind: str) -> Any:
    """Return the properties of the only resource of a type."""
    (properties,) = resources(kind).values()
    return properties


def policy_document(name: str) -> dict[str, Any]:
    """Return the policy as AWS IoT holds it. Moto shows CloudFormation's as a Python literal, not as JSON."""
    shown = boto3.client("iot", region_name=REGION).get_policy(policyName=name)["policyDocument"]
    document: dict[str, Any] = ast.literal_eval(shown)
    return document


def test_cfn_lint_finds_nothing() -> None:
    """The template is what CloudFormation understands, warnings included."""
    linter = Path(sys.executable).with_name("cfn-lint")
    run = subprocess.run([linter, TEMPLATE], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_the_template_can_be_sent_as_it_is() -> None:
    """It needs no bucket of its own."""
    assert TEMPLATE.stat().st_size < LARGEST_BODY


@pytest.mark.usefixtures("account")
def test_the_outputs_name_what_was_made() -> None:
    """API, policy, table and function: what an operator, and the operator's commands, need to know."""
    outputs = deploy()
    assert outputs.keys() == {
        "ApiUrl",
        "PolicyName",
        "TableName",
        "FunctionName",
        "SweepFunctionName",
        "Version",
    }
    assert policy_document(outputs["PolicyName"])["Version"] == "2012-10-17"
    assert boto3.client("dynamodb", region_name=REGION).list_tables()["TableNames"] == [outputs["TableName"]]


def test_an_enrolled_device_gets_the_deployed_policy() -> None:
    """What the stack says is what the function is given, and what the certificate ends up with."""
    with deployed() as backend:
        outputs = deploy()
        given = variables_of(outputs["FunctionName"])
        with mock.patch.dict(os.environ, given | {"AUTH_MODE": "open"}):
            backend.handler = load_handler()
            answer = backend.enroll(pem_of(request()), GATEWAY)
        attached = backend.iot.list_attached_policies(target=answer.json["certificateArn"])["policies"]
        assert [policy["policyName"] for policy in attached] == [outputs["PolicyName"]]
        assert answer.json["mqttEndpoint"] == "mqtt.example.com"


@pytest.mark.usefixtures("account")
def test_a_device_connects_only_if_attached() -> None:
    """AWS IoT's variables reach AWS IoT as they are; without a connection there are no topics."""
    connect, *others = policy_document(deploy()["PolicyName"])["Statement"]
    assert connect["Resource"] == [f"{ARN}:client/{THING}", f"{ARN}:client/{THING}/*"]
    assert connect["Condition"] == {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}
    assert [statement["Action"] for statement in others] == [["iot:Publish", "iot:Receive"], "iot:Subscribe"]


# Names of topic roots, the beginning of another's name, and what else a Thing's name may consist of.
THINGS = ["a", "ab", "certtest", "device", "telemetry", "things", "shadow", "-", "_", "a:b", "a_b", "a-b", "x" * 128]
OWN_CLIENTS = ["{thing}", "{thing}/publish", "{thing}/"]
FOREIGN_CLIENTS = ["", "other", "{thing}x", "x{thing}", "other/{thing}", "{thing}-publish", "*", THING, THING + "/x"]
OWN_TOPICS = [
    "certtest/{thing}",
    "device/{thing}/x",
    "device/{thing}/x/y",
    "device/{thing}/other",
    "$aws/things/{thing}/shadow/update",
    "$aws/things/{thing}/shadow/name/settings/get",
    "$aws/things/{thing}/jobs/notify-next",
]
OWN_FILTERS = [
    *OWN_TOPICS,
    "device/{thing}/#",
    "device/{thing}/+",
    "$aws/things/{thing}/shadow/#",
    "device/{thing}/+/x",
]
FOREIGN_TOPICS = [
    "",
    "{thing}",
    "{thing}/x",
    "{thing}/{thing}",
    "{thing}/other",
    "certtest",
    "certtest/",
    "certtest/other",
    "certtest/{thing}/x",
    "device",
    "device/{thing}",
    "device/other/x",
    "device/{thing}x/x",
    "device/x{thing}/x",
    "device/other/{thing}/x",
    "telemetry/{thing}",
    "telemetry/x",
    "$aws/things/{thing}",
    "$aws/things/{thing}/x",
    "$aws/things/{thing}/shadow",
    "$aws/things/other/shadow/update",
    "$aws/things/{thing}x/jobs/get",
    "$aws/rules/device/{thing}/x",
    f"device/{THING}/x",
]
FOREIGN_FILTERS = [
    *FOREIGN_TOPICS,
    "#",
    "+/#",
    "+/{thing}/#",
    "device/#",
    "device/+/x",
    "device/+/#",
    "certtest/#",
    "certtest/+",
    "certtest/{thing}/#",
    "{thing}/#",
    "$aws/#",
    "$aws/things/+/shadow/#",
    "$aws/things/{thing}/#",
    "$share/group/device/{thing}/x",
]


@pytest.fixture(scope="module")
def device_policy() -> Policy:
    """The device policy, as a stack of its own deploys it."""
    with mock.patch.dict(os.environ, ENVIRONMENT, clear=True), quick_aws():
        return Policy.parse(policy_document(deploy()["PolicyName"]))


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize(
    ("actions", "kind", "own", "foreign"),
    [
        (["iot:Connect"], "client", OWN_CLIENTS, FOREIGN_CLIENTS),
        (["iot:Publish", "iot:Receive"], "topic", OWN_TOPICS, FOREIGN_TOPICS),
        (["iot:Subscribe"], "topicfilter", OWN_FILTERS, FOREIGN_FILTERS),
    ],
    ids=["clients", "topics", "filters"],
)
def test_a_device_has_what_is_its_things_and_nothing_else(
    thing: str, actions: list[str], kind: str, own: list[str], foreign: list[str], device_policy: Policy
) -> None:
    """S22: whatever the Thing is called, it reaches its own topics and nobody else's, and listens to nobody else's."""
    mine = {name.format(thing=thing) for name in own}
    others = {name if "${" in name else name.format(thing=thing) for name in foreign}
    for action in actions:
        allowed = {name for name in mine | others if may(device_policy, action, f"{kind}/{name}", thing)}
        assert allowed == mine, action


@pytest.mark.parametrize("thing", ["gateway-17", "certtest", "a:b_c-d"])
def test_the_topics_that_a_device_names_are_the_policys(device_policy: Policy, thing: str) -> None:
    """What hints, examples and ``status`` call a device's topics, it may publish to, subscribe to and receive from."""
    for topic in DeviceTopics.of(thing):
        assert may(device_policy, "iot:Subscribe", f"topicfilter/{topic}", thing)
        for action in ("iot:Publish", "iot:Receive"):
            assert may(device_policy, action, f"topic/{topic.replace('#', 'a/b')}", thing)


def may(policy: Policy, action: str, resource: str, thing: str) -> bool:
    """Ask whether a device may do something, connected under a client id of its own."""
    variables = {THING_NAME: thing, CLIENT_ID: f"{thing}/publish", IS_ATTACHED: "true"}
    return allows([policy], action, f"{ARN}:{resource}", variables)


def test_a_certificate_that_is_attached_to_nothing_may_do_nothing(device_policy: Policy) -> None:
    """Without a Thing there is no name, and without a name no resource; a client id does not stand in for it."""
    for client in ("a", "a/x", "", "*", THING):
        variables = {CLIENT_ID: client, IS_ATTACHED: "false"}
        asked = [("iot:Connect", f"client/{client}"), ("iot:Publish", f"topic/certtest/{client}")]
        assert not any(allows([device_policy], action, f"{ARN}:{resource}", variables) for action, resource in asked)


def test_the_policy_is_one_that_the_check_of_an_operators_own_calls_tight(device_policy: Policy) -> None:
    """Least privilege: each resource is bound to the Thing behind a literal level, and no two of them can meet."""
    assert loose_grants(device_policy, f"{ARN}:") == []


def test_the_policy_fits_into_aws_iot_in_every_partition_and_region() -> None:
    """CreatePolicy takes 2,048 characters without white space, and the ARNs have the region's name in them."""
    session = Session()
    places = [
        (partition, region)
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("ec2", partition)
    ]
    partition, region = max(places, key=lambda place: len("".join(place)))
    (properties,) = resources("AWS::IoT::Policy").values()
    (_, _, document) = properties["PolicyDocument"]["Fn::If"]
    text = json.dumps(document, separators=(",", ":"))
    for name, value in {"Partition": partition, "Region": region, "AccountId": "1" * 12}.items():
        text = text.replace(f"${{AWS::{name}}}", value)
    # What is left of CloudFormation counts too: it is more than what comes of it.
    assert "aws-" in text
    assert len(text) <= MAX_DOCUMENT_CHARACTERS


@pytest.mark.usefixtures("account")
def test_an_operators_own_policy_takes_the_place_of_the_templates() -> None:
    """The parameter's text is the policy's document, character by character."""
    own = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"iot:*","Resource":"*"}]}'
    name = deploy(DevicePolicyDocument=own)["PolicyName"]
    assert boto3.client("iot", region_name=REGION).get_policy(policyName=name)["policyDocument"] == own


def test_a_change_of_the_policy_is_an_update_in_place() -> None:
    """Its name is CloudFormation's, and with it the attachments stay: PolicyDocument updates without interruption."""
    (properties,) = resources("AWS::IoT::Policy").values()
    assert properties.keys() == {"PolicyDocument"}


def role_statements() -> list[dict[str, Any]]:
    """Return the statements of the function's role."""
    (policy,) = resources("AWS::IAM::Role")["Role"]["Policies"]
    statements: list[dict[str, Any]] = policy["PolicyDocument"]["Statement"]
    return statements


def actions_of(statement: dict[str, Any]) -> list[str]:
    """Return a statement's actions, of which there may be one."""
    actions = statement["Action"]
    return [actions] if isinstance(actions, str) else actions


def test_the_role_has_a_wildcard_resource_only_where_aws_knows_no_other() -> None:
    """Everything else is bound to this account's Things and certificates, to the table, to the log group."""
    unbound = set()
    for statement in role_statements():
        assert statement["Effect"] == "Allow"
        assert [action for action in actions_of(statement) if "*" in action] == []
        if statement["Resource"] == "*":
            unbound |= set(actions_of(statement))
            continue
        told = json.dumps(statement["Resource"])
        bound = re.fullmatch(
            r'{"Fn::Sub": "arn:\${AWS::Partition}:iot:\${AWS::Region}:\${AWS::AccountId}:(thing|cert)/\*"}'
            r'|{"Fn::GetAtt": \["(DevicePolicy|Ledger|LogGroup)", "Arn"\]}'
            r'|{"Fn::Sub": "\${Ledger.Arn}/index/by-time"}',
            told,
        )
        assert bound, told
    assert unbound == WITHOUT_RESOURCE_LEVEL


def test_the_role_grants_each_action_on_the_resources_that_aws_knows_for_it() -> None:
    """Service Authorization Reference: an action granted on a resource that it does not know is not granted."""
    reference = json.loads((files("cfnlint") / "data/AdditionalSpecs/Policies.json").read_text("utf-8"))
    for statement in role_statements():
        arns = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for action in actions_of(statement):
            service, _, name = action.partition(":")
            actions = {known.lower(): facts for known, facts in reference[service]["Actions"].items()}
            kinds = set(actions[name.lower()].get("Resources", []))
            granted = {_kind(arn) for arn in arns}
            assert granted <= kinds if kinds else granted == {"*"}, action


def _kind(resource: Any) -> str:
    """Return the resource type of an ARN, as the reference calls it."""
    if resource == {"Fn::GetAtt": ["DevicePolicy", "Arn"]}:
        return "policy"
    if resource in ({"Fn::GetAtt": ["Ledger", "Arn"]}, {"Fn::GetAtt": "Ledger.Arn"}):
        return "table"
    if resource in ({"Fn::GetAtt": ["LogGroup", "Arn"]}, {"Fn::GetAtt": "LogGroup.Arn"}):
        return "log-stream"  # AWS::Logs::LogGroup: the ARN ends in ":*", which is every stream of the group
    text = resource["Fn::Sub"] if isinstance(resource, dict) else str(resource)
    if text.startswith("${Ledger.Arn}/index/"):
        return "index"
    return text.rpartition(":")[2].partition("/")[0]


def test_the_role_has_no_policy_of_aws_own() -> None:
    """Managed policies allow more than this function needs."""
    assert "ManagedPolicyArns" not in resources("AWS::IAM::Role")["Role"]


def test_policy_and_ledger_outlast_the_stack() -> None:
    """Enrolled devices live on them; nothing else stays, and neither has a name that the next stack would run into."""
    found = template()["Resources"]
    retained = {name for name, resource in found.items() if resource.get("DeletionPolicy") == "Retain"}
    assert retained == {"DevicePolicy", "Ledger"}
    assert {found[name]["UpdateReplacePolicy"] for name in retained} == {"Retain"}
    assert "PolicyName" not in found["DevicePolicy"]["Properties"]
    assert "TableName" not in found["Ledger"]["Properties"]


def test_the_ledger_is_kept_safe() -> None:
    """Keys, time to live, point-in-time recovery, encryption with a key that AWS manages in this account."""
    ledger = the("AWS::DynamoDB::Table")
    assert ledger["KeySchema"] == [
        {"AttributeName": "kind", "KeyType": "HASH"},
        {"AttributeName": "id", "KeyType": "RANGE"},
    ]
    types = {entry["AttributeName"]: entry["AttributeType"] for entry in ledger["AttributeDefinitions"]}
    assert types == {"kind": "S", "id": "S", "created": "N"}
    assert ledger["TimeToLiveSpecification"] == {"AttributeName": "ttl", "Enabled": True}
    assert ledger["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert ledger["SSESpecification"] == {
        "SSEEnabled": True,
        "SSEType": "KMS",
        "KMSMasterKeyId": {"Fn::If": ["HasKmsKey", {"Ref": "KmsKey"}, {"Ref": "AWS::NoValue"}]},
    }
    assert ledger["DeletionProtectionEnabled"] == {"Fn::If": ["ProtectsLedger", True, False]}
    assert template()["Parameters"]["LedgerProtection"]["Default"] == "yes"
    assert ledger["BillingMode"] == "PAY_PER_REQUEST"


def test_the_function_is_the_one_that_the_zip_is_built_for() -> None:
    """Architecture and Python are those of the wheels, and the handler is there."""
    for function in resources("AWS::Lambda::Function").values():
        assert function["Architectures"] == [package.ARCHITECTURE]
        assert function["Runtime"] == f"python{package.PYTHON}"
        module, _, name = function["Handler"].partition(".")
        assert f"def {name}(" in (LAMBDA / f"{module}.py").read_text("utf-8")
        assert function["Code"]["S3ObjectVersion"]["Fn::If"][:2] == ["HasCodeVersion", {"Ref": "CodeVersion"}]


def test_the_function_has_an_end_before_api_gateway_has() -> None:
    """API Gateway waits 30 seconds; and the function's concurrency is its own."""
    function = function_of("Function")
    assert function["Timeout"] < 30
    assert "ReservedConcurrentExecutions" in function


def test_the_burst_is_not_above_the_concurrency() -> None:
    """What the API lets through at once, the function can take; and more per second than are to be enrolled."""
    defaults = {name: parameter.get("Default") for name, parameter in template()["Parameters"].items()}
    assert defaults["ThrottleBurst"] <= defaults["ReservedConcurrency"] == 20
    assert defaults["CertificateRate"] < defaults["ThrottleRate"] == 100


@pytest.mark.usefixtures("account")
def test_the_function_is_given_its_settings() -> None:
    """Each parameter that the function works by is one of its variables; metrics have the stack's own namespace."""
    outputs = deploy(
        CertificateRate="40", SweepLimit="7", AllowExistingThings="yes", RenewalDays="90", DeleteThingOnRetirement="yes"
    )
    given = variables_of(outputs["FunctionName"])
    assert (given["CERTIFICATE_RATE"], given["SWEEP_LIMIT"], given["ALLOW_EXISTING_THINGS"]) == ("40", "7", "yes")
    assert (given["RENEWAL_DAYS"], given["DELETE_THING_ON_RETIREMENT"]) == ("90", "yes")
    assert given["METRICS_NAMESPACE"] == "hsm-enroll/backend"
    sweeps = variables_of(outputs["SweepFunctionName"])
    assert (sweeps["SWEEP_LIMIT"], sweeps["METRICS_NAMESPACE"]) == ("7", "hsm-enroll/backend")


def variables_of(function: str) -> dict[str, str]:
    """Return a deployed function's environment variables."""
    client = boto3.client("lambda", region_name=REGION)
    variables: dict[str, str] = client.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
    return variables


def function_of(name: str) -> dict[str, Any]:
    """Return the properties of one of the template's functions."""
    properties: dict[str, Any] = resources("AWS::Lambda::Function")[name]
    return properties


def test_each_property_is_one_that_cloudformation_knows() -> None:
    """Property by property: it is in the type's schema and not read-only, and none that is required is missing."""
    for name, resource in template()["Resources"].items():
        schema = schemas()[resource["Type"]]
        given = resource.get("Properties", {}).keys()
        read_only = {path.removeprefix("/properties/") for path in schema.get("readOnlyProperties", [])}
        assert given <= schema["properties"].keys() - read_only, name
        assert set(schema.get("required", [])) <= given, name


@cache
def schemas() -> dict[str, Any]:
    """Return CloudFormation's schemas of resources, by type."""
    folder = files("cfnlint") / "data/schemas/resources"
    found = [json.loads(file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".json")]
    return {schema["typeName"]: schema for schema in found}


ROLE_ALIAS = {
    "RoleAlias": "gateways",
    "RolePolicyDocument": '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:PutObject", '
    '"Resource": "arn:aws:s3:::plant/${credentials-iot:ThingName}/*"}]}',
    "CredentialsEndpoint": "credentials.example.com",
}


@pytest.mark.usefixtures("account")
def test_a_role_alias_is_made_with_a_role_that_can_do_what_the_operator_says() -> None:
    """The credentials provider alone may assume the role, which has nothing but the operator's permissions."""
    outputs = deploy(**ROLE_ALIAS)
    iot, iam = boto3.client("iot", region_name=REGION), boto3.client("iam", region_name=REGION)
    alias = iot.describe_role_alias(roleAlias="gateways")["roleAliasDescription"]
    name = alias["roleArn"].rpartition("/")[2]
    role = iam.get_role(RoleName=name)["Role"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert (trust["Principal"], trust["Action"]) == ({"Service": "credentials.iot.amazonaws.com"}, "sts:AssumeRole")
    assert trust["Condition"] == {  # no other account's devices (confused deputy)
        "StringEqualsIfExists": {"aws:SourceAccount": "123456789012"},
        "ArnLikeIfExists": {"aws:SourceArn": f"{ARN}:*"},
    }
    assert alias["credentialDurationSeconds"] == 3600
    assert iam.list_role_policies(RoleName=name)["PolicyNames"] == ["devices"]
    permissions = iam.get_role_policy(RoleName=name, PolicyName="devices")["PolicyDocument"]
    assert permissions == json.loads(ROLE_ALIAS["RolePolicyDocument"])
    assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
    given = variables_of(outputs["FunctionName"])
    assert (given["ROLE_ALIAS"], given["CREDENTIALS_ENDPOINT"]) == ("gateways", "credentials.example.com")


@pytest.mark.usefixtures("account")
def test_the_device_policy_grants_that_role_alias_alone() -> None:
    """Without a role alias there is no such statement, and no role."""
    statements = policy_document(deploy(**ROLE_ALIAS)["PolicyName"])["Statement"]
    assert statements[-1] == {
        "Effect": "Allow",
        "Action": "iot:AssumeRoleWithCertificate",
        "Resource": f"{ARN}:rolealias/gateways",
    }


@pytest.mark.usefixtures("account")
def test_without_a_role_alias_there_is_neither_role_nor_permission() -> None:
    """Devices of such a deployment get no AWS credentials, and are not told of any."""
    outputs = deploy()
    assert "iot:AssumeRoleWithCertificate" not in str(policy_document(outputs["PolicyName"]))
    assert boto3.client("iot", region_name=REGION).list_role_aliases()["roleAliases"] == []
    assert variables_of(outputs["FunctionName"])["ROLE_ALIAS"] == ""


@pytest.mark.usefixtures("account")
def test_a_deployment_is_closed_unless_it_says_otherwise() -> None:
    """Without a word about it, only an invite gets anybody in."""
    assert variables_of(deploy()["FunctionName"])["AUTH_MODE"] == "invite"
    assert template()["Parameters"]["AuthMode"]["AllowedValues"] == ["invite", "open"]


def test_the_edge_has_the_routes_of_the_api_and_no_other() -> None:
    """The REST API takes the HTTP API's place: the same routes, operators' signed, all to the same function."""
    body = the("AWS::ApiGateway::RestApi")["Body"]
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in body["paths"].items()
        for method, operation in methods.items()
    }
    signed = {route: "AWS_IAM" if "security" in operation else "NONE" for route, operation in operations.items()}
    assert signed == routes()
    assert body["components"]["securitySchemes"]["sigv4"]["x-amazon-apigateway-authtype"] == "awsSigv4"
    integrations = [operation["x-amazon-apigateway-integration"] for operation in operations.values()]
    assert all(one["type"] == "aws_proxy" for one in integrations)
    assert {one["uri"]["Fn::Sub"].partition("functions/")[2] for one in integrations} == {"${Function.Arn}/invocations"}


def test_a_changed_body_of_the_edge_is_deployed() -> None:
    """An API Gateway deployment is a copy, which CloudFormation makes once; so its name has the hash of the body."""
    body = the("AWS::ApiGateway::RestApi")["Body"]
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:8]
    assert list(resources("AWS::ApiGateway::Deployment")) == [f"EdgeDeployment{digest}"]
    assert the("AWS::ApiGateway::Stage")["DeploymentId"] == {"Ref": f"EdgeDeployment{digest}"}


def test_the_edge_limits_each_address_and_leaves_no_way_around() -> None:
    """Off unless asked for; then a web ACL counts per address, says when to come back, and the HTTP API is closed."""
    assert template()["Parameters"]["Edge"]["Default"] == "no"
    found = template()["Resources"].items()
    edge = {name for name, resource in found if resource.get("Condition") == "HasEdge"}
    assert {name.partition("Deployment")[0] for name in edge} == {
        "Edge", "EdgeApi", "EdgeApiAlarm", "EdgeFirewall", "EdgeFirewallAssociation", "EdgePermission", "EdgeStage",
    }  # fmt: skip
    assert the("AWS::ApiGatewayV2::Api")["DisableExecuteApiEndpoint"] == {"Fn::If": ["HasEdge", True, False]}
    acl = the("AWS::WAFv2::WebACL")
    (rule,) = acl["Rules"]
    assert rule["Statement"]["RateBasedStatement"]["AggregateKeyType"] == "IP"
    response = rule["Action"]["Block"]["CustomResponse"]
    assert response["ResponseCode"] == 429
    assert response["ResponseHeaders"] == [{"Name": "Retry-After", "Value": "300"}]
    # Samples would show headers, and with them invites.
    assert not acl["VisibilityConfig"]["SampledRequestsEnabled"]
    assert not rule["VisibilityConfig"]["SampledRequestsEnabled"]
    association = the("AWS::WAFv2::WebACLAssociation")
    assert association["ResourceArn"]["Fn::Sub"].endswith("::/restapis/${EdgeApi}/stages/${EdgeStage}")
    (settings,) = the("AWS::ApiGateway::Stage")["MethodSettings"]
    assert (settings["ResourcePath"], settings["HttpMethod"]) == ("/*", "*")
    assert settings.keys() >= {"ThrottlingRateLimit", "ThrottlingBurstLimit"}


def test_a_whole_site_behind_one_address_is_not_limited() -> None:
    """300 gateways that start at once, each with an invite to look up and six tries in five minutes."""
    assert template()["Parameters"]["AddressLimit"]["Default"] >= 300 * 6


def routes() -> dict[str, str]:
    """Return the API's routes, and who decides who gets through."""
    found = resources("AWS::ApiGatewayV2::Route").values()
    return {route["RouteKey"]: route["AuthorizationType"] for route in found}


def test_operators_routes_need_iam_and_devices_routes_do_not() -> None:
    """API Gateway lets no unsigned request near an operator's route; there is no catch-all."""
    assert routes() == {
        "POST /v1/certificates": "NONE",
        "POST /getCertificate": "NONE",
        "POST /v1/attestations": "NONE",
        "GET /v1/invite": "NONE",
        "POST /v1/renewals": "NONE",
        "POST /v1/renewals/commit": "NONE",
        "POST /v1/recoveries": "NONE",
        "POST /v1/retirements": "NONE",
        "GET /v1/health": "NONE",
        "GET /.well-known/est/cacerts": "NONE",
        "GET /.well-known/est/csrattrs": "NONE",
        "POST /.well-known/est/simpleenroll": "NONE",
        "POST /.well-known/est/simplereenroll": "NONE",
        "POST /v1/operator/invites": "AWS_IAM",
        "GET /v1/operator/invites": "AWS_IAM",
        "DELETE /v1/operator/invites": "AWS_IAM",
        "POST /v1/operator/replacements": "AWS_IAM",
        "GET /v1/operator/fleet": "AWS_IAM",
        "DELETE /v1/operator/fleet": "AWS_IAM",
        "POST /v1/operator/sweep": "AWS_IAM",
        "POST /v1/operator/rebuild": "AWS_IAM",
        **{f"{method} /v1/operator/eks": "AWS_IAM" for method in ("POST", "GET", "DELETE")},
        **{f"{method} /v1/operator/ek-authorities": "AWS_IAM" for method in ("POST", "GET", "DELETE")},
    }


def test_est_has_a_domain_name_with_mutual_tls_beside_the_apis_own_address() -> None:
    """Off unless asked for; it has all routes of the API, also of the edge's, and leaves the API's address as it is."""
    found = template()["Resources"]
    assert template()["Parameters"]["EstDomainName"]["Default"] == ""
    assert {name for name, one in found.items() if one.get("Condition") == "HasEstDomain"} == {
        "EstDomain",
        "EstMapping",
    }
    domain, mapping = the("AWS::ApiGatewayV2::DomainName"), the("AWS::ApiGatewayV2::ApiMapping")
    assert domain["MutualTlsAuthentication"] == {"TruststoreUri": {"Ref": "EstTruststore"}}
    (configuration,) = domain["DomainNameConfigurations"]
    assert configuration["EndpointType"] == "REGIONAL"
    assert mapping["ApiId"] == {"Fn::If": ["HasEdge", {"Ref": "EdgeApi"}, {"Ref": "Api"}]}
    assert mapping["Stage"] == {"Fn::If": ["HasEdge", {"Ref": "EdgeStage"}, {"Ref": "Stage"}]}
    assert the("AWS::ApiGatewayV2::Api")["DisableExecuteApiEndpoint"] == {"Fn::If": ["HasEdge", True, False]}
    assert template()["Outputs"]["EstTarget"]["Condition"] == "HasEstDomain"


def test_the_api_is_throttled_and_logs_neither_headers_nor_queries() -> None:
    """An invite travels in a header, an operator's tokens in the query: neither gets into the access log."""
    stage = the("AWS::ApiGatewayV2::Stage")
    assert stage["DefaultRouteSettings"].keys() == {"ThrottlingRateLimit", "ThrottlingBurstLimit"}
    logged = json.loads(stage["AccessLogSettings"]["Format"])
    assert set(logged.values()) == {
        "$context.requestId",
        "$context.requestTime",
        "$context.identity.sourceIp",
        "$context.routeKey",
        "$context.status",
        "$context.responseLatency",
        "$context.responseLength",
        "$context.error.responseType",
    }
    assert the("AWS::ApiGatewayV2::Integration")["PayloadFormatVersion"] == "2.0"


def test_logs_end_some_day() -> None:
    """Every log group has a retention; the group of the access logs is one that API Gateway always may write to."""
    groups = resources("AWS::Logs::LogGroup")
    assert all(group["RetentionInDays"] == 90 for group in groups.values())
    assert groups["AccessLogGroup"]["LogGroupName"]["Fn::Sub"].startswith("/aws/vendedlogs/${AWS::StackName}")


def test_what_somebody_has_to_look_into_is_an_alarm() -> None:
    """Each alarm watches what this stack made, and notifies; silence is no alarm."""
    alarms = resources("AWS::CloudWatch::Alarm")
    watched = {
        (alarm["MetricName"], *(json.dumps(one["Value"]) for one in alarm.get("Dimensions", ())))
        for alarm in alarms.values()
    }
    assert watched >= {
        ("Errors", '{"Ref": "Function"}'),
        ("Throttles", '{"Ref": "Function"}'),
        ("5xx", '{"Ref": "Api"}'),
        ("5XXError", '{"Fn::Sub": "${AWS::StackName}-edge"}', '{"Ref": "EdgeStage"}'),
        ("Refusals", '"throttled"'),
        ("OrphanDisabled",),
        ("CertificateLeftActive",),
        ("SweepStopped",),
        ("RenewalFailures",),
        ("RenewalsUndone",),
        ("RenewalsContended",),
    }
    for alarm in alarms.values():
        limit = (alarm["Statistic"], alarm["Threshold"], alarm["ComparisonOperator"], alarm["EvaluationPeriods"])
        assert limit == ("Sum", 0, "GreaterThanThreshold", 1)
        own = {"Fn::Sub": "hsm-enroll/${AWS::StackName}"}
        assert alarm["Namespace"] in ("AWS/Lambda", "AWS/ApiGateway", own)
        assert alarm["TreatMissingData"] == "notBreaching"
        assert "ActionsEnabled" not in alarm
        assert alarm["AlarmActions"] == [
            {"Ref": "Alarms"},
            {"Fn::If": ["HasAlarmTopic", {"Ref": "AlarmTopic"}, {"Ref": "AWS::NoValue"}]},
        ]
    subscription = the("AWS::SNS::Subscription")
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", {"Ref": "AlarmEmail"})


def test_the_counted_log_lines_are_lines_that_the_function_writes() -> None:
    """Each metric filter is for events of the function's log, and its metric is what an alarm watches."""
    source = "".join(file.read_text("utf-8") for file in (LAMBDA / "enrollment_backend").glob("*.py"))
    alarms = {(json.dumps(one["Namespace"]), one["MetricName"]) for one in resources("AWS::CloudWatch::Alarm").values()}
    counted = set()
    for found in resources("AWS::Logs::MetricFilter").values():
        (metric,) = found["MetricTransformations"]
        assert (json.dumps(metric["MetricNamespace"]), metric["MetricName"]) in alarms
        counted |= set(re.findall(r'\$\.event = "([a-z-]+)"', found["FilterPattern"]))
    assert counted >= {"orphan-disabled", "orphan-left-active", "certificate-left-active", "sweep-stopped"}
    assert counted >= {"renewal-undone", "renewal-contended"}
    assert [event for event in counted if f'log.error("{event}"' not in source] == []


def test_the_operators_page_names_every_alarm_and_every_error_of_the_log() -> None:
    """An operator who gets a message, or finds a line of the level ERROR, can look up what it means."""
    source = "".join(file.read_text("utf-8") for file in (LAMBDA / "enrollment_backend").glob("*.py"))
    events = {
        event for found in re.findall(r"log\.error\(([^,]+),", source) for event in re.findall('"([^"]+)"', found)
    }
    named = set(code(page("docs/operator.md").prose))
    assert events | resources("AWS::CloudWatch::Alarm").keys() <= named


def test_the_dashboard_shows_what_an_operator_asks_first() -> None:
    """What happens and is refused, latency, the ledger and the quotas; CloudFormation's variables are all known."""
    text = the("AWS::CloudWatch::Dashboard")["DashboardBody"]["Fn::Sub"]
    known = {"AWS::Region", "AWS::StackName", "CertificateRate", "Function", "Ledger", "ReservedConcurrency"}
    assert set(re.findall(r"\${([\w:]+)}", text)) <= known
    widgets = json.loads(re.sub(r"\${[\w:]+}", "1", text))["widgets"]
    titles = [widget["properties"]["title"].partition(":")[0] for widget in widgets]
    assert titles == [
        "Enrollments and renewals",
        "Refusals by code",
        "Needs a look",
        "Latency (ms)",
        "Ledger",
        "Quotas",
    ]


def test_an_operators_key_is_used_through_the_table_only() -> None:
    """What DynamoDB documents for a key of one's own, for this key, and for no other service than DynamoDB."""
    (statement,) = the("AWS::IAM::RolePolicy")["PolicyDocument"]["Statement"]
    assert set(statement["Action"]) == {
        *("kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"),
    }
    assert statement["Resource"] == {"Ref": "KmsKey"}
    assert statement["Condition"] == {
        "StringLike": {"kms:ViaService": {"Fn::Sub": "dynamodb.${AWS::Region}.amazonaws.com*"}}
    }


def test_the_schedule_runs_the_sweep_and_can_be_held() -> None:
    """Once an hour it invokes the function that sweeps, which has Lambda's longest time; a parameter disables it."""
    rule = the("AWS::Events::Rule")
    (target,) = rule["Targets"]
    assert rule["ScheduleExpression"] == "rate(1 hour)"
    assert rule["State"] == {"Fn::If": ["Sweeps", "ENABLED", "DISABLED"]}
    assert target["Arn"] == {"Fn::GetAtt": ["SweepFunction", "Arn"]}
    assert function_of("SweepFunction")["Timeout"] == 900


def test_only_this_api_and_this_schedule_may_invoke_the_function() -> None:
    """Each permission names its source; another account's API or rule gets nowhere."""
    permissions = resources("AWS::Lambda::Permission").values()
    assert {permission["Principal"] for permission in permissions} == {
        "apigateway.amazonaws.com",
        "events.amazonaws.com",
    }
    sources = [json.dumps(permission["SourceArn"]) for permission in permissions]
    assert all(
        "${Api}" in source or "${EdgeApi}/edge/*" in source or '["SweepSchedule", "Arn"]' in source
        for source in sources
    )
