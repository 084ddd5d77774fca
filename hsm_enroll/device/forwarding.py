"""The use case: send what is in the outbox, over one long-lived connection, as long as the process runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hsm_enroll.device import metrics, outbox
from hsm_enroll.errors import HsmEnrollError, NotEnrolledError, StateError
from hsm_enroll.iot.forwarder import Forwarder, Line, Outcome, Totals
from hsm_enroll.store import forwarder as state
from hsm_enroll.store.forwarder import ForwardReport, LastError
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.outbox import Outbox

if TYPE_CHECKING:
    from hsm_enroll.iot import ConnectionEvent
    from hsm_enroll.settings import Settings


class ClosableLine(Line, Protocol):
    """A line to the broker that can be closed."""

    def close(self) -> None:
        """End the connection and the token's session."""


Connect = Callable[["Identity", Callable[["ConnectionEvent"], None]], ClosableLine]


class Happening(StrEnum):
    """What the forwarder tells of, beside the changes of its connection.

    Attributes:
        CONNECTED: there is a connection.
        LOST: it is lost, and another one is tried.
        FAILED: an attempt failed, and another one follows.
        RENEWED: the device's identity has changed, and it connects with the new one.
        SET_ASIDE: the broker does not accept a message, which was set aside.
        OUTBOX_FAILED: the outbox cannot be read or written at the moment.
        OUTBOX_WORKS: it can again.
    """

    CONNECTED = "connected"
    LOST = "lost"
    FAILED = "failed"
    RENEWED = "renewed"
    SET_ASIDE = "set-aside"
    OUTBOX_FAILED = "outbox-failed"
    OUTBOX_WORKS = "outbox-works"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        what: what it was.
        error: why; None where there is nothing to say.
        topic: of the message that was set aside.
        reason: why it was set aside.
    """

    what: Happening
    error: HsmEnrollError | None = None
    topic: str | None = None
    reason: str | None = None


class Forwarding:
    """Sends what is in the outbox until it is stopped.

    Args:
        resolved: the resolved settings.
        connect: returns a line to the broker for an identity, and tells a function of each change of the connection;
            see ``wiring.line``.
        tell: called with each event, on any thread, one at a time.
        metrics_file: is written every few seconds, see ``metrics``; None is no file.
        observe: called by the loop that sends, with its report, at least every few seconds while it makes progress.
    """

    def __init__(
        self,
        resolved: Settings,
        connect: Connect,
        tell: Callable[[Event], None],
        metrics_file: Path | None = None,
        observe: Callable[[ForwardReport], None] = lambda _: None,
    ) -> None:
        self._settings = resolved
        self._connect = connect
        self._listener = tell
        self._telling = threading.Lock()
        self._metrics_file = metrics_file
        self._observer = observe
        self._outbox: Outbox
        self._forwarder: Forwarder | None = None
        self._stopping = False
        self._connected_since: datetime | None = None
        self._last_error: LastError | None = None
        self._trouble: StateError | None = None
        self._reported: ForwardReport | None = None
        self._unwritable: str | None = None

    def run(self) -> Totals:
        """Send messages until :meth:`stop` is called, and return what was done.

        It connects as the Thing. Whenever the connection is lost, also before there ever was one, it is tried again as
        ``hsm_enroll.connect`` does with ``reconnect``. A renewed identity is taken over while it runs.

        Raises:
            BusyError: another process forwards from this state folder.
            NotEnrolledError: this device is not enrolled, or not any more.
            HsmEnrollError: what a person has to look at, such as a wrong PIN, which was tried once, or another program
                with the same client id.
        """
        folder = self._settings.state
        identity = Identity.load(folder)
        with state.running(folder), Outbox.open(folder, outbox.limits(self._settings)) as self._outbox:
            self._forwarder = forwarder = Forwarder(
                self._outbox,
                rate=self._settings.draining_rate,
                timeout=self._settings.operation_timeout,
                on_set_aside=self._on_set_aside,
                observe=self._observe,
            )
            if self._stopping:  # before there was a forwarder
                forwarder.stop()
            while self._forward(identity, forwarder) is Outcome.CHANGED:
                identity = Identity.load(folder)
                self._tell(Event(Happening.RENEWED))
            return forwarder.totals

    def stop(self) -> None:
        """End the run, once what is in flight is acknowledged; may be called in a signal handler."""
        self._stopping = True
        if self._forwarder is not None:
            self._forwarder.stop()

    def _forward(self, identity: Identity, forwarder: Forwarder) -> Outcome:
        """Send messages with one identity."""
        changed = partial(self._has_changed, identity)
        line = self._connect(identity, self._on_connection)
        try:
            return forwarder.run(line, changed)
        except HsmEnrollError:
            # After a renewal the old certificate is refused, and the old key is gone.
            if changed():
                return Outcome.CHANGED
            raise
        finally:
            line.close()
            self._connected_since = None
            self._observe()

    def _on_connection(self, event: ConnectionEvent) -> None:
        """Take note of a change of the connection, on a thread of its own."""
        is_connected = event.state in {"connected", "resumed"}
        self._connected_since = datetime.now(UTC) if is_connected else None
        if event.error is not None:
            self._note(event.error)
        if event.state != "ended":  # which ends the run with its error
            self._tell(Event(Happening.CONNECTED if is_connected else Happening(str(event.state)), event.error))
        if self._forwarder is not None:
            self._forwarder.wake()

    def _on_set_aside(self, topic: str, reason: str) -> None:
        self._tell(Event(Happening.SET_ASIDE, topic=topic, reason=reason))

    def _tell(self, event: Event) -> None:
        with self._telling:
            self._listener(event)

    def _note(self, error: HsmEnrollError) -> None:
        self._last_error = LastError(error.code, error.message, datetime.now(UTC))

    def _observe(self) -> None:
        """Report, and tell of the outbox's troubles."""
        if self._forwarder is None:
            return
        self._set_trouble(self._forwarder.backlog.trouble)
        totals = self._forwarder.totals
        report = ForwardReport(
            connected_since=self._connected_since,
            sent=totals.sent,
            rate=round(totals.rate, 3),
            last_error=self._last_error,
        )
        self._observer(report)
        try:
            if report != self._reported:  # flash memory wears out
                report.save(self._settings.state)
                self._reported = report
            if self._metrics_file is not None:
                metrics.write(self._metrics_file, metrics.text(report, self._outbox.state()))
        except StateError as error:
            # Messages are sent nevertheless.
            if self._unwritable != error.message:
                self._unwritable = error.message
                self._note(error)
                self._tell(Event(Happening.OUTBOX_FAILED, error))
        else:
            self._unwritable = None

    def _set_trouble(self, trouble: StateError | None) -> None:
        before, self._trouble = self._trouble, trouble
        if trouble is not None and before is None:
            self._note(trouble)
            self._tell(Event(Happening.OUTBOX_FAILED, trouble))
        if trouble is None and before is not None:
            self._tell(Event(Happening.OUTBOX_WORKS))

    def _has_changed(self, identity: Identity) -> bool:
        try:
            return Identity.load(self._settings.state).certificate_pem != identity.certificate_pem
        except NotEnrolledError:
            return True
        except HsmEnrollError:
            return False  # what cannot be read now may be read later; the connection goes on
