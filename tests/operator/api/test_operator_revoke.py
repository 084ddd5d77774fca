"""``fleet revoke`` of several Things: checked before anything is asked or done, and each failure told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.cli import fleet
from hsm_enroll.errors import UsageError
from tests.operator.api.running import Run
from tests.operator.api.stand_in import Backend, problem

NAMES = [f"gateway-{number}" for number in range(8)]


@pytest.fixture
def things(backend: Backend) -> Backend:
    """A backend with eight Things; the last one is revoked already."""
    for name in NAMES:
        backend.add_thing(name, "revoked" if name == NAMES[-1] else "issued")
    return backend


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person is asked; the answer is yes."""
    asked: list[str] = []
    monkeypatch.setattr(fleet, "has_person", lambda: True)

    def confirm(question: str) -> bool:
        asked.append(question)
        return True

    monkeypatch.setattr(fleet, "confirm", confirm)
    return asked


def revoked(backend: Backend) -> list[str]:
    """Return the Things that are revoked."""
    return [name for name, thing in backend.things.items() if thing["status"] == "revoked"]


def deleted(backend: Backend) -> list[str]:
    """Return the Things that the backend was asked to revoke."""
    return [request.query["thing"] for request in backend.received if request.method == "DELETE"]


def test_several_things_are_revoked_after_one_question(run: Run, things: Backend, questions: list[str]) -> None:
    """It says how many, and of the first few which and what they are."""
    result = run("fleet", "revoke", *reversed(NAMES))
    assert (result.status, result.out) == (0, "8 of 8 Things are revoked\n")
    assert revoked(things) == NAMES
    (question,) = questions
    assert question.startswith("Revoke 8 Things: gateway-7 (revoked), gateway-6 (issued), gateway-5 (issued), ")
    assert "gateway-3 (issued) and 3 more?" in question


def test_one_thing_is_asked_for_with_its_state(run: Run, things: Backend, questions: list[str]) -> None:
    """As for several."""
    assert run("fleet", "revoke", "gateway-7").out == "gateway-7 is revoked\n"
    assert questions == ["Revoke gateway-7 (revoked)? It will never connect again with this key."]
    assert deleted(things) == ["gateway-7"]


@pytest.mark.parametrize("names", [["nobody"], ["gateway-0", "nobody", "noone"]])
def test_what_is_not_there_is_said_before_anybody_is_asked(
    run: Run, things: Backend, questions: list[str], names: list[str]
) -> None:
    """Exit 31, each missing name told; nobody is asked, and nothing is revoked."""
    result = run("fleet", "revoke", *names)
    assert result.status == 31
    assert all((name in result.err) is (name != "gateway-0") for name in names)
    assert "Nothing was revoked" in result.err
    assert (questions, deleted(things)) == ([], [])


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "a,b", "ä", "gateway-*"])
def test_what_no_thing_can_be_called_is_wrong_usage(run: Run, things: Backend, name: str) -> None:
    """Exit 2; nothing is asked of the backend, whatever else is on the command line."""
    result = run("fleet", "revoke", "--yes", "gateway-0", name)
    assert (result.status, things.received) == (2, [])


def test_no_name_at_all_is_wrong_usage(run: Run, things: Backend) -> None:
    """There is no "all of them"."""
    assert run("fleet", "revoke", "--yes").status == 2
    assert things.received == []


@pytest.mark.parametrize(
    "content",
    [
        "gateway-1\ngateway-2\n",
        "\ufeffgateway-1\r\n\r\n gateway-2 \r\ngateway-1",
        "thing\ngateway-1\ngateway-2",
        "uses,Thing,invite\n1,gateway-1,https://api.example/#7K3QM-ABCDE-FGHJK-MNPQR-STVWX\n,gateway-2,\n",
    ],
)
def test_names_come_from_a_file(run: Run, things: Backend, tmp_path: Path, content: str) -> None:
    """One per line, or the column of a table such as invite create and the lists write; each counts once."""
    file = tmp_path / "names"
    file.write_text(content)
    assert run("fleet", "revoke", "--yes", "--from", file).status == 0
    assert deleted(things) == ["gateway-1", "gateway-2"]
    assert run("fleet", "revoke", "--yes", "gateway-3", "--from", file).status == 0
    assert deleted(things)[2:] == ["gateway-3", "gateway-1", "gateway-2"]


def test_a_list_is_a_file_of_names(run: Run, things: Backend, tmp_path: Path) -> None:
    """``fleet list --csv`` can be looked through and given to ``fleet revoke --from``."""
    file = tmp_path / "list.csv"
    file.write_text(run("fleet", "list", "--status", "issued", "--csv").out)
    assert run("fleet", "revoke", "--yes", "--from", file).status == 0
    assert deleted(things) == NAMES[:-1]


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"thing\n", b"name,uses\na,1\n", b"thing,uses\na\n", b"\xff\xfe", b'"a', b"gateway-0\na b\n"],
)
def test_a_file_without_names_is_wrong_usage(run: Run, things: Backend, tmp_path: Path, content: bytes) -> None:
    """Exit 2, and nothing is asked of the backend; a missing file likewise."""
    file = tmp_path / "names"
    file.write_bytes(content)
    assert run("fleet", "revoke", "--yes", "--from", file).status == 2
    assert run("fleet", "revoke", "--yes", "--from", tmp_path / "missing").status == 2
    assert things.received == []


def test_after_a_refusal_the_others_are_revoked(run: Run, things: Backend) -> None:
    """Each failure is told with its Thing and its own kind; the exit status is that of the first."""
    things.stubborn = {"gateway-1": problem(502, "aws-refused"), "gateway-2": problem(404, "thing-unknown")}
    result = run("fleet", "revoke", "--yes", *NAMES[:4])
    assert (result.status, result.out) == (30, "2 of 4 Things are revoked\n")
    assert [name for name in NAMES if f"error: {name}: " in result.err] == ["gateway-1", "gateway-2"]
    assert re.findall(r"#(.+)", result.err) == ["backend-unreachable", "backend-refused"]
    assert {"gateway-0", "gateway-3"} <= set(revoked(things))


def test_a_script_reads_what_became_of_each(run: Run, things: Backend) -> None:
    """A list with each Thing: what it was, whether it is revoked, and why not; the exit status says that one failed."""
    things.stubborn = {"gateway-1": problem(404, "thing-unknown")}
    result = run("fleet", "revoke", "--yes", "--json", "gateway-0", "gateway-1", "gateway-7")
    shown: list[dict[str, Any]] = result.document
    assert result.status == 31
    assert [(one["thing"], one["before"], one["revoked"]) for one in shown] == [
        ("gateway-0", "issued", True),
        ("gateway-1", "issued", False),
        ("gateway-7", "revoked", True),
    ]
    assert [one["error"] and one["error"]["exitStatus"] for one in shown] == [None, 31, None]


def test_after_three_failures_in_a_row_the_rest_is_not_tried(run: Run, things: Backend) -> None:
    """An API that does not work ends it: what is done is told, and what was not tried."""
    things.stubborn = {name: problem(500, "internal") for name in ("gateway-1", "gateway-3", "gateway-4", "gateway-5")}
    result = run("fleet", "revoke", "--yes", *NAMES)
    assert (result.status, result.out) == (30, "2 of 8 Things are revoked\n")
    assert "not tried: gateway-6, gateway-7. Run the same command again" in " ".join(result.err.split())
    assert deleted(things)[-1] == "gateway-5"


def test_without_credentials_the_rest_is_not_tried(run: Run, things: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that expire meanwhile would be missing for all the others too."""

    def expired(_self: object, thing: str, **_: object) -> None:
        raise UsageError(f"no AWS credentials for {thing}")

    monkeypatch.setattr("hsm_enroll.operator.api.OperatorClient.revoke_thing", expired)
    result = run("fleet", "revoke", "--yes", *NAMES[:3])
    assert (result.status, result.out) == (2, "0 of 3 Things are revoked\n")
    assert "not tried: gateway-1, gateway-2" in result.err
    assert deleted(things) == []


def test_an_interrupted_run_says_how_far_it_got(run: Run, things: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """D20: exit 130, and how many of them are revoked."""
    from hsm_enroll.operator.api import OperatorClient
    from hsm_enroll.operator.records import AttachedCertificate

    revoke = OperatorClient.revoke_thing

    def interrupted(self: OperatorClient, thing: str, **_: object) -> tuple[AttachedCertificate, ...]:
        if thing == "gateway-2":
            raise KeyboardInterrupt
        return revoke(self, thing)

    monkeypatch.setattr(OperatorClient, "revoke_thing", interrupted)
    result = run("fleet", "revoke", "--yes", *NAMES[:5])
    assert result.status == 130
    assert "2 of 5 Things are revoked" in result.err
    assert deleted(things) == NAMES[:2]


@pytest.mark.parametrize(("stubborn", "outcome"), [([], "s"), (["gateway-1"], "failed"), (NAMES[:3], "failed")])
def test_the_line_of_the_step_says_whether_all_are_revoked(
    run: Run, things: Backend, stubborn: list[str], outcome: str
) -> None:
    """Where one failed, the step is not shown as done."""
    things.stubborn = {name: problem(500, "internal") for name in stubborn}
    (line,) = [line for line in run("fleet", "revoke", "--yes", *NAMES[:4]).err.splitlines() if "- revoking" in line]
    assert line.split()[-1] == outcome
