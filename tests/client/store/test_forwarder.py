"""What other processes know of the forwarder: whether it runs, and what it reports."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsm_enroll.errors import BusyError, StateCorruptError, StateError, StateTooNewError
from hsm_enroll.store import forwarder
from hsm_enroll.store.forwarder import ForwarderState, ForwardReport, LastError

_AT = datetime(2026, 11, 26, 14, 2, 11, tzinfo=UTC)
_ERROR = LastError("mqtt-unreachable", "no broker answers", _AT)
_SILENT = ForwardReport()


@pytest.mark.parametrize(
    "report",
    [_SILENT, ForwardReport(_AT, 17, 99.5, None), ForwardReport(None, 17, 0.0, _ERROR)],
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
    """A second one is told so, until the first has ended."""
    with forwarder.running(tmp_path):
        with pytest.raises(BusyError, match="hsm-enroll forward is running"), forwarder.running(tmp_path):
            pass
        assert forwarder.is_running(tmp_path)
    with forwarder.running(tmp_path):
        pass
    assert not forwarder.is_running(tmp_path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("[]", StateCorruptError),
        ('{"version": 1, "sent": 1}', StateCorruptError),
        ('{"version": 1, "sent": 1, "rate": 0.0, "connected_since": "2026-11-26T14:02:11"}', StateCorruptError),
        ('{"version": 1, "sent": 1, "rate": 0.0, "connected_since": 17}', StateCorruptError),
        ('{"version": 1, "sent": 1, "rate": 0.0, "last_error": {"code": "x"}}', StateCorruptError),
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
