"""``hsm-enroll forward``: the long-running sender."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from hsm_enroll.cli import signals
from hsm_enroll.cli.documents import instant
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.terminal import keep_stdout
from hsm_enroll.device import metrics, wiring
from hsm_enroll.device.forwarding import Event, Forwarding, Happening
from hsm_enroll.device.relaying import Relay
from hsm_enroll.errors import BusyError, HsmEnrollError
from hsm_enroll.iot import limits
from hsm_enroll.iot.forwarder import Totals
from hsm_enroll.service import units
from hsm_enroll.service.notify import Manager
from hsm_enroll.store.forwarder import ForwardReport
from hsm_enroll.store.identity import Identity

_ONE_FORWARDER = (
    "One process both sends and receives. If that is the service, add --subscribe and --socket to its command: "
    f"sudo systemctl edit {units.FORWARD} (docs/integrator.md, Messages from others). "
    f"Or stop it: sudo systemctl stop {units.FORWARD}"
)
_REPEATING = {Happening.FAILED, Happening.SET_ASIDE, Happening.READER_DROPPED}
_WARNINGS = {
    *(Happening.SET_ASIDE, Happening.OUTBOX_FAILED, Happening.OUTBOX_DAMAGED, Happening.REPORT_FAILED),
    *(Happening.NOT_SUBSCRIBED, Happening.READER_DROPPED),
}


@command("forward", example="hsm-enroll forward --metrics-file /var/lib/prometheus/node-exporter/hsm-enroll.prom")
@click.option(
    "--metrics-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep metrics in this file, for Prometheus's textfile collector; its name ends in .prom.",
)
@click.option(
    "--subscribe",
    "filters",
    multiple=True,
    metavar="FILTER",
    help="Receive the messages of this topic filter for programs on this device; may be given several times.",
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The Unix socket from which programs read them, a line each, as subscribe --json prints them.",
)
def forward(
    invocation: Invocation, *, metrics_file: Path | None, filters: tuple[str, ...], socket: Path | None
) -> None:
    """Send what is in the outbox, and stay connected, until Ctrl-C or SIGTERM. Start it as a service.

    It connects as the Thing, and again whenever the connection is lost. publish --queue and the library's Publisher put
    messages into the outbox, and hsm-enroll status shows how many wait. The PIN is never prompted for. With --json each
    event is one line.

    With --subscribe and --socket, programs that connect to the socket get the messages that others publish. The socket
    has mode 0660: its group decides who may read.
    """
    settings = invocation.settings
    relay = _relay(filters, socket, settings.operation_timeout)
    if metrics_file is not None:
        metrics.check(metrics_file)
    identity = Identity.load(settings.state)
    shown = _Shown(invocation, identity)
    keep_stdout()
    connect = partial(wiring.line, settings, wiring.unattended(settings), invocation.at_pin_pad)
    with Manager(os.environ) as manager:
        forwarding = Forwarding(
            settings,
            connect,
            shown,
            metrics_file,
            observe=lambda report: manager.progress(_status(report)),
            relay=relay,
        )

        def end() -> None:
            manager.stopping()
            forwarding.stop()

        with signals.stopping(end) as stop:
            until = ", until Ctrl-C" if sys.stderr.isatty() else ""
            invocation.terminal.say(f"connecting to {shown.broker}{until}")
            shown.end(_run(forwarding, relay))
    raise click.exceptions.Exit(stop.status or 0)


def _run(forwarding: Forwarding, relay: Relay | None) -> Totals:
    try:
        return forwarding.run()
    except BusyError as error:
        if relay is not None:
            error.hint = _ONE_FORWARDER
        raise


def _relay(filters: Sequence[str], socket: Path | None, timeout: float) -> Relay | None:
    if bool(filters) != (socket is not None):
        raise click.UsageError("give both --subscribe and --socket, or neither")
    for topic in filters:
        limits.check_filter(topic)
    return None if socket is None else Relay(filters, socket, timeout)


def _status(report: ForwardReport) -> str:
    """Return what the service manager shows; without counts, which would have it tell everybody each second."""
    if report.connected_since is not None:
        return f"connected since {instant(report.connected_since)}"
    return f"not connected: {report.last_error.message}" if report.last_error else "connecting"


class _Shown:
    """Shows what happens. The same failure of each attempt is shown once.

    What cannot be shown is left out: whoever reads it may have ended, or may never read on. Messages are sent anyway.
    """

    def __init__(self, invocation: Invocation, identity: Identity) -> None:
        settings = invocation.settings
        self._terminal = invocation.terminal
        self._thing = identity.thing_name
        self._last: tuple[str, str | None] | None = None
        host, port = settings.mqtt_endpoint or identity.mqtt_endpoint, settings.mqtt_port or identity.mqtt_port
        self.broker = f"{host}:{port}"

    def __call__(self, event: Event) -> None:
        seen = event.what, event.error.message if event.error else event.topic
        if seen == self._last and event.what in _REPEATING:
            return
        if not self._terminal.takes_a_line():
            return
        self._last = seen
        with suppress(OSError, HsmEnrollError):
            if self._terminal.as_json:
                self._terminal.line(_document(event))
            elif event.what in _WARNINGS:
                self._terminal.warn(self._text(event))
            else:
                self._terminal.say(self._text(event))

    def end(self, totals: Totals) -> None:
        """Show what was done, once it has ended."""
        if not self._terminal.takes_a_line():
            return
        with suppress(OSError, HsmEnrollError):
            if self._terminal.as_json:
                counts = {"sent": totals.sent, "repeated": totals.repeated, "setAside": totals.set_aside}
                self._terminal.line({"event": "stopped", "at": instant(datetime.now(UTC)), **counts})
            else:
                self._terminal.say(f"stopped; it has sent {_count(totals)}")

    def _text(self, event: Event) -> str:
        error = event.error.message if event.error else ""
        return {
            Happening.CONNECTED: f"connected to {self.broker} as {self._thing}",
            Happening.LOST: f"{error}; trying again",
            Happening.FAILED: f"{error}; trying again",
            Happening.RENEWED: "this device's identity was renewed: connecting with the new one",
            Happening.SET_ASIDE: (
                f"the broker does not accept messages for {event.topic} ({event.reason}): set aside; "
                "hsm-enroll outbox refused lists them"
            ),
            Happening.OUTBOX_FAILED: f"{error}; trying again",
            Happening.OUTBOX_WORKS: "the outbox can be used again",
            Happening.REPORT_FAILED: f"{error}; messages are sent nevertheless",
            Happening.REPORT_WORKS: "status and metrics are written again",
            Happening.OUTBOX_DAMAGED: f"the outbox was damaged, and messages may be lost; what is left: {event.file}",
            Happening.SUBSCRIBED: f"subscribed to {event.topic}",
            Happening.NOT_SUBSCRIBED: f"{error}; trying again",
            Happening.READER_DROPPED: f"a program was disconnected from the socket: {event.reason}",
        }[event.what]


def _document(event: Event) -> dict[str, Any]:
    document: dict[str, Any] = {"event": str(event.what), "at": instant(datetime.now(UTC))}
    if event.error is not None:
        document["error"] = event.error.document
    if event.topic is not None:
        document["topic"] = event.topic
    if event.reason is not None:
        document["reason"] = event.reason
    if event.file is not None:
        document["file"] = str(event.file)
    return document


def _count(totals: Totals) -> str:
    """Return how many messages were sent, for a person."""
    parts = [f"{totals.sent} {'message' if totals.sent == 1 else 'messages'}"]
    if totals.repeated:
        parts.append(f"{totals.repeated} of them again after a lost connection")
    if totals.set_aside:
        parts.append(f"and set {totals.set_aside} aside")
    return ", ".join(parts)
