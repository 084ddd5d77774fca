"""What the metrics file says, as a table of the report and the outbox's state."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from hsm_enroll.device import metrics
from hsm_enroll.store.forwarder import ForwardReport, LastError
from hsm_enroll.store.outbox import OutboxState

_SINCE, _ERROR_AT = datetime(2026, 11, 26, 12, tzinfo=UTC), datetime(2026, 11, 26, 13, tzinfo=UTC)
_REPORT = ForwardReport(
    connected_since=_SINCE,
    sent=2,
    rate=3.25,
    last_error=LastError("mqtt-failed", "the connection was lost", _ERROR_AT),
    received=5,
    unread=6,
    repeated=7,
)
_STATE = OutboxState(
    messages=8,
    bytes=9,
    oldest_age=10.4,
    refused=11,
    refused_bytes=12,
    dropped=13,
    expired=14,
    damaged_files=tuple(Path(f"outbox.db.damaged-{number}") for number in range(15)),
)
_SHOWN = {
    "forward_connected": ("gauge", "1"),
    "forward_connected_since_seconds": ("gauge", str(int(_SINCE.timestamp()))),
    "forward_sent_total": ("counter", "2"),
    "forward_rate": ("gauge", "3.25"),
    "forward_last_error_seconds": ("gauge", str(int(_ERROR_AT.timestamp()))),
    "forward_received_total": ("counter", "5"),
    "forward_unread_total": ("counter", "6"),
    "forward_repeated_total": ("counter", "7"),
    "outbox_messages": ("gauge", "8"),
    "outbox_bytes": ("gauge", "9"),
    "outbox_oldest_age_seconds": ("gauge", "10"),
    "outbox_refused_total": ("counter", "11"),
    "outbox_dropped_total": ("counter", "13"),
    "outbox_expired_total": ("counter", "14"),
    "outbox_damaged_files": ("gauge", "15"),
}


def _shown(report: ForwardReport, state: OutboxState) -> dict[str, tuple[str, str]]:
    """Return the type and the value of each metric (Prometheus's text format), by its name."""
    lines = [line.split(" ") for line in metrics.text(report, state).splitlines()]
    types = {line[2]: line[3] for line in lines if line[:2] == ["#", "TYPE"]}
    return {name: (types[name], value) for name, value in (line for line in lines if line[0] != "#")}


def test_each_metric_has_its_own_value() -> None:
    """No two of them are mixed up, and each is of the type that its name says."""
    expected = {f"hsm_enroll_{name}": shown for name, shown in _SHOWN.items()}
    assert _shown(_REPORT, _STATE) == expected


def test_without_a_connection_or_an_error_or_a_message_it_is_0() -> None:
    """A metric that has nothing to say is there nevertheless."""
    empty = OutboxState(
        messages=0, bytes=0, oldest_age=None, refused=0, refused_bytes=0, dropped=0, expired=0, damaged_files=()
    )
    shown = _shown(ForwardReport(), empty)
    assert shown.keys() == {f"hsm_enroll_{name}" for name in _SHOWN}
    assert {float(value) for _, value in shown.values()} == {0.0}
