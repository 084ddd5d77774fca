"""The process that a module lives in, forked and spawned (D4, D5, D13, D20)."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hsm_enroll.errors import BusyError, HsmEnrollError, KeyMissingError, TokenAmbiguousError, TokenNotFoundError
from hsm_enroll.secret import PIN_VARIABLE
from hsm_enroll.store import files
from hsm_enroll.token import inventory, public_key, session
from tests.support.fault_module import FaultModule
from tests.support.processes import run, running, wait_until
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.under_test import LABEL, KeyName
from tests.tokens import worker_tasks as tasks
from tests.tokens.worker_programs import (
    AWSCRT_LOADED,
    CHILDREN_IGNORED,
    CHILDREN_REAPED,
    FORKED,
    MODULE_LOADED,
    PREPARED,
    SPAWNED,
    as_outcome,
    await_mark,
    command,
    done,
    ended_once,
    environment,
    has_ended,
    told,
)

_both_ways = pytest.mark.parametrize("situation", [FORKED, SPAWNED], ids=["forked", "spawned"])
_every_way = pytest.mark.parametrize(
    "situation",
    [FORKED, PREPARED, SPAWNED, MODULE_LOADED, CHILDREN_IGNORED, CHILDREN_REAPED],
    ids=["forked", "prepared", "spawned", "module loaded", "children ignored", "children reaped"],
)

_CKR_GENERAL_ERROR = 0x5
# As the distributions' packages start: with the folders that they are given alone.
_ISOLATED = """\
import sys
sys.path = sys.argv[4:]
from tests.tokens import worker_programs
worker_programs.main(*sys.argv[1:4])
"""
# What is to happen at once; on a busy machine it may take this long, in seconds.
_AT_ONCE = 2.0


def _hanging(softhsm: SoftHsmUnderTest, folder: Path) -> tuple[Path, Path]:
    """Return a module that hangs in C_Initialize, and the file that tells its process."""
    mark = folder / "hanging"
    return softhsm.faulty_module(HANGING=f'"{mark}"'), mark


def _is_gone(mark: Path) -> bool:
    return has_ended(int(mark.read_text()))


@pytest.mark.parametrize(
    ("situation", "forked"),
    [(FORKED, True), (PREPARED, True), (SPAWNED, False), (MODULE_LOADED, False), (AWSCRT_LOADED, False)],
)
def test_only_a_process_that_may_forks(
    softhsm: SoftHsmUnderTest, situation: str, forked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is a fork where one thread runs and nothing loads modules, else an own interpreter without a PIN."""
    monkeypatch.setenv(PIN_VARIABLE, softhsm.pin.reveal())
    told_of = done(situation, tasks.who_answers, softhsm.module)
    assert told_of["parent"]
    assert (told_of["answers"] == told_of["asks"]) is forked
    assert ("hsm_enroll.token.serving" in told_of["answers"]) is not forked
    assert forked or softhsm.pin.reveal() not in told_of["environment"]
    assert softhsm.pin.reveal() not in told_of["answers"]
    assert told_of["blocked"] == 0


def test_the_worker_of_an_isolated_process_is_isolated(
    softhsm: SoftHsmUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where Python was started with -I and -S, a spawned worker knows the same packages, and no PYTHON variables."""
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    isolated = [*command(SPAWNED, tasks.who_answers, softhsm.module), *filter(None, sys.path)]
    isolated[1:4] = ["-IS", "-c", _ISOLATED]
    told_of = json.loads(run(isolated).splitlines()[1])
    assert told_of["answers"][1:3] == ["-P", "-S"]
    assert "PYTHONHOME" not in told_of["environment"]


@_every_way
def test_the_answer_is_the_same_whichever_way(softhsm: SoftHsmUnderTest, key: KeyName, situation: str) -> None:
    """However it came to be, a worker tells the same of a token and of a key as a process that loads the module."""
    softhsm.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", key.label, "--id", key.id.hex())
    reports = inventory.list_tokens(softhsm.module)
    assert any(report.public_keys for report in reports)
    assert done(situation, tasks.reports, softhsm.module) == [told(report) for report in reports]
    arguments = (LABEL, softhsm.name.serial, key.label, key.id.hex())
    shown = done(situation, tasks.shown, softhsm.module, *arguments)
    with session.opened(softhsm.name, None) as opened:
        expected = public_key.find_public(opened, label=key.label, key_id=key.id).public_key_info.hex()
    assert shown == {"kind": "answer", "answer": expected}


@_every_way
def test_a_worker_logs_in_makes_a_key_and_signs(softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str) -> None:
    """One module is loaded, logged in to and ended once, in one process, for all that is asked."""
    module = FaultModule(softhsm.module, tmp_path)
    outcome = done(situation, tasks.used, module.file, softhsm.pin.reveal(), "30")
    assert (outcome["kind"], outcome["again"]["kind"]) == ("answer", "answer")
    [login] = module.calls("C_Login")
    loads = [call for call in module.calls("C_Initialize", "C_Finalize") if call.process == login.process]
    assert [call.function for call in loads] == ["C_Initialize", "C_Finalize"]
    assert len({call.process for call in module.calls()}) == (2 if situation == MODULE_LOADED else 1)


@_both_ways
@pytest.mark.parametrize(
    ("what", "function", "said"),
    [
        ("segv", "C_Initialize", "crashed (SIGSEGV)"),
        ("segv", "C_Sign", "crashed (SIGSEGV)"),
        ("exit", "C_Initialize", "ended the process"),
        ("exit", "C_GenerateKeyPair", "ended the process"),
        ("hang", "C_Initialize", "stopped after 1 s"),
        ("hang", "C_Login", "stopped after 1 s"),
    ],
)
def test_d5_a_module_that_does_not_come_back(
    softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str, function: str, what: str, said: str
) -> None:
    """D5: wherever a module crashes, exits or hangs, that is one error, in time, and at once whenever asked again."""
    module = FaultModule(softhsm.module, tmp_path, f"{function} 1+ {what} 0")
    limit = 1 if what == "hang" else 30
    outcome = done(situation, tasks.used, module.file, softhsm.pin.reveal(), str(limit))
    assert (outcome["kind"], outcome["exitStatus"]) == ("ModuleUnusableError", 10)
    assert str(module.file) in outcome["message"]
    assert said in outcome["message"]
    assert outcome["seconds"] < 1 + 8
    assert outcome["again"] == {name: outcome[name] for name in outcome["again"]}
    assert outcome["againSeconds"] < _AT_ONCE
    assert all(has_ended(call.process) for call in module.calls())


@_both_ways
@pytest.mark.parametrize("what", ["segv", "exit", "hang"])
def test_d5_a_module_that_does_not_end(softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str, what: str) -> None:
    """D5: where a module does not come back from C_Finalize everything is done, and nobody waits for it for long."""
    module = FaultModule(softhsm.module, tmp_path, f"C_Finalize 1+ {what} 0")
    outcome = done(situation, tasks.used, module.file, softhsm.pin.reveal(), "2")
    assert (outcome["kind"], outcome["again"]["kind"]) == ("answer", "answer")
    assert outcome["endSeconds"] < 2 + 8
    assert all(has_ended(call.process) for call in module.calls())


@pytest.mark.parametrize("situation", [CHILDREN_IGNORED, CHILDREN_REAPED])
@pytest.mark.parametrize("what", ["segv", "hang"])
def test_d5_a_caller_that_wants_no_status_of_its_children(
    softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str, what: str
) -> None:
    """D5: where nobody can learn how a process ended, a module that crashes or hangs is an error all the same."""
    module = FaultModule(softhsm.module, tmp_path, f"C_Sign 1+ {what} 0")
    outcome = done(situation, tasks.used, module.file, softhsm.pin.reveal(), "1")
    assert (outcome["kind"], outcome["again"]["kind"]) == ("ModuleUnusableError", "ModuleUnusableError")
    assert all(has_ended(call.process) for call in module.calls())


@_both_ways
def test_d5_whoever_does_not_wait_leaves_no_child(softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str) -> None:
    """D5, D20: where something else fails meanwhile, the worker whose module hangs ends with it."""
    module, mark = _hanging(softhsm, tmp_path)
    outcome = done(situation, tasks.left_at_work, module, str(mark))
    assert outcome["after"] == outcome["before"]
    assert _is_gone(mark)


@_both_ways
def test_d5_a_module_that_has_hung_meanwhile_is_told_as_one(
    softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str
) -> None:
    """D5: where the worker has ended itself by the time that its answer is wanted, the module hangs, and no less."""
    module, mark = _hanging(softhsm, tmp_path)
    outcome = done(situation, tasks.asked_for_too_late, module, str(mark))
    assert outcome["kind"] == "ModuleUnusableError"
    assert "does not respond" in outcome["message"]
    assert "Check that its device is connected" in outcome["hint"]


@_both_ways
def test_an_answer_waits_for_its_reader(softhsm: SoftHsmUnderTest, situation: str) -> None:
    """An answer that was given in time counts though it is read when its time is over."""
    assert done(situation, tasks.answered_before_it_is_late, softhsm.module) == [2, 2]


@_both_ways
def test_d5_modules_are_asked_at_once(softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str) -> None:
    """D5: of two modules one hangs: the other one's tokens are told, and together they cost one time limit."""
    module, mark = _hanging(softhsm, tmp_path)
    outcome = done(situation, tasks.asked_at_once, module, str(softhsm.module), str(mark))
    assert outcome["found"] == [LABEL]
    assert "stopped after 2 s" in outcome["message"]
    assert outcome["seconds"] < 2 + 8


@_both_ways
@pytest.mark.parametrize("content", ["no module\n", ""])
def test_d5_a_file_that_is_no_module(tmp_path: Path, situation: str, content: str) -> None:
    """D5: a text file and an empty one are no modules, and the error names the file."""
    module = tmp_path / "module.so"
    module.write_text(content)
    outcome = done(situation, tasks.listed, module, "30")
    assert (outcome["kind"], outcome["exitStatus"]) == ("ModuleUnusableError", 10)
    assert str(module) in outcome["message"]


@_both_ways
def test_a_module_that_refuses_is_initialized_once(softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str) -> None:
    """D5: a module whose C_Initialize fails is unusable, and is not initialized again to be ended."""
    module = FaultModule(softhsm.module, tmp_path, f"C_Initialize 1+ fail {_CKR_GENERAL_ERROR}")
    outcome = done(situation, tasks.listed, module.file, "30")
    assert "general failure" in outcome["message"]
    assert [call.function for call in module.calls()] == ["C_Initialize"]


@_both_ways
def test_a_module_that_prints_does_not_disturb(softhsm: SoftHsmUnderTest, situation: str) -> None:
    """What a module prints is neither taken for the answer nor passed on (``done`` reads stdout and stderr)."""
    expected = [told(report) for report in inventory.list_tokens(softhsm.module)]
    assert done(situation, tasks.reports, softhsm.faulty_module(CHATTY=1)) == expected


@_both_ways
def test_a_module_that_crashes_when_it_is_unloaded_does_not_disturb(softhsm: SoftHsmUnderTest, situation: str) -> None:
    """A module's destructors are not run: the worker's process ends without them."""
    assert len(done(situation, tasks.reports, softhsm.faulty_module(CRASHING_AT_END=1))) == 2


@_both_ways
@pytest.mark.parametrize(
    ("token", "kind"), [(LABEL, KeyMissingError), ("elsewhere", TokenNotFoundError)], ids=["no-key", "no-token"]
)
def test_an_error_of_the_question_arrives_as_it_was_raised(
    softhsm: SoftHsmUnderTest, key: KeyName, situation: str, token: str, kind: type[HsmEnrollError]
) -> None:
    """An error that a question raises has the same class, code, message and hint on this side."""
    name = softhsm.name._replace(label=token)
    with pytest.raises(kind) as caught, session.opened(name, None) as opened:
        public_key.find_public(opened, label=key.label, key_id=key.id)
    outcome = done(situation, tasks.shown, softhsm.module, token, name.serial, key.label, key.id.hex())
    assert outcome == as_outcome(caught.value)


@_both_ways
def test_an_error_keeps_a_hint_of_its_own(softhsm: SoftHsmUnderTest, key: KeyName, situation: str) -> None:
    """A hint that is not its class's usual one arrives too: here that of two tokens of one name."""
    softhsm.add_token("second")
    module = softhsm.faulty_module(SAME_NAME=1)
    [serial] = {report.name.serial for report in inventory.list_tokens(module) if report.initialized}
    outcome = done(situation, tasks.shown, module, LABEL, serial, key.label, key.id.hex())
    assert outcome["kind"] == TokenAmbiguousError.__name__
    assert outcome["hint"] != TokenAmbiguousError.default_hint


@_both_ways
def test_d4_foreign_code_finds_no_pin(
    softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4: a module that looks into its environment, by the C library, finds no PIN."""
    monkeypatch.setenv(PIN_VARIABLE, softhsm.pin.reveal())
    seen = tmp_path / "seen"
    assert done(situation, tasks.reports, softhsm.faulty_module(PIN_SEEN=f'"{seen}"'))
    assert seen.read_text() == "nothing"


@_both_ways
def test_d20_the_programs_signals_are_not_the_workers(softhsm: SoftHsmUnderTest, situation: str) -> None:
    """D20: Ctrl-C and SIGTERM leave a worker to its program, and no handler of the program runs in it."""
    outcome = done(situation, tasks.in_a_process_that_takes_signals, softhsm.module)
    assert outcome["answers"] == 2
    assert outcome["heard"] == []
    assert "crashed (SIGUSR1)" in outcome["message"]


@_both_ways
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["process", "group"])
@pytest.mark.parametrize("number", tasks.ENDING, ids=lambda number: number.name)
def test_d20_a_signal_ends_the_wait_for_a_module(
    softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str, send: Callable[[int, int], None], number: signal.Signals
) -> None:
    """D20: Ctrl-C or SIGTERM while a module hangs ends the program by its own handler at once, and the worker too."""
    module, mark = _hanging(softhsm, tmp_path)
    log = tmp_path / "log"
    with running(command(situation, tasks.waits, module), log, environment()) as process:
        await_mark(mark)
        send(process.pid, number)
        assert process.wait(_AT_ONCE) == 128 + number
        assert _is_gone(mark)
    assert log.read_text() == "asked\n"
    assert ended_once(module)


@_both_ways
def test_d20_whoever_goes_on_after_ctrl_c_is_told(softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str) -> None:
    """D20: a program that catches Ctrl-C and asks the same module again does not get the other question's answer."""
    module, mark = _hanging(softhsm, tmp_path)
    outcome = done(situation, tasks.gone_on_after_ctrl_c, module, str(mark))
    assert "was interrupted" in outcome["message"]
    assert outcome["seconds"] < _AT_ONCE + 3
    assert _is_gone(mark)


@_both_ways
def test_d20_whoever_is_interrupted_waits_for_no_logout(
    softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str
) -> None:
    """D20: Ctrl-C with a session open ends the program at once, though the module hangs in C_Logout."""
    module = FaultModule(softhsm.module, tmp_path, "C_Logout 1+ hang 0")
    assert done(situation, tasks.interrupted_in_a_session, module.file, softhsm.pin.reveal()) < _AT_ONCE
    [logout] = module.calls("C_Logout")
    assert has_ended(logout.process)


@_both_ways
def test_d13_a_lock_ends_with_its_holder(softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str) -> None:
    """D13: a program that is killed while a module hangs gives its lock back, though the worker still hangs."""
    module, mark = _hanging(softhsm, tmp_path)
    folder, log = tmp_path / "state", tmp_path / "log"
    with running(command(situation, tasks.waits_locked, module, str(folder)), log, environment()) as process:
        await_mark(mark)
        try:
            with pytest.raises(BusyError), files.locked(folder):
                pass
            process.kill()
            process.wait()
            assert not _is_gone(mark)
            with files.locked(folder):
                pass
        finally:
            os.kill(int(mark.read_text()), signal.SIGKILL)


@_both_ways
def test_d20_a_worker_outlives_nobody_for_long(softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str) -> None:
    """D20: where the program is killed while a module hangs, its worker ends by itself soon after the time limit."""
    module, mark = _hanging(softhsm, tmp_path)
    log = tmp_path / "log"
    with running(command(situation, tasks.waits_one_second, module), log, environment()) as process:
        await_mark(mark)
        process.kill()
        process.wait()
    _await_end(mark, log)


@_both_ways
def test_d20_a_worker_that_has_nothing_to_do_ends_with_its_program(
    softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str
) -> None:
    """D20: where the program is killed, the worker that waits for a question ends its module, and itself."""
    module = FaultModule(softhsm.module, tmp_path)
    mark, log = tmp_path / "idle", tmp_path / "log"
    with running(command(situation, tasks.idles, module.file, str(mark)), log, environment()) as process:
        await_mark(mark)
        process.kill()
        process.wait()
    _await_end(mark, log)
    assert module.calls("C_Finalize")


def _await_end(mark: Path, log: Path) -> None:
    try:
        wait_until(lambda: _is_gone(mark), "the end of the worker", log, seconds=15)
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(mark.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("closed", ["<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("situation", [FORKED, PREPARED, SPAWNED], ids=["forked", "prepared", "spawned"])
def test_closed_standard_streams_are_no_matter(
    softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str, closed: str
) -> None:
    """A program whose standard streams are closed gets the same answer: a socket may have such a number."""
    answer = tmp_path / "answer"
    program = command(situation, tasks.written, softhsm.module, str(answer))
    run(["sh", "-c", f'exec "$@" {closed}', "sh", *program], environment())
    assert ended_once(softhsm.module)
    assert json.loads(answer.read_text()) == done(FORKED, tasks.reports, softhsm.module)
