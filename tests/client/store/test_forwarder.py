"""What other processes know of the forwarder: whether it runs, and what it reports."""

from __future__ import annotations

import fcntl
import json
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsm_enroll.errors import BusyError, StateCorruptError, StateError, StateTooNewError
from hsm_enroll.store import forwarder
from hsm_enroll.store.forwarder import ForwarderState, ForwardReport, LastError
from tests.support.mounts import with_own_mounts

_AT = datetime(2026, 11, 26, 14, 2, 11, tzinfo=UTC)
_ERROR = LastError("mqtt-unreachable", "no broker answers", _AT)
_SILENT = ForwardReport()
_BEGUN = '{"version": 1, "sent": 1, "rate": 0.0, "received": 0, "unread": 0, '


@pytest.mark.parametrize(
    "report",
    [_SILENT, ForwardReport(_AT, 17, 99.5, None, received=4, unread=3), ForwardReport(None, 17, 0.0, _ERROR)],
    ids=["new", "connected", "failed"],
)
def test_a_running_forwarders_report_is_read(tmp_path: Path, report: ForwardReport) -> None:
    """What it has written is what is read; the file is private, and nothing else is left."""
    with forwarder.running(tmp_path):
        report.save(tmp_path)
        assert ForwarderState.load(tmp_path) == ForwarderState(is_running=True, report=report)
    assert stat.S_IMODE((tmp_path / "forward.json").stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["forward.json", "forward.lock"]


def test_a_forwarder_that_has_ended_is_not_running(tmp_path: Path) -> None:
    """Its last report says nothing about now, and who looks leaves nothing behind."""
    assert ForwarderState.load(tmp_path) == ForwarderState(is_running=False, report=_SILENT)
    assert list(tmp_path.iterdir()) == []
    with forwarder.running(tmp_path):
        ForwardReport(_AT, 17, 99.5, _ERROR).save(tmp_path)
    assert ForwarderState.load(tmp_path) == ForwarderState(is_running=False, report=_SILENT)


def test_there_is_one_forwarder(tmp_path: Path) -> None:
    """A second one is told so, and not that it should wait, until the first has ended."""
    with forwarder.running(tmp_path):
        busy = pytest.raises(BusyError, match="hsm-enroll forward is running")
        with busy as raised, forwarder.running(tmp_path):
            pass
        assert "until it is stopped" in str(raised.value.hint)
        assert forwarder.is_running(tmp_path)
    with forwarder.running(tmp_path):
        pass
    assert not forwarder.is_running(tmp_path)


def test_who_looks_does_not_keep_a_forwarder_from_starting(tmp_path: Path) -> None:
    """``status`` and ``publish --queue`` take the lock for a moment, for which a new forwarder waits."""
    with forwarder.running(tmp_path):
        pass
    with (tmp_path / "forward.lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with forwarder.running(tmp_path):
            assert forwarder.is_running(tmp_path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("[]", StateCorruptError),
        ('{"version": 1, "sent": 1}', StateCorruptError),
        (_BEGUN + '"connected_since": "2026-11-26T14:02:11"}', StateCorruptError),
        (_BEGUN + '"connected_since": 17}', StateCorruptError),
        (_BEGUN + '"last_error": {"code": "x"}}', StateCorruptError),
        ('{"version": 2}', StateTooNewError),
    ],
)
def test_a_report_that_nobody_wrote_is_an_error(tmp_path: Path, content: str, error: type[Exception]) -> None:
    """D12: a damaged report, or a newer version's, is named."""
    (tmp_path / "forward.json").write_text(content)
    with forwarder.running(tmp_path), pytest.raises(error, match=r"forward\.json"):
        ForwarderState.load(tmp_path)


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """D11: the error names the file."""
    ForwardReport(sent=1).save(tmp_path)
    (tmp_path / ".forward.json.tmp").mkdir()
    with pytest.raises(StateError, match=r"forward\.json cannot be written"):
        ForwardReport(sent=2).save(tmp_path)
    assert ForwardReport.load(tmp_path) == ForwardReport(sent=1)


_ON_A_FULL_DISK = """
import contextlib, pathlib, subprocess, sys
from datetime import UTC, datetime
from hsm_enroll.errors import StateError
from hsm_enroll.store.forwarder import ForwardReport, LastError
folder = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
ForwardReport(sent=1).save(folder)
with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as ballast:
    while True:
        ballast.write(bytes(4096))
for error in (LastError("state", "no space left" * 10, datetime.now(UTC).replace(microsecond=0)), None):
    report = ForwardReport(sent=2, last_error=error)
    report.save(folder)
    print(ForwardReport.load(folder) == report, report.sent)
(folder / "forward.json").rename(folder / "ballast too")
try:
    report.save(folder)
except StateError as error:
    print(error.message.rpartition(": ")[2])
"""


def test_a_full_disk_does_not_keep_a_forwarder_from_reporting(tmp_path: Path) -> None:
    """D11: whoever looks then sees how it is, and not how it was before; a shorter report is whole, too."""
    command = with_own_mounts(sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path))
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "True 2\nTrue 2\nNo space left on device\n"


def test_a_forwarder_that_hangs_is_not_responding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reports each minute, whatever the wall clock does; after three minutes of silence that is said."""
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    with forwarder.running(tmp_path):
        assert ForwarderState.load(tmp_path).is_responding  # it has just begun
        ForwardReport(_AT).save(tmp_path)
        for seconds, is_responding in ((170.0, True), (190.0, False)):
            monkeypatch.setattr(time, "clock_gettime", lambda _, at=uptime + seconds: at)
            state = ForwarderState.load(tmp_path)
            assert state.is_responding == is_responding
        assert state.text == "running, but not responding"
    assert not ForwarderState.load(tmp_path).is_responding


def test_an_earlier_versions_report_is_read(tmp_path: Path) -> None:
    """What it did not count is 0; and it counts as responding, since it does not say when it reported."""
    report = {"version": 1, "sent": 17, "rate": 2.5, "connected_since": None, "last_error": None}
    (tmp_path / "forward.json").write_text(json.dumps(report))
    with forwarder.running(tmp_path):
        state = ForwarderState.load(tmp_path)
    assert state.report == ForwardReport(sent=17, rate=2.5)
    assert state.is_responding


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (ForwarderState(is_running=False, report=_SILENT), "not running"),
        (ForwarderState(is_running=True, report=_SILENT), "running, but not connected"),
        (
            ForwarderState(is_running=True, report=ForwardReport(_AT, 17, 99.5, _ERROR)),
            "connected since 2026-11-26 14:02 UTC, 100 messages a second",
        ),
    ],
)
def test_a_person_is_told_how_it_is(state: ForwarderState, text: str) -> None:
    """Whether it runs and is connected."""
    assert state.text == text
