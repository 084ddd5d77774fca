"""The forwarder's state as a Prometheus text file, for the textfile collector of the node exporter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_enroll.errors import StateError, UsageError

if TYPE_CHECKING:
    from hsm_enroll.store.forwarder import ForwardReport
    from hsm_enroll.store.outbox import OutboxState


def check(file: Path) -> None:
    """Check that there is a folder for the metrics file.

    Raises:
        UsageError: there is none, or this is not the name of a file.
        StateError: it cannot be examined.
    """
    hint = "Name a file in a folder that exists."
    try:
        is_there = file.parent.is_dir()
    except OSError as error:
        raise StateError(f"{file.parent} cannot be examined: {error.strerror}", hint=hint) from error
    if not file.name:
        raise UsageError(f"{str(file)!r} is not the name of a file", hint=hint)
    if not is_there:
        raise UsageError(f"there is no folder {file.parent}", hint=hint)


def text(report: ForwardReport, outbox: OutboxState) -> str:
    """Return the metrics in Prometheus's text format, version 0.0.4."""
    error = report.last_error
    since = report.connected_since
    rows = (
        ("forward_connected", "gauge", "Whether it is connected to the broker.", int(since is not None)),
        ("forward_connected_since_seconds", "gauge", "Start of the connection; 0 without one.", _seconds(since)),
        ("forward_sent_total", "counter", "Messages that the broker has acknowledged.", report.sent),
        ("forward_repeated_total", "counter", "Messages sent again after a lost connection.", report.repeated),
        ("forward_rate", "gauge", "Messages a second that the broker has acknowledged lately.", round(report.rate, 3)),
        ("forward_last_error_seconds", "gauge", "Time of the last error; 0 without one.", _seconds(error and error.at)),
        ("forward_received_total", "counter", "Messages that have arrived for local programs.", report.received),
        ("forward_unread_total", "counter", "Those dropped since no program was connected.", report.unread),
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

    The folder may be one to which other users write: nothing that they put there is written to.

    Raises:
        StateError: it cannot be written.
    """
    # The collector reads files that end in .prom.
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                os.fchmod(descriptor, 0o644)  # whatever the umask is
                stream.write(content)
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StateError(
            f"the metrics file {file} cannot be written: {error.strerror}", hint="Check its folder and the free space."
        ) from error


def _seconds(moment: object) -> float:
    from datetime import datetime

    return round(moment.timestamp()) if isinstance(moment, datetime) else 0
