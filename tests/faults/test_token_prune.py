"""``token prune`` destroys what nothing names, and nothing else, whatever state and token are like."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from typing import Any

import pytest

from hsm_enroll.store import files
from tests.support.devices import Device
from tests.support.fault_codes import CKR
from tests.support.fault_device import FaultyDevice

_PRUNE = ("token", "prune", "--yes")
_NEW_KEY = ("--new-key",)


def _made(device: Device) -> str:
    """Have ``csr`` make a key, and return its id."""
    before = set(device.key_ids())
    device.json("csr")
    (made,) = set(device.key_ids()) - before
    return made


def _ids(document: dict[str, Any], member: str) -> set[str]:
    return {key["id"] for key in document[member]}


def _enrolled_id(device: Device) -> str:
    key_id: str = json.loads((device.home / "identity.json").read_text())["key_id"]
    return key_id


def test_prune_destroys_what_nothing_names(faulty: FaultyDevice) -> None:
    """The replaced key and csr's go, the enrolled and the journalled one stay, with one login; the device works on."""
    device = faulty.device
    assert faulty.init().returncode == 0
    replaced = _enrolled_id(device)
    assert faulty.init(*_NEW_KEY).returncode == 0
    enrolled, of_csr = _enrolled_id(device), _made(device)
    faulty.module.plan(f"C_Sign 1+ fail {CKR['CKR_DEVICE_ERROR']:x}")
    assert faulty.init(*_NEW_KEY).returncode == 15
    faulty.module.plan()
    journalled = faulty.journalled_id()
    assert set(faulty.key_ids()) == {replaced, enrolled, of_csr, journalled}
    device.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", "somebody's", "--id", "99")
    faulty.module.forget_calls()
    document = device.json(*_PRUNE)
    assert len(faulty.module.calls("C_Login")) == 1
    assert _ids(document, "destroyed") == {replaced, of_csr}
    assert {key["id"]: key["reason"] for key in document["kept"]} == {enrolled: "identity", journalled: "journal"}
    assert set(faulty.key_ids()) == {enrolled, journalled, "99"}
    assert device.json("status")["key"]["matchesCertificate"]
    assert faulty.init(*_NEW_KEY).returncode == 0
    assert _enrolled_id(device) == journalled
    assert _ids(device.json(*_PRUNE), "destroyed") == {enrolled}
    assert device.json(*_PRUNE)["destroyed"] == []


def test_prune_knows_the_enrolled_key_by_its_public_key(faulty: FaultyDevice) -> None:
    """Even if identity.json names another label and id, the key that the certificate is for stays."""
    device = faulty.device
    assert faulty.init().returncode == 0
    enrolled = _enrolled_id(device)
    file = device.home / "identity.json"
    changed = {**json.loads(file.read_text()), "key_id": "ff" * 8, "key_label": "hsm-enroll-" + "ff" * 8}
    file.write_text(json.dumps(changed))
    document = device.json(*_PRUNE)
    assert (document["destroyed"], _ids(document, "kept")) == ([], {enrolled})
    assert device.key_ids() == [enrolled]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("identity.json", "{", "state-corrupt"),
        ("identity.json", None, "state-corrupt"),
        ("identity.json", '{"version": 999}', "state-too-new"),
        ("journal.json", "{}", "state-corrupt"),
    ],
)
def test_prune_refuses_where_the_state_does_not_say(
    faulty: FaultyDevice, name: str, content: str | None, code: str
) -> None:
    """With a state folder that is damaged, too new, or without its identity, no token is opened and nothing goes."""
    assert faulty.init().returncode == 0
    file = faulty.device.home / name
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    faulty.module.forget_calls()
    error = faulty.device.error(*_PRUNE)
    assert (error["exitStatus"], error["code"]) == (52 if code == "state-too-new" else 50, code)
    assert "which key is in use is not known" in error["message"]
    assert "backup" in error["hint"]
    assert faulty.module.calls("C_Login", "C_DestroyObject") == []
    assert len(faulty.key_ids()) == 1


def test_prune_waits_for_no_other_run(faulty: FaultyDevice) -> None:
    """While another run holds the state folder, prune is exit 51 and destroys nothing."""
    made = _made(faulty.device)
    with files.locked(faulty.device.home):
        assert faulty.device.refused(*_PRUNE) == (51, "busy")
    assert faulty.key_ids() == [made]


@pytest.mark.parametrize("arguments", [("token", "prune"), ("token", "prune", "--quiet")])
def test_prune_asks_or_wants_yes(faulty: FaultyDevice, arguments: tuple[str, ...]) -> None:
    """Without a terminal, or with --json, prune is exit 2 and names --yes before it opens the token."""
    made = _made(faulty.device)
    faulty.module.forget_calls()
    error = faulty.device.error(*arguments)
    assert (error["exitStatus"], error["code"]) == (2, "usage")
    assert "--yes" in error["hint"]
    assert "--yes" in faulty.device.run(*arguments).stderr
    assert faulty.module.calls("C_Login") == []
    assert faulty.key_ids() == [made]


@pytest.mark.parametrize(("answer", "status"), [(b"n\n", 130), (b"\n", 130), (b"y\n", 0)])
def test_prune_shows_what_it_would_destroy(faulty: FaultyDevice, answer: bytes, status: int) -> None:
    """On a terminal the keys are shown, what stays and why, and what nobody can know; only yes destroys."""
    device = faulty.device
    assert faulty.init().returncode == 0
    enrolled, made = _enrolled_id(device), _made(device)
    ended, shown = _on_a_terminal(device, answer, "token", "prune", "--quiet")
    assert ended == status
    text = " ".join(shown.split())
    assert f"hsm-enroll-{made} ec-p256" in text
    assert f"object=hsm-enroll-{made};" in text
    assert f"hsm-enroll-{enrolled} ec-p256 the key of this device's identity" in text
    assert "one of another state folder" in text
    assert "hsm-enroll csr generated" in text
    assert set(device.key_ids()) == ({enrolled} if status == 0 else {enrolled, made})


def test_prune_goes_on_past_a_key_that_the_token_keeps(faulty: FaultyDevice) -> None:
    """A key that the token does not destroy is exit 15 and named; the others go, and so does it at the next run."""
    made = {_made(faulty.device) for _ in range(3)}
    faulty.module.plan(f"C_DestroyObject 1 fail {CKR['CKR_ACTION_PROHIBITED']:x}")
    error = faulty.device.error(*_PRUNE)
    (left,) = faulty.key_ids()
    assert left in made
    assert (error["exitStatus"], error["code"]) == (15, "token-refused")
    assert f"1 of 3 keys is still in the token: hsm-enroll-{left}" in error["message"]
    faulty.module.plan()
    assert _ids(faulty.device.json(*_PRUNE), "destroyed") == {left}


@pytest.mark.parametrize("number", [2, 3, 4])
def test_prune_that_crashed_is_done_by_the_next(faulty: FaultyDevice, number: int) -> None:
    """Wherever the module crashes, the next run destroys the rest, halves of pairs too."""
    for _ in range(2):
        _made(faulty.device)
    faulty.module.plan(f"C_DestroyObject {number} crash 0")
    assert faulty.device.refused(*_PRUNE) == (10, "module-unusable")
    faulty.module.plan()
    assert faulty.device.json(*_PRUNE)["destroyed"] != []
    assert faulty.device.pkcs11_tool("--list-objects") == b""


def test_prune_takes_the_token_that_is_named(faulty: FaultyDevice) -> None:
    """--token-label, --token and --module select the token, as for every command; a wrong PIN is tried once."""
    made = _made(faulty.device)
    assert faulty.device.refused(*_PRUNE, "--token-label", "nowhere") == (11, "token-not-found")
    assert faulty.device.refused(*_PRUNE, "--module", "/nowhere.so") == (10, "module-missing")
    faulty.device.extra["HSM_ENROLL_PIN"] = "wrong-pin"
    faulty.module.forget_calls()
    assert faulty.device.refused(*_PRUNE, "--token", "pkcs11:token=gateway") == (12, "pin-wrong")
    assert len(faulty.module.calls("C_Login")) == 1
    del faulty.device.extra["HSM_ENROLL_PIN"]
    assert _ids(faulty.device.json(*_PRUNE, "--token-label", "gateway"), "destroyed") == {made}


def _on_a_terminal(device: Device, answer: bytes, *arguments: str) -> tuple[int, str]:
    """Run with a controlling terminal, answer its question, and return the exit status and all that is shown."""
    primary, secondary = pty.openpty()
    child = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "hsm_enroll", *arguments],
        stdin=secondary, stdout=secondary, stderr=secondary, env=device.environment,
    )  # fmt: skip
    os.close(secondary)
    seen = b""
    while select.select([primary], [], [], 60)[0]:
        try:
            seen += os.read(primary, 65536)
        except OSError:
            break
        if seen.endswith(b"[y/N] "):
            os.write(primary, answer)
    status = child.wait(timeout=60)
    os.close(primary)
    return status, seen.decode(errors="replace")
