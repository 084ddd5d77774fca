"""What a deployment would change: computed by CloudFormation, shown, and done only if that is wanted."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from moto.cloudformation.models import CloudFormationBackend, cloudformation_backends

from hsm_enroll.cli import backend as command
from hsm_enroll.errors import AwsError, InterruptedRunError, UsageError
from hsm_enroll.operator import stack
from hsm_enroll.operator.change_set import Plan
from tests.operator.conftest import ACCOUNT_ID, REGION, code
from tests.operator.deploying import (
    NOTHING_TO_DO,
    UNKNOWN_TO_MOTO,
    answers,
    calls,
    change_set,
    client,
    delete,
    deploy,
    hear,
    refusal,
    requests,
    status,
)
from tests.support import documents

pytestmark = [
    pytest.mark.usefixtures("account", "quick_build"),
    pytest.mark.filterwarnings(UNKNOWN_TO_MOTO),
]

LEDGER = {"LogicalResourceId": "Ledger", "ResourceType": "AWS::DynamoDB::Table"}
POLICY = {"LogicalResourceId": "DevicePolicy", "ResourceType": "AWS::IoT::Policy"}
API = {"LogicalResourceId": "Api", "ResourceType": "AWS::ApiGatewayV2::Api"}
FUNCTION = {"LogicalResourceId": "Function", "ResourceType": "AWS::Lambda::Function"}
CODE: dict[str, Any] = {
    **FUNCTION,
    "Action": "Modify",
    "Replacement": "False",
    "Details": [
        {"Target": {"Attribute": "Properties", "Name": "Environment"}},
        {"Target": {"Attribute": "Properties", "Name": "Code"}},
        {"Target": {"Attribute": "Properties", "Name": "Code"}},
        {"Target": {"Attribute": "Tags"}},
    ],
}


def run(*arguments: str) -> None:
    """Run ``hsm-enroll backend`` with arguments."""
    command.backend.main(list(arguments), prog_name="backend", standalone_mode=False)


def planned(monkeypatch: pytest.MonkeyPatch, *changes: dict[str, Any]) -> None:
    """Have CloudFormation say that the next deployment changes this."""
    answers(monkeypatch, "DescribeChangeSet", change_set(*changes))


def refuse(_plan: Plan) -> None:
    """Do not approve."""
    raise InterruptedRunError("no")


def stacks() -> list[str]:
    """Return the states of all stacks that there are."""
    return [there["StackStatus"] for there in client("cloudformation").describe_stacks()["Stacks"]]


def test_what_is_approved_is_what_cloudformation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each resource with what happens to it and the properties that change; each setting that gets another value."""
    deploy()
    planned(
        monkeypatch,
        CODE,
        {**API, "Action": "Modify", "Replacement": "True"},
        {**LEDGER, "Action": "Modify", "Replacement": "Conditional"},
        {**POLICY, "Action": "Remove"},
        {"LogicalResourceId": "New", "ResourceType": "AWS::SNS::Topic", "Action": "Add"},
        {"LogicalResourceId": "Odd", "ResourceType": "AWS::SNS::Topic", "Action": "Dynamic"},
    )
    plans: list[Plan] = []
    deploy("open", approve=plans.append)
    (plan,) = plans
    assert [(change.action, change.resource, change.properties) for change in plan.resources] == [
        ("modify", "Function", ("Code", "Environment", "Tags")),
        ("replace", "Api", ()),
        ("may-replace", "Ledger", ()),
        ("remove", "DevicePolicy", ()),
        ("add", "New", ()),
        ("unknown", "Odd", ()),
    ]
    assert [change.resource for change in plan.losses] == ["Ledger", "DevicePolicy"]
    settings = {change.name: (change.before, change.after) for change in plan.settings}
    settings.pop("MqttEndpoint")  # moto's is another one each time
    assert settings == {"AuthMode": ("invite", "open")}


def test_all_pages_of_a_change_set_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the second page counts as well."""
    deploy()
    asked: list[str] = []
    following = {"": {**change_set(CODE), "NextToken": "more"}, "more": change_set({**API, "Action": "Remove"})}

    def describe(model: Any, params: dict[str, Any], **_: Any) -> Any:
        if model.name != "DescribeChangeSet":
            return None
        asked.append(params["body"].get("NextToken", ""))
        return SimpleNamespace(status_code=200), following[asked[-1]]

    hear(monkeypatch, "before-call", describe)
    plans: list[Plan] = []
    deploy("open", approve=plans.append)
    assert [change.resource for change in plans[0].resources] == ["Function", "Api"]
    assert asked == ["", "", "more"]


def test_what_is_not_approved_is_not_done(quick_build: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The change set is deleted, and the deployment stays as it was."""
    before = deploy().status
    quick_build[0] = code(b"another")
    called = calls(monkeypatch)
    with pytest.raises(InterruptedRunError):
        deploy("open", approve=refuse)
    assert "ExecuteChangeSet" not in called
    assert called.count("DeleteChangeSet") == 1
    assert "DeleteStack" not in called
    assert status() == before


def test_a_first_deployment_that_is_not_approved_leaves_no_stack() -> None:
    """CloudFormation makes an empty stack for its change set; that goes too."""
    plans: list[Plan] = []

    def look_and_refuse(plan: Plan) -> None:
        plans.append(plan)
        assert stacks() == ["REVIEW_IN_PROGRESS"]
        refuse(plan)

    with pytest.raises(InterruptedRunError):
        deploy(approve=look_and_refuse)
    assert (plans[0].creates, plans[0].settings) == (True, ())
    assert {"Ledger", "DevicePolicy", "Function"} <= {change.resource for change in plans[0].resources}
    assert stacks() == []
    assert client("dynamodb").list_tables()["TableNames"] == []


def prepared_by_somebody() -> None:
    """Leave a first deployment that was prepared and not carried out: its run was killed."""

    def kill(_plan: Plan) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(stack.Stack, "discard", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            deploy(approve=kill)
    assert stacks() == ["REVIEW_IN_PROGRESS"]


def test_a_prepared_deployment_counts_as_none_and_can_be_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run leaves an empty stack: status says "not deployed", and the next deployment uses it."""
    prepared_by_somebody()
    assert (status().deployed, status().state) == (False, "REVIEW_IN_PROGRESS")
    create = CloudFormationBackend.create_change_set

    def on_the_same_stack(self: CloudFormationBackend, *arguments: Any, **named: Any) -> Any:
        if stacks() == ["REVIEW_IN_PROGRESS"]:
            self.stacks.clear()  # moto would make a second stack of that name
        return create(self, *arguments, **named)

    monkeypatch.setattr(CloudFormationBackend, "create_change_set", on_the_same_stack)
    asked = requests(monkeypatch)
    assert deploy().status.state == "UPDATE_COMPLETE"
    made, _ = (arguments for operation, arguments in asked if operation == "CreateChangeSet")
    assert made["ChangeSetType"] == "CREATE"


def test_a_prepared_deployment_can_be_deleted() -> None:
    """It is a stack, though an empty one."""
    prepared_by_somebody()
    assert delete() is not None
    assert stacks() == []


def test_a_change_set_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudFormation takes some seconds to compute it."""
    deploy()
    states = iter(["CREATE_PENDING", "CREATE_IN_PROGRESS", "CREATE_COMPLETE"])
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    describe = CloudFormationBackend.describe_change_set

    def slowly(self: CloudFormationBackend, change_set_name: str) -> Any:
        found = describe(self, change_set_name)
        found.status = next(states, "CREATE_COMPLETE")
        return found

    monkeypatch.setattr(CloudFormationBackend, "describe_change_set", slowly)
    assert deploy("open").status.auth == "open"
    assert len(waited) == 2


def test_a_stack_that_has_changed_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudFormation refuses a change set that was computed for another state, and that is an error."""
    deploy()
    answers(monkeypatch, "ExecuteChangeSet", refusal("InvalidChangeSetStatus", "ExecuteChangeSet"))
    with pytest.raises(AwsError, match="InvalidChangeSetStatus"):
        deploy("open")
    assert status().auth == "invite"


def test_the_plan_is_shown_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Stack, region and account; a line for what is new, one for each resource that changes, one for each setting."""
    run("deploy", "--yes", "--quiet")
    planned(
        monkeypatch,
        CODE,
        {**API, "Action": "Modify", "Replacement": "True"},
        {"LogicalResourceId": "OldAlarm", "ResourceType": "AWS::CloudWatch::Alarm", "Action": "Remove"},
        *({"LogicalResourceId": name, "ResourceType": "AWS::SNS::Topic", "Action": "Add"} for name in ("A", "B")),
    )
    run("deploy", "--yes", "--auth", "open", "--device-policy", "default")
    lines = capsys.readouterr().err.splitlines()
    begin = lines.index(f"This changes the stack hsm-enroll in {REGION}, account {ACCOUNT_ID}:")
    shown = [line for line in lines[begin + 1 : begin + 7] if "MqttEndpoint" not in line]
    assert shown[:5] == [
        "  create A, B",
        "  change Function (Lambda Function): Code, Environment, Tags",
        "  replace Api (ApiGatewayV2 Api)",
        "  delete OldAlarm (CloudWatch Alarm)",
        "  set AuthMode: invite -> open",
    ]
    assert any(line.startswith("warning: Api may get another address") for line in lines)


def test_another_zip_is_shown_as_a_change_of_the_functions(
    quick_build: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the zip is in the bucket is nothing that a person could judge; a script is told."""
    run("deploy", "--yes", "--quiet")
    for number, options in enumerate(([], ["--json"])):
        quick_build[0] = code(b"another" * (number + 1))
        planned(monkeypatch, CODE)
        run("deploy", "--yes", *options)
    shown = capsys.readouterr()
    assert "change Function (Lambda Function): Code" in shown.err
    assert "CodeKey" not in shown.err
    assert "CodeVersion" not in shown.err
    assert '"CodeKey"' in shown.out


def test_a_first_plan_names_the_account(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever is logged in to the wrong account sees it before anything is made there."""
    run("deploy", "--yes")
    err = capsys.readouterr().err
    assert (
        f"This creates the stack hsm-enroll in {REGION}, account {ACCOUNT_ID}:\n  create DevicePolicy, DeviceRole,"
        in err
    )


@pytest.mark.parametrize(("answer", "auth"), [(True, "open"), (False, "invite")])
def test_a_person_is_asked(monkeypatch: pytest.MonkeyPatch, answer: bool, auth: str) -> None:
    """Only a yes deploys; the question names stack and account."""
    run("deploy", "--yes", "--quiet")
    questions: list[str] = []
    monkeypatch.setattr(command, "has_person", lambda: True)

    def confirm(question: str) -> bool:
        questions.append(question)
        return answer

    monkeypatch.setattr(command, "confirm", confirm)
    if answer:
        run("deploy", "--auth", "open")
    else:
        with pytest.raises(InterruptedRunError, match="nothing was deployed"):
            run("deploy", "--auth", "open")
    assert questions == [f"Deploy this to the stack hsm-enroll in the account {ACCOUNT_ID}?"]
    assert status().auth == auth


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_without_anybody_to_ask_a_yes_has_to_be_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    """What would change is shown and not done; if nothing would, nobody needs to be asked."""
    monkeypatch.setattr(command, "has_person", lambda: bool(option))
    with pytest.raises(UsageError) as raised:
        run("deploy", *option)
    assert "--yes" in raised.value.hint
    assert ("This creates the stack" in capsys.readouterr().err) is (not option)
    assert stacks() == []
    run("deploy", "--yes", "--quiet")
    answers(monkeypatch, "DescribeChangeSet", NOTHING_TO_DO)
    run("deploy", "--json")
    deployed = documents.read(["backend", "deploy"], capsys.readouterr().out)
    assert (deployed["changed"], deployed["changes"]) == (False, None)


@pytest.mark.parametrize(
    "loss",
    [
        {**LEDGER, "Action": "Modify", "Replacement": "True"},
        {**LEDGER, "Action": "Modify", "Replacement": "Conditional"},
        {**LEDGER, "Action": "Remove", "PolicyAction": "Retain"},
        {**POLICY, "Action": "Modify", "Replacement": "True", "PolicyAction": "ReplaceAndRetain"},
        {**POLICY, "Action": "Dynamic"},
    ],
)
def test_what_would_lose_the_ledger_or_the_policy_is_refused(
    monkeypatch: pytest.MonkeyPatch, loss: dict[str, Any]
) -> None:
    """Also with --yes, and also where CloudFormation is not sure: it takes an option of its own."""
    run("deploy", "--yes", "--quiet")
    with monkeypatch.context() as planning:
        planned(planning, CODE, loss)
        with pytest.raises(UsageError, match=rf" {loss['LogicalResourceId']} \(") as raised:
            run("deploy", "--yes", "--auth", "open")
        assert "--allow-data-loss" in raised.value.hint
        assert status().auth == "invite"
        run("deploy", "--yes", "--auth", "open", "--allow-data-loss", "--quiet")
    assert status().auth == "open"


def test_a_change_that_keeps_the_ledger_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new index or another setting of the table is an update in place."""
    run("deploy", "--yes", "--quiet")
    planned(monkeypatch, {**LEDGER, "Action": "Modify", "Replacement": "False"}, {**POLICY, "Action": "Modify"})
    run("deploy", "--yes", "--auth", "open", "--quiet")
    assert status().auth == "open"


DRIFTS = {
    "StackResourceDrifts": [
        {
            **FUNCTION,
            "StackId": "x",
            "StackResourceDriftStatus": "MODIFIED",
            "PropertyDifferences": [{"PropertyPath": "/MemorySize"}, {"PropertyPath": "/Timeout"}],
        },
        {
            "LogicalResourceId": "ErrorAlarm",
            "ResourceType": "AWS::CloudWatch::Alarm",
            "StackResourceDriftStatus": "DELETED",
        },
    ]
}


def drifting(monkeypatch: pytest.MonkeyPatch, found: str, drifts: dict[str, Any], **more: str) -> None:
    """Have CloudFormation detect this; moto cannot."""
    answers(monkeypatch, "DetectStackDrift", {"StackDriftDetectionId": "detection"})
    detected = {"DetectionStatus": "DETECTION_COMPLETE", "StackDriftStatus": found, **more}
    answers(monkeypatch, "DescribeStackDriftDetectionStatus", detected)
    answers(monkeypatch, "DescribeStackResourceDrifts", drifts)


def test_status_shows_version_date_and_drift(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --drift the resources are compared now; each that differs is named with what differs."""
    run("deploy", "--yes", "--quiet")
    with monkeypatch.context() as drifted:
        drifting(drifted, "DRIFTED", DRIFTS)
        run("status", "--drift")
        rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert rows["Drift"] == "the resources are not as deployed: Function /MemorySize, /Timeout; ErrorAlarm is gone"
        run("status", "--drift", "--json")
    shown = documents.read(["backend", "status"], capsys.readouterr().out)
    assert shown["drift"]["status"] == "DRIFTED"
    assert [one["resource"] for one in shown["drift"]["resources"]] == ["Function", "ErrorAlarm"]
    assert shown["version"] == "0.1.0"
    drifting(monkeypatch, "IN_SYNC", {"StackResourceDrifts": []})
    run("status", "--drift")
    assert "Drift     none\n" in capsys.readouterr().out


def test_drift_that_cannot_be_checked_is_not_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where CloudFormation refuses, or gets to see only a part, it is said so, and the rest of the status is shown."""
    run("deploy", "--yes", "--quiet")
    partly = {"DetectionStatus": "DETECTION_FAILED", "DetectionStatusReason": "Failed to detect drift on [Api]"}
    with monkeypatch.context() as failing:
        drifting(failing, "IN_SYNC", {"StackResourceDrifts": []}, **partly)
        run("status", "--drift")
    assert "Drift     none (Failed to detect drift on [Api])" in capsys.readouterr().out.splitlines()
    answers(monkeypatch, "DetectStackDrift", refusal("AccessDenied", "DetectStackDrift"))
    run("status", "--drift", "--json")
    shown = documents.read(["backend", "status"], capsys.readouterr().out)
    assert (shown["drift"]["status"], shown["drift"]["resources"]) == ("UNKNOWN", None)
    assert "DetectStackDrift" in shown["drift"]["reason"]
    assert shown["deployed"]


def test_drift_of_nothing_is_not_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a stack there is nothing to compare, and without --drift nothing is compared."""
    called = calls(monkeypatch)
    run("status", "--drift", "--json")
    assert documents.read(["backend", "status"], capsys.readouterr().out)["drift"] is None
    run("deploy", "--yes", "--quiet")
    run("status", "--json")
    assert json.loads(capsys.readouterr().out)["drift"]["status"] == "NOT_CHECKED"
    assert "DetectStackDrift" not in called


def test_the_last_known_drift_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """CloudFormation remembers what it found, without saying where."""
    run("deploy", "--yes", "--quiet")
    (there,) = cloudformation_backends[ACCOUNT_ID][REGION].stacks.values()
    described = client("cloudformation").describe_stacks(StackName=there.name)
    described["Stacks"][0]["DriftInformation"] = {"StackDriftStatus": "DRIFTED"}
    answers(monkeypatch, "DescribeStacks", described)
    run("status")
    assert "Drift     the resources are not as deployed\n" in capsys.readouterr().out


def moves(name: str, recreation: str = "Conditionally") -> dict[str, Any]:
    """Return the detail of a change of a property."""
    return {"Target": {"Attribute": "Properties", "Name": name, "RequiresRecreation": recreation}}


INDEX = [moves("AttributeDefinitions"), moves("GlobalSecondaryIndexes"), moves("TimeToLiveSpecification", "Never")]


@pytest.mark.parametrize(
    ("details", "refused"),
    [(INDEX, False), ([*INDEX, moves("KeySchema")], True), ([moves("KeySchema")], True), ([], True)],
)
def test_a_new_index_of_the_ledger_is_not_a_loss(
    monkeypatch: pytest.MonkeyPatch, details: list[dict[str, Any]], refused: bool
) -> None:
    """It adds an attribute's definition, and CloudFormation says of these that editing one would replace the table."""
    run("deploy", "--yes", "--quiet")
    planned(monkeypatch, {**LEDGER, "Action": "Modify", "Replacement": "Conditional", "Details": details})
    if refused:
        with pytest.raises(UsageError, match="Ledger"):
            run("deploy", "--yes", "--auth", "open", "--quiet")
    else:
        run("deploy", "--yes", "--auth", "open", "--quiet")
    assert status().auth == ("invite" if refused else "open")


def test_a_stack_that_somebody_deployed_meanwhile_is_not_deleted() -> None:
    """Two first deployments: one is carried out while the other one's question is open, and then answered with no."""

    def deployed_by_somebody(_plan: Plan) -> None:
        (there,) = cloudformation_backends[ACCOUNT_ID][REGION].stacks.values()
        there.status = "CREATE_IN_PROGRESS"
        raise InterruptedRunError("no")

    with pytest.raises(InterruptedRunError):
        deploy(approve=deployed_by_somebody)
    assert stacks() == ["CREATE_IN_PROGRESS"]


@pytest.mark.parametrize("code", ["InvalidChangeSetStatus", "ChangeSetNotFound", "AccessDenied"])
def test_a_change_set_that_cannot_be_executed_is_discarded(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A first deployment leaves no empty stack then; if another one came first, that is said."""
    with monkeypatch.context() as refused:
        answers(refused, "ExecuteChangeSet", refusal(code, "ExecuteChangeSet"))
        with pytest.raises(AwsError, match=code) as raised:
            deploy()
    assert stacks() == []
    assert ("computes a new plan" in raised.value.hint) is (code != "AccessDenied")


def test_a_request_whose_answer_is_lost_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore repeats it, and CloudFormation recognizes it by its token; without, a retry would be refused."""
    asked = requests(monkeypatch)
    deploy()
    delete()
    tokens = {
        name: params.get("ClientToken") or params.get("ClientRequestToken")
        for name, params in asked
        if name in {"CreateChangeSet", "ExecuteChangeSet", "DeleteStack"}
    }
    assert len(tokens) == len(set(tokens.values()) - {None}) == 3


@pytest.mark.parametrize("doing", ["updated", "deleted"])
def test_an_interrupted_wait_says_that_cloudformation_goes_on(monkeypatch: pytest.MonkeyPatch, doing: str) -> None:
    """Ctrl-C ends the command and not the stack's operation, and the next deployment has to wait for that."""
    deploy()

    begun: list[str] = []

    def interrupt(model: Any, **_: Any) -> None:
        if begun and model.name == "DescribeStackEvents":
            raise KeyboardInterrupt
        if model.name in {"ExecuteChangeSet", "DeleteStack"}:
            begun.append(model.name)

    hear(monkeypatch, "before-call", interrupt)
    with pytest.raises(InterruptedRunError, match=f"CloudFormation goes on: the stack 'hsm-enroll' is being {doing}"):
        deploy("open") if doing == "updated" else delete()
