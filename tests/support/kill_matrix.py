"""Many lives of devices, killed at every fault point and at random times, and what was found, as a table."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from queue import SimpleQueue
from threading import Lock

from tests.support.devices import Cloud
from tests.support.killed_life import COMMANDS, RANDOM, Kill, Life, Reference, TokenLostError

END_OF_STEP = "after step "
"""How the names of some fault points begin."""

_HEADS = {"init": "init", "renew": "rnew", "recover": "rcov", "retire": "rtir"}


@dataclass
class Matrix:
    """What was found.

    Attributes:
        wrong: for a command and a fault point, what was wrong after its kills; an empty list if nothing was.
        notes: what is worth knowing and not this program's fault.
        given_up: Things whose device was not used any more.
    """

    wrong: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    given_up: set[str] = field(default_factory=set)

    @property
    def findings(self) -> list[str]:
        """What is wrong, each with its command and fault point."""
        return [f"{command}, {point}: {what}" for (command, point), all_ in self.wrong.items() for what in all_]


def plan(references: dict[str, Reference], points: str, times: int) -> list[dict[str, Kill]]:
    """Return the lives that are to be lived: which command of each is killed, and when.

    Args:
        references: what each command does.
        points: how the names of the fault points begin.
        times: how many random times.
    """
    columns = []
    for command, reference in references.items():
        kills = [Kill(point) for point in reference.points if point.startswith(points)]
        kills += [Kill(RANDOM, random.uniform(0, reference.seconds)) for _ in range(times)]
        columns.append([(command, kill) for kill in kills])
    return [dict(filter(None, life)) for life in zip_longest(*columns)]


def explore(
    cloud: Cloud,
    lives: Iterator[Life],
    kills: list[dict[str, Kill]],
    jobs: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Matrix:
    """Live them all, several at once.

    Args:
        cloud: one that is open to everybody.
        lives: of devices that have a token without keys; some are used up.
        kills: what :func:`plan` returned.
        jobs: how many devices live at once.
        tell: is told of each finding at once.
    """
    matrix = Matrix({(command, kill.point): [] for life in kills for command, kill in life.items()})
    lock = Lock()
    before = _active(cloud, set())
    free: SimpleQueue[Life] = SimpleQueue()

    def begin() -> Life:
        with lock:
            return next(lives)

    def live(killed: dict[str, Kill]) -> None:
        life = free.get()
        for command, kill in killed.items():
            if not _goes_on(life, command, kill, matrix, tell):
                life = begin()
        free.put(life)

    for _ in range(jobs):
        free.put(begin())
    with ThreadPoolExecutor(jobs) as pool:
        # Raises what one of them raised.
        list(pool.map(live, kills))
        # While the threads live: a TPM that one of them powered ends with it.
        while not free.empty():
            free.get().end()
    if left := _active(cloud, matrix.given_up) - before:
        matrix.wrong[COMMANDS[-1], "all of them"] = [f"{left} certificates are left in the cloud"]
    return matrix


def _goes_on(life: Life, command: str, kill: Kill, matrix: Matrix, tell: Callable[[str], None]) -> bool:
    """Kill a command, write down what is found, and return whether the device can go on."""
    try:
        wrong = life.killed(command, kill)
    except TokenLostError:
        matrix.notes.append(f"{command}, {kill}: SoftHSM was killed in C_Login and lost its token")
    else:
        if not wrong:
            return True
        matrix.wrong[command, kill.point].append(wrong)
        tell(f"{command}, {kill}: {wrong}")
    matrix.given_up.add(life.thing)
    return False


def _active(cloud: Cloud, given_up: set[str]) -> int:
    """Return how many certificates there are in the cloud of Things that are not given up, or of none."""
    iot = cloud.aws("iot")
    principals = [iot.list_thing_principals(thingName=thing)["principals"] for thing in given_up]
    known = {principal.rpartition("/")[2] for each in principals for principal in each}
    return len(cloud.certificates().keys() - known)


def table(matrices: dict[str, Matrix]) -> str:
    """Return the matrix as text: a row for each fault point, a column for each token's command, and what is wrong."""
    cells_of = [(command, *key) for command in COMMANDS for matrix in matrices.values() for key in matrix.wrong]
    points = list(dict.fromkeys(point for command, of, point in cells_of if command == of))
    points.sort(key=lambda point: point == RANDOM)
    columns = [(token, command) for token in matrices for command in COMMANDS]
    lines = [
        f"{'killed':<40}{''.join(f'{token:<20}' for token in matrices)}".rstrip(),
        _row("", [_HEADS[command] for _, command in columns]),
    ]
    findings: list[str] = []
    for point in points:
        cells = []
        for token, command in columns:
            wrong = matrices[token].wrong.get((command, point))
            cells.append("-" if wrong is None else f"[{len(findings) + 1}]" if wrong else "ok")
            findings += [f"{token}, {command}, {point}: {what}" for what in wrong or ()]
        lines.append(_row(point, cells))
    lines += [f"[{number}] {finding}" for number, finding in enumerate(findings, 1)]
    return "\n".join(lines)


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<40}{''.join(f'{cell:<5}' for cell in cells)}".rstrip()
