"""The backend in an AWS account: from nothing, again, changed, failed, deleted."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from moto.cloudformation.models import ChangeSet, CloudFormationBackend, Event, Stack, cloudformation_backends

from hsm_enroll.errors import AwsError
from hsm_enroll.operator import stack_parameters
from hsm_enroll.operator.change_set import Plan
from tests.operator.conftest import ACCOUNT_ID, REGION, code
from tests.operator.deploying import (
    BUCKET,
    NOTHING_TO_DO,
    UNKNOWN_TO_MOTO,
    answers,
    calls,
    change_set,
    client,
    delete,
    deploy,
    objects,
    refusal,
    requests,
    status,
)
from tests.support.stack import template

pytestmark = [
    pytest.mark.usefixtures("account", "quick_build"),
    pytest.mark.filterwarnings(UNKNOWN_TO_MOTO),
]


def the_function() -> dict[str, Any]:
    """Return the function that the API calls."""
    found = client("lambda").list_functions()["Functions"]
    (function,) = (one for one in found if "-Function-" in one["FunctionName"])
    return dict(function)


def test_from_nothing_to_a_backend() -> None:
    """One call makes bucket, code and stack, and says what the outputs are; invites are required unless asked else."""
    deployed = deploy()
    assert deployed.changed
    shown = deployed.status.to_json()
    assert (shown["deployed"], shown["state"], shown["auth"]) == (True, "UPDATE_COMPLETE", "invite")
    assert (shown["region"], shown["account"]) == (REGION, ACCOUNT_ID)
    assert shown["apiUrl"].startswith("https://")
    assert client("dynamodb").list_tables()["TableNames"] == [shown["tableName"]]
    assert [policy["policyName"] for policy in client("iot").list_policies()["policies"]] == [shown["policyName"]]

    function = the_function()
    variables = function["Environment"]["Variables"]
    endpoint = client("iot").describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"]
    assert function["FunctionName"] == shown["functionName"]
    assert function["CodeSha256"] == base64.b64encode(hashlib.sha256(code()).digest()).decode()
    assert variables["AUTH_MODE"] == "invite"
    # moto's endpoint has a random part, drawn anew for each question.
    assert variables["MQTT_ENDPOINT"].partition(".")[2] == endpoint.partition(".")[2]
    assert (variables["POLICY_NAME"], variables["TABLE_NAME"]) == (shown["policyName"], shown["tableName"])


def test_deploying_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code and the same parameters: nothing is uploaded, nothing is updated, and that is no error."""
    first = deploy()
    # moto's endpoint is another one each time, and so is a parameter.
    answers(monkeypatch, "DescribeChangeSet", NOTHING_TO_DO)
    called = calls(monkeypatch)
    again = deploy()
    assert not again.changed
    assert again.status == first.status
    assert {"PutObject", "ExecuteChangeSet"}.isdisjoint(called)
    assert called.count("CreateChangeSet") == called.count("DeleteChangeSet") == 1


@pytest.mark.parametrize("reason", ["Template error: no", "", "Parameters: [X] do not exist in the template"])
def test_a_change_set_that_fails_for_another_reason_is_an_error(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """CloudFormation has one status for all; only two texts mean that nothing is to be done. Nothing is left of it."""
    deploy()
    answers(monkeypatch, "DescribeChangeSet", change_set(status="FAILED", reason=reason))
    called = calls(monkeypatch)
    with pytest.raises(AwsError, match="CloudFormation rejects the changes") as raised:
        deploy()
    assert raised.value.message.endswith(reason)
    assert "DeleteChangeSet" in called
    assert {"ExecuteChangeSet", "DeleteStack"}.isdisjoint(called)


def test_new_code_is_deployed_and_what_somebody_has_tuned_stays(quick_build: list[bytes]) -> None:
    """An update exchanges the code; policy, table and an operator's own limits stay what they were."""
    first = deploy()
    cloudformation = client("cloudformation")
    (there,) = cloudformation.describe_stacks(StackName="hsm-enroll")["Stacks"]
    parameters = {entry["ParameterKey"]: entry["ParameterValue"] for entry in there["Parameters"]} | {
        "ThrottleRate": "3"
    }
    cloudformation.update_stack(
        StackName="hsm-enroll",
        TemplateBody=cloudformation.get_template(StackName="hsm-enroll")["TemplateBody"],
        Parameters=[{"ParameterKey": key, "ParameterValue": str(value)} for key, value in parameters.items()],
    )

    quick_build[0] = code(b"another")
    second = deploy()
    assert second.changed
    assert second.status.state == "UPDATE_COMPLETE"
    assert second.status.outputs == first.status.outputs
    assert len(objects()) == 2
    (there,) = cloudformation.describe_stacks(StackName="hsm-enroll")["Stacks"]
    assert {"ParameterKey": "ThrottleRate", "ParameterValue": "3"} in there["Parameters"]
    assert the_function()["CodeSha256"] == base64.b64encode(hashlib.sha256(code(b"another")).digest()).decode()


def test_who_may_enroll_is_kept_until_somebody_says_otherwise() -> None:
    """At first a deployment wants invites; opened, it stays open over later deployments, until it is closed."""
    assert deploy().status.auth == "invite"
    assert deploy("open").status.auth == "open"
    assert the_function()["Environment"]["Variables"]["AUTH_MODE"] == "open"
    assert deploy().status.auth == "open"
    assert deploy("invite").status.auth == "invite"


def test_each_resource_is_reported_once() -> None:
    """Who waits is shown what CloudFormation is through with."""
    reported: list[str] = []
    deploy(report=reported.append)
    # Twice the stack: moto has no events of single resources.
    assert reported == ["hsm-enroll CREATE_COMPLETE", "hsm-enroll UPDATE_COMPLETE"]


def resource_event(of: Stack, resource: str, status: str, reason: str) -> None:
    """Add an event that moto does not make by itself."""
    kind = "AWS::CloudFormation::Stack" if resource == of.name else f"AWS::Test::{resource}"
    of.events.append(Event(of.stack_id, of.name, resource, resource, kind, status, reason, None))


def fail_creation(of: ChangeSet) -> None:
    """Do as CloudFormation does when a resource fails: take back what there is, and leave the empty stack."""
    there = of.stack
    resource_event(there, "Ledger", "CREATE_COMPLETE", "")
    resource_event(there, "Function", "CREATE_FAILED", "Specified ReservedConcurrentExecutions is too much")
    resource_event(there, "Role", "CREATE_FAILED", "Resource creation cancelled")
    resource_event(there, "Ledger", "DELETE_COMPLETE", "")
    there.status = "ROLLBACK_COMPLETE"
    resource_event(there, there.name, there.status, "")


def executing(monkeypatch: pytest.MonkeyPatch, execute: Callable[[ChangeSet], None]) -> None:
    """Have a change set be executed like this; moto would say that all went well."""

    def instead(backend: CloudFormationBackend, change_set_name: str, stack_name: str | None = None) -> None:
        assert stack_name is None
        execute(backend.change_sets[change_set_name])

    monkeypatch.setattr(CloudFormationBackend, "execute_change_set", instead)


def test_a_first_deployment_that_fails_says_which_resource_and_why_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cause is named, not its consequences; the next try starts from nothing."""
    with monkeypatch.context() as failing:
        executing(failing, fail_creation)
        with pytest.raises(AwsError) as raised:
            deploy()
    assert raised.value.message == (
        "the stack 'hsm-enroll' could not be created: "
        "Function (AWS::Test::Function) CREATE_FAILED: Specified ReservedConcurrentExecutions is too much"
    )
    assert status().state is None
    assert deploy().status.state == "UPDATE_COMPLETE"


def test_what_a_failed_deployment_left_is_taken_away_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first could not delete its empty stack, which can only be deleted, and holds nothing."""
    with monkeypatch.context() as failing:
        executing(failing, fail_creation)
        answers(failing, "DeleteStack", refusal("AccessDenied", "DeleteStack"))
        with pytest.raises(AwsError):
            deploy()
    assert status().state == "ROLLBACK_COMPLETE"
    assert deploy().status.state == "UPDATE_COMPLETE"


def test_what_a_failed_creation_has_made_is_to_be_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what the template retains: ExecuteChangeSet is told so, since it says nothing about it by itself."""
    asked = requests(monkeypatch)
    deploy()
    executed, _ = (arguments for operation, arguments in asked if operation == "ExecuteChangeSet")
    assert executed["RetainExceptOnCreate"] is True
    made, protected = (arguments for operation, arguments in asked if operation == "CreateChangeSet")
    # A protected table could not be deleted.
    protection = [
        {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in one["Parameters"]}["LedgerProtection"]
        for one in (made, protected)
    ]
    assert protection == ["no", "yes"]
    assert {"OnStackFailure", "DisableRollback"}.isdisjoint(made.keys() | executed.keys())
    assert (made["Capabilities"], made["ChangeSetType"]) == (["CAPABILITY_IAM"], "CREATE")


def test_an_update_that_fails_says_why_and_the_old_one_stays(
    quick_build: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CloudFormation goes back; failures of earlier times are not reported again."""

    def fail(of: ChangeSet) -> None:
        resource_event(of.stack, "Function", "UPDATE_FAILED", "The zip is damaged")
        of.stack.status = "UPDATE_ROLLBACK_COMPLETE"
        resource_event(of.stack, of.stack.name, of.stack.status, "")

    first = deploy()
    quick_build[0] = code(b"another")
    with monkeypatch.context() as failing:
        executing(failing, fail)
        with pytest.raises(AwsError, match=r"could not be updated: Function \(.*\) UPDATE_FAILED: The zip is damaged$"):
            deploy()
    assert status().outputs == first.status.outputs
    # From UPDATE_ROLLBACK_COMPLETE there is a way on.
    assert deploy().status.state == "UPDATE_COMPLETE"


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("UPDATE_IN_PROGRESS", "Wait"),
        ("CREATE_IN_PROGRESS", "Wait"),
        ("ROLLBACK_FAILED", "hsm-enroll backend delete"),
        ("DELETE_FAILED", "hsm-enroll backend delete"),
        ("UPDATE_FAILED", "RollbackStack"),
        ("UPDATE_ROLLBACK_FAILED", "ContinueUpdateRollback"),
    ],
)
def test_a_stack_that_cannot_be_updated_is_left_alone(state: str, advice: str) -> None:
    """Somebody else's work is not disturbed, and a dead end is shown the way out of."""
    deploy()
    (there,) = cloudformation_backends[ACCOUNT_ID][REGION].stacks.values()
    there.status = state
    with pytest.raises(AwsError, match=state) as raised:
        deploy("open")
    assert advice in raised.value.hint
    assert the_function()["Environment"]["Variables"]["AUTH_MODE"] == "invite"


def test_waiting_goes_on_until_nothing_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudFormation takes minutes; what it is through with is reported as it comes."""
    looks: list[str] = []

    def slowly(of: ChangeSet) -> None:
        of.apply()
        of.stack.template = of.template
        if of.change_set_type == "UPDATE":
            of.stack.status = "UPDATE_COMPLETE"
            resource_event(of.stack, of.stack.name, of.stack.status, "")

    def look(_seconds: float) -> None:
        (there,) = cloudformation_backends[ACCOUNT_ID][REGION].stacks.values()
        looks.append(there.status)
        if len(looks) == 2:
            there.status = "CREATE_IN_PROGRESS"
            resource_event(there, "Ledger", "CREATE_IN_PROGRESS", "")
            resource_event(there, "Ledger", "CREATE_COMPLETE", "")
        if len(looks) == 3:
            there.status = "CREATE_COMPLETE"
            resource_event(there, there.name, there.status, "")

    executing(monkeypatch, slowly)
    monkeypatch.setattr("time.sleep", look)
    reported: list[str] = []
    assert deploy(report=reported.append).status.state == "UPDATE_COMPLETE"
    assert reported == ["Ledger CREATE_COMPLETE", "hsm-enroll CREATE_COMPLETE", "hsm-enroll UPDATE_COMPLETE"]
    assert looks == ["REVIEW_IN_PROGRESS", "REVIEW_IN_PROGRESS", "CREATE_IN_PROGRESS"]


def test_an_update_that_has_not_begun_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after the call the stack has its old state, which looks like success."""
    deploy()
    looks: list[str] = []

    def look(_seconds: float) -> None:
        (there,) = cloudformation_backends[ACCOUNT_ID][REGION].stacks.values()
        looks.append(there.status)
        if len(looks) == 2:
            there.status = "UPDATE_ROLLBACK_COMPLETE"
            resource_event(there, "Function", "UPDATE_FAILED", "The zip is damaged")

    executing(monkeypatch, lambda _: None)
    monkeypatch.setattr("time.sleep", look)
    with pytest.raises(AwsError, match="The zip is damaged"):
        deploy("open")
    assert looks[:2] == ["UPDATE_COMPLETE"] * 2


def test_deleting_leaves_policy_and_ledger_and_says_so() -> None:
    """Enrolled devices live on the policy, and the ledger knows them; everything else is gone."""
    shown = deploy().status.to_json()
    left = delete()
    assert left is not None
    assert left.to_json() == {
        "policyName": shown["policyName"],
        "tableName": shown["tableName"],
        "codeBucket": BUCKET,
    }
    assert client("lambda").list_functions()["Functions"] == []
    assert client("iam").list_roles()["Roles"] == []
    assert client("iot").get_policy(policyName=shown["policyName"])["policyName"] == shown["policyName"]
    assert client("dynamodb").describe_table(TableName=shown["tableName"])["Table"]["TableStatus"] == "ACTIVE"


def test_what_was_deleted_can_be_deployed_anew() -> None:
    """What an earlier deployment left behind is in nobody's way."""
    first = deploy().status
    delete()
    second = deploy().status
    assert second.state == "UPDATE_COMPLETE"
    assert second.outputs["PolicyName"] != first.outputs["PolicyName"]
    assert second.outputs["TableName"] != first.outputs["TableName"]


def test_deleting_what_is_not_there_is_no_error() -> None:
    """The wish is fulfilled already."""
    assert delete() is None


def test_a_deletion_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resource that would not go is named."""

    def fail(_self: object, stack_id: str) -> None:
        there = cloudformation_backends[ACCOUNT_ID][REGION].stacks[stack_id]
        resource_event(there, "LogGroup", "DELETE_FAILED", "It is in use")
        there.status = "DELETE_FAILED"

    deploy()
    monkeypatch.setattr(type(cloudformation_backends[ACCOUNT_ID][REGION]), "delete_stack", fail)
    with pytest.raises(AwsError, match=r"could not be deleted: LogGroup \(.*\) DELETE_FAILED: It is in use"):
        delete()


def test_two_deployments_can_share_account_and_region() -> None:
    """Nothing in the template has a name that two stacks would both want."""
    deploy("invite", name="one")
    deploy("open", name="two")
    assert status("one").auth == "invite"
    assert status("two").auth == "open"
    assert len(client("dynamodb").list_tables()["TableNames"]) == 2


def test_nothing_deployed_is_a_status_too() -> None:
    """It names account and region, where somebody else's may have been meant."""
    assert status().to_json() == {
        "stack": "hsm-enroll",
        "region": REGION,
        "account": ACCOUNT_ID,
        "deployed": False,
        "state": None,
        "auth": None,
        "attestation": None,
        "apiUrl": None,
        "policyName": None,
        "devicePolicy": None,
        "looseGrants": None,
        "roleAlias": None,
        "tableName": None,
        "functionName": None,
        "version": None,
        "changedAt": None,
        "drift": None,
    }


def parameters_of_the_stack() -> dict[str, str]:
    """Return the parameters that the deployed stack has."""
    (there,) = client("cloudformation").describe_stacks(StackName="hsm-enroll")["Stacks"]
    return {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in there["Parameters"]}


def test_every_parameter_is_set_or_kept() -> None:
    """None of the template's parameters falls back to its default when a later version is deployed."""
    computed = {"CodeBucket", "CodeKey", "CodeVersion", "LedgerProtection", "MqttEndpoint", "Version"}
    assert computed | set(stack_parameters.KEPT) == template()["Parameters"].keys()
    assert computed.isdisjoint(stack_parameters.KEPT)


def test_settings_and_tags_are_kept_until_somebody_says_otherwise() -> None:
    """What was named once stays in later deployments; a plan shows each setting and each tag that changes."""
    deploy(settings={"SweepLimit": "50", "AlarmEmail": "ops@example.com"}, tags={"team": "factory", "line": "3"})
    deploy("open")
    assert {"SweepLimit": "50", "AlarmEmail": "ops@example.com"}.items() <= parameters_of_the_stack().items()
    plans: list[Plan] = []
    deploy(settings={"SweepLimit": "7"}, tags={"line": "4", "site": "Ulm"}, approve=plans.append)
    assert parameters_of_the_stack()["SweepLimit"] == "7"
    assert parameters_of_the_stack()["AlarmEmail"] == "ops@example.com"
    changes = {change.name: (change.before, change.after) for change in plans[0].settings}
    changes.pop("MqttEndpoint")  # moto's is another one each time
    assert changes == {"SweepLimit": ("50", "7"), "tag line": ("3", "4"), "tag site": (None, "Ulm")}
    (there,) = client("cloudformation").describe_stacks(StackName="hsm-enroll")["Stacks"]
    tags = {tag["Key"]: tag["Value"] for tag in there["Tags"]}
    assert tags == {"team": "factory", "line": "4", "site": "Ulm"}


def test_the_ledger_is_protected_from_deletion_once_it_is_deployed() -> None:
    """The first deployment turns it on at its end; later ones leave it on, whatever a stack from before had."""
    for auth in ("invite", "open"):
        deploy(auth)
        assert parameters_of_the_stack()["LedgerProtection"] == "yes"
    client("cloudformation").update_stack(
        StackName="hsm-enroll",
        UsePreviousTemplate=True,
        Parameters=[
            {"ParameterKey": name, "ParameterValue": str(value)}
            for name, value in {**parameters_of_the_stack(), "LedgerProtection": "no"}.items()
        ],
    )
    deploy()
    assert parameters_of_the_stack()["LedgerProtection"] == "yes"
