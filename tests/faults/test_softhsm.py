"""What SoftHSM 2.6 does to its files at every login and in every generation, under the real command (D28)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import documents
from tests.support.commands import run as run_command
from tests.support.devices import Device
from tests.support.fault_device import THING, FaultyDevice
from tests.support.killed_writes import killed_at_write
from tests.support.mounts import with_own_mounts
from tests.support.softhsm import MODULE

_INIT = ("init", "--thing", THING, "--no-publish")
_TIME_LIMIT = 120
# A disk of its own for the tokens, in a mount namespace of its own, so that nobody else sees it.
_ON_A_FULL_DISK = """
mount -t tmpfs -o size=128k tmpfs "$1" && cp -r "$2"/. "$1" || exit 99
"$3" -m hsm_enroll tokens --json >/dev/null || exit 98
dd if=/dev/zero of="$1/filler" bs=4k 2>/dev/null
shift 2
"$@"
status=$?
[ -s "$SAFE"/*/token.object ] || exit 97
exit $status
"""

_ON_A_READ_ONLY_DISK = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 99
shift
"$@"
"""


@pytest.fixture
def device(fresh_device: Device, tmp_path: Path) -> Device:
    """A device with a token, and nothing else."""
    made = Device(tmp_path / "device", {}, {"HSM_ENROLL_MODULE": str(MODULE)})
    made.take_token_of(fresh_device)
    return made


def _token_folder(device: Device) -> Path:
    return device.softhsm.token_folder("gateway")


def _objects(device: Device) -> set[str]:
    """Return the names of the files of the token's objects, complete or not."""
    files = {file.name for file in _token_folder(device).glob("*.object") if file.stat().st_size}
    return files - {"token.object"}


def test_d28_commands_at_the_same_moment_all_succeed(device: Device) -> None:
    """D28: five commands at once on one token, some of which log in and make keys, find token and key every time."""
    commands = [("csr",), ("csr", "--key-type", "ec-p384"), ("csr",), ("tokens",), ("doctor",)]
    homes = [device.folder / f"home-{number}" for number in range(len(commands))]

    def run(home: Path, command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        environment = device.environment | {"HSM_ENROLL_HOME": str(home)}
        return run_command([*command, "--json"], environment, time_limit=_TIME_LIMIT)

    for _ in range(4):
        for home in homes:
            shutil.copytree(device.home, home, dirs_exist_ok=True)
        with ThreadPoolExecutor(len(commands)) as pool:
            ended = list(pool.map(run, homes, commands))
        assert [each for each in ended if each.returncode != 0 or "gateway" not in each.stdout] == []


def _on_a_full_disk(device: Device, *command: str) -> subprocess.CompletedProcess[str]:
    """Run hsm-enroll where SoftHSM's folder is on a disk without room, and check that the token is still there."""
    original = device.folder / "original"
    shutil.copytree(device.softhsm.tokens, original)
    script = ["sh", "-c", _ON_A_FULL_DISK, "sh", str(device.softhsm.tokens), str(original)]
    return subprocess.run(
        with_own_mounts(*script, sys.executable, "-m", "hsm_enroll", *command, "--json"),
        env=device.environment | {"SAFE": str(device.softhsm.tokens)},
        capture_output=True, text=True, timeout=_TIME_LIMIT, check=False,
    )  # fmt: skip


def test_d28_no_login_without_room_on_the_disk(device: Device) -> None:
    """D28: on a full disk a login is refused with exit 15 before SoftHSM empties the token's file."""
    run = _on_a_full_disk(device, "csr")
    error = documents.read(["csr"], run.stdout)["error"]
    assert (run.returncode, error["code"]) == (15, "token-refused")
    assert f"the disk with {device.softhsm.tokens} is full (0 bytes are free)" in error["message"]
    assert "Free at least 64 KiB" in error["hint"]


def test_d28_the_doctor_sees_a_full_disk(device: Device) -> None:
    """D28: doctor says that a login would be refused, without trying one."""
    run = _on_a_full_disk(device, "doctor")
    [finding] = [check for check in documents.read(["doctor"], run.stdout)["checks"] if check["id"] == "token.store"]
    assert (run.returncode, finding["status"]) == (1, "failed")
    assert "is full" in finding["message"]


def test_d6_a_read_only_disk_is_named_and_nobodys_rights_are_blamed(device: Device) -> None:
    """D6: doctor warns of what init fails with; a token that is listed is not called closed to its own owner."""

    def run(*command: str) -> tuple[int, dict[str, Any]]:
        script = ["sh", "-c", _ON_A_READ_ONLY_DISK, "sh", str(device.softhsm.tokens)]
        done = subprocess.run(
            with_own_mounts(*script, sys.executable, "-m", "hsm_enroll", *command, "--json"),
            env=device.environment, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False,
        )  # fmt: skip
        return done.returncode, documents.read(list(command), done.stdout)

    told = f"SoftHSM's folder of tokens {device.softhsm.tokens} is on a file system that is mounted read-only"
    status, doctor = run("doctor")
    [finding] = [check for check in doctor["checks"] if check["id"] == "token.store"]
    assert (status, finding["status"]) == (0, "warning")
    assert told in finding["message"]
    _, listed = run("tokens")
    assert listed["modules"][0]["hint"] is None
    status, failed = run("csr")
    assert (status, failed["error"]["hint"]) == (15, finding["hint"])
    assert told in failed["error"]["message"]


def test_d6_a_token_that_is_gone_has_one_hint_everywhere_and_it_helps(faulty: FaultyDevice) -> None:
    """D6: status, doctor, init and publish send the owner of a lost token the same way, which ends in a new key."""
    device = faulty.device
    device.extra["HSM_ENROLL_MODULE"] = str(MODULE)
    device.json(*_INIT)
    shutil.rmtree(_token_folder(device))
    (device.home / "pin").rename(device.home / "pin.old")
    device.json("token", "create", "--label", "gateway")
    hints = {device.json("status", status=11)["error"]["hint"], device.error(*_INIT)["hint"]}
    hints |= {device.error("publish", "a", "b")["hint"]}
    hints |= {check["hint"] for check in device.json("doctor", status=1)["checks"] if check["id"] == "token"}
    [hint] = hints
    assert "hsm-enroll init --new-key INVITE" in hint
    device.json("init", "--new-key", "--thing", THING, "--no-publish")
    assert device.json("doctor")["ok"]


def _emptied(file: Path) -> None:
    file.write_bytes(b"")


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(("spoil", "state"), [(_emptied, "empty"), (_cut, "damaged"), (Path.unlink, "missing")])
def test_d28_a_lost_token_is_named_with_the_way_back(
    faulty: FaultyDevice, spoil: Callable[[Path], None], state: str
) -> None:
    """D28: whoever misses the token says that SoftHSM lost it, and what the hint says leads to a device that works."""
    device = faulty.device
    device.extra["HSM_ENROLL_MODULE"] = str(MODULE)
    device.json(*_INIT)
    folder = _token_folder(device)
    before = (folder / "token.object").read_bytes()
    spoil(folder / "token.object")
    told = f"SoftHSM has lost the token in {folder}: its file token.object is {state}"
    for command in (("csr",), ("init", "--new-key", "--thing", THING, "--no-publish"), _INIT, ("publish", "a", "b")):
        error = device.error(*command)
        assert error["exitStatus"] == 11
        assert told in error["message"]
        assert f"remove {folder}" in error["hint"]
    [finding] = [check for check in device.json("doctor", status=1)["checks"] if check["id"] == "token"]
    assert told in finding["message"]
    # With a backup nothing is lost; without, it takes a new token and a new key.
    (folder / "token.object").write_bytes(before)
    device.json(*_INIT)
    shutil.rmtree(folder)
    for name in ("pin", "token.json"):
        (device.home / name).rename(device.folder / name)
    device.json("token", "create", "--label", "gateway")
    device.json("init", "--new-key", "--thing", THING, "--no-publish")
    assert len(device.key_ids()) == 1


@pytest.mark.parametrize("write", range(1, 9))
def test_d28_a_killed_creation_of_a_token_is_not_a_dead_end(device: Device, write: int) -> None:
    """D28: killed at any moment, token create can be run again, or says which folder is in the way of every token."""
    device.softhsm.remove_token("gateway")
    for name in ("pin", "token.json"):
        (device.home / name).unlink(missing_ok=True)
    _killed(device, write, "token", "create", "--label", "gateway")
    again = device.run("token", "create", "--label", "gateway", "--json")
    if again.returncode != 0:
        error = documents.read(["token", "create"], again.stdout)["error"]
        [folder] = device.softhsm.tokens.iterdir()
        assert f"SoftHSM has lost the token in {folder}: its file token.object is damaged" in error["message"]
        assert f"remove {folder}" in error["hint"]
        # Without its flags such a token keeps SoftHSM from listing any token.
        if error["code"] == "module-unusable":
            checks = device.json("doctor", status=1)["checks"]
            assert [check["hint"] for check in checks if check["id"] == "token"] == [error["hint"]]
        shutil.rmtree(folder)
        device.json("token", "create", "--label", "gateway")
    device.json("csr")


def test_d28_another_token_that_was_lost_is_a_warning(device: Device) -> None:
    """D28: doctor names a token that SoftHSM lost beside the device's own, which goes on working."""
    device.softhsm.add_token("other")
    other = device.softhsm.token_folder("other")
    _emptied(other / "token.object")
    [finding] = [check for check in device.json("doctor")["checks"] if check["id"] == "token.store"]
    assert finding["status"] == "warning"
    assert str(other) in finding["message"]
    device.json("csr")


# The object that is being written is: without a class, a public key without a name, a private one without a name.
_KILLS = {"no class": 4, "public": 8, "private": 36}


@pytest.fixture
def enrolling(faulty: FaultyDevice) -> Device:
    """A device, not enrolled, with SoftHSM's own module."""
    faulty.device.extra["HSM_ENROLL_MODULE"] = str(MODULE)
    return faulty.device


def _killed(device: Device, number: int, *command: str) -> None:
    environment = killed_at_write(number)
    device.extra.update(environment)
    assert device.error(*command)["code"] == "module-unusable"
    for name in environment:
        del device.extra[name]


@pytest.mark.parametrize("kill", _KILLS)
def test_a_killed_generation_leaves_nothing(enrolling: Device, kill: str) -> None:
    """A generation that is killed twice leaves nameless objects; the run that succeeds leaves only its key pair."""
    for _ in range(2):
        _killed(enrolling, _KILLS[kill], *_INIT)
        assert _objects(enrolling)
    assert json.loads((enrolling.home / "journal.json").read_text())["token_was_clean"]
    enrolling.json(*_INIT)
    assert len(_objects(enrolling)) == 2
    assert len(enrolling.key_ids()) == 1


@pytest.mark.parametrize("kill", _KILLS)
def test_prune_destroys_what_a_killed_csr_left(enrolling: Device, kill: str) -> None:
    """A csr that is killed while its key is generated leaves an object that token prune shows, counts and destroys."""
    other = enrolling.json("csr")["key"]["uri"]
    _killed(enrolling, _KILLS[kill], "csr")
    pruned = enrolling.run("token", "prune", "--yes")
    assert "killed: 1 unfinished object" in pruned.stderr
    assert _objects(enrolling) == set()
    assert other in pruned.stderr
    assert enrolling.json("token", "prune", "--yes")["leftovers"] == 0


@pytest.mark.parametrize("kill", ["public", "private"])
def test_a_nameless_object_that_was_there_before_stays(enrolling: Device, kill: str) -> None:
    """What was there before the enrollment is left alone, however much it looks like what a killed one leaves."""
    _killed(enrolling, _KILLS[kill], "csr")
    before = _objects(enrolling)
    # SoftHSM also writes to such an object when it reads it, so this kill comes later.
    _killed(enrolling, _KILLS["private"] + _KILLS["public"], *_INIT)
    assert not json.loads((enrolling.home / "journal.json").read_text())["token_was_clean"]
    assert _objects(enrolling) > before
    enrolling.json(*_INIT)
    assert _objects(enrolling) > before


def test_a_killed_generation_costs_no_other_object(enrolling: Device) -> None:
    """Keys and data of other programs that were added since the kill stay, also without a label or an id."""
    _killed(enrolling, _KILLS["private"], *_INIT)
    file = enrolling.folder / "data"
    file.write_bytes(b"data of another program")
    enrolling.pkcs11_tool("--write-object", str(file), "--type", "data")
    enrolling.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign")
    enrolling.pkcs11_tool("--keypairgen", "--key-type", "rsa:2048", "--usage-sign")
    enrolling.json(*_INIT)
    assert len(_objects(enrolling)) == 1 + 2 + 2 + 2
