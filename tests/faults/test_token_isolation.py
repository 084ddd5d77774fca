"""A module that hangs or crashes takes no command with it: D5."""

from __future__ import annotations

import os
from itertools import cycle
from typing import Any

import pytest

from tests.support import documents
from tests.support.fault_device import THING, FaultyDevice

# What a look at a module calls, before anybody logs in.
_LOOKING = ("C_Initialize", "C_GetSlotList", "C_GetTokenInfo", "C_FindObjects")
# Commands that can run at once, and their exit status: of a device that is enrolled, and of one that is not.
_ENROLLED = {
    ("tokens",): 10,
    ("doctor",): 1,
    ("init", "--no-publish"): 10,
    ("status",): 10,
    ("publish", f"certtest/{THING}", "hello"): 10,
}
_NEW = {("init", "--thing", THING, "--no-publish"): 10, ("csr",): 10}


@pytest.mark.parametrize(("what", "function"), list(zip(cycle(["hang", "crash"]), _LOOKING, strict=False)))
def test_d5_commands_survive_a_module(faulty: FaultyDevice, what: str, function: str) -> None:
    """D5: whichever function hangs or crashes, every command says so, names the module, and ends in time."""
    _assert_survived(faulty, _NEW, what, function)
    assert faulty.init().returncode == 0
    _assert_survived(faulty, _ENROLLED, what, function)


@pytest.mark.parametrize(
    "command",
    [
        ("tokens",),
        ("doctor",),
        ("status",),
        ("csr",),
        ("init",),
        ("init", "--new-key", "--no-publish"),
        ("token", "create", "--label", "another"),
    ],
    ids=" ".join,
)
def test_d5_a_command_has_another_process_load_the_module(faulty: FaultyDevice, command: tuple[str, ...]) -> None:
    """D5: every call of the module is made by one other process, so that no fault of it ends the command."""
    assert faulty.init().returncode == 0
    if command[0] == "token":
        (faulty.device.home / "pin").unlink()
        (faulty.device.home / "token.json").unlink()
    faulty.module.forget_calls()
    with faulty.device.start(*command) as running:
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, output + errors
    (worker,) = {call.process for call in faulty.module.calls()}
    assert worker != running.pid


def _assert_survived(faulty: FaultyDevice, commands: dict[tuple[str, ...], int], what: str, function: str) -> None:
    faulty.module.plan(f"{function} 1+ {what} 0")
    faulty.module.forget_calls()
    # A crash is to be seen as one on a slow machine, too.
    runs = faulty.impatient(*[(*command, "--json") for command in commands], seconds=3 if what == "hang" else 30)
    faulty.module.plan()
    for (command, status), run in zip(commands.items(), runs, strict=True):
        assert run.returncode == status, (command, run.stdout, run.stderr)
        assert "Traceback" not in run.stderr
        told = _told(command[0], documents.read(command, run.stdout))
        assert str(faulty.module.file) in told
        assert ("does not respond" if what == "hang" else "crashed") in told
    for process in {call.process for call in faulty.module.calls() if call.outcome == "hangs"}:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def _told(command: str, said: dict[str, Any]) -> str:
    if command != "doctor":
        return str(said["error"]["message"])
    (token,) = [check for check in said["checks"] if check["id"] == "token"]
    assert token["status"] == "failed"
    return str(token["message"])
