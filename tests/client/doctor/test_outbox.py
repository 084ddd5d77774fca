"""What the doctor says of the outbox and of the forwarder."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsm_enroll.device.outbox import retry
from hsm_enroll.doctor import Finding, Patient, Status, checks_outbox
from hsm_enroll.service.systemd import UnitState
from hsm_enroll.service.units import FORWARD
from hsm_enroll.settings import Settings
from hsm_enroll.store import forwarder
from hsm_enroll.store.forwarder import ForwardReport, LastError
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
from hsm_enroll.token.tokens import Tokens
from tests.support.nobody import as_nobody

_AT = datetime(2026, 11, 26, 14, 2, 11, tzinfo=UTC)
_ERROR = LastError("mqtt-unreachable", "no broker answers", _AT)


def _findings(folder: Path, service: UnitState | None = None) -> tuple[Finding, Finding]:
    settings = Settings(state=folder, outbox_bytes=2**20)
    patient = Patient(settings, {}, Tokens(), look_at_service=lambda: service)
    return checks_outbox.outbox(patient), checks_outbox.forward(patient)


def _queue(folder: Path, count: int, size: int = 1, refused: int = 0) -> None:
    with Outbox.open(folder, OutboxLimits(max_bytes=2**20)) as outbox:
        outbox.add(*[NewMessage("a/b", bytes(size))] * count)
        for message in outbox.next(0, refused) if refused else ():
            outbox.set_aside(message.id, "NOT_AUTHORIZED")


@contextmanager
def _forwarding(folder: Path, report: ForwardReport) -> Iterator[None]:
    with forwarder.running(folder):
        report.save(folder)
        yield


def test_a_device_that_does_not_use_it_has_nothing_to_check(tmp_path: Path) -> None:
    """Both checks are skipped without anything to do, and no outbox is created by looking."""
    outbox, forward = _findings(tmp_path / "state")
    assert [(found.status, found.hint) for found in (outbox, forward)] == [(Status.SKIPPED, "")] * 2
    assert not (tmp_path / "state").exists()


def test_messages_that_nobody_sends_are_a_warning(tmp_path: Path) -> None:
    """The forwarder has to be started; the outbox itself is in order."""
    _queue(tmp_path, 3)
    outbox, forward = _findings(tmp_path)
    assert outbox.status is Status.OK
    assert outbox.message.startswith("3 messages wait (")
    assert forward.status is Status.WARNING
    assert forward.message.endswith("and hsm-enroll forward is not running")
    assert forward.hint.startswith("Start it (hsm-enroll forward)")
    assert forward.hint.endswith("run: hsm-enroll service status")


@pytest.mark.parametrize(
    ("report", "status", "message", "hint"),
    [
        (
            ForwardReport(_AT, 17, 12.0, _ERROR),
            Status.OK,
            "hsm-enroll forward is connected since 2026-11-26 14:02 UTC, 12 messages a second",
            "",
        ),
        (
            ForwardReport(None, 17, 0.0, _ERROR),
            Status.WARNING,
            "hsm-enroll forward is running, but not connected: no broker answers",
            "Run: hsm-enroll doctor --online --login",
        ),
    ],
    ids=["connected", "not connected"],
)
def test_a_forwarder_that_runs_should_be_connected(
    tmp_path: Path, report: ForwardReport, status: Status, message: str, hint: str
) -> None:
    """If it is not, its last error is shown, and which checks look at the network."""
    _queue(tmp_path, 1)
    with _forwarding(tmp_path, report):
        _, forward = _findings(tmp_path)
    assert forward == Finding("forward", status, message, hint)


@pytest.mark.parametrize(
    ("state", "result", "enabled", "status", "message"),
    [
        ("failed", "exit-code", True, Status.FAILED, f"{FORWARD} has failed: exit status 12"),
        ("failed", "watchdog", True, Status.FAILED, f"{FORWARD} has failed: watchdog"),
        ("activating", "exit-code", True, Status.WARNING, "has failed: exit status 12; systemd starts it again"),
        ("failed", "exit-code", False, Status.SKIPPED, "hsm-enroll forward is not running"),
        ("inactive", "success", True, Status.SKIPPED, "hsm-enroll forward is not running"),
    ],
)
def test_a_service_that_has_failed_is_a_failure(
    tmp_path: Path, state: str, result: str, enabled: bool, status: Status, message: str
) -> None:
    """Nobody starts it again, so it is one with an empty outbox, too; one that is not enabled is not missed."""
    service = UnitState(FORWARD, "loaded", (), enabled, state, result, 12, "")
    _, forward = _findings(tmp_path, service)
    assert forward.status is status
    assert forward.message.endswith(message)
    assert (f"sudo systemctl restart {FORWARD}" in forward.hint) is (status is Status.FAILED)


def test_a_forwarder_that_hangs_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it reported last, that it is connected, is not believed."""
    _queue(tmp_path, 1)
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    with _forwarding(tmp_path, ForwardReport(_AT, 17, 12.0, None)):
        monkeypatch.setattr(time, "clock_gettime", lambda _: uptime + 300.0)
        _, forward = _findings(tmp_path)
    assert forward.status is Status.WARNING
    assert forward.message == "hsm-enroll forward is running, but not responding"
    assert forward.hint.startswith("Restart it.")


@pytest.mark.parametrize(("count", "status"), [(7, Status.OK), (8, Status.WARNING)])
def test_an_outbox_that_is_nearly_full_is_a_warning(tmp_path: Path, count: int, status: Status) -> None:
    """Above 80 % somebody should look before messages are refused."""
    _queue(tmp_path, count, size=110_000)
    outbox, _ = _findings(tmp_path)
    assert outbox.status is status
    assert outbox.message.startswith("the outbox is 84% full: 8" if status is Status.WARNING else "7 messages wait")


def test_refused_messages_are_a_warning(tmp_path: Path) -> None:
    """They are not sent again by themselves: an operator has to allow their topics."""
    _queue(tmp_path, 3, refused=2)
    outbox, _ = _findings(tmp_path)
    assert outbox.status is Status.WARNING
    assert outbox.message.startswith("1 message waits (")
    assert outbox.message.endswith("; 2 refused by the broker")
    assert outbox.hint.startswith("Look: hsm-enroll outbox refused.")
    retry(tmp_path, None)
    assert _findings(tmp_path)[0].status is Status.OK


def test_a_damaged_outbox_is_a_warning(tmp_path: Path) -> None:
    """D21: it was set aside and works again, but messages may be lost."""
    (tmp_path / "outbox.db").write_bytes(b"not a database" * 100)
    _queue(tmp_path, 1)
    outbox, _ = _findings(tmp_path)
    assert outbox.status is Status.WARNING
    assert str(tmp_path / "outbox.db.damaged-") in outbox.message


def test_what_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    """D12: an outbox of a newer version, and a damaged report of a running forwarder, with what to do."""
    _queue(tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        connection.execute("PRAGMA user_version = 2")
    with forwarder.running(tmp_path):
        (tmp_path / "forward.json").write_text("[]")
        findings = _findings(tmp_path)
    assert [found.status for found in findings] == [Status.FAILED] * 2
    assert all(found.hint for found in findings)


def test_an_outbox_on_a_disk_that_is_not_mounted_is_a_failure(tmp_path: Path) -> None:
    """D11: it is not taken for an empty one."""
    (tmp_path / "outbox.db").symlink_to(tmp_path / "elsewhere" / "outbox.db")
    outbox, _ = _findings(tmp_path)
    assert outbox.status is Status.FAILED
    assert outbox.message.endswith("cannot be used: it is a symbolic link")
    assert "put the whole state folder there" in (outbox.hint or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user_is_no_traceback() -> None:
    """D11: the check of the folder says what is wrong with it; these two find nothing."""
    with tempfile.TemporaryDirectory() as folder, as_nobody():
        findings = _findings(Path(folder))
    assert [found.status for found in findings] == [Status.SKIPPED] * 2


def test_the_forwarder_is_judged_without_the_outbox_too(tmp_path: Path) -> None:
    """If the outbox cannot be read, one failure is enough."""
    (tmp_path / "outbox.db").mkdir()
    outbox, forward = _findings(tmp_path)
    assert (outbox.status, forward.status) == (Status.FAILED, Status.SKIPPED)
