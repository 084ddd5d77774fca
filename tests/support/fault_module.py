"""A PKCS#11 module with faults that come and go: any module, with ``fault_module.c`` in front of it."""

from __future__ import annotations

import atexit
import itertools
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import program, run, wait_until

_SOURCE = Path(__file__).with_name("fault_module.c")
_serial = itertools.count()


class Call(NamedTuple):
    """One call as it went.

    Attributes:
        process: id of the process that made it.
        function: its name.
        outcome: the return value in hexadecimal; ``hangs`` or ``waits`` where it has not returned.
    """

    process: int
    function: str
    outcome: str


class FaultModule:
    """A module that passes everything on to another one, but for the faults of its plan.

    Args:
        target: file of the module behind it, of which it takes a copy: a file that is loaded twice is one module.
        folder: where its own files go.
        faults: the first plan; see :meth:`plan`.
    """

    def __init__(self, target: Path, folder: Path, *faults: str) -> None:
        number = next(_serial)
        self.file = Path(shutil.copy(_built(), folder / f"fault-{number}.so"))
        self._target = shutil.copy(target, folder / f"behind-fault-{number}.so")
        self._log = self.file.with_name(f"{self.file.name}.log")
        self.plan(*faults)

    def plan(self, *faults: str) -> None:
        """Replace the plan, from the next call on; ``"C_Sign 1 fail 30"`` and the like, see ``fault_module.c``."""
        lines = [f"target {self._target}", *faults]
        plan = self.file.with_name(f"{self.file.name}.plan")
        # A call that is under way in another process reads the old one or the new one.
        new = plan.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.replace(plan)

    def calls(self, *functions: str) -> list[Call]:
        """Return the calls so far, of these functions or of all."""
        if not self._log.exists():
            return []
        calls = [line.split() for line in self._log.read_text().splitlines()]
        return [
            Call(int(process), function, outcome)
            for process, function, outcome in calls
            if not functions or function in functions
        ]

    def forget_calls(self) -> None:
        """Begin the list of calls anew."""
        self._log.unlink(missing_ok=True)

    def await_call(self, function: str, outcome: str) -> Call:
        """Wait for a call with this outcome and return it."""

        def seen() -> list[Call]:
            return [call for call in self.calls(function) if call.outcome == outcome]

        wait_until(lambda: bool(seen()), f"{function} that {outcome}", self._log)
        return seen()[0]

    def sessions_left_open(self) -> int:
        """Return how many sessions were opened, over all processes, and not closed by the program itself.

        C_Finalize closes those of its process (PKCS#11 v2.40 §5.4).
        """
        left: dict[int, int] = {}
        for call in self.calls():
            if call.outcome != "0x0":
                continue
            if call.function == "C_OpenSession":
                left[call.process] = left.get(call.process, 0) + 1
            elif call.function == "C_CloseSession":
                left[call.process] -= 1
            elif call.function in {"C_CloseAllSessions", "C_Finalize"}:
                left[call.process] = 0
        return sum(left.values())


@cache
def _built() -> Path:
    """Build the module, once in this process."""
    folder = Path(tempfile.mkdtemp(prefix="fault-module-"))
    atexit.register(shutil.rmtree, folder)
    module = folder / "fault_module.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    run([program("gcc", package="gcc"), *options, "-o", str(module), str(_SOURCE)])
    return module
