"""Invites that are mistyped, missing, refused or contradicted: each is said, shows no code and costs no key."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import documents
from tests.support.authority import Authority
from tests.support.devices import Device
from tests.support.https_server import HttpsServer, https_server, response

_SAMPLES = json.loads((Path(__file__).parents[1] / "contract" / "samples" / "invite-codes.json").read_text("utf-8"))
_WRITTEN: str = _SAMPLES["valid"][4]["written"]
_CODE: str = _SAMPLES["valid"][4]["normalized"]
_PROMPT = "Invite ("


@contextmanager
def _refusing_api(device: Device, status: str, code: str) -> Iterator[HttpsServer]:
    authority = Authority(device.folder / "authority")
    problem = json.dumps({"detail": "no", "code": code, "requestId": "r"})
    refused = response(status, problem, content_type="application/problem+json")
    with https_server(authority, refused, is_ready=True) as server:
        device.extra.update(HSM_ENROLL_API_URL=server.url, HSM_ENROLL_CA_FILE=str(authority.certificate))
        yield server
    del device.extra["HSM_ENROLL_API_URL"], device.extra["HSM_ENROLL_CA_FILE"]


def _on_a_terminal(device: Device, answer: bytes, *arguments: str) -> tuple[int, str]:
    """Run with a controlling terminal, answer the prompt for an invite, and return status and all that is shown."""
    primary, secondary = pty.openpty()
    child = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "hsm_enroll", *arguments],
        stdin=secondary, stdout=secondary, stderr=secondary, env=device.environment,
    )  # fmt: skip
    os.close(secondary)
    # A signal between the prompt and the read behind it interrupts nothing: whoever typed Ctrl-C does so again.
    answers = [answer] * (10 if answer == b"\x03" else 1)
    seen, patience = b"", 60
    while True:
        if select.select([primary], [], [], patience)[0]:
            try:
                seen += os.read(primary, 65536)
            except OSError:
                break
            if patience == 60 and _PROMPT.encode() in seen:
                os.write(primary, answers.pop())
                patience = 20
        elif not answers:
            break
        else:
            os.write(primary, answers.pop())
    status = child.wait(timeout=60)
    os.close(primary)
    return status, seen.decode(errors="replace")


@pytest.mark.parametrize(
    "source", ["argument", "stdin", "file", "argument with a mark", "stdin with a mark", "file with a mark"]
)
def test_an_invite_names_the_api_and_its_normalized_code_is_sent(device: Device, thing: str, source: str) -> None:
    """An invite from any source outranks a configured API, and its code goes out as a bearer token and nowhere else."""
    file = device.folder / "invite"
    with _refusing_api(device, "401 Unauthorized", "invite-invalid") as server:
        device.extra["HSM_ENROLL_API_URL"] = "https://localhost:9"
        # A byte order mark, as other systems put it first.
        invite = "\ufeff" * source.endswith("with a mark") + f"{server.url}/#{_WRITTEN}\n"
        file.write_text(invite, encoding="utf-8")
        argument = {"argument": invite, "stdin": "-"}.get(source.partition(" ")[0], f"@{file}")
        run = device.run("init", argument, "--thing", thing, "--json", "--verbose", stdin=invite)
    assert (run.returncode, documents.read(["init"], run.stdout)["error"]["code"]) == (31, "backend-refused")
    assert f"Authorization: Bearer {_CODE}".encode() in server.requests[0]
    kept = b"".join(path.read_bytes() for path in device.home.iterdir())
    for code in (_CODE, _WRITTEN):
        assert code not in run.stdout + run.stderr
        assert code.encode() not in kept


@pytest.mark.parametrize(
    "argument",
    [
        pytest.param(f"https://localhost:9/#{_WRITTEN[:-1]}", id="cut"),
        pytest.param(f"http://localhost:9/#{_WRITTEN}", id="not HTTPS"),
        pytest.param("-", id="empty stdin"),
        pytest.param("@/no/such/file", id="no file"),
        pytest.param("@/", id="folder"),
        pytest.param("@/dev/zero", id="endless file"),
        pytest.param("@/bin/sh", id="not text"),
    ],
)
def test_a_bad_invite_is_wrong_usage_before_anything_happens(device: Device, argument: str) -> None:
    """A mistyped invite, and a source that holds none, is exit 2, says what to do, costs no key and shows no code."""
    assert device.refused("init", argument, "--thing", "x") == (2, "usage")
    run = device.run("init", argument, "--thing", "x", "--verbose")
    assert _WRITTEN[:-1] not in run.stdout + run.stderr
    assert not (device.home / "journal.json").exists()
    assert device.key_ids() == []


def test_an_invite_and_another_api_are_wrong_usage(device: Device, thing: str) -> None:
    """--api beside an invite is taken where both name one API; where not, nobody is contacted and no key is made."""
    with _refusing_api(device, "401 Unauthorized", "invite-invalid") as server:
        invite = f"{server.url}/#{_WRITTEN}"
        assert device.refused("init", invite, "--api", "https://localhost:9", "--thing", thing) == (2, "usage")
        assert (device.key_ids(), server.requests) == ([], [])
        assert device.refused("init", invite, "--api", f"{server.url}/", "--thing", thing) == (31, "backend-refused")
        assert len(server.requests) == 1


def test_without_invite_api_and_person_init_says_what_it_wants(device: Device, thing: str) -> None:
    """Where nothing names an API and nobody can be asked, init is exit 2 and costs no key."""
    device.extra["HSM_ENROLL_API_URL"] = ""
    assert device.refused("init", "--thing", thing) == (2, "usage")
    assert device.key_ids() == []


def test_a_person_is_asked_for_the_invite(device: Device, thing: str) -> None:
    """Without INVITE and API a person is asked, once, without echo, and what they answer is used."""
    with _refusing_api(device, "401 Unauthorized", "invite-invalid") as server:
        device.extra["HSM_ENROLL_API_URL"] = ""
        status, seen = _on_a_terminal(device, f"{server.url}/#{_WRITTEN}\n".encode(), "init", "--thing", thing)
    assert status == 31, seen
    assert seen.count(_PROMPT) == 1
    assert _WRITTEN not in seen
    assert f"Authorization: Bearer {_CODE}".encode() in server.requests[0]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(f"https://localhost:9/#{_WRITTEN[:-1]}\n".encode(), 2, id="mistyped"),
        pytest.param(b"\n", 2, id="nothing"),
        pytest.param(b"\x04", 2, id="Ctrl-D"),
        pytest.param(b"\x03", 130, id="Ctrl-C"),
    ],
)
def test_a_prompt_that_gets_no_invite_costs_no_key(device: Device, answer: bytes, status: int) -> None:
    """A mistyped or missing answer is exit 2, Ctrl-C exit 130, before a key is made."""
    device.extra["HSM_ENROLL_API_URL"] = ""
    ended, seen = _on_a_terminal(device, answer, "init", "--thing", "x")
    assert ended == status, seen
    assert _PROMPT in seen
    assert "Traceback" not in seen
    assert _WRITTEN[:-1] not in seen
    assert device.key_ids() == []


@pytest.mark.parametrize("said", ["configuration", "--api", "--json"])
def test_nobody_is_asked_for_an_invite_where_an_api_is_named(device: Device, thing: str, said: str) -> None:
    """An open deployment needs no invite: a configured API, or --api, asks nobody; nor does --json, a script's own."""
    api = device.cloud["HSM_ENROLL_API_URL"]
    device.extra["HSM_ENROLL_API_URL"] = api if said == "configuration" else ""
    options = {"configuration": (), "--api": ("--api", api), "--json": ("--json",)}[said]
    status, seen = _on_a_terminal(device, b"", "init", "--thing", thing, "--no-publish", *options)
    assert (status, _PROMPT in seen) == (2 if said == "--json" else 0, False)


def test_an_enrolled_device_asks_for_no_invite(device: Device, thing: str) -> None:
    """With a valid identity in place and no API named, init on a terminal is done without a question."""
    device.json("init", "--thing", thing, "--no-publish")
    device.extra["HSM_ENROLL_API_URL"] = ""
    status, seen = _on_a_terminal(device, b"", "init")
    assert (status, _PROMPT in seen) == (0, False)
    assert "already enrolled" in seen


def test_an_invite_that_was_forgotten_is_wanted_again(device: Device, thing: str) -> None:
    """D10: no code is kept, so a resumed enrollment says how to give the invite again, and has its key still."""
    with _refusing_api(device, "401 Unauthorized", "invite-required"):
        run = device.run("init", "--thing", thing)
    assert run.returncode == 31
    assert "hsm-enroll init INVITE" in run.stderr
    assert len(device.key_ids()) == 1


def test_a_replacement_that_was_refused_leaves_the_device_enrolled(device: Device, thing: str) -> None:
    """D10: after init --new-key was refused, a plain init contacts nobody and says how to go on; publish works."""
    first = device.json("init", "--thing", thing, "--no-publish")
    with _refusing_api(device, "409 Conflict", "thing-enrolled") as server:
        refused = device.run("init", "--new-key")
        assert refused.returncode == 31
        assert "hsm-enroll fleet replace THING" in refused.stderr
        plain = device.run("init")
        assert (plain.returncode, len(server.requests)) == (0, 1)
    assert "already enrolled" in plain.stdout
    assert "hsm-enroll init --new-key" in plain.stderr
    assert device.json("status")["certificate"] == first["certificate"]
    assert device.run("publish", f"certtest/{thing}", "x").returncode == 0
