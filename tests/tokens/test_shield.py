"""The shield around a module, forked and spawned (D4, D5, D20).

Whether it forks depends on the whole process, and pytest's has threads of its own; so each test runs a small program,
``main`` below, that is in the situation which the test asks for.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from hsm_enroll import state
from hsm_enroll.errors import BusyError, HsmEnrollError, KeyMissingError, TokenAmbiguousError, TokenNotFoundError
from hsm_enroll.key import TokenName
from hsm_enroll.token import inventory, modules, public_key, shield
from tests.tokens.processes import run, running, wait_until
from tests.tokens.softhsm import SoftHsm
from tests.tokens.under_test import LABEL, KeyName

_ONE_THREAD = "one thread"
_TWO_THREADS = "two threads"
_MODULE_LOADED = "a module loaded"
_CHILDREN_IGNORED = "SIGCHLD ignored"

_both_ways = pytest.mark.parametrize("situation", [_ONE_THREAD, _TWO_THREADS], ids=["forked", "spawned"])

_PROGRAM = "import sys; from tests.tokens import test_shield; test_shield.main(*sys.argv[1:])"
_PIN_VARIABLE = "HSM_ENROLL_PIN"
_CKR_GENERAL_ERROR = 0x5
_NO_LOG = Path(os.devnull)
_ENDING = (signal.SIGINT, signal.SIGTERM)


def main(situation: str, task: str, module: str, *arguments: str) -> None:
    """Do one of the tasks below in a situation, as a program, and print what it returns.

    A child that flushed what it has inherited, or ran what is to run at the end, would show.
    """
    print("asked")  # noqa: T201
    atexit.register(_note_end, Path(module).with_name("ended"))
    with _in(situation, module):
        returned = globals()[task](module, *arguments)
    print(json.dumps(returned))  # noqa: T201


def _note_end(note: Path) -> None:
    with note.open("a") as ended:
        ended.write("ended\n")


@contextmanager
def _in(situation: str, module: str) -> Iterator[None]:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    if situation == _TWO_THREADS:
        thread.start()
    if situation == _MODULE_LOADED:
        modules.load(Path(module))
    if situation == _CHILDREN_IGNORED:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        yield
    finally:
        done.set()


def _command(situation: str, task: Callable[..., Any], module: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-c", _PROGRAM, situation, task.__name__, str(module), *arguments]


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _done(situation: str, task: Callable[..., Any], module: Path, *arguments: str) -> Any:
    """Return what a task returns in a program of its own, which prints nothing else, to stderr neither."""
    [first, answer] = run(_command(situation, task, module, *arguments), _environment()).splitlines()
    assert first == "asked"
    assert _ended_once(module)
    return json.loads(answer)


def _ended_once(module: Path) -> bool:
    note = module.with_name("ended")
    ends = note.read_text()
    note.unlink()
    return ends == "ended\n"


# What the programs do.


def _who_answers(module: str) -> Any:
    return {"asks": _process(), "answers": shield.asked(Path(module), _process)}


def _reports(module: str) -> list[str]:
    return [_told(report) for report in inventory.inspect(Path(module))]


def _shown(module: str, token: str, serial: str, label: str, key_id: str) -> Any:
    name = TokenName(Path(module), token, serial, manufacturer="", model="")
    return _outcome(lambda: public_key.shown(name, label=label, key_id=bytes.fromhex(key_id)).hex())


def _listed(module: str, time_limit: str) -> Any:
    begin = time.monotonic()
    outcome = _outcome(lambda: shield.asked(Path(module), inventory._listed, module, time_limit=float(time_limit)))
    return {**outcome, "seconds": time.monotonic() - begin}


def _listed_often(module: str, time_limit: str) -> Any:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    before = _state()
    kinds = [_listed(module, time_limit)["kind"] for _ in range(5)]
    return {"kinds": kinds, "before": before, "after": _state()}


def _long_answer(module: str, piece: str, length: str) -> Any:
    return shield.asked(Path(module), _repeated, piece, length)


def _where_the_pin_is(module: str) -> Any:
    return {"child": shield.asked(Path(module), _pins), "parent": _pins()}


def _signals_on_both_sides(module: str) -> Any:
    _take_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    return {"asks": _signals(), "answers": shield.asked(Path(module), _signals)}


def _unforeseen(module: str) -> Any:
    return _outcome(lambda: shield.asked(Path(module), _repeated, "piece", "no number"))


def _listed_without_processes(module: str) -> Any:
    before = _state()
    os.fork = _no_process
    return {**_listed(module, "30"), "before": before, "after": _state()}


def _no_process() -> NoReturn:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _asked_for_too_late(module: str, mark: str) -> Any:
    with shield.asking(Path(module), inventory._listed, module, time_limit=1) as answer:
        _wait_until_hanging(mark)
        child = int(Path(mark).read_text())
        wait_until(lambda: _has_ended(child), "the end of the child", _NO_LOG, seconds=15)
        return _outcome(answer)


def _long_answer_read_late(module: str, piece: str, length: str) -> Any:
    limit = 1.0
    late = time.monotonic() + limit + 2
    with shield.asking(Path(module), _repeated, piece, length, time_limit=limit) as answer:
        wait_until(lambda: time.monotonic() > late, "the time", _NO_LOG)
        return answer()


def _left_without_the_answer(module: str, mark: str) -> Any:
    before = _state()
    with suppress(LookupError), shield.asking(Path(module), inventory._listed, module):
        _wait_until_hanging(mark)
        raise LookupError
    return {"before": before, "after": _state()}


def _inspected_at_once(module: str, other: str, *marks: str) -> bool:
    with inventory.inspecting([Path(module), Path(other)]):
        _wait_until_hanging(*marks)
        return True


def _wait_until_hanging(*marks: str) -> None:
    written = [Path(mark) for mark in marks]
    # The module writes its process's id and a line's end, and nothing else that a log would hold.
    wait_until(
        lambda: all(mark.exists() and mark.read_text().endswith("\n") for mark in written), "C_Initialize", _NO_LOG
    )


def _wait(module: str) -> None:
    """Wait for a module, as the leader of a process group, in a program that ends by signals in its own way."""
    os.setsid()
    _take_signals()
    shield.asked(Path(module), inventory._listed, module)


def _wait_one_second(module: str) -> None:
    """Wait for a module for a time that a test can wait too, where nobody must be left waiting with SIGALRM blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    shield.asked(Path(module), inventory._listed, module, time_limit=1)


def _wait_locked(module: str, folder: str) -> None:
    """Wait for a module while this program holds a state folder's lock."""
    with state.locked(Path(folder)):
        shield.asked(Path(module), inventory._listed, module)


def _written(module: str, file: str) -> None:
    Path(file).write_text(json.dumps(_reports(module)))


def _take_signals() -> None:
    for number in _ENDING:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - signal's signature
    raise SystemExit(128 + number)


def _told(report: inventory.TokenReport) -> str:
    return repr(report).replace(str(report.name.module), "MODULE")


def _outcome(ask: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"kind": "answer", "answer": ask()}
    except HsmEnrollError as error:
        return _as_outcome(error)


def _as_outcome(error: HsmEnrollError) -> dict[str, Any]:
    return {"kind": type(error).__name__, **error.document}


def _state() -> Any:
    """What a call must leave as it was: open descriptors, blocked signals, and that there are no children."""
    try:
        children = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        children = (0, 0)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return [sorted(os.listdir("/proc/self/fd")), sorted(blocked), children]  # noqa: PTH208 - names are enough


# What they ask through the shield.


def _process() -> Any:
    return {"id": os.getpid(), "parent": os.getppid(), "command": sys.orig_argv}


def _signals() -> Any:
    """Return whether each ending signal has the program's handler, and which signals are blocked."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return [[signal.getsignal(number) == _end for number in _ENDING], sorted(blocked)]


def _repeated(piece: str, length: str) -> str:
    return piece * int(length)


def _pins() -> list[str | None]:
    """Return the PIN that is in the environment, for Python and for the C library."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    in_c: bytes | None = getenv(_PIN_VARIABLE.encode())
    return [os.environ.get(_PIN_VARIABLE), None if in_c is None else in_c.decode()]


@pytest.mark.parametrize(
    ("situation", "forked"),
    [(_ONE_THREAD, True), (_TWO_THREADS, False), (_MODULE_LOADED, False), (_CHILDREN_IGNORED, False)],
)
def test_only_a_process_that_may_forks(softhsm: SoftHsm, situation: str, forked: bool) -> None:
    """The child is a fork in a process with one thread and no module that hears of its end, else an own interpreter."""
    processes = _done(situation, _who_answers, softhsm.module)
    asks, answers = processes["asks"], processes["answers"]
    assert answers["parent"] == asks["id"] != answers["id"]
    assert (answers["command"] == asks["command"]) is forked
    assert (shield.__name__ in answers["command"]) is not forked


@pytest.mark.parametrize("situation", [_ONE_THREAD, _TWO_THREADS, _MODULE_LOADED])
def test_the_answer_is_the_same_whichever_way(softhsm: SoftHsm, key: KeyName, situation: str) -> None:
    """A fork and a second interpreter tell the same of a token and of a key as the process that loads the module."""
    softhsm.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", key.label, "--id", key.id.hex())
    reports = inventory.list_tokens(softhsm.module)
    assert any(report.public_keys for report in reports)
    assert _done(situation, _reports, softhsm.module) == [_told(report) for report in reports]
    arguments = (LABEL, softhsm.name.serial, key.label, key.id.hex())
    shown = _done(situation, _shown, softhsm.module, *arguments)
    assert shown == {"kind": "answer", "answer": public_key._shown(str(softhsm.module), *arguments)}


@_both_ways
def test_an_answer_longer_than_a_pipe_holds(softhsm: SoftHsm, situation: str) -> None:
    """A long answer with other letters than ASCII's arrives whole."""
    piece, length = "schlüssel ", 2**15
    assert _done(situation, _long_answer, softhsm.module, piece, str(length)) == piece * length


@_both_ways
def test_d5_a_module_that_hangs_is_stopped_in_time(softhsm: SoftHsm, tmp_path: Path, situation: str) -> None:
    """D5: a module that does not return from C_Initialize is given up at the time limit, and its process is gone."""
    mark = tmp_path / "hanging"
    limit = 1
    outcome = _done(situation, _listed, softhsm.faulty_module(HANGING=f'"{mark}"'), str(limit))
    assert (outcome["kind"], outcome["exitStatus"]) == ("ModuleUnusableError", 10)
    assert f"stopped after {limit} s" in outcome["message"]
    assert limit <= outcome["seconds"] < limit + 10
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


@_both_ways
def test_d5_whoever_does_not_wait_leaves_no_child(softhsm: SoftHsm, tmp_path: Path, situation: str) -> None:
    """D5, D20: where something else fails meanwhile, the child that waits for a module that hangs ends with it."""
    mark = tmp_path / "hanging"
    outcome = _done(situation, _left_without_the_answer, softhsm.faulty_module(HANGING=f'"{mark}"'), str(mark))
    assert outcome["after"] == outcome["before"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


@_both_ways
def test_d5_a_module_that_has_hung_meanwhile_is_told_as_one(softhsm: SoftHsm, tmp_path: Path, situation: str) -> None:
    """D5: where the child has ended itself by the time that its answer is wanted, the module hangs, and no less."""
    mark = tmp_path / "hanging"
    outcome = _done(situation, _asked_for_too_late, softhsm.faulty_module(HANGING=f'"{mark}"'), str(mark))
    assert outcome["kind"] == "ModuleUnusableError"
    assert "does not answer: it was stopped after 1 s" in outcome["message"]


@_both_ways
def test_a_long_answer_waits_for_its_reader(softhsm: SoftHsm, situation: str) -> None:
    """An answer that was given in time, and that a pipe does not hold, arrives whole though its time is over."""
    piece, length = "schlüssel ", 2**15
    assert _done(situation, _long_answer_read_late, softhsm.module, piece, str(length)) == piece * length


@_both_ways
def test_d5_modules_are_asked_at_once(softhsm: SoftHsm, tmp_path: Path, situation: str) -> None:
    """D5: modules that hang do so at once, before one of them is given up: together they cost one time limit."""
    marks = [tmp_path / "one", tmp_path / "other"]
    one, other = (softhsm.faulty_module(HANGING=f'"{mark}"') for mark in marks)
    assert _done(situation, _inspected_at_once, one, str(other), *map(str, marks))


@_both_ways
@pytest.mark.parametrize(
    ("faults", "complaint"),
    [
        ({"CRASHING": 1}, "(SIGSEGV)"),
        ({"EXITING": 1}, "ended the process"),
        ({"FAILING": "INITIALIZE", "RETURNING": _CKR_GENERAL_ERROR}, "general failure"),
    ],
    ids=["crashing", "exiting", "refusing"],
)
def test_d5_a_module_that_does_not_start(
    softhsm: SoftHsm, situation: str, faults: dict[str, str | int], complaint: str
) -> None:
    """D5: a module that crashes, ends the process or refuses in C_Initialize is unusable, and the error says why."""
    module = softhsm.faulty_module(**faults)
    outcome = _done(situation, _listed, module, "30")
    assert (outcome["kind"], outcome["exitStatus"]) == ("ModuleUnusableError", 10)
    assert str(module) in outcome["message"]
    assert complaint in outcome["message"]


@_both_ways
def test_d5_a_file_that_is_no_module(tmp_path: Path, situation: str) -> None:
    """D5: a text file is no module, and the error names the file."""
    module = tmp_path / "module.so"
    module.write_text("no module\n")
    outcome = _done(situation, _listed, module, "30")
    assert (outcome["kind"], outcome["exitStatus"]) == ("ModuleUnusableError", 10)
    assert str(module) in outcome["message"]


@_both_ways
def test_a_module_that_prints_does_not_disturb(softhsm: SoftHsm, situation: str) -> None:
    """What a module prints is neither taken for the answer nor passed on (``_done`` reads stdout and stderr)."""
    expected = [_told(report) for report in inventory.list_tokens(softhsm.module)]
    assert _done(situation, _reports, softhsm.faulty_module(CHATTY=1)) == expected


@_both_ways
@pytest.mark.parametrize(
    ("token", "kind"), [(LABEL, KeyMissingError), ("elsewhere", TokenNotFoundError)], ids=["no-key", "no-token"]
)
def test_an_error_of_the_question_arrives_as_it_was_raised(
    softhsm: SoftHsm, key: KeyName, situation: str, token: str, kind: type[HsmEnrollError]
) -> None:
    """An error that the question raises has the same class, code, message and hint on this side of the shield."""
    arguments = (token, softhsm.name.serial, key.label, key.id.hex())
    with pytest.raises(kind) as caught:
        public_key._shown(str(softhsm.module), *arguments)
    assert _done(situation, _shown, softhsm.module, *arguments) == _as_outcome(caught.value)


@_both_ways
def test_an_error_keeps_a_hint_of_its_own(softhsm: SoftHsm, key: KeyName, situation: str) -> None:
    """A hint that is not its class's usual one arrives too: here that of two tokens of one name."""
    softhsm.add_token("second")
    module = softhsm.faulty_module(SAME_NAME=1)
    [serial] = {report.name.serial for report in inventory.list_tokens(module) if report.initialized}
    arguments = (LABEL, serial, key.label, key.id.hex())
    with pytest.raises(TokenAmbiguousError) as caught:
        public_key._shown(str(module), *arguments)
    assert caught.value.hint != TokenAmbiguousError.default_hint
    assert _done(situation, _shown, module, *arguments) == _as_outcome(caught.value)


@_both_ways
def test_an_error_that_nobody_foresaw_is_not_the_modules(softhsm: SoftHsm, situation: str) -> None:
    """An exception of another kind in the child is told as unexpected, by its name, not as the module's end."""
    outcome = _done(situation, _unforeseen, softhsm.module)
    assert (outcome["kind"], outcome["code"]) == (HsmEnrollError.__name__, HsmEnrollError.code)
    assert "ValueError" in outcome["message"]


def test_a_machine_that_starts_no_more_processes(softhsm: SoftHsm) -> None:
    """Where no process can be forked, that is the error; no descriptor stays open and no signal stays blocked."""
    outcome = _done(_ONE_THREAD, _listed_without_processes, softhsm.module)
    assert (outcome["kind"], outcome["code"]) == (HsmEnrollError.__name__, HsmEnrollError.code)
    assert os.strerror(errno.EAGAIN) in outcome["message"]
    assert outcome["after"] == outcome["before"]


@_both_ways
def test_d4_the_child_has_no_pin_in_its_environment(
    softhsm: SoftHsm, situation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4: foreign code finds no PIN in the environment, by the C library neither, and this process still has it."""
    pin = softhsm.pin.reveal()
    monkeypatch.setenv(_PIN_VARIABLE, pin)
    assert _done(situation, _where_the_pin_is, softhsm.module) == {"child": [None, None], "parent": [pin, pin]}


@_both_ways
def test_d20_signals_end_the_child_by_themselves(softhsm: SoftHsm, situation: str) -> None:
    """D20: Ctrl-C and SIGTERM reach the child past the program's handlers, and what is blocked is as it was."""
    signals = _done(situation, _signals_on_both_sides, softhsm.module)
    [handled, blocked] = signals["asks"]
    assert all(handled)
    assert signal.SIGUSR1 in blocked
    assert signals["answers"] == [[False for _ in _ENDING], blocked]


@_both_ways
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["process", "group"])
@pytest.mark.parametrize("number", _ENDING, ids=lambda number: number.name)
def test_d20_a_signal_ends_the_wait_for_a_module(
    softhsm: SoftHsm, tmp_path: Path, situation: str, send: Callable[[int, int], None], number: signal.Signals
) -> None:
    """D20: Ctrl-C or SIGTERM while a module hangs ends the program by its own handler at once, and the child too."""
    mark, log = tmp_path / "hanging", tmp_path / "log"
    module = softhsm.faulty_module(HANGING=f'"{mark}"')
    with running(_command(situation, _wait, module), log, _environment()) as process:
        wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"), "C_Initialize", log)
        child = int(mark.read_text())
        try:
            send(process.pid, number)
            assert process.wait(shield.TIME_LIMIT_SECONDS / 3) == 128 + number
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    assert log.read_text() == "asked\n"
    assert _ended_once(module)


@_both_ways
def test_d13_a_lock_ends_with_its_holder(softhsm: SoftHsm, tmp_path: Path, situation: str) -> None:
    """D13: a program that is killed while a module hangs gives its lock back, though the child still hangs."""
    mark, log, folder = tmp_path / "hanging", tmp_path / "log", tmp_path / "state"
    module = softhsm.faulty_module(HANGING=f'"{mark}"')
    with running(_command(situation, _wait_locked, module, str(folder)), log, _environment()) as process:
        wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"), "C_Initialize", log)
        child = int(mark.read_text())
        try:
            with pytest.raises(BusyError), state.locked(folder):
                pass
            process.kill()
            process.wait()
            os.kill(child, 0)
            with state.locked(folder):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


@_both_ways
def test_d20_a_child_outlives_nobody_for_long(softhsm: SoftHsm, tmp_path: Path, situation: str) -> None:
    """D20: where the program is killed while a module hangs, its child ends by itself soon after the time limit."""
    mark, log = tmp_path / "hanging", tmp_path / "log"
    module = softhsm.faulty_module(HANGING=f'"{mark}"')
    with running(_command(situation, _wait_one_second, module), log, _environment()) as process:
        wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"), "C_Initialize", log)
        process.kill()
        process.wait()
    child = int(mark.read_text())
    try:
        wait_until(lambda: _has_ended(child), "the end of the child", log, seconds=15)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _has_ended(process: int) -> bool:
    """Whether a process is gone, or dead and kept by whoever has not asked for its status (proc(5), /proc/pid/stat)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("closed", ["<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_matter(softhsm: SoftHsm, tmp_path: Path, closed: str) -> None:
    """A program whose standard streams are closed gets the same answer: the pipe's end may have such a number."""
    answer = tmp_path / "answer"
    command = _command(_ONE_THREAD, _written, softhsm.module, str(answer))
    run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], _environment())
    assert _ended_once(softhsm.module)
    assert json.loads(answer.read_text()) == _done(_TWO_THREADS, _reports, softhsm.module)


@_both_ways
@pytest.mark.parametrize(
    ("faults", "time_limit", "kind"),
    [
        ({}, "30", "answer"),
        ({"FAILING": "INITIALIZE", "RETURNING": _CKR_GENERAL_ERROR}, "30", "ModuleUnusableError"),
        ({"CRASHING": 1}, "30", "ModuleUnusableError"),
        ({"HANGING": '"/dev/null"'}, "0.1", "ModuleUnusableError"),
    ],
    ids=["answering", "refusing", "crashing", "hanging"],
)
def test_many_calls_leave_nothing_behind(
    softhsm: SoftHsm, situation: str, faults: dict[str, str | int], time_limit: str, kind: str
) -> None:
    """However often a module is asked and however it ends: no descriptor, no child, and the signals blocked before."""
    done = _done(situation, _listed_often, softhsm.faulty_module(**faults), time_limit)
    assert set(done["kinds"]) == {kind}
    assert done["after"] == done["before"]
    [_, blocked, children] = done["after"]
    assert set(blocked) >= {signal.SIGTERM, signal.SIGUSR1}
    assert children == [0, 0]
