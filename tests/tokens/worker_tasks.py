"""What the programs of ``worker_programs`` do with workers; each task takes a module and returns JSON."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.store import files
from hsm_enroll.token import selection, tokens, worker
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.worker import Worker
from hsm_enroll.uri import Pkcs11Uri
from tests.support.processes import children, wait_until
from tests.tokens.worker_programs import as_outcome, await_mark, has_ended, told

ENDING = (signal.SIGINT, signal.SIGTERM)
_NO_LOG = Path(os.devnull)
# As in ``under_test``; who imports that has python-pkcs11, and does not fork.
_LABEL = "gateway"


def who_answers(module: Path) -> Any:
    """Tell the command lines of both processes, and what the worker's is not to have inherited."""
    with Worker(module) as asked:
        asked.request("tokens")
        process = _process()
        status = Path(f"/proc/{process}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        return {
            "asks": _command_line(os.getpid()),
            "answers": _command_line(process),
            "parent": int(fields["PPid"]) == os.getpid(),
            "blocked": int(fields["SigBlk"], 16),
            "environment": Path(f"/proc/{process}/environ").read_text(),
        }


def reports(module: Path) -> list[str]:
    """Tell a module's tokens."""
    with Tokens() as asked:
        return [told(report) for report in asked.listed(module)]


def shown(module: Path, token: str, serial: str, label: str, key_id: str) -> Any:
    """Tell a public key."""
    with Tokens() as asked:
        name = TokenName(module, token, serial, manufacturer="", model="")
        return _outcome(lambda: asked.public_key(name, label=label, key_id=bytes.fromhex(key_id)).hex())


def listed(module: Path, limit: str) -> Any:
    """List a module's tokens within so many seconds."""
    begin = time.monotonic()
    with Worker(module) as asked:
        outcome = _outcome(lambda: bool(asked.request("tokens", limit=float(limit))))
    return {**outcome, "seconds": time.monotonic() - begin}


def used(module: Path, pin: str, limit: str) -> Any:
    """Log in, make a key and sign with it, each within so many seconds, and then ask once more."""
    worker.TIME_LIMIT_SECONDS = tokens.GENERATION_SECONDS = worker.GOODBYE_SECONDS = float(limit)
    begin = time.monotonic()
    with Tokens() as asked:
        first = _outcome(lambda: _signature(asked, module, pin))
        answered = time.monotonic()
        again = _outcome(lambda: bool(asked.listed(module)))
        times = {"seconds": answered - begin, "againSeconds": time.monotonic() - answered}
    return {**first, "again": again, **times, "endSeconds": time.monotonic() - begin}


def asked_often(module: Path, limit: str) -> Any:
    """Ask by five workers, one after the other, and tell what is there before and after."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    before = _state()
    kinds = [listed(module, limit)["kind"] for _ in range(5)]
    return {"kinds": kinds, "before": before, "after": _state()}


def asked_at_once(module: Path, good: str, *marks: str) -> Any:
    """Ask two modules of which one hangs; the good one's answer is there before the other one's time is over."""
    worker.TIME_LIMIT_SECONDS = 2.0
    begin = time.monotonic()
    with Tokens() as asked:
        look = asked.start_listing([module, Path(good)])
        await_mark(*marks)
        found = [report.name.label for report in look(Path(good)) if report.initialized]
        outcome = _outcome(lambda: bool(look(module)))
    return {"found": found, **outcome, "seconds": time.monotonic() - begin}


def asked_for_too_late(module: Path, mark: str) -> Any:
    """Ask for an answer when the worker has ended itself."""
    with Worker(module) as asked:
        asked.send("tokens", limit=1)
        await_mark(mark)
        child = _process()
        wait_until(lambda: has_ended(child), "the end of the worker", _NO_LOG, seconds=15)
        return _outcome(asked.receive)


def answered_before_it_is_late(module: Path) -> Any:
    """Ask for an answer that came in time, when its time is over."""
    limit = 1.0
    with Worker(module) as asked:
        asked.send("tokens", limit=limit)
        late = time.monotonic() + limit + 0.5
        wait_until(lambda: time.monotonic() > late, "the time", _NO_LOG)
        first = len(asked.receive())
        return [first, len(asked.request("tokens"))]


def left_at_work(module: Path, mark: str) -> Any:
    """Fail with something else while a module hangs."""
    before = _state()
    with suppress(LookupError), Tokens() as asked:
        asked.start_listing([module])
        await_mark(mark)
        raise LookupError
    return {"before": before, "after": _state()}


def gone_on_after_ctrl_c(module: Path, mark: str) -> Any:
    """Catch Ctrl-C in the middle of a question, and ask again."""
    begin = time.monotonic()
    with Tokens() as asked:
        look = asked.start_listing([module])
        await_mark(mark)
        signal.signal(signal.SIGALRM, _end)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with suppress(SystemExit):
            look(module)
        outcome = _outcome(lambda: bool(asked.listed(module)))
    return {**outcome, "seconds": time.monotonic() - begin}


def interrupted_in_a_session(module: Path, pin: str) -> Any:
    """End by Ctrl-C with a session open, while its module does nothing."""
    with suppress(KeyboardInterrupt), Tokens() as asked:
        token = selection.choose([module], Pkcs11Uri(token=_LABEL), asked.listed)
        with asked.session(token, lambda _: Secret(pin), lambda _: None):
            begin = time.monotonic()
            raise KeyboardInterrupt
    return time.monotonic() - begin


def used_up(module: Path) -> Any:
    """Dismiss and end a worker twice, and ask it then."""
    said = []
    before = _state()
    with Worker(module) as asked:
        asked.request("tokens")
        for stop in (asked.dismiss, asked.dismiss, asked.end, asked.end):
            stop()
            try:
                asked.request("tokens")
            except RuntimeError as error:
                said.append(str(error))
    return {"said": said, "before": before, "after": _state()}


def forks_itself(module: Path) -> Any:
    """Fork while a worker is there: one fork leaves the block as its parent will, another one keeps all that it has."""
    with Tokens() as asked:
        first = len(asked.listed(module))
        child = _process()
        fork = os.fork()
        if fork == 0:
            with suppress(BaseException):
                asked.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(fork, 0)
        again = len(asked.listed(module))
        over, end = os.pipe()
        fork = os.fork()
        if fork == 0:
            os.close(end)
            os.read(over, 1)
            os._exit(0)
        begin = time.monotonic()
        asked.__exit__(None, None, None)
        seconds = time.monotonic() - begin
        gone = has_ended(child)
        os.close(end)
        os.waitpid(fork, 0)
    return {"answers": [first, again], "gone": gone, "seconds": seconds}


def without_processes(module: Path) -> Any:
    """List a module's tokens where no process can be started."""
    before = _state()
    os.fork = os.posix_spawn = _no_process
    worker.prepare()
    outcome = _outcome(lambda: listed(module, "30"))
    return {**outcome, "before": before, "after": _state()}


def without_descriptors(module: Path) -> Any:
    """List a module's tokens where no descriptor is free."""
    before = _state()
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4, kept[1]))
    outcome = _outcome(lambda: listed(module, "30"))
    resource.setrlimit(resource.RLIMIT_NOFILE, kept)
    return {**outcome, "before": before, "after": _state()}


def in_a_process_that_takes_signals(module: Path) -> Any:
    """Send the worker the signals that this program handles, and one that the terminal sends to both."""
    heard: list[int] = []
    for number in (signal.SIGUSR1, signal.SIGCHLD, signal.SIGALRM, signal.SIGHUP, *ENDING):
        signal.signal(number, lambda number, _: heard.append(number))
    signal.set_wakeup_fd(_nonblocking_pipe())
    with Worker(module) as asked:
        asked.request("tokens")
        child = _process()
        for number in ENDING:
            os.kill(child, number)
        answers = len(asked.request("tokens"))
        os.kill(child, signal.SIGUSR1)
        outcome = _outcome(lambda: bool(asked.request("tokens")))
    return {"heard": sorted(set(heard) - {signal.SIGCHLD}), "answers": answers, **outcome}


def waits(module: Path) -> None:
    """Wait for a module, as the leader of a process group, in a program that ends by signals in its own way."""
    os.setsid()
    for number in ENDING:
        signal.signal(number, _end)
    with Tokens() as asked:
        asked.listed(module)


def waits_one_second(module: Path) -> None:
    """Wait for a module for a time that a test can wait too, where nobody must be left waiting with SIGALRM blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    listed(module, "1")


def waits_locked(module: Path, folder: str) -> None:
    """Wait for a module while this program holds a state folder's lock."""
    with files.locked(Path(folder)):
        listed(module, "600")


def idles(module: Path, mark: str) -> None:
    """Have a worker that has answered, and do something else for ever."""
    with Worker(module) as asked:
        asked.request("tokens")
        Path(mark).write_text(f"{_process()}\n")
        threading.Event().wait()


def written(module: Path, file: str) -> None:
    """Write a module's tokens to a file, where there may be no stream to print them to."""
    Path(file).write_text(json.dumps(reports(module)))


def _signature(asked: Tokens, module: Path, pin: str) -> bool:
    token = selection.choose([module], Pkcs11Uri(token=_LABEL), asked.listed)
    key_id = os.urandom(8)
    with asked.session(token, lambda _: Secret(pin), lambda _: None, writable=True) as opened:
        return bool(opened.generate(KeyType.EC_P256, label=key_id.hex(), key_id=key_id).sign(b"a request"))


def _process() -> int:
    """Return the id of the worker: the one process that this one has started."""
    [child] = children(os.getpid())
    return child


def _command_line(process: int) -> list[str]:
    return Path(f"/proc/{process}/cmdline").read_text().split("\0")


def _outcome(ask: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"kind": "answer", "answer": ask()}
    except HsmEnrollError as error:
        return as_outcome(error)


def _state() -> Any:
    """What a worker must leave as it was: open descriptors, blocked signals, and that there are no children."""
    try:
        children = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        children = (0, 0)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return [sorted(os.listdir("/proc/self/fd")), sorted(blocked), children]  # noqa: PTH208 - names are enough


def _no_process(*_: Any, **__: Any) -> NoReturn:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _nonblocking_pipe() -> int:
    _, writing = os.pipe()
    os.set_blocking(writing, False)
    return writing


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - signal's signature
    raise SystemExit(128 + number)
