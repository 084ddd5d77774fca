"""Invites, every part real: the operator makes one, a technician enrolls with it, and nobody else does."""

from __future__ import annotations

import csv
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hsm_enroll.backend_api.client import EnrollmentClient
from hsm_enroll.backend_api.invite import parse
from tests.support import documents
from tests.support.authority import Authority
from tests.support.clients import SoftwareDevice
from tests.support.devices import Cloud, Device, Observer, Operator
from tests.support.https_server import HttpsServer, https_server

NewGateway = Callable[[str], Device]

_URL = re.compile(r"https://localhost:[0-9]+/#[0-9A-HJKMNP-TV-Z]{5}(-[0-9A-HJKMNP-TV-Z]{5}){4}")
_ROWS = 250


def _code(invite: str) -> str:
    return invite.partition("#")[2]


def _expire(cloud: Cloud, invite_id: str) -> None:
    """Have an invite's time be over: the least that can be asked for is a minute."""
    cloud.aws("dynamodb").update_item(
        TableName=cloud.output("TableName"),
        Key={"kind": {"S": "invite"}, "id": {"S": invite_id}},
        UpdateExpression="SET expires = :past",
        ConditionExpression="attribute_exists(expires)",
        ExpressionAttributeValues={":past": {"N": str(int(time.time()) - 1)}},
    )


def test_from_an_invite_to_a_message(operator: Operator, gateway: Device, invite_cloud: Cloud, thing: str) -> None:
    """The operator makes one URL, init takes it, a message arrives, and the operator sees which certificate it is."""
    made = operator.run("invite", "create", "--thing", thing, "--ttl", "7d")
    assert (made.returncode, len(made.stdout.splitlines())) == (0, 1), made.stderr
    invite = made.stdout.strip()
    assert _URL.fullmatch(invite)
    with closing(Observer(invite_cloud.document, f"certtest/{thing}")) as observer:
        enrolled = gateway.json("init", invite, "--thing", thing)
        assert observer.message()[0] == f"certtest/{thing}"
    (listed,) = [one for one in operator.json("fleet", "list")["things"] if one["thing"] == thing]
    assert operator.json("fleet", "show", thing)["thing"] == listed
    assert (listed["status"], listed["certificateId"]) == ("issued", enrolled["certificate"]["id"])
    assert enrolled["certificate"]["id"] in invite_cloud.certificates()
    (used,) = [one for one in operator.json("invite", "list")["invites"] if one["thing"] == thing]
    assert (used["status"], used["usesLeft"], used["id"]) == ("used", 0, listed["inviteId"])


def test_the_operator_can_read_it_too(operator: Operator, gateway: Device, thing: str) -> None:
    """Without --json, fleet list and show are tables with the same in them, and invite list has no code."""
    invite = operator.invite(thing)
    document = gateway.json("init", invite, "--thing", thing, "--no-publish")
    assert re.search(rf"^issued +ec-p256 +- +0m +- +{thing}$", operator.run("fleet", "list").stdout, re.MULTILINE)
    shown = dict(re.split(" {2,}", line) for line in operator.run("fleet", "show", thing).stdout.splitlines())
    assert (shown["Thing"], shown["Status"], shown["Revoked"]) == (thing, "issued", "-")
    assert shown["Certificate"] == document["certificate"]["id"]
    listed = operator.run("invite", "list").stdout
    assert re.search(rf"^{shown['Invite']} +used +1/1 .*{thing}$", listed, re.MULTILINE)
    assert _code(invite) not in listed


@pytest.mark.parametrize("source", ["stdin", "file", "another case"])
def test_an_invite_comes_from_where_it_is(operator: Operator, gateway: Device, thing: str, source: str) -> None:
    """S12: - is stdin, @FILE a file; in the code case and dashes do not matter."""
    invite = operator.invite(thing)
    file = gateway.folder / "invite"
    file.write_text(f"{invite}\n")
    api, _, code = invite.partition("#")
    typed = f"{api}#{code.lower().replace('-', '')}"
    argument = {"stdin": "-", "file": f"@{file}", "another case": typed}[source]
    run = gateway.run("init", argument, "--thing", thing, "--no-publish", stdin=f"{invite}\n")
    assert run.returncode == 0, run.stderr


def test_a_code_is_kept_nowhere(operator: Operator, gateway: Device, invite_cloud: Cloud, thing: str) -> None:
    """A used code stands in no output of the device, no file of it, no log of the cloud, and not in the ledger."""
    invite = operator.invite(thing)
    run = gateway.run("init", "-", "--thing", thing, "--verbose", stdin=invite)
    assert run.returncode == 0, run.stderr
    device_files = "".join(path.read_text(errors="replace") for path in gateway.home.iterdir())
    logs = "".join(path.read_text() for path in (Path(invite_cloud.document["home"]) / "logs").iterdir())
    ledger = json.dumps(invite_cloud.aws("dynamodb").scan(TableName=invite_cloud.output("TableName"))["Items"])
    assert all(thing in text for text in (device_files, logs, ledger))
    for code in (_code(invite), _code(invite).replace("-", "")):
        assert code not in run.stdout + run.stderr + device_files + logs + ledger


def test_the_same_device_may_come_again(operator: Operator, gateway: Device, thing: str) -> None:
    """S12, D16: where power went before the identity was kept, init with the same, used invite gets the same one."""
    invite = operator.invite(thing)
    gateway.extra["HSM_ENROLL_MQTT_PORT"] = "9"
    assert gateway.refused("init", invite) == (40, "mqtt-unreachable")
    first = gateway.json("status")
    (gateway.home / "identity.json").unlink()
    again = gateway.json("init", invite, "--thing", thing, "--no-publish")
    assert again["certificate"] == first["certificate"]
    assert again["key"] == first["key"]


def test_every_invite_that_is_not_valid_is_refused_alike(
    operator: Operator, new_gateway: NewGateway, invite_cloud: Cloud, thing: str
) -> None:
    """S12: unknown, expired and revoked: one message to the device, the reason in the log; a used one is said so."""
    gateway = new_gateway("other")
    invites: dict[str, Any] = {
        reason: operator.json("invite", "create", "--thing", thing) for reason in ("used", "expired", "revoked")
    }
    used = new_gateway("first").json("init", invites["used"]["invite"], "--thing", thing, "--no-publish")
    _expire(invite_cloud, invites["expired"]["id"])
    revoked = operator.json("invite", "revoke", invites["revoked"]["id"])
    assert revoked == {"id": invites["revoked"]["id"], "revoked": True}
    urls = {reason: made["invite"] for reason, made in invites.items()}
    error = gateway.error("init", urls.pop("used"), "--thing", thing)
    assert (error["exitStatus"], error["message"]) == (31, "this invite was used already")
    assert not (gateway.home / "journal.json").exists()
    urls["unknown"] = f"{invite_cloud.document['apiUrl']}/#00000-00000-00000-00000-00000"
    errors = []
    for reason, url in urls.items():
        before = len(invite_cloud.log("handler"))
        errors.append(gateway.error("init", url, "--thing", thing))
        (told,) = [
            entry
            for line in invite_cloud.log("handler")[before:].splitlines()
            if (entry := json.loads(line)).get("outcome") == "invite-invalid"
        ]
        assert told["reason"] == reason
    assert errors[0]["exitStatus"] == 31
    assert "Ask the operator for a new invite" in errors[0]["hint"]
    assert all(error == errors[0] for error in errors)
    assert operator.json("fleet", "show", thing)["thing"]["certificateId"] == used["certificate"]["id"]
    statuses = {one["id"]: one["status"] for one in operator.json("invite", "list")["invites"]}
    assert [statuses[invites[reason]["id"]] for reason in invites] == ["used", "expired", "revoked"]


def test_an_invite_for_another_thing_says_for_which(operator: Operator, gateway: Device, thing: str) -> None:
    """S12: who holds a valid invite and gives another name is told the invite's, and no key is made."""
    error = gateway.error("init", operator.invite(f"{thing}-other"), "--thing", thing)
    assert error["exitStatus"] == 31
    assert f"is for '{thing}-other'" in error["message"]
    assert not (gateway.home / "journal.json").exists()


def test_an_invite_alone_is_enough(operator: Operator, gateway: Device, thing: str) -> None:
    """The invite knows the Thing's name, so that a technician types nothing else."""
    assert gateway.json("init", operator.invite(thing), "--no-publish")["thingName"] == thing


def test_without_an_invite_a_device_is_told_what_to_do(gateway: Device, invite_cloud: Cloud, thing: str) -> None:
    """S12: an invite deployment refuses who has none, with the command to run, and issues nothing."""
    before = invite_cloud.certificates()
    error = gateway.error("init", "--api", invite_cloud.document["apiUrl"], "--thing", thing)
    assert error["exitStatus"] == 31
    assert "hsm-enroll init INVITE" in error["hint"]
    assert invite_cloud.certificates() == before


def test_a_slip_in_an_invite_contacts_nobody(
    operator: Operator, gateway: Device, invite_cloud: Cloud, thing: str
) -> None:
    """S12: one wrong character is exit 2; nothing reached the API, and the code is shown nowhere."""
    invite = operator.invite(thing)
    mistyped = invite[:-2] + ("7" if invite[-2] != "7" else "8") + invite[-1]
    before = invite_cloud.log("gateway")
    runs = [gateway.run("init", mistyped, "--thing", thing, *options) for options in ((), ("--json", "--verbose"))]
    assert [run.returncode for run in runs] == [2, 2]
    assert invite_cloud.log("gateway") == before
    assert not (gateway.home / "journal.json").exists()
    for run in runs:
        assert _code(mistyped)[6:] not in run.stdout + run.stderr


def test_an_invite_for_a_prefix_enrolls_as_many_as_it_says(
    operator: Operator, new_gateway: NewGateway, thing: str
) -> None:
    """An invite for PREFIX* with two uses enrolls two devices of such names, and not a third one."""
    invite = operator.invite(f"{thing}-*", "--uses", "2")
    devices = [new_gateway(str(number)) for number in range(3)]
    assert devices[0].error("init", invite, "--thing", f"x{thing}-0")["exitStatus"] == 31
    for number in (0, 1):
        devices[number].json("init", invite, "--thing", f"{thing}-{number}", "--no-publish")
    assert devices[2].error("init", invite, "--thing", f"{thing}-2")["exitStatus"] == 31
    (listed,) = [one for one in operator.json("invite", "list")["invites"] if one["thing"] == f"{thing}-*"]
    assert (listed["uses"], listed["usesLeft"], listed["status"]) == (2, 0, "used")


def test_a_table_of_invites(operator: Operator, new_gateway: NewGateway, thing: str) -> None:
    """A table of 250 Things gets its invites in a file, which enroll; given again, that file makes no new ones."""
    table, output = operator.folder / "things.csv", operator.folder / "invites.csv"
    names = [f"{thing}-{number}" for number in range(_ROWS)]
    table.write_text("\n".join(["thing,ttl", *(f"{name},30d" for name in names)]) + "\n")
    run = operator.run("invite", "create", "--from", str(table), "--output", str(output))
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [row["thing"] for row in rows] == names
    assert len({row["invite"] for row in rows}) == _ROWS
    assert all(_URL.fullmatch(row["invite"]) for row in rows)
    assert output.stat().st_mode & 0o777 == 0o600
    for row in (rows[0], rows[_ROWS // 2], rows[-1]):
        _enroll_by_the_library(new_gateway(row["thing"]), row)
    (before, listed) = output.read_bytes(), operator.json("invite", "list")
    again = operator.run("invite", "create", "--from", str(output), "--output", str(output))
    assert again.returncode == 0, again.stderr
    assert output.read_bytes() == before
    assert operator.json("invite", "list") == listed
    states = {one["thing"]: one["status"] for one in listed["invites"]}
    assert [number for number, name in enumerate(names) if states[name] == "used"] == [0, _ROWS // 2, _ROWS - 1]


def test_a_table_that_was_interrupted_goes_on(operator: Operator, thing: str) -> None:
    """D20: after Ctrl-C the hint is to go on with the output, and doing so makes every invite once."""
    table, output = operator.folder / "things.csv", operator.folder / "invites.csv"
    table.write_text("thing\n" + "".join(f"{thing}-{number}\n" for number in range(500)))
    run = operator.start("invite", "create", "--from", str(table), "--output", str(output), "--json")
    try:
        while not (output.exists() and "#" in output.read_text()):
            assert run.poll() is None
            time.sleep(0.01)
    finally:
        run.send_signal(signal.SIGINT)
    stdout, stderr = run.communicate(timeout=60)
    assert run.returncode == 130
    assert f"to continue, run: hsm-enroll invite create --from {output} --output {output}" in stderr
    assert "output as --from" in documents.read(["invite", "create"], stdout)["error"]["hint"]
    kept = [row["invite"] for row in csv.DictReader(output.read_text().splitlines())]
    assert 0 < kept.count("") < len(kept)
    again = operator.run("invite", "create", "--from", str(output), "--output", str(output))
    assert again.returncode == 0, again.stderr
    finished = [row["invite"] for row in csv.DictReader(output.read_text().splitlines())]
    assert all(before in {"", after} for before, after in zip(kept, finished, strict=True))
    assert len(set(finished) - {""}) == len(finished) == 500


def _enroll_by_the_library(device: Device, row: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "from hsm_enroll import enroll\n"
        "print(enroll(sys.argv[1], invite=sys.stdin.readline()).thing_name)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, row["thing"]],
        input=row["invite"], env=device.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, f"{row['thing']}\n"), run.stderr


def test_ten_requests_at_once_make_one_certificate(
    operator: Operator, invite_cloud: Cloud, tmp_path: Path, thing: str
) -> None:
    """S13: the same request ten times at once: ten equal answers, and one more certificate in AWS IoT."""
    csr = SoftwareDevice(thing, tmp_path / "device", subject=f"/CN={thing}").csr
    invite, ca_file = parse(operator.invite(thing)), Path(invite_cloud.document["caFile"])
    clients = [EnrollmentClient(invite.api_url, code=invite.code, ca_file=ca_file) for _ in range(10)]
    before = invite_cloud.certificates()
    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(lambda client: client.enroll(csr, thing), clients))
    assert len(set(answers)) == 1
    after = invite_cloud.certificates()
    (made,) = after.keys() - before.keys()
    assert (answers[0].certificate_id, after[made]) == (made, "ACTIVE")


def test_an_answer_that_was_lost_is_asked_for_again(
    operator: Operator, gateway: Device, invite_cloud: Cloud, thing: str
) -> None:
    """S15, D16: the API has issued and its answer never arrives: the same run gets it, and there is one certificate."""
    invite, answers = operator.invite(thing), list[bytes]()

    def forward(stream: ssl.SSLSocket, server: HttpsServer) -> None:
        answers.append(_forwarded(server.requests[-1], invite_cloud))
        if len(answers) > 1:
            stream.sendall(answers[-1])

    before, authority = invite_cloud.certificates(), Authority(gateway.folder / "authority")
    both = gateway.folder / "both.pem"
    both.write_bytes(authority.certificate.read_bytes() + Path(invite_cloud.document["caFile"]).read_bytes())
    gateway.extra["HSM_ENROLL_CA_FILE"] = str(both)
    with https_server(authority, forward, is_ready=True) as proxy:
        document = gateway.json("init", f"{proxy.url}/#{_code(invite)}", "--thing", thing)
    assert [answer.split(b" ")[1][:2] for answer in answers] == [b"20", b"20"]
    assert proxy.requests[0] == proxy.requests[1]
    assert invite_cloud.certificates().keys() - before.keys() == {document["certificate"]["id"]}
    assert operator.json("fleet", "show", thing)["thing"]["certificateId"] == document["certificate"]["id"]


def _forwarded(request: bytes, cloud: Cloud) -> bytes:
    """Give the API a request, byte for byte but for keeping the connection, and return all that it answers."""
    api = urlsplit(cloud.document["apiUrl"])
    context = ssl.create_default_context(cafile=cloud.document["caFile"])
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", int(api.port or 0)), 60) as plain,
        context.wrap_socket(plain, server_hostname=api.hostname) as stream,
    ):
        stream.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        while received := stream.recv(65536):
            answer += received
    return answer


def test_an_enrolled_device_leaves_an_invite_alone(operator: Operator, gateway: Device, thing: str) -> None:
    """Given another invite for its Thing it exits 0, uses none, and says that it was not needed, and when one is."""
    assert gateway.run("init", operator.invite(thing), "--thing", thing, "--no-publish").returncode == 0
    another = operator.invite(thing)
    run = gateway.run("init", another, "--thing", thing)
    assert run.returncode == 0
    assert "The invite was not needed." in run.stderr
    assert "hsm-enroll init --new-key INVITE" in run.stderr
    listed = operator.json("invite", "list")["invites"]
    assert sorted(one["usesLeft"] for one in listed if one["thing"] == thing) == [0, 1]


def test_a_key_of_a_revoked_thing_needs_to_be_replaced(operator: Operator, gateway: Device, thing: str) -> None:
    """A new invite for a revoked Thing does not let its old key in again; the hint has the command that helps."""
    invite = operator.invite(thing)
    gateway.extra["HSM_ENROLL_MQTT_PORT"] = "9"
    assert gateway.refused("init", invite) == (40, "mqtt-unreachable")
    operator.json("fleet", "revoke", thing, "--yes")
    (gateway.home / "identity.json").unlink()
    error = gateway.error("init", operator.invite(thing), "--thing", thing)
    assert error["exitStatus"] == 31
    assert "(thing-revoked)" in error["message"]
    assert "hsm-enroll init --new-key INVITE" in error["hint"]
