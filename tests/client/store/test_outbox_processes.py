"""The outbox between processes: killed, stopped, forked, and two that drain at the same time."""

from __future__ import annotations

import multiprocessing
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_enroll.errors import StateError
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits, QueuedMessage
from tests.client.conftest import RunPython

_LIMITS = OutboxLimits(max_bytes=2**26)

# Adds messages with growing numbers, and says each one once it has been added.
_WRITER = """
import sys
from pathlib import Path
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
folder, topic, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with Outbox.open(folder, OutboxLimits(max_bytes=2**26)) as outbox:
    for number in range(first, first + 10_000):
        outbox.add(NewMessage(topic, str(number).encode()))
        print(number, flush=True)
"""


def _drain(outbox: Outbox) -> list[QueuedMessage]:
    """Take everything out, in steps."""
    taken: list[QueuedMessage] = []
    while messages := outbox.next(0, 500):
        outbox.remove([message.id for message in messages])
        taken += messages
    return taken


def _numbers(messages: list[QueuedMessage], topic: str) -> list[int]:
    return [int(message.payload) for message in messages if message.topic == topic]


def _said(process: subprocess.Popen[str]) -> list[int]:
    """Return the numbers that a writer said, without one that it did not say to the end."""
    return list(_saying(process))


def _saying(process: subprocess.Popen[str]) -> Iterator[int]:
    assert process.stdout is not None
    return (int(line) for line in process.stdout if line.endswith("\n"))


def _listen(process: subprocess.Popen[str], said: list[int]) -> threading.Thread:
    thread = threading.Thread(target=lambda: said.extend(_saying(process)))
    thread.start()
    return thread


def test_writers_are_killed_at_random_times(tmp_path: Path, run_python: RunPython) -> None:
    """D21: four writers, killed and started again, and one that drains: all that add returned for is found, in order.

    A message whose writer was killed before it could say so may be there too; none is there twice.
    """
    said: dict[str, list[int]] = {f"t/{number}": [] for number in range(4)}
    taken: list[QueuedMessage] = []
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        for first in range(0, 40_000, 10_000):
            writers = {topic: run_python(_WRITER, tmp_path, topic, first) for topic in said}
            listening = [_listen(process, said[topic]) for topic, process in writers.items()]
            for topic, process in random.sample(list(writers.items()), k=4):
                while process.poll() is None and not any(number >= first for number in said[topic]):
                    taken += _take(outbox)
                until = time.monotonic() + random.uniform(0.0, 0.3)
                while time.monotonic() < until:
                    taken += _take(outbox)
                process.kill()
                assert process.wait() == -signal.SIGKILL  # it was still writing
            for thread in listening:
                thread.join()
            for numbers in said.values():
                added = [number for number in numbers if number >= first]
                assert added == list(range(first, first + len(added)))
                assert added
        taken += _drain(outbox)
        assert outbox.state().messages == 0
        assert outbox.state().damaged_files == ()
    for topic, numbers in said.items():
        found = _numbers(taken, topic)
        assert found == sorted(set(found))
        assert set(numbers) <= set(found)
        assert len(found) <= len(numbers) + 4  # one for each time it was killed


def _take(outbox: Outbox) -> list[QueuedMessage]:
    messages = outbox.next(0, 50)
    outbox.remove([message.id for message in messages])
    return messages


def test_a_drainer_is_killed(tmp_path: Path, run_python: RunPython) -> None:
    """Whatever a killed drainer had not removed is still there, and nothing that it had removed."""
    program = _WRITER.partition("    for number")[0] + (
        "    for _ in range(100):\n"
        "        message, = outbox.next(0, 1)\n"
        "        outbox.remove([message.id])\n"
        "        print(message.payload.decode(), flush=True)\n"
    )
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        outbox.add(*(NewMessage("t", str(number).encode()) for number in range(100)))
    drainer = run_python(program, tmp_path, "t", 0)
    assert drainer.stdout is not None
    assert drainer.stdout.readline() == "0\n"
    drainer.kill()
    removed = [0, *_said(drainer)]
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        left = _numbers(outbox.next(0, 100), "t")
    assert left in (list(range(len(removed), 100)), list(range(len(removed) + 1, 100)))


_HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_writer_that_is_stopped_in_a_transaction(
    tmp_path: Path, run_python: RunPython, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds the lock and does not go on is an error for the others after a time, not a hang; then all works."""
    monkeypatch.setattr("hsm_enroll.store.outbox.database.PATIENCE", 0.5)
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        holder = run_python(_HOLDER, tmp_path / "outbox.db")
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(StateError, match="another process has kept it locked") as caught:
            outbox.add(NewMessage("t", b"1"))
        assert "fuser" in caught.value.hint
        assert outbox.next(0, 9) == []  # reading goes on
        holder.kill()
        holder.wait()
        outbox.add(NewMessage("t", b"2"))
        assert [message.payload for message in outbox.next(0, 9)] == [b"2"]


def _add_in_child(outbox: Outbox, topic: str) -> None:
    for number in range(50):
        outbox.add(NewMessage(topic, str(number).encode()))


def test_parent_and_child_go_on_after_a_fork(tmp_path: Path) -> None:
    """An outbox that was open at a fork works in both processes, also while other threads were adding."""
    fork = multiprocessing.get_context("fork")
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        threads = [threading.Thread(target=_add_in_child, args=(outbox, f"thread/{number}")) for number in range(4)]
        for thread in threads:
            thread.start()
        children = [fork.Process(target=_add_in_child, args=(outbox, f"child/{number}")) for number in range(3)]
        for child in children:
            child.start()
        _add_in_child(outbox, "parent")
        for child in children:
            child.join()
        for thread in threads:
            thread.join()
        assert [child.exitcode for child in children] == [0, 0, 0]
        taken = _drain(outbox)
    for topic in ("parent", *(f"thread/{number}" for number in range(4)), *(f"child/{number}" for number in range(3))):
        assert _numbers(taken, topic) == list(range(50))


def test_a_child_outlives_its_parent(tmp_path: Path, run_python: RunPython) -> None:
    """What a forked child adds after its parent has ended is kept, though another process opened the outbox since."""
    program = """
import os, sys
from pathlib import Path
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
outbox = Outbox.open(Path(sys.argv[1]), OutboxLimits(max_bytes=2**26))
outbox.add(NewMessage("t", b"parent"))
if os.fork():
    os._exit(0)
print("forked", flush=True)
for line in sys.stdin:
    outbox.add(NewMessage("t", b"child"))
    print("added", flush=True)
"""
    process = run_python(program, tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "forked\n"
    process.wait()
    for expected in (["parent"], ["parent", "child"], ["parent", "child", "child"]):
        with Outbox.open(tmp_path, _LIMITS) as outbox:
            assert [message.payload.decode() for message in outbox.next(0, 9)] == expected
        if len(expected) < 3:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "added\n"
    process.stdin.close()


_INTERRUPTED = """
import signal, sys, threading
from pathlib import Path
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits

class Interruption(Exception):
    pass

def interrupt(*_):
    raise Interruption

def add():
    for number in range(300):
        outbox.add(NewMessage("thread", str(number).encode()))

outbox = Outbox.open(Path(sys.argv[1]), OutboxLimits(max_bytes=2**26))
threads = [threading.Thread(target=add) for _ in range(int(sys.argv[2]))]
for thread in threads:
    thread.start()
signal.signal(signal.SIGALRM, interrupt)
added = []
for number in range(300):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005 * (number % 7 + 1))
        outbox.add(NewMessage("main", str(number).encode()))
        added.append(number)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Interruption:
        pass
for thread in threads:
    thread.join()
outbox.close()
print(*added)
"""


@pytest.mark.parametrize("threads", [0, 3])
def test_a_signal_handler_that_raises(tmp_path: Path, run_python: RunPython, threads: int) -> None:
    """An add that a signal interrupts, wherever it is, leaves the outbox usable, for other threads too; none hangs."""
    process = run_python(_INTERRUPTED, tmp_path, threads)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        taken = _drain(outbox)
    assert set(map(int, output.split())) <= set(_numbers(taken, "main"))
    assert sorted(_numbers(taken, "thread")) == sorted([*range(300)] * threads)


_INTERRUPTED_FORKS = """
import os, signal, sys, threading
from pathlib import Path
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits

class Interruption(Exception):
    pass

def interrupt(*_):
    raise Interruption

def add():
    while not stop.wait(0.002):
        outbox.add(NewMessage("thread", b"x"))

outbox = Outbox.open(Path(sys.argv[1]), OutboxLimits(max_bytes=2**26))
stop = threading.Event()
thread = threading.Thread(target=add)
thread.start()
signal.signal(signal.SIGALRM, interrupt)
sys.unraisablehook = lambda _: None
for number in range(60):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.00005 * (number % 15 + 1))
        if not os.fork():
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            outbox.add(NewMessage("child", b"x"))
            os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Interruption:
        pass
    try:
        while True:
            _, status = os.wait()
            assert status == 0, status
    except ChildProcessError:
        outbox.add(NewMessage("parent", b"x"))
stop.set()
thread.join()
outbox.close()
"""


def test_a_signal_handler_that_raises_during_a_fork(tmp_path: Path, run_python: RunPython) -> None:
    """However far the preparation for a fork has come, parent, child and other threads go on; nothing stays locked."""
    process = run_python(_INTERRUPTED_FORKS, tmp_path)
    process.communicate(timeout=120)
    assert process.returncode == 0
    with Outbox.open(tmp_path, _LIMITS) as outbox:
        taken = Counter(message.topic for message in _drain(outbox))
    assert taken["parent"] == 60
    assert taken["child"] > 30


def test_two_that_drain(tmp_path: Path) -> None:
    """Where two drain at the same time, each message is taken by one or by both, and the totals stay right."""
    taken: Counter[str] = Counter()

    def drain(outbox: Outbox) -> None:
        taken.update(message.payload.decode() for message in _drain(outbox))

    with Outbox.open(tmp_path, _LIMITS) as first, Outbox.open(tmp_path, _LIMITS) as second:
        first.add(*(NewMessage("t", str(number).encode()) for number in range(3000)))
        threads = [threading.Thread(target=drain, args=(outbox,)) for outbox in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(taken) == {str(number) for number in range(3000)}
        assert max(taken.values()) <= 2
        assert (first.state().messages, first.state().bytes) == (0, 0)


_SHORT = """
import sys
from pathlib import Path
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
for number in range(25):
    with Outbox.open(Path(sys.argv[1]), OutboxLimits(max_bytes=2**26)) as outbox:
        outbox.add(NewMessage(sys.argv[2], str(number).encode()))
    print(number, flush=True)
"""


def test_many_short_programs(tmp_path: Path, run_python: RunPython) -> None:
    """Programs that only open, add and close, at the same time and from the very beginning, do not harm each other."""
    programs = [run_python(_SHORT, tmp_path / "state", f"t/{number}") for number in range(6)]
    for process in programs:
        assert _said(process) == list(range(25))
    with Outbox.open(tmp_path / "state", _LIMITS) as outbox:
        assert outbox.state().damaged_files == ()
        taken = _drain(outbox)
    for number in range(6):
        assert _numbers(taken, f"t/{number}") == list(range(25))


def test_nobody_closes_it(tmp_path: Path, run_python: RunPython) -> None:
    """A program that ends without closing the outbox leaves it as one that does: no log to recover."""
    program = _WRITER.replace("with Outbox", "if outbox := Outbox").replace(") as outbox:", "):")
    process = run_python(program.replace("10_000", "3"), tmp_path, "t", 0)
    assert _said(process) == [0, 1, 2]
    assert process.wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outbox.db", "outbox.lock", "outbox.reserve"]
