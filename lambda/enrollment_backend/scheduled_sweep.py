"""The scheduled sweep: runs in a function of its own for up to 15 minutes, and goes on where the last run stopped.

A *pass* goes through both lists of `sweep`; it may take several runs. Nothing is disabled before a run has looked at
all that it can: if it finds more certificates than the limit, the ledger has probably lost entries, and disabling them
would cut devices off.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from enrollment_backend import log
from enrollment_backend.aws_errors import AwsUnavailableError, ThrottledError
from enrollment_backend.errors import FieldInvalidError, SweepStoppedError
from enrollment_backend.sweep import STATE, Suspect, Sweeper
from enrollment_backend.table import Write

PAGE_SIZE = 250  # ListCertificates, ListTargetsForPolicy: the maximum
# AWS IoT's quotas for ListCertificates, DescribeCertificate and UpdateCertificate are 10 calls per second and account;
# the rest is left to revocations, to enrollments that were interrupted, and to other systems.
SECONDS_PER_CALL = 0.125
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds
_SECONDS_TO_DISABLE = 90.0  # kept back for what the run has found; it needs two calls for each
_SECONDS_TO_SAVE = 5.0
_MARGIN = 3600 + 300  # seconds: certificates younger than an hour are not checked; and clocks differ

T = TypeVar("T")


class OutOfTimeError(Exception):
    """The function is about to end."""


class Patience:
    """Makes calls to AWS at a steady rate, and repeats those that AWS throttles or does not answer.

    Args:
        now: the time, in seconds.
        sleep: waits for a number of seconds.
        seconds_left: how long the function may still run.
        reserve: seconds of that which it leaves for what comes after.
    """

    def __init__(
        self,
        now: Callable[[], float],
        sleep: Callable[[float], None],
        seconds_left: Callable[[], float],
        reserve: float,
    ) -> None:
        self.throttled = 0
        self._now, self._sleep, self._seconds_left, self._reserve = now, sleep, seconds_left, reserve
        self._next: dict[str, float] = {}

    def __call__(self, operation: str, make: Callable[[], T], /) -> T:
        """Return what the call returns.

        Raises:
            OutOfTimeError: there is no time left for it.
            AwsError: AWS refused it.
        """
        pause = _FIRST_PAUSE
        while True:
            self._wait_for_turn(operation)
            try:
                return make()
            except (ThrottledError, AwsUnavailableError):
                self.throttled += 1
                self._wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _wait_for_turn(self, operation: str) -> None:
        turn = max(self._now(), self._next.get(operation, 0.0))
        self._next[operation] = turn + SECONDS_PER_CALL
        self._wait(turn - self._now())

    def _wait(self, seconds: float) -> None:
        if self._seconds_left() - seconds < self._reserve:
            raise OutOfTimeError
        if seconds > 0:
            self._sleep(seconds)


@dataclass
class _Run:
    """What a run has found and done."""

    marker: str | None
    started: int
    examined_until: int
    found: dict[str, Suspect] = field(default_factory=dict)
    checked: int = 0
    foreign: int = 0


class ScheduledSweep:
    """Sweeps as far as the time allows.

    Args:
        sweeper: compares certificates with the ledger.
        sleep: waits for a number of seconds.
        seconds_left: how long the function may still run.
    """

    def __init__(self, sweeper: Sweeper, sleep: Callable[[float], None], seconds_left: Callable[[], float]) -> None:
        patience = partial(Patience, sweeper.now, sleep, seconds_left)
        self._patience = [patience(_SECONDS_TO_DISABLE), patience(_SECONDS_TO_SAVE)]
        self._looking, self._disabling = (replace(sweeper, attempt=patience) for patience in self._patience)

    def run(self) -> None:
        """Sweep while there is time, and write one log line about it.

        Raises:
            AwsError: AWS refused a call that every page needs.
        """
        disabled: list[Suspect] = []
        finished = stopped = False
        run: _Run | None = None
        try:
            self._looking.attempt("Query", self._looking.ledger.complete_lists)
            run = self._resumed()
            finished, stopped = self._look(run)
            suspects = [suspect for suspect in run.found.values() if not (stopped and suspect.counts)]
            disabled.extend(self._disabling.disable(suspects))
            if not stopped:
                self._save(run, self._disabling)
        except OutOfTimeError:
            finished = False  # the next run finds again what this one did not get to
        log.info(
            "sweep",
            checked=run.checked if run else 0,
            disabled=len(disabled),
            foreign=run.foreign if run else 0,
            finished=finished,
            throttled=sum(patience.throttled for patience in self._patience),
        )

    def _resumed(self) -> _Run:
        state = self._looking.state()
        until, marker = state.get("examined_until", 0), state.get("marker")
        # A pass of an earlier version did not record when it started.
        started = state["started"] if marker is not None and "started" in state else int(self._looking.now())
        return _Run(marker, started, until)

    def _look(self, run: _Run) -> tuple[bool, bool]:
        """Examine pages; return whether the pass is finished, and whether it is stopped."""
        with suppress(OutOfTimeError):
            while True:
                try:
                    examined = self._looking.examine(run.marker, PAGE_SIZE, run.examined_until, found=run.found)
                except FieldInvalidError:  # AWS IoT no longer accepts the saved marker: start over
                    run.marker = None
                    continue
                run.foreign += examined.foreign
                run.checked += examined.checked
                run.found |= {suspect.certificate_id: suspect for suspect in examined.suspects}
                try:
                    self._looking.check_limit(run.found.values())
                except SweepStoppedError:
                    return False, True
                run.marker = examined.next
                if not run.found:
                    self._save(run, self._looking)
                if run.marker is None:
                    return True, False
        return False, False

    def _save(self, run: _Run, sweeper: Sweeper) -> None:
        """Save where the next run starts; and after a pass, which certificates have been examined."""
        if run.marker is None:
            run.examined_until = max(run.examined_until, run.started - _MARGIN)
        values = {"marker": run.marker, "started": run.started, "examined_until": run.examined_until}
        write = Write(STATE, values, "", {}, replace=True)
        sweeper.attempt("TransactWriteItems", lambda: sweeper.ledger.table.transact([write]))
