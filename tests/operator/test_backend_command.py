"""``hsm-enroll backend``: what a person and a script are shown."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from hsm_enroll.cli import backend as command
from hsm_enroll.errors import InterruptedRunError, UsageError
from hsm_enroll.version import __version__
from tests.operator.conftest import ACCOUNT_ID, REGION
from tests.operator.deploying import UNKNOWN_TO_MOTO, status
from tests.support import documents

pytestmark = [
    pytest.mark.usefixtures("account", "quick_build"),
    pytest.mark.filterwarnings(UNKNOWN_TO_MOTO),
]


def run(*arguments: str) -> None:
    """Run ``hsm-enroll backend`` with arguments."""
    command.backend.main(list(arguments), prog_name="backend", standalone_mode=False)


def shown(capsys: pytest.CaptureFixture[str], name: str) -> Any:
    """Return the one JSON document that a command left on stdout, checked against its schema."""
    return documents.read(["backend", name], capsys.readouterr().out)


def test_deploy_shows_what_there_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    """The API's address, what stands behind it, and the next command; on the way, what is being done."""
    run("deploy", "--yes")
    out, err = capsys.readouterr()
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["Stack"] == f"hsm-enroll in {REGION}, account {ACCOUNT_ID}: deployed"
    assert rows["API"].startswith("https://")
    assert (rows["Auth"], rows["Proof"]) == ("invite", "off (--attestation)")
    assert rows["Next"] == "hsm-enroll invite create --thing NAME"
    assert rows.keys() == {"Stack", "API", "Auth", "Proof", "Policy", "Ledger", "Function", "Version", "Next"}
    assert re.fullmatch(rf"{re.escape(__version__)}, deployed \d{{4}}-\d\d-\d\d \d\d:\d\d UTC", rows["Version"])
    assert "building the function's zip" in err
    assert "hsm-enroll CREATE_COMPLETE" in err


def test_deploy_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One document on stdout and nothing else; status shows the same."""
    run("deploy", "--yes", "--json")
    deployed = shown(capsys, "deploy")
    assert (deployed.pop("changed"), deployed.pop("policyChange"), deployed.pop("notes")) == (True, None, [])
    changes = deployed.pop("changes")
    assert {change["action"] for change in changes["resources"]} == {"add"}
    assert changes["settings"] == []
    run("status", "--json")
    assert shown(capsys, "status") == deployed
    assert (deployed["stack"], deployed["state"], deployed["deployed"]) == ("hsm-enroll", "UPDATE_COMPLETE", True)


def test_opening_a_deployment_is_worth_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Who lets everybody in is told so."""
    run("deploy", "--yes", "--auth", "open", "--stack", "lab", "--json")
    out, err = capsys.readouterr()
    deployed = documents.read(["backend", "deploy"], out)
    assert (deployed["auth"], deployed["stack"]) == ("open", "lab")
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
    run("deploy", "--yes", "--json")
    made = shown(capsys, "deploy")
    run("delete", "--yes")
    said = capsys.readouterr().out
    assert "the stack hsm-enroll is deleted; enrolled devices keep working" in said
    assert all(name in said for name in (made["policyName"], made["tableName"], "hsm-enroll-code-"))
    run("delete", "--yes", "--json")
    assert shown(capsys, "delete") == {"stack": "hsm-enroll", "deleted": False, "left": None}


def test_delete_without_a_deployment_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to delete is no error."""
    run("delete", "--yes")
    assert capsys.readouterr().out == "there is no stack hsm-enroll\n"


def test_delete_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The document names what stays in the account."""
    run("deploy", "--yes", "--json")
    deployed = shown(capsys, "deploy")
    run("delete", "--yes", "--json")
    deleted = shown(capsys, "delete")
    assert (deleted["stack"], deleted["deleted"]) == ("hsm-enroll", True)
    assert deleted["left"]["policyName"] == deployed["policyName"]
    assert deleted["left"]["tableName"] == deployed["tableName"]


@pytest.mark.parametrize("arguments", [["delete"], ["delete", "--json"]])
def test_nothing_is_deleted_unasked(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can be asked, ``--yes`` has to be said beforehand."""
    run("deploy", "--yes", "--quiet")
    monkeypatch.setattr(command, "has_person", lambda: "--json" in arguments)
    with pytest.raises(UsageError) as raised:
        run(*arguments)
    assert "--yes" in raised.value.hint
    assert status().state == "UPDATE_COMPLETE"


@pytest.mark.parametrize(("answer", "state"), [(True, None), (False, "UPDATE_COMPLETE")])
def test_a_person_is_asked_before_a_stack_is_deleted(
    answer: bool, state: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a yes deletes it."""
    run("deploy", "--yes", "--quiet")
    monkeypatch.setattr(command, "has_person", lambda: True)
    monkeypatch.setattr(command, "confirm", lambda question: "Delete the stack hsm-enroll?" in question and answer)
    if answer:
        run("delete")
    else:
        with pytest.raises(InterruptedRunError, match="was not deleted"):
            run("delete")
    assert status().state == state


def test_without_its_extra_the_command_says_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway's installation has no boto3; the hint has the command that installs it."""
    monkeypatch.setattr("hsm_enroll.extras.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="boto3") as raised:
        run("status")
    assert "-m pip install 'boto3>=" in raised.value.hint


def test_another_kind_of_authentication_is_wrong_usage() -> None:
    """Only ``invite`` and ``open`` mean something."""
    with pytest.raises(click.BadParameter):
        run("deploy", "--yes", "--auth", "none")


THING = "${iot:Connection.Thing.ThingName}"


def policy_file(folder: Path, *topics: str, name: str = "own.json") -> str:
    """Write a policy that lets devices connect and publish to these topics, and return the file's name."""
    arns = f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:"
    statements = [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": [f"{arns}client/{THING}", f"{arns}client/{THING}/*"]},
        {"Effect": "Allow", "Action": "iot:Publish", "Resource": [f"{arns}topic/{topic}" for topic in topics]},
    ]
    file = folder / name
    file.write_text(json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=4))
    return str(file)


def test_whose_the_device_policy_is_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By deploy and by status, to a person and to a script."""
    run("deploy", "--yes", "--device-policy", policy_file(tmp_path, f"plant/{THING}"), "--json")
    assert shown(capsys, "deploy")["devicePolicy"] == "own"
    run("status", "--json")
    found = shown(capsys, "status")
    assert found["devicePolicy"] == "own"
    run("status")
    assert f"Policy    {found['policyName']}, your own" in capsys.readouterr().out.splitlines()
    run("deploy", "--yes", "--device-policy", "default", "--quiet")
    run("status")
    assert f"Policy    {found['policyName']}, the built-in one" in capsys.readouterr().out.splitlines()


def test_the_word_default_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of that name has to be given with its folder."""
    policy_file(tmp_path, f"plant/{THING}", name="default")
    monkeypatch.chdir(tmp_path)
    run("deploy", "--yes", "--device-policy", "default", "--json")
    assert shown(capsys, "deploy")["devicePolicy"] == "default"
    run("deploy", "--yes", "--device-policy", "./default", "--json")
    assert shown(capsys, "deploy")["devicePolicy"] == "own"


def test_what_changes_for_devices_is_told_to_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a few lines that fit a terminal: a line for what goes, a line for what comes."""
    run("deploy", "--yes", "--quiet")
    run("deploy", "--yes", "--device-policy", policy_file(tmp_path, f"device/{THING}/*", f"plant/{THING}"))
    said = capsys.readouterr()
    assert "updated in place" not in said.out
    lines = said.err.partition("This changes what devices")[2].partition("- ")[0].splitlines()
    assert "the policy is updated in place" in " ".join(lines)
    assert "  gone Connect on client/<thing>/* if iot:Connection.Thing.IsAttached is true" in lines
    assert "  gone Receive on topic/device/<thing>/*" in lines
    assert "  gone Publish, Receive on topic/certtest/<thing>" in lines
    assert "  new  Publish on topic/plant/<thing>" in lines
    assert max(len(line) for line in lines if line.startswith(("  gone", "  new"))) < 80
    run("deploy", "--yes")
    assert "updated in place" not in capsys.readouterr().err


def test_who_comes_from_the_earlier_policy_is_told_where_the_topics_have_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It had the Thing's name as the first level; programs on devices have to be changed, and nothing else."""
    earlier = policy_file(tmp_path, f"certtest/{THING}", f"{THING}/*")
    run("deploy", "--yes", "--device-policy", earlier, "--allow-loose-policy", "--quiet")
    run("deploy", "--yes", "--device-policy", "default")
    told = capsys.readouterr().err
    assert "  gone Publish on topic/<thing>/*" in told.splitlines()
    assert "device/<thing>/ takes their place" in told.replace("\n", " ")


def test_what_changes_for_devices_is_told_to_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As lists of what goes and what comes; null where there was no policy before."""
    run("deploy", "--yes", "--device-policy", policy_file(tmp_path, f"plant/{THING}"), "--json")
    assert shown(capsys, "deploy")["policyChange"] is None
    run("deploy", "--yes", "--device-policy", policy_file(tmp_path, f"site/{THING}"), "--json")
    changed = {
        where: [
            {
                "effect": "Allow",
                "action": "iot:Publish",
                "resource": f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:topic/{topic}/{THING}",
            }
        ]
        for where, topic in (("removed", "plant"), ("added", "site"))
    }
    assert shown(capsys, "deploy")["policyChange"] == changed
    run("deploy", "--yes", "--json")
    assert shown(capsys, "deploy")["policyChange"] == {"removed": [], "added": []}


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_each_loose_grant_is_a_warning(option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever deploys it is told, also beside JSON, and so is whoever deploys later and keeps it."""
    file = policy_file(tmp_path, "all", f"plant/{THING}", f"{THING}/*")
    run("deploy", "--yes", "--device-policy", file, "--allow-loose-policy", *option)
    first = capsys.readouterr().err
    run("deploy", "--yes", *option)
    for told in (first, capsys.readouterr().err):
        assert [line.partition(": it ")[0].partition(": put ")[0] for line in warnings(told)] == [
            "warning: loose grant: iot:Publish on topic/all",
            "warning: loose grant: iot:Publish on topic/<thing>/*",
        ]


def warnings(told: str) -> list[str]:
    """Return the lines that warn."""
    return [line for line in told.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize(
    ("topics", "expected"),
    [((f"plant/{THING}",), ""), (("all",), ", with 1 loose grant"), (("all", "x/*"), ", with 2 loose grants")],
)
def test_status_says_how_loose_a_policy_is(
    topics: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever looks at the deployment need not know how it was made."""
    run("deploy", "--yes", "--device-policy", policy_file(tmp_path, *topics), "--allow-loose-policy", "--quiet")
    run("status")
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Policy ")]
    assert row.endswith(f", your own{expected}")
    run("status", "--json")
    assert shown(capsys, "status")["looseGrants"] == (len(topics) if expected else 0)


def test_what_a_policy_keeps_hsm_enroll_from_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line to a person, and a list to a script."""
    file = policy_file(tmp_path, f"plant/{THING}")
    note = "the first message of init goes to certtest/<thing>, which this policy does not allow: run init --no-publish"
    run("deploy", "--yes", "--device-policy", file)
    err = capsys.readouterr().err
    assert f"note: {note}" in err.splitlines()
    assert warnings(err) == []
    run("deploy", "--yes", "--json")
    out, err = capsys.readouterr()
    assert documents.read(["backend", "deploy"], out)["notes"] == [note]
    assert err == ""


def test_a_loose_policy_is_wrong_usage_without_the_option_for_it(tmp_path: Path) -> None:
    """The error names the file and lists the grants; nothing is deployed."""
    file = policy_file(tmp_path, "all")
    with pytest.raises(UsageError) as raised:
        run("deploy", "--yes", "--device-policy", file)
    assert raised.value.message.startswith(
        f"{file} lets a device reach what is not its own:\n  iot:Publish on topic/all: "
    )
    assert "--allow-loose-policy" in raised.value.hint
    assert status().state is None


def test_a_mistake_is_wrong_usage_whatever_is_allowed(tmp_path: Path) -> None:
    """The error names the file and lists the mistakes; nothing is deployed."""
    file = policy_file(tmp_path, "plant/${iot:ThingName}")
    with pytest.raises(UsageError) as raised:
        run("deploy", "--yes", "--device-policy", file, "--allow-loose-policy")
    assert raised.value.message == (
        f"{file} cannot be deployed:\n"
        "  unknown variable ${iot:ThingName} (did you mean ${iot:Connection.Thing.ThingName}?)"
    )
    assert raised.value.exit_status == 2
    assert status().state is None


def test_allowing_a_loose_policy_takes_a_policy() -> None:
    """Alone the option means nothing."""
    with pytest.raises(click.UsageError, match="--device-policy"):
        run("deploy", "--yes", "--allow-loose-policy")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _file: None, "cannot be read: No such file or directory"),
        (Path.mkdir, "is not a file"),
        (os.mkfifo, "is not a file"),
        (lambda file: file.write_bytes(b" " * (64 * 1024 + 1)), "is larger than 65536 bytes"),
        (lambda file: file.symlink_to("/dev/zero"), "is not a file"),
        (lambda file: file.write_bytes(b"\xff"), "is not UTF-8"),
        (lambda file: file.write_bytes(b""), "cannot be deployed: it is not JSON"),
        (lambda file: file.write_text("{}"), "cannot be deployed: a policy must be a JSON object"),
    ],
    ids=["missing", "folder", "fifo", "enormous", "endless", "bytes", "empty", "other"],
)
def test_a_file_that_holds_no_policy_is_wrong_usage(make: Any, why: str, tmp_path: Path) -> None:
    """The error names the file; AWS is not asked, and nobody waits for a FIFO to be written to."""
    file = tmp_path / "own.json"
    make(file)
    with pytest.raises(UsageError) as raised:
        run("deploy", "--yes", "--device-policy", str(file))
    assert raised.value.message.startswith(f"{file} {why}")
    assert raised.value.hint


def test_a_file_name_that_no_file_can_have_is_wrong_usage() -> None:
    """The operating system takes no NUL, nor a name without an end."""
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(UsageError, match="cannot be read"):
            run("deploy", "--yes", "--device-policy", name)


def test_the_commands_exit_status_for_a_bad_policy_is_that_of_wrong_usage(tmp_path: Path) -> None:
    """In a process of its own, with the error as JSON."""
    command = [sys.executable, "-m", "hsm_enroll", "backend", "deploy", "--json", "--device-policy", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert documents.read(["backend", "deploy"], ended.stdout)["error"]["message"] == f"{tmp_path} is not a file"
