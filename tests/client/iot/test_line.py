"""The forwarder's links on awscrt: what a broker's CONNACK says, what cannot be sent, and the end of a link."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hsm_enroll.errors import HsmEnrollError, MqttError, MqttUnreachableError
from hsm_enroll.iot import ConnectionEvent, Target, keep, keeper
from hsm_enroll.iot.line import KeptLine
from hsm_enroll.iot.links import Ender
from hsm_enroll.secret import Secret
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.outbox import Properties, QueuedMessage
from tests.client.iot import cryptoki
from tests.client.iot.apart import apart
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.recording import recording
from tests.support.scripted import CONNECT, PUBLISH, Packet
from tests.support.softhsm import PIN

_TIME_LIMIT = 30.0
# MQTT 5.0 §3.2.2.3: Receive Maximum of 7, Maximum Packet Size of 1,000.
_LIMITS = bytes((0x21, 0, 7, 0x27, 0, 0, 0x03, 0xE8))


class _Watched:
    """A line, with what it tells."""

    def __init__(
        self,
        identity: Identity,
        ca_file: Path,
        port: int,
        before_login: Callable[[], object] = lambda: None,
        *,
        keep_alive: int = 60,
    ) -> None:
        self.events: list[ConnectionEvent] = []
        self._changed = threading.Condition()
        self.line = KeptLine(self._note)
        target = Target.of(
            identity,
            ca_file=ca_file,
            port=port,
            keep_alive=keep_alive,
            connect_timeout=2.0,
            paced=False,
            owns_module=True,
        )

        def login() -> Secret:
            before_login()
            return PIN

        self.line.use(keep(target, login, reconnects=True, on_connection=self.line.event, in_background=True))

    def wait_for(self, state: str, count: int = 1) -> ConnectionEvent:
        """Wait for an event."""
        with self._changed:
            there = self._changed.wait_for(
                lambda: [str(e.state) for e in self.events].count(state) >= count, _TIME_LIMIT
            )
            assert there, self.events
            return [event for event in self.events if str(event.state) == state][-1]

    def _note(self, event: ConnectionEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()


class _Answers:
    """What becomes of messages."""

    def __init__(self) -> None:
        self.given: dict[int, str | None] = {}
        self._changed = threading.Condition()

    def __call__(self, message_id: int, reason: str | None) -> None:
        with self._changed:
            self.given[message_id] = reason
            self._changed.notify_all()

    def wait_for(self, message_id: int) -> str | None:
        """Return the answer to a message."""
        with self._changed:
            assert self._changed.wait_for(lambda: message_id in self.given, _TIME_LIMIT)
            return self.given[message_id]


def _message(message_id: int, payload: bytes, *, retain: bool = False) -> QueuedMessage:
    return QueuedMessage(message_id, "a", payload, retain, Properties(), None, 0.0, len(payload))


def _connack(properties: bytes) -> bytes:
    return bytes((0x20, 3 + len(properties), 0, 0, len(properties))) + properties


def test_the_brokers_limits_are_known_and_kept(identity: Identity, authority: Authority) -> None:
    """Receive Maximum is what the CONNACK says; a message that is too large for the broker is refused on this side."""

    def script(packet: Packet) -> bytes:
        if packet.type == CONNECT:
            return _connack(_LIMITS)
        return scripted.puback(packet) if packet.type == PUBLISH else b""

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port:
        found = apart(_publish_large, identity, authority.certificate, port)
    assert found == (7, None, "AWS_ERROR_MQTT5_PACKET_VALIDATION")


def _publish_large(identity: Identity, ca_file: Path, port: int) -> tuple[int, str | None, str | None]:
    watched, answers = _Watched(identity, ca_file, port), _Answers()
    watched.wait_for("connected")
    link = watched.line.link()
    assert link is not None
    for number, payload in enumerate([b"small", bytes(2000)]):
        link.publish(_message(number, payload), None, answers)
    given = answers.wait_for(0), answers.wait_for(1)
    watched.line.close()
    return link.receive_maximum, *given


def test_what_is_to_be_retained_is_marked(identity: Identity, authority: Authority) -> None:
    """The RETAIN flag (MQTT 5.0 §3.3.1.3) is that of each message."""
    retained: list[bool] = []

    def script(packet: Packet) -> bytes:
        if packet.type == PUBLISH:
            retained.append(bool(packet.flags & 1))
            return scripted.puback(packet)
        return scripted.connack(0) if packet.type == CONNECT else b""

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port:
        apart(_publish_retained, identity, authority.certificate, port)
    assert retained == [False, True, False]


def _publish_retained(identity: Identity, ca_file: Path, port: int) -> None:
    watched, answers = _Watched(identity, ca_file, port), _Answers()
    watched.wait_for("connected")
    link = watched.line.link()
    assert link is not None
    for number, retain in enumerate([False, True, False]):
        link.publish(_message(number, b"x", retain=retain), None, answers)
        answers.wait_for(number)
    watched.line.close()


def test_a_dead_link_is_noticed_though_nothing_is_sent(identity: Identity, authority: Authority) -> None:
    """A half-open connection that is idle is lost after one and a half keep-alives, and another one is made."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(lambda packet: scripted.connack(0) if packet.type == CONNECT else b"", context) as port:
        assert "AWS_ERROR_MQTT5_PING_RESPONSE" in apart(_be_idle, identity, authority.certificate, port)


def _be_idle(identity: Identity, ca_file: Path, port: int) -> str:
    watched = _Watched(identity, ca_file, port, keep_alive=2)
    loss = watched.wait_for("lost").error
    watched.wait_for("resumed")
    watched.line.close()
    return loss.message if loss else ""


def test_a_broker_without_acknowledgements_is_no_line(identity: Identity, authority: Authority) -> None:
    """A broker that accepts QoS 0 only cannot say that it has a message: that ends the forwarder."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(lambda _: scripted.connack_of_qos_0(), context) as port:
        assert "accepts QoS 0 only" in apart(_connect_low, identity, authority.certificate, port)


def _connect_low(identity: Identity, ca_file: Path, port: int) -> str:
    watched = _Watched(identity, ca_file, port)
    watched.wait_for("connected")
    try:
        watched.line.link()
    except HsmEnrollError as error:
        return error.message
    finally:
        watched.line.close()
    return ""


def test_an_abandoned_link_is_followed_by_another_one(identity: Identity, authority: Authority) -> None:
    """The loss is told with the error with which it was abandoned; what was in flight gets no answer."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with recording(context) as broker:
        broker.is_deaf = True
        assert apart(_abandon, identity, authority.certificate, broker.port) == ("too long", {}, True)


def _abandon(identity: Identity, ca_file: Path, port: int) -> tuple[str, dict[int, str | None], bool]:
    watched, answers = _Watched(identity, ca_file, port), _Answers()
    watched.wait_for("connected")
    first = watched.line.link()
    assert first is not None
    first.publish(_message(1, b"x"), None, answers)
    first.abandon(MqttUnreachableError("too long"))
    assert first.loss is not None
    loss = watched.wait_for("lost").error
    watched.wait_for("resumed")
    second = watched.line.link()
    watched.line.close()
    return loss.message if loss else "", answers.given, second is not None and second is not first


def test_a_module_is_initialized_anew_after_it_was_finalized(identity: Identity, authority: Authority) -> None:
    """A token that has lost the login costs one attempt, also where the module takes its time to close the session."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with recording(context) as broker:
        states, logins = apart(_lose_login, identity, authority.certificate, broker.port)
    assert (states, logins) == (["connected", "lost", "failed", "resumed"], [cryptoki.CKR_OK] * 2)


def _lose_login(identity: Identity, ca_file: Path, port: int) -> tuple[list[str], list[int]]:
    keeper.full_jitter = lambda failures: 0.0  # noqa: ARG005
    answers: list[int] = []

    def sign(original: Callable[..., int], arguments: tuple[int, ...]) -> int:
        return answers.pop() if answers else original(*arguments)

    cryptoki.replace("C_Sign", sign)
    cryptoki.replace("C_CloseSession", cryptoki.slowly)
    logins = cryptoki.answers("C_Login")
    watched = _Watched(identity, ca_file, port)
    watched.wait_for("connected")
    link = watched.line.link()
    assert link is not None
    answers.append(cryptoki.CKR_DEVICE_REMOVED)
    link.abandon(MqttUnreachableError("too long"))
    watched.wait_for("resumed")
    watched.line.close()
    return [str(event.state) for event in watched.events], logins


# Each in one process with the others: importing awscrt takes longer than all the rest.
_ENDS = {
    "disconnect": (Ender.BROKER, "NOT_AUTHORIZED"),
    "close_notify": (Ender.BROKER, None),
    "fin": (Ender.CUT, None),
    "reset": (Ender.CUT, None),
    "silence": (Ender.OTHER, None),
}


def test_who_has_ended_a_link_is_known(identity: Identity, authority: Authority) -> None:
    """DISCONNECT and close_notify come from the broker; all else may come from the network, or from this side."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with ExitStack() as servers:
        ports = {how: servers.enter_context(_ending(context, how)) for how in _ENDS}
        assert apart(_be_ended, identity, authority.certificate, ports) == _ENDS


@contextmanager
def _ending(context: ssl.SSLContext, how: str) -> Iterator[int]:
    """A server that answers the first PUBLISH by ending the connection, and accepts no other one."""

    def serve() -> None:
        with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as connection:
            connection.recv(65536)
            connection.sendall(scripted.connack(0))
            connection.recv(65536)
            if how == "disconnect":
                connection.sendall(scripted.disconnect(0x87))
            if how == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how == "close_notify":
                connection.unwrap()
            if how in {"disconnect", "silence"}:
                connection.recv(65536)
            if how == "fin":
                connection.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        yield listener.getsockname()[1]
        serving.join(_TIME_LIMIT)


def _be_ended(identity: Identity, ca_file: Path, ports: dict[str, int]) -> dict[str, tuple[Ender, str | None]]:
    found = {}
    for how, port in ports.items():
        watched = _Watched(identity, ca_file, port)
        watched.wait_for("connected")
        link = watched.line.link()
        assert link is not None
        link.publish(_message(1, b"x"), None, _Answers())
        if how == "silence":
            link.abandon(MqttUnreachableError("too long"))
        watched.wait_for("lost")
        loss = link.loss
        watched.line.close()
        found[how] = link.ender, loss.reason if isinstance(loss, MqttError) else None
    return found


def test_a_login_that_hangs_is_known(identity: Identity, authority: Authority) -> None:
    """How long an attempt has been going on; once it is over, there is none, and earlier links are closed."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with recording(context) as broker:
        assert apart(_hang, identity, authority.certificate, broker.port) == 0.0


def _hang(identity: Identity, ca_file: Path, port: int) -> float:
    goes_on = threading.Event()
    watched = _Watched(identity, ca_file, port, lambda: goes_on.wait(_TIME_LIMIT))
    while watched.line.waiting_seconds < 0.3:
        threading.Event().wait(0.05)
    goes_on.set()
    watched.wait_for("connected")
    link = watched.line.link()
    assert link is not None
    link.abandon(MqttUnreachableError("too long"))
    watched.wait_for("resumed")
    waiting = watched.line.waiting_seconds
    watched.line.close()
    return waiting


def test_a_signature_that_hangs_is_known(identity: Identity, authority: Authority) -> None:
    """awscrt gives up an attempt whose handshake hangs in the token, but its thread stays there: that is counted."""
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with recording(context) as broker:
        assert apart(_hang_in_signature, identity, authority.certificate, broker.port) > 1.0


def _hang_in_signature(identity: Identity, ca_file: Path, port: int) -> float:
    goes_on = threading.Event()
    cryptoki.replace("C_Sign", lambda _original, _arguments: int(not goes_on.wait(_TIME_LIMIT)))
    watched = _Watched(identity, ca_file, port)
    watched.wait_for("failed", 2)
    waiting = watched.line.waiting_seconds
    goes_on.set()
    watched.line.close()
    return waiting


def test_connecting_in_the_background_goes_on_until_it_succeeds(identity: Identity, authority: Authority) -> None:
    """Nothing is raised where the first attempt fails; the first connection is told as such."""
    connects: list[Packet] = []

    def script(packet: Packet) -> bytes | None:
        if packet.type != CONNECT:
            return b""
        connects.append(packet)
        return None if len(connects) == 1 else scripted.connack(0)

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port:
        assert apart(_connect_late, identity, authority.certificate, port) == ["failed", "connected"]


def _connect_late(identity: Identity, ca_file: Path, port: int) -> list[str]:
    watched = _Watched(identity, ca_file, port)
    watched.wait_for("connected")
    watched.line.close()
    return [str(event.state) for event in watched.events]
