"""The outbox against bare sqlite3 with the same durability, and one that holds a million messages against others.

A ratio of durable messages is of those per second, so more is better there; all others are of times or memory.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, cast

from benchmarks.figures import Figure
from benchmarks.measuring import ratios, runs
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits

_LIMITS = OutboxLimits(max_bytes=2**30)
_PAYLOAD = b"21.5" * 16
_EACH = 200
_RUNS = 25
_FEW, _MANY = 1_000, 1_000_000
_AT_ONCE = 10_000

# Each says when it is ready, begins when it is told to, and says when it is done.
_OURS = """
import sys
from pathlib import Path
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
folder, each, payload = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
with Outbox.open(folder, OutboxLimits(max_bytes=2**30)) as outbox:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(each):
        outbox.add(NewMessage("plant/line3/temperature", payload))
    print("done", flush=True)
    sys.stdin.readline()
"""
_BARE = """
import sqlite3, sys
folder, each, payload = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
connection = sqlite3.connect(f"{folder}/bare.db", timeout=60, isolation_level=None)
connection.execute("PRAGMA synchronous = FULL")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(each):
    connection.execute("INSERT INTO messages (topic, payload) VALUES (?, ?)", ("plant/line3/temperature", payload))
print("done", flush=True)
sys.stdin.readline()
"""
_START = """
import sys, time
from pathlib import Path
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
def start():
    begin = time.perf_counter()
    with Outbox.open(Path(sys.argv[1]), OutboxLimits(max_bytes=2**30)) as outbox:
        outbox.state()
        outbox.next(0, 1)
        return time.perf_counter() - begin
print(sorted(start() for _ in range(11))[5])
"""
# Takes a thousand from the beginning and adds as many, so that the number stays.
_WORK = """
import sys
from pathlib import Path
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
with Outbox.open(Path(sys.argv[1]), OutboxLimits(max_bytes=2**30)) as outbox:
    for _ in range(10):
        taken = outbox.next(0, 100)
        outbox.remove([message.id for message in taken])
        outbox.add(*(NewMessage(message.topic, message.payload) for message in taken))
        outbox.state()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    pairs = runs(_RUNS, quick=quick)
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()

        def seconds(program: str, writers: int) -> float:
            state = Path(folder, str(next(numbers)))
            state.mkdir(mode=0o700)
            _make_bare(state)  # for either, so that both begin alike
            return _writing_seconds(program, state, writers)

        for writers in (1, 4):
            bare, ours = partial(seconds, _BARE, writers), partial(seconds, _OURS, writers)
            what, figures = f"durable messages per second, writers: {writers}", ratios(bare, ours, pairs)
            yield Figure.of(f"outbox-writers-{writers}", what, "bare sqlite3", figures, at_least=0.7)
        empty, few, many = (_filled(Path(folder, f"holds-{number}"), number) for number in (0, _FEW, _MANY))
        figures = ratios(_start(many), _start(empty), pairs)
        yield Figure.of("outbox-start", "opening an outbox with a million messages", "empty", figures, at_most=1.2)
        figures = ratios(_work(many), _work(few), runs(_RUNS // 3, quick=quick))
        yield Figure.of("outbox-memory", "memory with a million messages", "a thousand", figures, at_most=1.1)


def _make_bare(folder: Path) -> None:
    """Make the bare database: several processes at the same time cannot switch it to WAL mode."""
    with closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, payload BLOB)")


def _writing_seconds(program: str, folder: Path, writers: int) -> float:
    """Return how long it takes several processes to write their messages, from the first to the last."""
    command = [sys.executable, "-c", program, str(folder), str(_EACH), _PAYLOAD.decode()]
    with ExitStack() as running:
        processes = [
            running.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(writers)
        ]
        _await(processes, "ready")
        begin = time.perf_counter()
        _tell(processes)
        _await(processes, "done")
        seconds = time.perf_counter() - begin
        _tell(processes)
    return seconds


def _await(processes: list[subprocess.Popen[str]], word: str) -> None:
    for process in processes:
        if cast(IO[str], process.stdout).readline() != f"{word}\n":
            raise RuntimeError(f"a writer was not {word}")


def _tell(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        cast(IO[str], process.stdin).write("\n")


def _filled(folder: Path, number: int) -> Path:
    with Outbox.open(folder, _LIMITS) as outbox:
        for _ in range(0, number, _AT_ONCE):
            outbox.add(*(NewMessage("plant/line3/temperature", _PAYLOAD) for _ in range(min(number, _AT_ONCE))))
    return folder


def _start(folder: Path) -> partial[float]:
    return partial(_figure, _START, folder)


def _work(folder: Path) -> partial[float]:
    return partial(_figure, _WORK, folder)


def _figure(program: str, folder: Path) -> float:
    """Return the number that a program prints."""
    return float(subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, check=True).stdout)
