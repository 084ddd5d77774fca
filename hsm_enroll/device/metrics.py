"""The forwarder's state as a Prometheus text file, for the textfile collector of the node exporter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_enroll.errors import StateError

if TYPE_CHECKING:
    from hsm_enroll.store.forwarder import ForwardReport
    from hsm_enroll.store.outbox import OutboxState


def text(report: ForwardReport, outbox: OutboxState) -> str:
    """Return the metrics in Prometheus's text format, version 0.0.4."""
    error = report.last_error
    since = report.connected_since
    rows = (
        ("forward_connected", "gauge", "Whether it is connected to the broker.", int(since is not None)),
        ("forward_connected_since_seconds", "gauge", "Start of the connection; 0 without one.", _seconds(since)),
        ("forward_sent_total", "counter", "Messages that the broker has acknowledged.", report.sent),
        ("forward_rate", "gauge", "Messages a second that the broker has acknowledged lately.", round(report.rate, 3)),
        ("forward_last_error_seconds", "gauge", "Time of the last error; 0 without one.", _seconds(error and error.at)),
        ("outbox_messages", "gauge", "Messages that wait.", outbox.messages),
        ("outbox_bytes", "gauge", "Their size.", outbox.bytes),
        ("outbox_oldest_age_seconds", "gauge", "Age of the oldest message that waits.", round(outbox.oldest_age or 0)),
        ("outbox_refused_total", "counter", "Messages that the broker has refused.", outbox.refused),
        ("outbox_dropped_total", "counter", "Messages dropped to make room for newer ones.", outbox.dropped),
        ("outbox_expired_total", "counter", "Messages that have expired.", outbox.expired),
        ("outbox_damaged_files", "gauge", "Damaged outboxes that were set aside.", len(outbox.damaged_files)),
    )
    lines = []
    for name, kind, meaning, value in rows:
        full = f"hsm_enroll_{name}"
        lines += [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}", f"{full} {value}"]
    return "\n".join(lines) + "\n"


def write(file: Path, content: str) -> None:
    """Replace the file in one rename; others may read it. Does *not* flush it to the disk.

    Raises:
        StateError: it cannot be written.
    """
    # The collector reads files that end in .prom.
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
        temporary.replace(file)
    except OSError as error:
        raise StateError(
            f"the metrics file {file} cannot be written: {error.strerror}", hint="Check its folder and the free space."
        ) from error


def _seconds(moment: object) -> float:
    from datetime import datetime

    return round(moment.timestamp()) if isinstance(moment, datetime) else 0
