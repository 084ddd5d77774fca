"""What workers need of the system, and that they leave nothing behind."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.errors import MachineLimitError
from hsm_enroll.token import worker
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.tokens import worker_tasks as tasks
from tests.tokens.worker_programs import FORKED, SPAWNED, done

_both_ways = pytest.mark.parametrize("situation", [FORKED, SPAWNED], ids=["forked", "spawned"])


@_both_ways
def test_a_machine_that_starts_no_more_processes(softhsm: SoftHsmUnderTest, situation: str) -> None:
    """Where no process can be started, that is the error; no descriptor stays open and no signal stays blocked."""
    _assert_no_process(done(situation, tasks.without_processes, softhsm.module), "too many processes or threads")


@_both_ways
def test_a_process_that_may_open_nothing_more(softhsm: SoftHsmUnderTest, situation: str) -> None:
    """Where no descriptor is free, that is the error, and nothing is left behind."""
    _assert_no_process(done(situation, tasks.without_descriptors, softhsm.module), "too many open files")


def _assert_no_process(outcome: dict[str, Any], why: str) -> None:
    assert (outcome["kind"], outcome["code"]) == (MachineLimitError.__name__, MachineLimitError.code)
    assert outcome["message"].startswith(f"cannot start a process for the PKCS#11 module: {why}")
    assert outcome["after"] == outcome["before"]


@_both_ways
@pytest.mark.parametrize(
    ("fault", "time_limit", "kind"),
    [
        ("tell 0", "30", "answer"),
        (f"fail {CKR['CKR_GENERAL_ERROR']:x}", "30", "ModuleUnusableError"),
        ("segv 0", "30", "ModuleUnusableError"),
        ("hang 0", "0.1", "ModuleUnusableError"),
    ],
    ids=["answering", "refusing", "crashing", "hanging"],
)
def test_many_workers_leave_nothing_behind(
    softhsm: SoftHsmUnderTest, tmp_path: Path, situation: str, fault: str, time_limit: str, kind: str
) -> None:
    """However often a module is asked and however it ends: no descriptor, no child, and the signals blocked before."""
    module = FaultModule(softhsm.module, tmp_path, f"C_Initialize 1+ {fault}").file
    outcome = done(situation, tasks.asked_often, module, time_limit)
    assert set(outcome["kinds"]) == {kind}
    assert outcome["after"] == outcome["before"]
    [_, blocked, children] = outcome["after"]
    assert set(blocked) == {signal.SIGTERM, signal.SIGUSR1}
    assert children == [0, 0]


@_both_ways
def test_a_worker_that_was_dismissed_is_not_asked(softhsm: SoftHsmUnderTest, situation: str) -> None:
    """Dismissing and ending a worker twice does nothing more, and asking it then is the caller's mistake."""
    outcome = done(situation, tasks.used_up, softhsm.module)
    assert outcome["said"] == [f"the worker of {softhsm.module} has been dismissed"] * 4
    assert outcome["after"] == outcome["before"]


@_both_ways
def test_a_fork_of_the_program_leaves_the_worker_alone(softhsm: SoftHsmUnderTest, situation: str) -> None:
    """A program that forks keeps its worker, whatever the fork does; and the worker ends although the fork lives."""
    outcome = done(situation, tasks.forks_itself, softhsm.module)
    assert outcome["answers"] == [2, 2]
    assert outcome["gone"]
    assert outcome["seconds"] < worker.GOODBYE_SECONDS / 2
