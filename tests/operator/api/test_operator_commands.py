"""``hsm-enroll invite`` and ``hsm-enroll fleet`` as an operator sees them."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from hsm_enroll import cli
from hsm_enroll.cli import operator_client, rebuild
from tests.operator.api.running import Run
from tests.operator.api.stand_in import REGION, Backend, json_reply, problem
from tests.support import documents

_ROOT = Path(cli.__file__).parents[2]
_PROGRAM = "from hsm_enroll import cli; cli.main()"


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


@contextmanager
def _on_a_terminal(*arguments: str) -> Iterator[tuple[int, int]]:
    """Run the command on a terminal of its own; gives its process id and the terminal's other end."""
    process, terminal = pty.fork()
    if process == 0:  # the child
        os.chdir(_ROOT)
        os.execv(sys.executable, [sys.executable, "-c", _PROGRAM, *arguments])  # noqa: S606
    try:
        yield process, terminal
    finally:
        os.close(terminal)


def ago(**since: int) -> str:
    """Return a time in the past, in the contract's form."""
    return f"{datetime.now(UTC) - timedelta(**since):%Y-%m-%dT%H:%M:%SZ}"


def _table(folder: Path, count: int) -> Path:
    file = folder / "things.csv"
    file.write_text("thing\n" + "".join(f"gateway-{number}\n" for number in range(count)))
    return file


def test_an_invite_is_one_line(run: Run, backend: Backend) -> None:
    """stdout holds the invite and nothing else; id, uses and expiry are said on stderr."""
    result = run("invite", "create", "--thing", "line3-*", "--uses", "3", "--ttl", "7d", "--existing-thing")
    assert (result.status, result.out) == (0, f"{backend.url}/#{backend.codes[0]}\n")
    (invite_id,) = backend.invites
    assert result.err == f"- invite {invite_id}: 3 uses, valid until 2026-11-24T10:00:00Z\n"
    asked = {"thing": "line3-*", "uses": 3, "ttlSeconds": 604800, "existingThing": True}
    assert backend.received[0].body == {"invites": [asked]}


def test_an_invite_is_the_contracts_document(run: Run, backend: Backend) -> None:
    """--json gives invite, thing, uses, expires and id; --quiet still gives the invite."""
    result = run("invite", "create", "--thing", "gateway-17", "--ek-sha256", "AB" * 32, "--json")
    (invite_id,) = backend.invites
    assert result.document == {
        "invite": f"{backend.url}/#{backend.codes[0]}",
        "thing": "gateway-17",
        "uses": 1,
        "expires": "2026-11-24T10:00:00Z",
        "id": invite_id,
        "thingStatus": None,
    }
    assert result.err == ""
    quiet = run("invite", "create", "--thing", "gateway-18", "--quiet")
    assert (quiet.out, quiet.err) == (f"{backend.url}/#{backend.codes[1]}\n", "")


def test_a_qr_code_fits_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """--qr draws the invite below it, in 80 columns; where it does not fit, it says so and the invite stands."""
    monkeypatch.setenv("COLUMNS", "80")
    drawn = run("invite", "create", "--thing", "gateway-17", "--qr").out.splitlines()
    assert drawn[0].startswith("https://")
    assert len(drawn) > 15
    assert {len(line) for line in drawn[1:]} == {len(drawn[1])}
    assert len(drawn[1]) <= 80
    assert set("".join(drawn[1:])) <= set(" \u2580\u2584\u2588")
    monkeypatch.setenv("COLUMNS", "20")
    narrow = run("invite", "create", "--thing", "gateway-17", "--qr")
    assert (narrow.status, len(narrow.out.splitlines())) == (0, 1)
    assert "not drawing the QR code" in narrow.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either --thing or --from"),
        (["--thing", "a", "--from", "t.csv"], "give either --thing or --from"),
        (["--thing", "a", "--output", "o.csv"], "--output needs --from"),
        (["--from", "t.csv", "--ttl", "7d"], "the table's columns replace"),
        (["--from", "t.csv", "--uses", "0"], "the table's columns replace"),
        (["--from", "t.csv", "--qr"], "the table's columns replace"),
        (["--from", "t.csv", "--json"], "needs --output"),
        (["--from", "t.csv"], "t.csv cannot be read"),
        (["--thing", "a", "--qr", "--json"], "--qr or --json"),
        (["--thing", "a", "--api", "https://a", "--stack", "s"], "--api or --stack"),
        (["--thing", "a b"], "thing is not a valid Thing name"),
        (["--thing", "a", "--uses", "2"], "needs a prefix"),
        (["--thing", "a", "--uses", "0"], "uses must be a number"),
        (["--thing", "a", "--ttl", "1w"], "ttl is not a valid time"),
        (["--thing", "a", "--ttl", ""], "ttl is not a valid time"),
        (["--thing", "a", "--ek-sha256", "zz"], "ek_sha256 is not a SHA-256"),
    ],
)
def test_wrong_usage_calls_nobody(
    run: Run, backend: Backend, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Options that contradict each other or hold no valid value end with status 2 before any request."""
    monkeypatch.chdir(tmp_path)
    result = run("invite", "create", *arguments)
    assert result.status == 2
    assert said in result.err + result.out
    assert backend.received == []


@pytest.mark.parametrize(("library", "arguments"), [("boto3", ["list"]), ("segno", ["create", "--thing", "a", "--qr"])])
def test_a_missing_extra_is_named(
    run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch, library: str, arguments: list[str]
) -> None:
    """Without a library of the extra the command says what to install, before any request."""
    monkeypatch.setattr("hsm_enroll.extras.find_spec", lambda name: None if name == library else object())
    result = run("invite", *arguments)
    assert result.status == 2
    assert f"not installed: {library}\n" in result.err
    assert "-m pip install 'boto3>=" in result.err
    assert backend.received == []


def test_ten_thousand_invites_come_in_requests_of_a_hundred(run: Run, backend: Backend, tmp_path: Path) -> None:
    """A table of 10,000 rows takes 100 requests and bounded time, and its file is the owner's alone."""
    output = tmp_path / "invites.csv"
    begin = time.monotonic()
    result = run("invite", "create", "--from", _table(tmp_path, 10_000), "--output", output)
    assert time.monotonic() - begin < 60
    assert (result.status, result.out) == (0, "")
    assert result.err.endswith(f"- 10,000 invites were made; {output} has all 10,000\n")
    assert [len(request.body["invites"]) for request in backend.received] == [100] * 100
    rows = _rows(output.read_text())
    assert [row["thing"] for row in rows] == [f"gateway-{number}" for number in range(10_000)]
    assert [row["invite"] for row in rows] == [f"{backend.url}/#{code}" for code in backend.codes]
    assert [row["id"] for row in rows] == list(backend.invites)
    assert output.stat().st_mode & 0o777 == 0o600


def test_a_request_never_grows_too_large(run: Run, backend: Backend, tmp_path: Path) -> None:
    """S3: rows with the longest values go in requests of fewer than 100, since a body has at most 16 KiB."""
    table = tmp_path / "things.csv"
    rows = [f"{number:063}*,1000000,365d,{'ab' * 32},true" for number in range(250)]
    table.write_text("\n".join(["thing,uses,ttl,ek_sha256,existing_thing", *rows]))
    result = run("invite", "create", "--from", table)
    assert (result.status, backend.refused) == (0, 0)
    sizes = [len(request.body["invites"]) for request in backend.received]
    assert sum(sizes) == 250
    assert max(sizes) < 100
    assert [row["invite"] for row in _rows(result.out)] == [f"{backend.url}/#{code}" for code in backend.codes]


def test_a_table_goes_to_stdout_without_a_file(run: Run, backend: Backend, tmp_path: Path) -> None:
    """Without --output the table is the data on stdout; with --json and --output it is a list of documents too."""
    result = run("invite", "create", "--from", _table(tmp_path, 2))
    assert [row["invite"] for row in _rows(result.out)] == [f"{backend.url}/#{code}" for code in backend.codes]
    one = run("invite", "create", "--from", _table(tmp_path, 1), "--output", tmp_path / "one.csv")
    assert one.err.endswith(f"- 1 invite was made; {tmp_path}/one.csv has it\n")
    output = tmp_path / "out.csv"
    documents = run("invite", "create", "--from", _table(tmp_path, 2), "--output", output, "--json").document
    rows = _rows(output.read_text())
    assert [(one["invite"], one["id"], one["uses"]) for one in documents] == [(r["invite"], r["id"], 1) for r in rows]


@pytest.mark.parametrize("to_file", [True, False])
def test_a_batch_that_breaks_off_goes_on(run: Run, backend: Backend, tmp_path: Path, to_file: bool) -> None:
    """What was made before a failure is kept and counted; its output as input makes the rest and nothing twice."""
    backend.replies = {2: problem(500, "internal")}
    output = tmp_path / "out 1.csv"
    option = ["--output", output] if to_file else []
    broken = run("invite", "create", "--from", _table(tmp_path, 350), *option)
    assert broken.status == 30
    assert "200 of 350 invites were made" in broken.err
    if to_file:
        file = f"'{output}'"
        assert f"to continue, run: hsm-enroll invite create --from {file} --output {file}" in broken.err
    else:
        output.write_text(broken.out)
    assert sum(bool(row["invite"]) for row in _rows(output.read_text())) == 200

    assert run("invite", "create", "--from", output, "--output", output).status == 0
    rows = _rows(output.read_text())
    assert [row["thing"] for row in rows] == [f"gateway-{number}" for number in range(350)]
    assert [row["invite"] for row in rows] == [f"{backend.url}/#{code}" for code in backend.codes]
    assert len(backend.invites) == 350


def test_a_batch_that_made_nothing_leaves_nothing(run: Run, backend: Backend, tmp_path: Path) -> None:
    """When the first request fails, no file stands in the way of the same command."""
    backend.replies = {0: problem(403, "operator-required")}
    command = ("invite", "create", "--from", _table(tmp_path, 3), "--output", tmp_path / "out.csv")
    refused = run(*command)
    assert (refused.status, "run the same command again" in refused.err) == (31, True)
    assert run(*command).status == 0


def test_an_interrupted_batch_keeps_what_was_made(
    run: Run, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D20: Ctrl-C in the middle leaves the invites so far in the file, and exit status 130."""
    from hsm_enroll.operator.api import OperatorClient

    create = OperatorClient.create_invites

    def interrupted(self: OperatorClient, invites: Any) -> Any:
        if backend.codes:
            raise KeyboardInterrupt
        return create(self, invites)

    monkeypatch.setattr(OperatorClient, "create_invites", interrupted)
    output = tmp_path / "out.csv"
    result = run("invite", "create", "--from", _table(tmp_path, 150), "--output", output)
    assert result.status == 130
    assert "100 of 150 invites were made" in result.err
    assert sum(bool(row["invite"]) for row in _rows(output.read_text())) == 100


def test_a_bar_shows_how_far_a_batch_is(
    run: Run,  # noqa: ARG001 - sets the environment
    backend: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a terminal a bar counts the invites up; no code is shown there when they go to a file."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = tmp_path / "out.csv"
    arguments = ("invite", "create", "--from", str(_table(tmp_path, 250)), "--output", str(output))
    shown = ""
    with _on_a_terminal(*arguments) as (process, terminal), suppress(OSError):  # a terminal that hung up is an EIO
        while received := os.read(terminal, 4096):
            shown += received.decode(errors="replace")
    _, ended = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(ended) == 0
    assert "making invites" in shown
    assert "/250" in shown
    assert not [code for code in backend.codes if code in shown]


def test_a_file_that_may_hold_invites_is_not_replaced(run: Run, backend: Backend, tmp_path: Path) -> None:
    """An output that exists and is not the input is refused before any request, and stays as it was."""
    output = tmp_path / "out.csv"
    output.write_text("precious")
    result = run("invite", "create", "--from", _table(tmp_path, 3), "--output", output)
    assert (result.status, output.read_text(), backend.received) == (2, "precious", [])
    assert "may hold invites" in result.err


def test_an_output_that_cannot_be_written_costs_no_invite(run: Run, backend: Backend, tmp_path: Path) -> None:
    """D11: the file is written once before the first request, so that a bad folder is found out in time."""
    result = run("invite", "create", "--from", _table(tmp_path, 3), "--output", tmp_path / "missing" / "out.csv")
    assert (result.status, backend.received) == (50, [])


def test_invites_are_listed_in_80_columns(run: Run, backend: Backend) -> None:
    """The table shows id, status, uses and expiry, never a code; --json has the contract's members."""
    backend.page = 2
    for number in range(5):
        run("invite", "create", "--thing", f"gateway-{number}", "--quiet")
    lines = run("invite", "list").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(backend.invites)
    assert lines[1].split()[1:] == ["open", "0/1", "2026-11-24", "10:00", "gateway-0"]
    assert max(map(len, lines)) <= 80
    document = run("invite", "list", "--json").document
    assert document["more"] is False
    listed = document["invites"]
    assert [{k: v for k, v in one.items() if k != "ekSha256"} for one in listed] == list(backend.invites.values())


def test_an_invite_is_revoked(run: Run, backend: Backend) -> None:
    """A known id is revoked; an unknown one is status 31 with the API's own code."""
    run("invite", "create", "--thing", "gateway-17")
    (invite_id,) = backend.invites
    assert run("invite", "revoke", invite_id, "--json").document == {"id": invite_id, "revoked": True}
    assert backend.invites[invite_id]["status"] == "revoked"
    unknown = run("invite", "revoke", "0" * 16, "--json")
    assert (unknown.status, unknown.document["error"]["code"]) == (31, "backend-refused")
    assert "invite-unknown" in unknown.document["error"]["message"]


def test_the_fleet_is_listed_in_80_columns(run: Run, backend: Backend) -> None:
    """The table shows status, key type, TPM, age, renewal and the whole name; --json has the contract's members."""
    for name, status in {"g" * 38: "claimed", "gateway-2": "issued", "gateway-3": "revoked"}.items():
        backend.add_thing(name, status)
        for when in ("claimed", "enrolled"):
            backend.things[name][when] = ago(days=399) if backend.things[name][when] else None
    lines = run("fleet", "list").out.splitlines()
    assert [line.split() for line in lines] == [
        ["STATUS", "KEY", "TPM", "AGE", "RENEWAL", "THING"],
        ["claimed", "-", "-", "399d", "-", "g" * 38],
        ["issued", "ec-p256", "-", "399d", "-", "gateway-2"],
        ["revoked", "ec-p256", "-", "399d", "-", "gateway-3"],
    ]
    assert max(map(len, lines)) <= 80
    assert run("fleet", "list", "--json").document == {"things": list(backend.things.values()), "more": False}


def test_an_empty_fleet_says_so(run: Run) -> None:
    """No Thing and no invite are sentences, and empty lists in JSON."""
    assert run("fleet", "list").out == "no Thing is enrolled\n"
    assert run("invite", "list").out == "there are no invites\n"
    assert run("fleet", "list", "--json").document == {"things": [], "more": False}
    assert run("fleet", "list", "--prefix", "x").out == "no Thing matches\n"
    assert run("invite", "list", "--status", "open").out == "no invite matches\n"


def test_a_thing_is_shown(run: Run, backend: Backend) -> None:
    """One Thing is shown with its certificate and its key's hash, within 80 columns."""
    backend.add_thing("gateway-17")
    shown = run("fleet", "show", "gateway-17").out
    assert backend.things["gateway-17"]["certificateId"] in shown
    assert max(map(len, shown.splitlines())) <= 80
    document = run("fleet", "show", "gateway-17", "--json").document
    assert document["thing"] == backend.things["gateway-17"]
    own = backend.things["gateway-17"]["certificateId"]
    assert [(one["certificateId"], one["active"]) for one in document["certificates"]] == [(own, True)]


@pytest.mark.parametrize(
    ("since", "shown"),
    [
        ({"seconds": 10}, "0m"),
        ({"minutes": 59, "seconds": 10}, "59m"),
        ({"minutes": 61}, "1h"),
        ({"hours": 47, "minutes": 59}, "47h"),
        ({"hours": 48, "minutes": 1}, "2d"),
        ({"days": 3650, "minutes": 1}, "3650d"),
        ({"minutes": -5}, "0m"),
    ],
)
def test_the_age_is_that_of_the_present_certificate(
    run: Run, backend: Backend, since: dict[str, int], shown: str
) -> None:
    """Counted from the last renewal, in the largest unit that is at least one or two; never below nothing."""
    backend.add_thing("gateway-17")
    backend.things["gateway-17"]["renewed"] = ago(**since)
    assert run("fleet", "list").out.splitlines()[1].split() == ["issued", "ec-p256", "-", shown, "-", "gateway-17"]
    assert f"\nAge           {shown}\n" in run("fleet", "show", "gateway-17").out


@pytest.mark.parametrize(
    ("due", "pending", "shown"), [(True, False, "due"), (True, True, "pending"), (False, True, "pending")]
)
def test_a_renewal_that_is_due_or_pending_is_seen(
    run: Run, backend: Backend, shown: str, *, due: bool, pending: bool
) -> None:
    """In the list, of one Thing, and in JSON."""
    backend.add_thing("gateway-17")
    backend.things["gateway-17"] |= {"renewalDue": due, "renewalPending": pending}
    assert run("fleet", "list").out.splitlines()[1].split()[4] == shown
    assert f"\nRenewal       {shown}\n" in run("fleet", "show", "gateway-17").out
    (listed,) = run("fleet", "list", "--json").document["things"]
    assert (listed["renewalDue"], listed["renewalPending"]) == (due, pending)


@pytest.mark.parametrize(
    ("because", "shown"),
    [
        ("not-committed", "its device did not commit it within an hour"),
        ("old-key-used", "its old key was used again (disk restored, new certificate not received, or key copied)"),
        ("of-a-later-backend", "of-a-later-backend"),
        (None, "-"),
    ],
)
def test_a_renewal_that_was_undone_is_seen(run: Run, backend: Backend, because: str | None, shown: str) -> None:
    """When, and why; a Thing with none has no line about it."""
    backend.add_thing("gateway-17")
    assert "Renewal undone" not in run("fleet", "show", "gateway-17").out
    backend.things["gateway-17"] |= {"renewalUndone": "2026-11-26T11:20:14Z", "renewalUndoneBecause": because}
    assert f"Renewal undone  2026-11-26 11:20, {shown}" in run("fleet", "show", "gateway-17").out.splitlines()
    thing = run("fleet", "show", "gateway-17", "--json").document["thing"]
    assert (thing["renewalUndone"], thing["renewalUndoneBecause"]) == ("2026-11-26T11:20:14Z", because)


def test_an_earlier_backend_says_nothing_of_renewals_and_tpms(run: Run, backend: Backend) -> None:
    """Then these are null in JSON, and a dash in the table."""
    backend.add_thing("gateway-17")
    unknown = {"keyType", "renewed", "renewalDue", "renewalPending", "attested", "ekSha256", "tpmManufacturer"}
    unknown |= {"renewalUndone", "renewalUndoneBecause"}
    for name in unknown:
        del backend.things["gateway-17"][name]
    (listed,) = run("fleet", "list", "--json").document["things"]
    assert {listed[name] for name in unknown} == {None}
    status, key, tpm, _, renewal, _ = run("fleet", "list").out.splitlines()[1].split()
    assert (status, key, tpm, renewal) == ("issued", "-", "-", "-")
    assert "\nAttested      -\n" in run("fleet", "show", "gateway-17").out


@pytest.mark.parametrize("name", ["nobody", "", "a b", "a+b", "../x?y=1&z#", "\u00fc", "%2f", "*"])
def test_any_name_that_is_not_there_is_unknown(run: Run, backend: Backend, name: str) -> None:
    """Whatever characters a name has, its request is signed rightly and means that name."""
    result = run("fleet", "show", "--json", "--", name)
    assert (result.status, backend.refused) == (31, 0)
    assert "thing-unknown" in result.document["error"]["message"]
    assert backend.received[0].query == {"thing": name}


def test_a_thing_is_revoked_with_yes_only(run: Run, backend: Backend) -> None:
    """Where nobody can be asked, revoking without --yes is refused and changes nothing."""
    backend.add_thing("gateway-17")
    refused = run("fleet", "revoke", "gateway-17", "--json")
    assert (refused.status, "--yes" in refused.document["error"]["hint"]) == (2, True)
    assert backend.received == []
    assert run("fleet", "revoke", "gateway-17", "--yes").out == "gateway-17 is revoked\n"
    assert backend.things["gateway-17"]["status"] == "revoked"


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("yes\n", 0), ("n\n", 130), ("\n", 130), ("maybe\n", 130)])
def test_a_person_is_asked_before_revoking(
    run: Run,  # noqa: ARG001 - sets the environment
    backend: Backend,
    answer: str,
    status: int,
) -> None:
    """On a terminal the question is asked there, and only yes revokes."""
    backend.add_thing("gateway-17")
    with _on_a_terminal("fleet", "revoke", "gateway-17") as (process, terminal):
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, answer.encode())
        _, ended = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(ended) == status
    assert backend.things["gateway-17"]["status"] == ("revoked" if status == 0 else "issued")


def test_aws_credentials_alone_find_the_api(run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL the stack hsm-enroll is asked for its API; a stack that is named goes before the environment."""
    backend.add_thing("gateway-17")
    with mock_aws(config={"core": {"mock_credentials": False}}):
        cloudformation = boto3.client("cloudformation", region_name=REGION)
        template: dict[str, Any] = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}
        template["Outputs"] = {"ApiUrl": {"Value": backend.url}}
        for name in ("hsm-enroll", "staging"):
            cloudformation.create_stack(StackName=name, TemplateBody=json.dumps(template))
        monkeypatch.setenv("HSM_ENROLL_API_URL", "https://elsewhere.invalid")
        assert "gateway-17" in run("fleet", "list", "--stack", "staging").out
        monkeypatch.delenv("HSM_ENROLL_API_URL")
        assert "gateway-17" in run("fleet", "list").out
        missing = run("fleet", "list", "--stack", "production")
    assert (missing.status, "there is no stack 'production'" in missing.err) == (2, True)


def test_a_sweep_says_what_it_disabled(run: Run, backend: Backend) -> None:
    """S21: the parts are summed up, and every disabled certificate is named, also on the way."""
    certificate = {"certificateId": "0b" * 32, "created": "2026-11-23T08:00:00Z"}
    backend.sweeps = [
        {"checked": 250, "disabled": [certificate], "foreign": 2},
        {"checked": 9, "disabled": [], "foreign": 1},
    ]
    result = run("fleet", "sweep")
    assert result.out == "259 certificates checked, 1 disabled, 3 not of this deployment\n"
    assert f"disabled {certificate['certificateId']}" in result.err
    assert "only active certificates older than an hour are checked" in result.err
    assert run("fleet", "sweep", "--json").document == {"checked": 259, "disabled": [certificate], "foreign": 3}


def test_a_sweep_looks_first_and_then_sweeps_only_the_parts_with_orphans(run: Run, backend: Backend) -> None:
    """S23: what has the device policy is not counted as foreign, whether its key is known or not."""
    unknown, lost = (
        {"certificateId": digits * 32, "created": "2026-11-23T08:00:00Z", "reason": reason}
        for digits, reason in (("0b", "unknown"), ("0c", "lost"))
    )
    backend.sweeps = [
        {"checked": 0, "disabled": [unknown], "foreign": 0},
        {"checked": 7, "disabled": [], "foreign": 2},
        {"checked": 2, "disabled": [lost], "foreign": 1},
    ]
    assert run("fleet", "sweep").out == "9 certificates checked, 2 disabled, 2 not of this deployment\n"
    bodies = [request.body for request in backend.received]
    looked = [{"lookOnly": True}, *({"lookOnly": True, "next": f"p:{place}"} for place in (1, 2))]
    assert bodies == [*looked, {}, {"next": "p:2"}]


def test_a_sweep_that_would_disable_many_disables_none_unless_told_to(run: Run, backend: Backend) -> None:
    """S23: exit 31 with a code of its own, and what to do; --yes-all disables them all."""
    found = [{"certificateId": f"{number:064x}", "created": "2026-11-23T08:00:00Z"} for number in range(21)]
    backend.sweeps = [
        {"checked": 11, "disabled": found[:11], "foreign": 0},
        {"checked": 10, "disabled": found[11:], "foreign": 0},
    ]
    refused = run("fleet", "sweep", "--json")
    assert (refused.status, refused.document["error"]["code"]) == (31, "backend-refused")
    assert "sweep-stopped" in refused.document["error"]["message"]
    assert "fleet rebuild" in refused.document["error"]["hint"]
    assert all(request.body["lookOnly"] for request in backend.received)
    hint = run("fleet", "sweep", "--region", REGION, "--json").document["error"]["hint"]
    assert f"hsm-enroll fleet rebuild --region {REGION}" in hint
    assert f"hsm-enroll fleet sweep --yes-all --region {REGION}" in hint
    assert len(run("fleet", "sweep", "--yes-all", "--json").document["disabled"]) == 21
    backend.sweeps[1]["disabled"].pop()
    assert len(run("fleet", "sweep", "--json").document["disabled"]) == 20


OTHER = {"certificateId": "0d" * 32, "active": True, "created": "2026-11-23T08:00:00Z"}


def test_other_certificates_of_a_thing_are_shown_and_can_be_deactivated(run: Run, backend: Backend) -> None:
    """fleet show lists them; fleet revoke warns of active ones, and --all-certificates deactivates them."""
    for name in ("gateway-17", "gateway-18"):
        backend.add_thing(name)
    backend.attached["gateway-17"] = [OTHER]
    assert f"Other certs   {'0d' * 32} (active)" in run("fleet", "show", "gateway-17").out
    assert OTHER in run("fleet", "show", "gateway-17", "--json").document["certificates"]
    revoked = run("fleet", "revoke", "gateway-17", "--yes", "--json")
    assert revoked.document == {"thing": "gateway-17", "revoked": True, "otherCertificates": [OTHER]}
    for names in (["gateway-17"], ["gateway-17", "gateway-18"]):
        warned = run("fleet", "revoke", *names, "--yes", "--region", REGION)
        command = f"hsm-enroll fleet revoke gateway-17 --all-certificates --region {REGION}"
        assert (warned.status, command in warned.err) == (0, True)
        assert "--all-certificates" not in run("fleet", "revoke", *names, "--yes", "--all-certificates").err
    listed = run("fleet", "revoke", "gateway-17", "gateway-18", "--all-certificates", "--yes", "--json").document
    assert [one["otherCertificates"] for one in listed] == [[{**OTHER, "active": False}], []]


def test_a_backend_of_an_earlier_version_says_nothing_of_other_certificates(run: Run, backend: Backend) -> None:
    """Its answers lack them; that is no error."""
    backend.add_thing("gateway-17")
    backend.replies = {0: json_reply(200, {"thing": backend.things["gateway-17"]})}
    assert run("fleet", "show", "gateway-17", "--json").document["certificates"] is None
    backend.replies = {2: (204, {}, b"")}
    assert run("fleet", "revoke", "gateway-17", "--yes").out == "gateway-17 is revoked\n"


RESTORED = {"thing": "gateway-17", "certificateId": "0b" * 32, "status": "issued"}
LEFT = {"certificateId": "0c" * 32, "reason": "thing-existed"}


def test_a_rebuild_shows_what_is_missing_asks_and_restores_it(run: Run, backend: Backend) -> None:
    """S23: looked at first, part by part; without a terminal it needs --yes."""
    assert run("fleet", "rebuild", "--json").status == 2
    assert backend.received == []
    backend.rebuilds = [
        {"examined": 500, "restored": [], "left": [LEFT]},
        {"examined": 20, "restored": [RESTORED], "left": []},
    ]
    result = run("fleet", "rebuild", "--yes", "--existing-things", "--json")
    assert result.document == {"examined": 520, "restored": [RESTORED], "left": [LEFT]}
    asked = {"existingThings": True}
    assert [request.body for request in backend.received] == [
        {**asked, "lookOnly": True},
        {**asked, "lookOnly": True, "next": "p:1"},
        {**asked, "lookOnly": False},
        {**asked, "lookOnly": False, "next": "p:1"},
    ]
    told = run("fleet", "rebuild", "--yes")
    assert told.out == "1 entry restored\n"
    assert "gateway-17 (issued)" in told.err
    assert "--existing-things" in told.err


def test_a_rebuild_that_is_not_wanted_changes_nothing(
    run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S23: a no is not an error; what would be restored was only looked at."""
    backend.rebuilds = [{"examined": 1, "restored": [RESTORED], "left": []}]
    questions: list[str] = []
    monkeypatch.setattr(rebuild, "has_person", lambda: True)

    def decline(question: str) -> bool:
        questions.append(question)
        return False

    monkeypatch.setattr(rebuild, "confirm", decline)
    result = run("fleet", "rebuild")
    assert questions == ["Restore 1 entry?"]
    assert (result.status, result.out) == (130, "")
    assert "1 certificate compared with the ledger, 1 missing from it" in result.err
    assert result.err.endswith("\nnothing was restored\n")
    assert [request.body["lookOnly"] for request in backend.received] == [True]


def test_a_rebuild_with_nothing_to_do_changes_nothing(run: Run, backend: Backend) -> None:
    """S23: it looks, and that is all."""
    backend.rebuilds = [{"examined": 500, "restored": [], "left": []}]
    assert run("fleet", "rebuild", "--yes").out == "0 entries restored\n"
    assert [request.body["lookOnly"] for request in backend.received] == [True]


def test_what_takes_long_says_now_and_then_how_far_it_is(
    run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists, sweeps and rebuilds: after 3 s, and then after twice as long each time; a short one is silent."""
    for number in range(4):
        backend.add_thing(f"gateway-{number}")
    backend.sweeps = [{"checked": 600, "disabled": [], "foreign": 0}] * 4
    backend.rebuilds = [{"examined": 600, "restored": [], "left": []}] * 4
    commands = [("fleet", "list"), ("fleet", "sweep"), ("fleet", "rebuild", "--yes")]
    assert [line for command in commands for line in run(*command).err.splitlines() if "so far" in line] == []
    said = []
    for command in commands:
        seconds = iter(range(0, 400, 2))
        monkeypatch.setattr(operator_client, "time", SimpleNamespace(monotonic=partial(next, seconds)))
        said.append([line for line in run(*command).err.splitlines() if "so far" in line])
    assert said == [["  2 Things so far"], ["  1,200 certificates so far"], ["  1,200 certificates so far"]]


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (problem(400, "field-invalid"), 31, "backend-refused"),
        (problem(403, "operator-required"), 31, "backend-refused"),
        (problem(404, "thing-unknown"), 31, "backend-refused"),
        (problem(429, "throttled", Retry_After="3600"), 32, "throttled"),
        (problem(500, "internal"), 30, "backend-unreachable"),
        (json_reply(404, {"message": "Not Found"}), 33, "unexpected-response"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), 33, "unexpected-response"),
        ((302, {"Location": "https://elsewhere.example"}, b""), 33, "unexpected-response"),
    ],
)
def test_every_problem_has_its_exit_status(run: Run, backend: Backend, reply: Any, status: int, code: str) -> None:
    """The API's refusals become the contract's exit statuses."""
    backend.replies = {0: reply}
    result = run("fleet", "show", "gateway-17", "--json")
    assert (result.status, result.document["error"]["code"]) == (status, code)


HELPS = [
    ["invite", "--help"],
    ["fleet", "sweep", "--help"],
    ["invite", "create", "-h"],
    ["backend", "deploy", "--help"],
]


@pytest.mark.parametrize("arguments", HELPS)
def test_help_loads_no_aws_library(arguments: list[str]) -> None:
    """Rule 4: help does not pay for botocore, rich or segno; and it needs no library of the extra to be installed."""
    block = "sys.modules.update({name: None for name in ('boto3', 'botocore', 'segno')})"
    program = f"import sys, atexit; {block}; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {_PROGRAM}"
    child = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, cwd=_ROOT
    )
    assert "Usage:" in child.stdout
    loaded = set(child.stderr.split())
    assert "hsm_enroll.cli.operator_client" in loaded
    assert loaded & {"rich", "requests", "urllib3", "moto"} == set()


@pytest.mark.parametrize("arguments", [["fleet", "list"], ["invite", "list"], ["backend", "status"]])
def test_without_the_extra_a_command_says_how_to_install_it(arguments: list[str]) -> None:
    """Exit 2, the library's name, and the command that installs the extra."""
    program = f"import sys; sys.modules.update({{'boto3': None}}); {_PROGRAM}"
    child = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--json"], capture_output=True, text=True, check=False, cwd=_ROOT
    )
    error = documents.read(arguments, child.stdout)["error"]
    assert (child.returncode, "boto3" in error["message"]) == (2, True)
    assert "pip install" in error["hint"]
