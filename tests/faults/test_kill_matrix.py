"""A few of what ``scripts/kill-matrix`` does: SIGKILL after steps, in some effects and at random times, then again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from tests.support import kill_matrix, tpm2
from tests.support.devices import Cloud, Device
from tests.support.kill_matrix import Matrix
from tests.support.killed_life import COMMANDS, RANDOM, Kill, Life, Reference
from tests.support.tpm_device import TpmDevice


def _devices(cloud: Cloud, fresh_device: Device, folder: Path) -> Iterator[Device]:
    for number in count():
        device = Device(folder / f"device-{number}", cloud.environment)
        device.take_token_of(fresh_device)
        yield device


def test_d10_a_whole_life_killed_at_each_step(cloud: Cloud, fresh_device: Device, tmp_path: Path) -> None:
    """D10: each command, killed after a step or at a random time and run again, leaves one key and one certificate."""
    devices = _devices(cloud, fresh_device, tmp_path)
    references = Life(cloud, next(devices)).references()
    assert [len(reference.points) > 35 for reference in references.values()] == [True] * 4
    lives = kill_matrix.plan(references, kill_matrix.END_OF_STEP, 1)
    assert [len([1 for life in lives if command in life]) for command in COMMANDS] == [7, 9, 4, 5]
    matrix = kill_matrix.explore(cloud, (Life(cloud, device) for device in devices), lives, 2)
    assert matrix.findings == []


def test_d10_a_life_killed_in_effects(cloud: Cloud, device: Device) -> None:
    """D10: killed with half a key made or destroyed, or a request under way, each command is run again to its end."""
    kills = {
        "init": "in token generate",
        "renew": "in POST /v1/renewals/commit",
        "recover": "in POST /v1/recoveries",
        "retire": "in token destroy",
    }
    assert _wrong(cloud, device, kills) == {}


def test_d10_a_life_with_a_tpm_killed(cloud: Cloud, tmp_path: Path) -> None:
    """D10: so it is with a TPM, killed with a new key, in a commit, and with half a key destroyed."""
    kills = {"init": "after step key", "renew": "in POST /v1/renewals/commit", "retire": "in token destroy"}
    with tpm2.provided(tmp_path) as tpm:
        device = TpmDevice(tmp_path / "device", cloud.environment, tpm=tpm)
        device.create_token()
        assert _wrong(cloud, device, kills) == {}


def _wrong(cloud: Cloud, device: Device, kills: dict[str, str]) -> dict[str, str]:
    """Live one life with a kill in each command, and return what is wrong after the first that is not as it must be."""
    before, life = cloud.certificates(), Life(cloud, device)
    for command, point in kills.items():
        if wrong := life.killed(command, Kill(point)):
            return {command: wrong}
    left = cloud.certificates().keys() - before.keys()
    return {"all": f"{len(left)} certificates are left in the cloud"} if left else {}


def test_the_table_fits_a_terminal_and_says_what_is_wrong() -> None:
    """A row for each fault point, a column for each command and token, and what is wrong below."""
    softhsm = Matrix({("init", "after step key"): [], ("retire", RANDOM): ["two keys (0.1 s)", "no key (0.2 s)"]})
    tpm2 = Matrix({("renew", "before step commit"): ["publish exits with 40"]})
    assert kill_matrix.table({"softhsm": softhsm, "tpm2": tpm2}).splitlines() == [
        "killed                                  softhsm             tpm2",
        "                                        init rnew rcov rtir init rnew rcov rtir",
        "after step key                          ok   -    -    -    -    -    -    -",
        "before step commit                      -    -    -    -    -    [1]  -    -",
        "at a random time                        -    -    -    [2]  -    -    -    -",
        "[1] tpm2, renew, before step commit: publish exits with 40",
        "[2] softhsm, retire, at a random time: two keys (0.1 s)",
        "[3] softhsm, retire, at a random time: no key (0.2 s)",
    ]


def test_a_plan_kills_each_command_once_in_a_life() -> None:
    """Every fault point is tried, and as many random times as wanted, all within the command's own time."""
    references = {"init": Reference(("before a", "after a"), 1.0), "renew": Reference(("before b",), 2.0)}
    first, second, third = kill_matrix.plan(references, "", 1)
    assert first == {"init": Kill("before a"), "renew": Kill("before b")}
    assert second["init"] == Kill("after a")
    assert (second["renew"].point, third["init"].point) == (RANDOM, RANDOM)
    assert 0 <= third["init"].seconds <= 1
    assert 0 <= second["renew"].seconds <= 2
