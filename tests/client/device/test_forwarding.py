"""Forwarding from a state folder: the identity that is used, what is reported, and how it ends."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hsm_enroll.device import metrics
from hsm_enroll.device.forwarding import Event, Forwarding, Happening
from hsm_enroll.device.relaying import Relay
from hsm_enroll.errors import (
    BusyError,
    HsmEnrollError,
    KeyMissingError,
    MqttError,
    MqttTakenOverError,
    NotEnrolledError,
    StateError,
    UsageError,
)
from hsm_enroll.iot.forwarder import Totals
from hsm_enroll.iot.keeper import ConnectionEvent, ConnectionState
from hsm_enroll.iot.links import Answered, Ender
from hsm_enroll.settings import Settings
from hsm_enroll.store import forwarder
from hsm_enroll.store import identity as stored
from hsm_enroll.store.forwarder import ForwarderState
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits, QueuedMessage, age
from tests.support.identities import identity
from tests.support.self_signed import pem, self_signed

_TIME_LIMIT = 30.0
_LIMITS = OutboxLimits(1024 * 1024)


class _Link:
    """A link whose broker acknowledges at once, but for two topics: it refuses one, and does not answer the other."""

    receive_maximum = 10
    ender = Ender.CUT

    def __init__(self, received: list[bytes], abandoned: list[HsmEnrollError]) -> None:
        self.loss: HsmEnrollError | None = None
        self._received, self._abandoned = received, abandoned

    def publish(self, message: QueuedMessage, _expires_in: float | None, answered: Answered) -> None:
        """Accept or refuse a message."""
        if self.loss is not None:
            return
        if message.topic == "no":
            answered(message.id, "TOPIC_NAME_INVALID")
        elif message.topic != "silence":
            self._received.append(message.payload)
            answered(message.id, None)

    def abandon(self, error: HsmEnrollError) -> None:
        """End."""
        self.loss = error
        self._abandoned.append(error)


class _Line:
    """A line of one identity, which is connected from the beginning."""

    exchange = None
    waiting_seconds = 0.0

    def __init__(self, world: _World, used: Identity, on_event: Callable[[ConnectionEvent], None]) -> None:
        self.used = used
        self.is_closed = False
        self.hangs = False
        self.is_asked, self.goes_on = threading.Event(), threading.Event()
        self.error: HsmEnrollError | None = None
        self._current: _Link | None = _Link(world.received, world.abandoned)
        self._on_event = on_event
        on_event(ConnectionEvent(ConnectionState.CONNECTED))

    def link(self) -> _Link | None:
        """Return the link, or end."""
        if self.hangs:
            self.is_asked.set()
            self.goes_on.wait(_TIME_LIMIT)
        if self.error is not None:
            raise self.error
        return self._current

    def lose(self) -> None:
        """Have no link, and try another one."""
        loss = MqttError("the connection was lost")
        if self._current is not None:
            self._current.loss = loss
        self._current = None
        self._on_event(ConnectionEvent(ConnectionState.LOST, loss))

    def wake(self) -> None:
        """Have it look."""
        self._on_event(ConnectionEvent(ConnectionState.FAILED, MqttError("no broker")))

    def end(self, error: HsmEnrollError) -> None:
        """Have no link any more."""
        self.error = error
        self._on_event(ConnectionEvent(ConnectionState.ENDED, error))

    def close(self) -> None:
        """End."""
        self.is_closed = True


class _World:
    """A state folder, the brokers' side, and a forwarder in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity = identity(thing_name="gateway-17", certificate_pem=pem(self_signed()))
        self.identity.save(folder)
        self.received: list[bytes] = []
        self.abandoned: list[HsmEnrollError] = []
        self.lines: list[_Line] = []
        self.events: list[Event] = []
        self.reports: list[forwarder.ForwardReport] = []
        self.totals: Totals | None = None
        self.error: HsmEnrollError | None = None
        self._changed = threading.Condition()
        self.forwarding = self.new()

    def new(
        self, metrics_file: Path | None = None, relay: Relay | None = None, settings: Settings | None = None
    ) -> Forwarding:
        """Return a forwarder of this folder, and have it be the one that is run."""
        resolved = Settings(state=self.folder) if settings is None else settings
        self.forwarding = Forwarding(resolved, self._connect, self._tell, metrics_file, self._observe, relay)
        return self.forwarding

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it in a thread, until it is stopped or the block ends."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            self.wait_for(lambda: bool(self.lines) or self.error is not None)
            yield
        finally:
            self.forwarding.stop()
            thread.join(_TIME_LIMIT)
            assert not thread.is_alive()

    def add(self, topic: str, *payloads: bytes) -> None:
        """Queue messages."""
        with Outbox.open(self.folder, _LIMITS) as outbox:
            outbox.add(*[NewMessage(topic, payload) for payload in payloads])

    def _observe(self, report: forwarder.ForwardReport) -> None:
        with self._changed:
            self.reports.append(report)
            self._changed.notify_all()

    def renew(self, new: Identity) -> None:
        """Store another identity."""
        new.save(self.folder)

    def happened(self, what: Happening) -> bool:
        """Whether an event has come."""
        return what in [event.what for event in self.events]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = threading.Event()
        timer = threading.Timer(_TIME_LIMIT, deadline.set)
        timer.start()
        try:
            while not condition():
                assert not deadline.is_set(), (self.events, self.received)
                deadline.wait(0.01)
        finally:
            timer.cancel()

    def _run(self) -> None:
        try:
            self.totals = self.forwarding.run()
        except HsmEnrollError as error:
            self.error = error

    def _connect(self, used: Identity, on_event: Callable[[ConnectionEvent], None]) -> _Line:
        self.lines.append(_Line(self, used, on_event))
        return self.lines[-1]

    def _tell(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def world(tmp_path: Path) -> _World:
    """A device that is enrolled."""
    return _World(tmp_path)


def _another(world: _World) -> Identity:
    return dataclasses.replace(world.identity, certificate_pem=pem(self_signed()), certificate_id="0b" * 32)


def test_it_reports_while_it_runs(world: _World) -> None:
    """``status`` sees that it runs, since when it is connected and what it has sent; and later that it does not run."""
    world.add("a", b"1", b"2")
    with world.running():
        world.wait_for(lambda: ForwarderState.load(world.folder).report.sent == 2)
        shown = ForwarderState.load(world.folder)
        assert shown.is_running
        assert shown.report.connected_since is not None
        assert shown.report.last_error is None
    assert world.totals is not None
    assert world.totals.sent == 2
    assert not ForwarderState.load(world.folder).is_running
    assert world.lines[0].is_closed


def test_a_loss_is_told_and_reported(world: _World) -> None:
    """What went wrong last is in the report, with its code, until the process ends."""
    with world.running():
        world.lines[0].lose()
        world.wait_for(lambda: ForwarderState.load(world.folder).report.last_error is not None)
        report = ForwarderState.load(world.folder).report
        assert report.connected_since is None
        assert report.last_error is not None
        assert (report.last_error.code, report.last_error.message) == ("mqtt-failed", "the connection was lost")
    assert [event.what for event in world.events] == [Happening.CONNECTED, Happening.LOST]


def test_a_renewed_identity_is_taken_over(world: _World) -> None:
    """After a loss it sees at once that the identity has changed, and goes on with the new one."""
    new = _another(world)
    with world.running():
        world.renew(new)
        world.lines[0].lose()
        world.wait_for(lambda: len(world.lines) == 2)
        world.add("a", b"later")
        world.wait_for(lambda: world.received == [b"later"])
    assert [line.used.certificate_id for line in world.lines] == [world.identity.certificate_id, new.certificate_id]
    assert world.lines[0].is_closed
    assert world.happened(Happening.RENEWED)


def test_a_token_that_does_not_answer_is_no_progress(world: _World) -> None:
    """A login that hangs, on another thread, is told; and the service manager hears nothing until it is over."""
    with world.running():
        line = world.lines[0]
        line.waiting_seconds = 1e9
        line.lose()
        world.wait_for(lambda: world.happened(Happening.FAILED))
        reports = len(world.reports)
        line.wake()
        world.wait_for(lambda: _last_code(world) == "token-refused")
        assert len(world.reports) == reports
        line.waiting_seconds = 100.0
        line.wake()
        world.wait_for(lambda: len(world.reports) > reports)


def _last_code(world: _World) -> str | None:
    error = ForwarderState.load(world.folder).report.last_error
    return error.code if error else None


@pytest.mark.parametrize(
    "fail", [lambda line: line.end(KeyMissingError("no key")), lambda line: line.wake()], ids=["ended", "failed"]
)
def test_what_fails_because_of_a_renewal_is_no_error(world: _World, fail: Callable[[_Line], None]) -> None:
    """The old key may be gone before the new identity is seen: it is taken over, and nothing is told of a failure."""
    new = _another(world)
    with world.running():
        world.renew(new)
        fail(world.lines[0])
        world.wait_for(lambda: len(world.lines) == 2)
    assert world.error is None
    assert [event.what for event in world.events] == [Happening.CONNECTED, Happening.RENEWED, Happening.CONNECTED]
    report = forwarder.ForwardReport.load(world.folder)
    assert report is not None
    assert report.last_error is None


def test_what_a_person_has_to_look_at_ends_it(world: _World) -> None:
    """Another program with the Thing's client id ends it with that error, which is reported, too."""
    with world.running():
        world.lines[0].end(MqttTakenOverError("another client"))
        world.wait_for(lambda: world.error is not None)
    assert isinstance(world.error, MqttTakenOverError)
    report = forwarder.ForwardReport.load(world.folder)
    assert report is not None
    assert report.last_error is not None
    assert report.last_error.code == "mqtt-taken-over"


def test_progress_is_the_progress_of_what_sends(world: _World) -> None:
    """Each report to the service manager comes from the loop: while that hangs, no other thread stands in for it."""
    with world.running():
        world.wait_for(lambda: bool(world.reports))
        line = world.lines[0]
        line.hangs = True
        world.add("a", b"wakes it")
        assert line.is_asked.wait(_TIME_LIMIT)
        reports = len(world.reports)
        line.lose()
        world.wait_for(lambda: Happening.LOST in [event.what for event in world.events])
        assert len(world.reports) == reports
        line.hangs = False
        line.goes_on.set()
        world.wait_for(lambda: len(world.reports) > reports)


def test_what_has_arrived_for_local_programs_is_reported(world: _World, tmp_path: Path) -> None:
    """And how much of it nobody has read; the socket is there while it runs."""
    relay = Relay(["a/#"], tmp_path / "messages.sock", 1.0)
    relay.received, relay.unread = 7, 3
    world.new(relay=relay)
    with world.running():
        assert (tmp_path / "messages.sock").is_socket()
        world.wait_for(lambda: bool(world.reports))
    assert (world.reports[-1].received, world.reports[-1].unread) == (7, 3)
    assert not (tmp_path / "messages.sock").exists()


def test_who_is_not_enrolled_any_more_ends(world: _World) -> None:
    """Without an identity there is nothing to connect with."""
    with world.running():
        stored.remove(world.folder)
        world.lines[0].lose()
        world.wait_for(lambda: world.error is not None)
    assert isinstance(world.error, NotEnrolledError)


def test_there_is_one_for_a_state_folder(world: _World, tmp_path: Path) -> None:
    """D13: a second one is refused; when the first one has ended, another one may run."""
    with world.running():
        other = Forwarding(Settings(state=tmp_path), lambda *_: pytest.fail("it connects"), lambda _: None)
        with pytest.raises(BusyError):
            other.run()
    world.lines.clear()
    world.new()
    with world.running():
        pass
    assert world.error is None


def test_messages_are_sent_at_the_draining_rate(world: _World) -> None:
    """The setting draining_rate: at one message in 1,000 s, the second one waits."""
    world.new(settings=Settings(state=world.folder, draining_rate=0.001))
    world.add("a", b"1", b"2")
    with world.running():
        world.wait_for(lambda: bool(world.received))
    assert world.received == [b"1"]


def test_a_silent_link_is_given_up_after_the_operation_timeout(world: _World) -> None:
    """The setting operation_timeout: without an acknowledgement for a second, the link is abandoned, and says why."""
    world.new(settings=Settings(state=world.folder, operation_timeout=1.0))
    world.add("silence", b"1")
    with world.running():
        world.wait_for(lambda: bool(world.abandoned))
    assert "did not acknowledge a message within 1 s" in world.abandoned[0].message


def test_what_is_too_old_is_not_sent(world: _World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting outbox_max_age: what has waited for longer expires, and is counted as such."""
    world.new(settings=Settings(state=world.folder, outbox_max_age=60.0))
    now = age.now()
    with monkeypatch.context() as patch:
        patch.setattr(age, "now", lambda: now._replace(running=now.running - 61))
        world.add("a", b"old")
    world.add("a", b"new")
    with world.running():
        world.wait_for(lambda: bool(world.received))
    assert world.received == [b"new"]
    with Outbox.open(world.folder, _LIMITS) as outbox:
        assert (outbox.state().messages, outbox.state().expired) == (0, 1)


def test_a_message_that_is_set_aside_is_told(world: _World) -> None:
    """With its topic and the broker's reason, with which it is kept, too."""
    world.add("no", b"1")
    world.add("a", b"2")
    with world.running():
        world.wait_for(lambda: world.happened(Happening.SET_ASIDE))
        world.wait_for(lambda: world.received == [b"2"])
    assert Event(Happening.SET_ASIDE, topic="no", reason="TOPIC_NAME_INVALID") in world.events
    with Outbox.open(world.folder, _LIMITS) as outbox:
        assert [(each.topic, each.bytes, each.reason) for each in outbox.refused()] == [("no", 1, "TOPIC_NAME_INVALID")]
    assert world.totals is not None
    assert world.totals.set_aside == 1


def test_metrics_are_kept_in_a_file(world: _World, tmp_path: Path) -> None:
    """Prometheus's text format, readable by others, with what waits and what was sent; no other file is left.

    Not even that of a process that was killed while it wrote.
    """
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / ".hsm-enroll.prom.tmp").write_text("half")
    world.add("a", b"1", b"2", b"3")
    world.add("no", b"4")
    world.new(folder / "hsm-enroll.prom")
    with world.running():
        world.wait_for(lambda: len(world.received) == 3)
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o644
    assert "hsm_enroll_forward_repeated_total 0" in file.read_text().splitlines()
    lines = file.read_text().splitlines()
    assert "# TYPE hsm_enroll_forward_sent_total counter" in lines
    assert "hsm_enroll_forward_sent_total 3" in lines
    assert "hsm_enroll_forward_connected 0" in lines
    assert "hsm_enroll_outbox_messages 0" in lines
    assert "hsm_enroll_outbox_refused_total 1" in lines
    assert all(line.startswith(("# HELP hsm_enroll_", "# TYPE hsm_enroll_", "hsm_enroll_")) for line in lines)


@pytest.mark.parametrize(
    ("file", "error"), [("", UsageError), ("/nowhere/x.prom", UsageError), (f"/{'x' * 300}/x.prom", StateError)]
)
def test_a_metrics_file_that_cannot_be_is_refused_at_once(file: str, error: type[Exception]) -> None:
    """No name, no folder, a folder that cannot be examined: the forwarder does not begin."""
    with pytest.raises(error):
        metrics.check(Path(file))


def test_metrics_that_cannot_be_written_do_not_end_it(world: _World, tmp_path: Path) -> None:
    """D30: it is told once, and when they can be written again; messages are sent nevertheless."""
    folder = tmp_path / "unmounted"
    world.new(folder / "x.prom")
    with world.running():
        world.wait_for(lambda: world.happened(Happening.REPORT_FAILED))
        world.add("a", b"1")
        world.wait_for(lambda: world.received == [b"1"])
        folder.mkdir()
        world.wait_for(lambda: world.happened(Happening.REPORT_WORKS))
    assert len([event for event in world.events if event.what is Happening.REPORT_FAILED]) == 1
    assert not world.happened(Happening.OUTBOX_FAILED)
    assert world.error is None


def test_metrics_are_readable_under_a_strict_umask(world: _World, tmp_path: Path) -> None:
    """The collector is another user; nothing that others have put into the folder is written to."""
    folder, elsewhere = tmp_path / "metrics", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.write_text("kept")
    file = folder / "x.prom"
    for link in (file, folder / ".x.prom.tmp"):
        link.symlink_to(elsewhere)
    world.new(file)
    before = os.umask(0o077)
    try:
        with world.running():
            world.wait_for(lambda: not file.is_symlink())
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o644
    assert elsewhere.read_text() == "kept"
    assert list(folder.iterdir()) == [file]


def test_a_damaged_outbox_is_told(world: _World) -> None:
    """D21: where what is left of it is, whether it was damaged before the start or while it runs."""
    database = world.folder / "outbox.db"
    database.write_bytes(b"not a database" * 100)
    with world.running():
        world.wait_for(lambda: world.happened(Happening.OUTBOX_DAMAGED))
        damaged = [event.file for event in world.events if event.what is Happening.OUTBOX_DAMAGED]
        assert damaged == list(world.folder.glob("outbox.db.damaged-*"))
        world.add("a", b"1")
        world.wait_for(lambda: world.received == [b"1"])


def test_stopping_before_it_has_begun_is_heard(world: _World) -> None:
    """D20: a signal in the first moments ends it, too."""
    world.forwarding.stop()
    with suppress(HsmEnrollError):
        assert world.forwarding.run().sent == 0
