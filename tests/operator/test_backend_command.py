"""``hsm-enroll backend``: what a person and a script are shown."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from hsm_enroll.cli import backend as command
from hsm_enroll.cli import operator_client
from hsm_enroll.errors import InterruptedRunError, UsageError
from hsm_enroll.operator import deployment
from tests.operator.conftest import ACCOUNT_ID, REGION
from tests.operator.deploying import UNKNOWN_TO_MOTO

pytestmark = [
    pytest.mark.usefixtures("account", "quick_build"),
    pytest.mark.filterwarnings(UNKNOWN_TO_MOTO),
]


def run(*arguments: str) -> None:
    """Run ``hsm-enroll backend`` with arguments."""
    command.backend.main(list(arguments), prog_name="backend", standalone_mode=False)


def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the one JSON document on stdout."""
    return json.loads(capsys.readouterr().out)


def test_deploy_shows_what_there_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    """The API's address, what stands behind it, and the next command; on the way, what is being done."""
    run("deploy")
    out, err = capsys.readouterr()
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["Stack"] == f"hsm-enroll in {REGION}, account {ACCOUNT_ID}: deployed"
    assert rows["API"].startswith("https://")
    assert (rows["Auth"], rows["Next"]) == ("invite", "hsm-enroll invite create --thing NAME")
    assert rows.keys() == {"Stack", "API", "Auth", "Policy", "Ledger", "Function", "Next"}
    assert "building the function's zip" in err
    assert "hsm-enroll CREATE_COMPLETE" in err


def test_deploy_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One document on stdout and nothing else; status shows the same."""
    run("deploy", "--json")
    deployed = shown(capsys)
    assert deployed.pop("changed") is True
    run("status", "--json")
    assert shown(capsys) == deployed
    assert (deployed["stack"], deployed["state"], deployed["deployed"]) == ("hsm-enroll", "CREATE_COMPLETE", True)


def test_opening_a_deployment_is_worth_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Who lets everybody in is told so."""
    run("deploy", "--auth", "open", "--stack", "lab", "--json")
    out, err = capsys.readouterr()
    assert (json.loads(out)["auth"], json.loads(out)["stack"]) == ("open", "lab")
    assert err.startswith("warning: anyone who knows the API's address can enroll")


def test_status_without_a_deployment_says_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    """It is no error, and names account and region, where somebody else's may have been meant."""
    run("status")
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows == {
        "Stack": f"hsm-enroll in {REGION}, account {ACCOUNT_ID}: not deployed",
        "Next": "hsm-enroll backend deploy",
    }


def test_delete_says_what_stays(capsys: pytest.CaptureFixture[str]) -> None:
    """Policy, ledger and the code's bucket, each by its name."""
    run("deploy", "--json")
    made = shown(capsys)
    run("delete", "--yes")
    said = capsys.readouterr().out
    assert "the stack hsm-enroll is deleted; enrolled devices go on working" in said
    assert all(name in said for name in (made["policyName"], made["tableName"], "hsm-enroll-code-"))
    run("delete", "--yes", "--json")
    assert shown(capsys) == {"stack": "hsm-enroll", "deleted": False, "left": None}


def test_delete_without_a_deployment_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to delete is no error."""
    run("delete", "--yes")
    assert capsys.readouterr().out == "there is no stack hsm-enroll\n"


@pytest.mark.parametrize("arguments", [["delete"], ["delete", "--json"]])
def test_nothing_is_deleted_unasked(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can be asked, ``--yes`` has to be said beforehand."""
    run("deploy", "--quiet")
    monkeypatch.setattr(command, "has_person", lambda: "--json" in arguments)
    with pytest.raises(UsageError) as raised:
        run(*arguments)
    assert "--yes" in raised.value.hint
    assert deployment.status("hsm-enroll").state == "CREATE_COMPLETE"


@pytest.mark.parametrize(("answer", "state"), [(True, None), (False, "CREATE_COMPLETE")])
def test_a_person_is_asked_before_a_stack_is_deleted(
    answer: bool, state: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a yes deletes it."""
    run("deploy", "--quiet")
    monkeypatch.setattr(command, "has_person", lambda: True)
    monkeypatch.setattr(command, "confirm", lambda question: "Delete the stack hsm-enroll?" in question and answer)
    if answer:
        run("delete")
    else:
        with pytest.raises(InterruptedRunError, match="was not deleted"):
            run("delete")
    assert deployment.status("hsm-enroll").state == state


def test_without_its_extra_the_command_says_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway's installation has no boto3; the hint names the extra."""
    monkeypatch.setattr(operator_client, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="boto3") as raised:
        run("status")
    assert "'operator'" in raised.value.hint


def test_another_kind_of_authentication_is_wrong_usage() -> None:
    """Only ``invite`` and ``open`` mean something."""
    with pytest.raises(click.BadParameter):
        run("deploy", "--auth", "none")
