"""The use case: send what is in the outbox, over one long-lived connection, as long as the process runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hsm_enroll.device import outbox
from hsm_enroll.device.relaying import Relay, Subscribable
from hsm_enroll.device.reporting import Reporter
from hsm_enroll.errors import HsmEnrollError, NotEnrolledError, StateError, TokenRefusedError
from hsm_enroll.iot.forwarder import Forwarder, Outcome, Totals
from hsm_enroll.iot.links import Line
from hsm_enroll.store import forwarder as state
from hsm_enroll.store.forwarder import ForwardReport, LastError
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.outbox import Outbox

if TYPE_CHECKING:
    from hsm_enroll.iot import ConnectionEvent
    from hsm_enroll.settings import Settings


# What has not answered for so long will not: a TPM needs half a minute, somebody at a PIN pad a little more; and an
# outbox that may be damaged is read as a whole.
_TOKEN_SECONDS = 180.0
_DISK_SECONDS = 600.0


class ClosableLine(Line, Subscribable, Protocol):
    """A line to the broker that can be closed."""

    @property
    def waiting_seconds(self) -> float:
        """How long an attempt to connect has been going on; 0 if none is."""

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
        REPORT_FAILED: the report for ``status``, or the metrics file, cannot be written at the moment.
        REPORT_WORKS: it can again.
        OUTBOX_DAMAGED: a damaged outbox was set aside, now or before the start, and a new one begun.
        SUBSCRIBED: messages of a topic filter come from now on.
        NOT_SUBSCRIBED: they do not; another attempt follows.
        READER_DROPPED: a program that was connected to the socket was disconnected.
    """

    CONNECTED = "connected"
    LOST = "lost"
    FAILED = "failed"
    RENEWED = "renewed"
    SET_ASIDE = "set-aside"
    OUTBOX_FAILED = "outbox-failed"
    OUTBOX_WORKS = "outbox-works"
    REPORT_FAILED = "report-failed"
    REPORT_WORKS = "report-works"
    OUTBOX_DAMAGED = "outbox-damaged"
    SUBSCRIBED = "subscribed"
    NOT_SUBSCRIBED = "not-subscribed"
    READER_DROPPED = "reader-dropped"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        what: what it was.
        error: why; None where there is nothing to say.
        topic: of the message that was set aside, or the topic filter.
        reason: why it was set aside, or the program disconnected.
        file: what is left of a damaged outbox.
    """

    what: Happening
    error: HsmEnrollError | None = None
    topic: str | None = None
    reason: str | None = None
    file: Path | None = None


class Forwarding:
    """Sends what is in the outbox until it is stopped.

    Args:
        resolved: the resolved settings.
        connect: returns a line to the broker for an identity, and tells a function of each change of the connection;
            see ``wiring.line``.
        tell: called with each event, on any thread, one at a time.
        metrics_file: is written every few seconds, see ``metrics``; None is no file.
        observe: called by the loop that sends, with its report, at least every few seconds while it makes progress; not
            while a token or a disk has not answered for minutes.
        relay: gives messages that arrive to programs on this device; None is not to subscribe to any.
    """

    def __init__(
        self,
        resolved: Settings,
        connect: Connect,
        tell: Callable[[Event], None],
        metrics_file: Path | None = None,
        observe: Callable[[ForwardReport], None] = lambda _: None,
        relay: Relay | None = None,
    ) -> None:
        self._settings = resolved
        self._connect = connect
        self._listener = tell
        self._telling = threading.Lock()
        self._metrics_file = metrics_file
        self._observer = observe
        self._relay = relay
        self._outbox: Outbox
        self._forwarder: Forwarder | None = None
        self._reporter: Reporter | None = None
        self._line: ClosableLine | None = None
        self._stopping = False
        self._connected_since: datetime | None = None
        self._last_error: LastError | None = None
        self._trouble: StateError | None = None
        self._is_token_silent = False

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
        with state.running(folder):
            with suppress(StateError):  # which is told when the next report cannot be written
                ForwardReport().save(folder)  # the last one is an earlier process's
            # Only now: before, it may have been retired.
            return self._run(folder, Identity.load(folder))

    def _run(self, folder: Path, identity: Identity) -> Totals:
        with Outbox.open(folder, outbox.limits(self._settings)) as self._outbox:
            self._forwarder = forwarder = Forwarder(
                self._outbox,
                rate=self._settings.draining_rate,
                timeout=self._settings.operation_timeout,
                on_set_aside=self._on_set_aside,
                observe=self._observe,
            )
            self._reporter = Reporter(
                folder,
                self._outbox.state,
                self._metrics_file,
                on_trouble=self._on_unwritable,
                on_recovery=lambda: self._tell(Event(Happening.REPORT_WORKS)),
                on_damage=lambda file: self._tell(Event(Happening.OUTBOX_DAMAGED, file=file)),
            )
            if self._stopping:  # before there was a forwarder
                forwarder.stop()
            try:
                with self._relaying():
                    while self._forward(identity, forwarder) is Outcome.CHANGED:
                        identity = Identity.load(folder)
                        self._tell(Event(Happening.RENEWED))
            finally:
                self._reporter.close(self._report(forwarder))
            return forwarder.totals

    def stop(self) -> None:
        """End the run, once what is in flight is acknowledged; may be called in a signal handler."""
        self._stopping = True
        if self._forwarder is not None:
            self._forwarder.stop()

    def _relaying(self) -> AbstractContextManager[None]:
        if self._relay is None:
            return nullcontext()
        return self._relay.running(self._on_subscription, self._on_drop, on_failure=self.stop)

    def _forward(self, identity: Identity, forwarder: Forwarder) -> Outcome:
        """Send messages with one identity."""
        changed = partial(self._has_changed, identity)
        self._line = line = self._connect(identity, partial(self._on_connection, changed))
        if self._relay is not None:
            self._relay.use(line)
        try:
            return forwarder.run(line, changed)
        except HsmEnrollError:
            # After a renewal the old certificate is refused, and the old key is gone.
            if changed():
                return Outcome.CHANGED
            raise
        finally:
            line.close()
            self._line = None  # it would keep the token's session
            self._connected_since = None
            self._observe()

    def _on_connection(self, changed: Callable[[], bool], event: ConnectionEvent) -> None:
        """Take note of a change of the connection, on a thread of its own."""
        is_connected = event.state in {"connected", "resumed"}
        self._connected_since = datetime.now(UTC) if is_connected else None
        # After a renewal the old key is gone: what fails with it is no news, and the forwarder sees why.
        if event.state not in {"failed", "ended"} or not changed():
            self._announce(event, is_connected=is_connected)
        if self._relay is not None:
            self._relay.wake()
        if self._forwarder is not None:
            self._forwarder.wake()

    def _announce(self, event: ConnectionEvent, *, is_connected: bool) -> None:
        if event.error is not None:
            self._note(event.error)
        if event.state != "ended":  # which ends the run with its error
            self._tell(Event(Happening.CONNECTED if is_connected else Happening(str(event.state)), event.error))

    def _on_subscription(self, topic_filter: str, error: HsmEnrollError | None) -> None:
        what = Happening.SUBSCRIBED if error is None else Happening.NOT_SUBSCRIBED
        if error is not None:
            self._note(error)
        self._tell(Event(what, error, topic=topic_filter))

    def _on_drop(self, reason: str) -> None:
        self._tell(Event(Happening.READER_DROPPED, reason=reason))

    def _on_set_aside(self, topic: str, reason: str) -> None:
        self._tell(Event(Happening.SET_ASIDE, topic=topic, reason=reason))

    def _tell(self, event: Event) -> None:
        with self._telling:
            self._listener(event)

    def _note(self, error: HsmEnrollError) -> None:
        self._last_error = LastError(error.code, error.message, datetime.now(UTC))

    def _observe(self) -> None:
        """Report; tell the service manager of the progress, if there is any, and everybody of the outbox's troubles."""
        if self._forwarder is None or self._reporter is None:
            return
        silence = self._disk_silence(self._forwarder)
        self._set_trouble(self._forwarder.backlog.trouble or silence)
        self._look_at_token()
        report = self._report(self._forwarder)
        if silence is None and not self._is_token_silent:
            self._observer(report)
        self._reporter.write(report)

    def _report(self, forwarder: Forwarder) -> ForwardReport:
        return ForwardReport(
            connected_since=self._connected_since,
            sent=forwarder.totals.sent,
            rate=round(forwarder.totals.rate, 3),
            repeated=forwarder.totals.repeated,
            last_error=self._last_error,
            received=self._relay.received if self._relay is not None else 0,
            unread=self._relay.unread if self._relay is not None else 0,
        )

    def _on_unwritable(self, error: StateError) -> None:
        """Tell that a report cannot be written. Messages are sent nevertheless."""
        self._note(error)
        self._tell(Event(Happening.REPORT_FAILED, error))

    def _disk_silence(self, forwarder: Forwarder) -> StateError | None:
        since = forwarder.backlog.busy_since
        if since is None or time.monotonic() - since < _DISK_SECONDS:
            return None
        minutes = _DISK_SECONDS / 60
        return StateError(
            f"the disk with the outbox has not answered for {minutes:.0f} minutes", hint="Check the disk."
        )

    def _look_at_token(self) -> None:
        waiting = 0.0 if self._line is None else self._line.waiting_seconds
        longest = _TOKEN_SECONDS + self._settings.connect_timeout + self._settings.operation_timeout
        was_silent, self._is_token_silent = self._is_token_silent, waiting >= longest
        if self._is_token_silent and not was_silent:
            error = TokenRefusedError(f"the token's module has not answered for {waiting / 60:.0f} minutes")
            self._note(error)
            self._tell(Event(Happening.FAILED, error))

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
