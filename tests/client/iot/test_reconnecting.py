"""A connection that outlasts outages: what comes back, what is told, and what is not tried again."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from hsm_enroll.errors import (
    HsmEnrollError,
    MqttError,
    MqttTakenOverError,
    MqttUnreachableError,
    PinWrongError,
    TokenRefusedError,
)
from hsm_enroll.iot import Connection, ConnectionEvent, ConnectionState, Fallbacks, Target, keep, keeper
from hsm_enroll.iot.exchange import Exchange
from hsm_enroll.iot.inbox import CAPACITY, Message
from hsm_enroll.iot.keeper import full_jitter
from hsm_enroll.iot.link import Link
from hsm_enroll.secret import Secret
from hsm_enroll.store.identity import Identity
from tests.client.iot import cryptoki
from tests.client.iot.apart import apart, connect
from tests.client.iot.events import Events
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.cable import Cable, cable
from tests.support.scripted import CONNECT, PUBLISH, SUBSCRIBE, Packet
from tests.support.softhsm import PIN


@pytest.fixture
def reachable(identity: Identity, broker: Broker) -> Identity:
    """A device whose broker is there."""
    return dataclasses.replace(identity, mqtt_port=broker.port)


@contextmanager
def _cabled(identity: Identity, ca_file: Path, events: Events) -> Iterator[tuple[Connection, Cable]]:
    """A reconnecting connection over a cable."""
    with (
        cable(identity.mqtt_port) as laid,
        connect(identity, PIN, ca_file=ca_file, port=laid.port, reconnects=True, on_connection=events) as connection,
    ):
        yield connection, laid


def test_a_lost_connection_comes_back_with_its_subscriptions(reachable: Identity, authority: Authority) -> None:
    """D26: after an outage messages come again, the program is told of each change, and the PIN is not tried again."""
    heard, states, codes, logins = apart(_outage, reachable, authority.certificate)
    assert heard == [b"before", b"after", b"elsewhere"]
    assert [states[0], states[1], states[-1]] == ["connected", "lost", "resumed"]
    assert set(states[2:-1]) <= {"failed"}
    assert (codes[0], codes[1], codes[-1]) == (None, "mqtt-failed", None)
    assert logins == [cryptoki.CKR_OK]


def _outage(identity: Identity, ca_file: Path) -> tuple[list[bytes], list[str], list[str | None], list[int]]:
    topic, other = (f"device/{identity.thing_name}/{name}" for name in "xy")
    events, logins = Events(), cryptoki.answers("C_Login")
    with _cabled(identity, ca_file, events) as (connection, laid):
        messages, others = connection.subscribe(topic), connection.subscribe(other)
        connection.publish(topic, b"before")
        heard = [messages.receive().payload]
        laid.pull()
        events.wait_for(ConnectionState.LOST)
        laid.plug()
        events.wait_for(ConnectionState.RESUMED)
        connection.publish(topic, b"after")
        connection.publish(other, b"elsewhere")
        heard += [messages.receive().payload, others.receive().payload]
    return heard, events.states, events.codes, list(logins)


def test_what_is_published_during_an_outage_arrives_after_it(
    reachable: Identity, broker: Broker, authority: Authority
) -> None:
    """D26: publish waits for the connection to come back and then returns; nothing is lost."""
    with broker.observed("#") as observer:
        apart(_publish_in_outage, reachable, authority.certificate)
        for number in range(20):
            observer.wait_for(f"{number:02}".encode().hex())


def _publish_in_outage(identity: Identity, ca_file: Path) -> None:
    topic = f"device/{identity.thing_name}/x"
    events = Events()
    with _cabled(identity, ca_file, events) as (connection, laid), ThreadPoolExecutor(20) as pool:
        laid.pull()
        events.wait_for(ConnectionState.LOST)
        published = [pool.submit(connection.publish, topic, f"{number:02}".encode()) for number in range(20)]
        laid.plug()
        for each in published:
            each.result()


def test_a_message_that_was_not_acknowledged_is_sent_again(identity: Identity, authority: Authority) -> None:
    """D26: where the connection is lost between PUBLISH and PUBACK, QoS 1 publishes again, and QoS 0 does not."""
    sent: list[bytes] = []

    def script(packet: Packet) -> bytes | None:
        if packet.type == CONNECT:
            return scripted.connack(0)
        if packet.type != PUBLISH:
            return b""
        sent.append(packet.body)
        return None if len(sent) == 1 else scripted.puback(packet)

    with _scripted(identity, authority, script) as target:
        apart(_publish_once, target, authority.certificate)
    assert len(sent) == 2
    assert all(body.endswith(b"once") for body in sent)


def _publish_once(identity: Identity, ca_file: Path) -> None:
    with connect(identity, PIN, ca_file=ca_file, reconnects=True) as connection:
        connection.publish("a/b", b"once")


def test_waiting_for_a_connection_ends_at_the_timeout(reachable: Identity, authority: Authority) -> None:
    """D19: publish gives up after its timeout and says why there was no connection; later ones work again."""
    message = apart(_publish_unplugged, reachable, authority.certificate)
    assert message.startswith(f"publishing to 'device/{reachable.thing_name}/x' had to wait for a connection for more")
    assert "localhost" in message


def _publish_unplugged(identity: Identity, ca_file: Path) -> str:
    topic = f"device/{identity.thing_name}/x"
    events = Events()
    with _cabled(identity, ca_file, events) as (connection, laid):
        laid.pull()
        events.wait_for(ConnectionState.LOST)
        with pytest.raises(MqttUnreachableError) as caught:
            connection.publish(topic, b"x", timeout=0.1)
        with pytest.raises(MqttUnreachableError, match="no connection to"):
            _ = connection.awscrt_client
        laid.plug()
        connection.publish(topic, b"y")
        assert connection.awscrt_client
    return caught.value.message


def test_a_token_that_lost_its_login_is_logged_in_to_again(reachable: Identity, authority: Authority) -> None:
    """D7, D26: where the token is logged out, one reconnection fails at the token, and the next one logs in anew."""
    states, codes, logins, heard = apart(_logged_out, reachable, authority.certificate)
    assert (states[-1], heard) == ("resumed", b"after")
    assert "failed" in states
    assert set(codes) <= {None, "mqtt-failed", "token-refused", "token-not-found"}
    assert logins == [cryptoki.CKR_OK, cryptoki.CKR_OK]


def _logged_out(identity: Identity, ca_file: Path) -> tuple[list[str], list[str | None], list[int], bytes]:
    topic = f"device/{identity.thing_name}/x"
    events, logins = Events(), cryptoki.answers("C_Login")
    with _cabled(identity, ca_file, events) as (connection, laid):
        messages = connection.subscribe(topic)
        cryptoki.log_out()
        laid.cut()
        events.wait_for(ConnectionState.RESUMED)
        connection.publish(topic, b"after")
        heard = messages.receive().payload
    return events.states, events.codes, list(logins), heard


def test_a_pin_that_became_wrong_is_tried_once(reachable: Identity, authority: Authority) -> None:
    """D1: the PIN is asked for again before a second login; if the token refuses it, nothing more is tried."""
    states, codes, tries = apart(_changed_pin, reachable, authority.certificate)
    assert (states[0], states[1], states[-1]) == ("connected", "lost", "ended")
    assert codes[-1] == "pin-wrong"
    assert tries == 2


def _changed_pin(identity: Identity, ca_file: Path) -> tuple[list[str], list[str | None], int]:
    events, logins = Events(), cryptoki.answers("C_Login")
    pins = iter((PIN, Secret("not-the-pin-any-more")))
    with cable(identity.mqtt_port) as laid:
        target = Target.of(identity, ca_file=ca_file, port=laid.port)
        with Connection(keep(target, lambda: next(pins), reconnects=True, on_connection=events)) as connection:
            messages = connection.subscribe(f"device/{identity.thing_name}/x")
            cryptoki.log_out()
            laid.cut()
            events.wait_for(ConnectionState.ENDED)
            for attempt in (messages.receive, lambda: connection.publish("a/b", b"")):
                with pytest.raises(PinWrongError):
                    attempt()
    return events.states, events.codes, len(logins)


def test_a_mistake_in_the_programs_pin_ends_the_connection(reachable: Identity, authority: Authority) -> None:
    """What the program's function for the PIN raises is shown as a thread's exception, and who waits is told."""
    shown, states, message = apart(_faulty_pin, reachable, authority.certificate)
    assert (shown, states[-1]) == (["ZeroDivisionError"], "ended")
    assert message == "the connection could not be made again (ZeroDivisionError)"


def _faulty_pin(identity: Identity, ca_file: Path) -> tuple[list[str], list[str], str]:
    shown: list[str] = []
    threading.excepthook = lambda arguments: shown.append(arguments.exc_type.__name__)
    pins = iter((PIN,))

    def pin() -> Secret:
        return next(pins, None) or Secret(str(1 // 0))

    events = Events()
    with cable(identity.mqtt_port) as laid:
        target = Target.of(identity, ca_file=ca_file, port=laid.port)
        with Connection(keep(target, pin, reconnects=True, on_connection=events)) as connection:
            messages = connection.subscribe(f"device/{identity.thing_name}/x")
            cryptoki.log_out()
            laid.cut()
            with pytest.raises(MqttError) as caught:
                messages.receive()
    return shown, events.states, caught.value.message


def test_an_outage_leaves_nothing_behind(reachable: Identity, authority: Authority) -> None:
    """However often a connection has come back, there is one link, one session in the token and one thread."""
    links, sessions, threads = apart(_many_outages, reachable, authority.certificate)
    assert (links, sessions, threads) == (1, ["C_OpenSession"], 1)


def _many_outages(identity: Identity, ca_file: Path) -> tuple[int, list[str], int]:
    calls, events = cryptoki.watch("C_OpenSession"), Events()
    with _cabled(identity, ca_file, events) as (_, laid):
        for number in range(1, 4):
            laid.cut()
            events.wait_for(ConnectionState.RESUMED, number)
        gc.collect()
        links = [each for each in gc.get_objects() if isinstance(each, Link)]
        threads = [thread for thread in threading.enumerate() if thread.name == "hsm-enroll connection"]
        return len(links), calls.names, len(threads)


def test_two_programs_with_one_client_id_do_not_fight(identity: Identity, authority: Authority) -> None:
    """D26: a connection that another client has taken over does not take it back; whoever waits is told."""
    connects: list[Packet] = []

    def script(packet: Packet) -> bytes:
        if packet.type == CONNECT:
            connects.append(packet)
            return scripted.connack(0)
        return scripted.suback(packet, 1) + scripted.disconnect(0x8E) if packet.type == SUBSCRIBE else b""

    with _scripted(identity, authority, script) as target:
        states, codes = apart(_taken_over, target, authority.certificate)
    assert (states, codes) == (["connected", "ended"], [None, "mqtt-taken-over"])
    assert len(connects) == 1


def _taken_over(identity: Identity, ca_file: Path) -> tuple[list[str], list[str | None]]:
    events = Events()
    with connect(identity, PIN, ca_file=ca_file, reconnects=True, on_connection=events) as connection:
        with pytest.raises(MqttTakenOverError):
            connection.subscribe("a/b").receive()
        events.wait_for(ConnectionState.ENDED)
    return events.states, events.codes


def test_programs_share_an_identity_under_ids_of_their_own(
    reachable: Identity, broker: Broker, authority: Authority
) -> None:
    """D26: two reconnecting programs with a purpose each are connected at once, and both hear what one publishes."""
    heard, states = apart(_two_programs, reachable, authority.certificate)
    assert (heard, states) == ([b"x", b"x"], ["connected"] * 2)
    for purpose in ("logger", "worker"):
        assert f" as {reachable.thing_name}/{purpose}-" in broker.log.wait_for(f"/{purpose}-")


def _two_programs(identity: Identity, ca_file: Path) -> tuple[list[bytes], list[str]]:
    topic = f"device/{identity.thing_name}/x"
    events = Events()
    with (
        connect(identity, PIN, purpose="logger", ca_file=ca_file, reconnects=True, on_connection=events) as one,
        connect(identity, PIN, purpose="worker", ca_file=ca_file, reconnects=True, on_connection=events) as other,
    ):
        both = [each.subscribe(topic) for each in (one, other)]
        one.publish(topic, b"x")
        return [subscription.receive().payload for subscription in both], events.states


def test_what_was_accepted_once_is_not_given_up(identity: Identity, authority: Authority) -> None:
    """D26: an id of its own that the broker has let in stays, where a broken network closes the next connections."""
    ids: list[str] = []

    def script(packet: Packet) -> bytes | None:
        if packet.type != CONNECT:
            return scripted.puback(packet) if packet.type == PUBLISH and len(ids) > 1 else None
        ids.append(scripted.client_id(packet))
        return scripted.connack(0) if len(ids) not in {2, 3} else None

    with _scripted(identity, authority, script) as target:
        fallbacks = apart(_publish_as_logger, target, authority.certificate)
    assert fallbacks == Fallbacks()
    assert ids == [ids[0]] * 4
    assert ids[0].startswith(f"{identity.thing_name}/logger-")


def _publish_as_logger(identity: Identity, ca_file: Path) -> Fallbacks:
    with connect(identity, PIN, purpose="logger", ca_file=ca_file, reconnects=True) as connection:
        connection.publish("a/b", b"x")
        return connection.fallbacks


def test_a_refused_subscription_ends_alone(identity: Identity, authority: Authority) -> None:
    """A filter that the broker refuses after an outage ends that subscription with the refusal, and nothing else."""
    subscribes: list[Packet] = []

    def script(packet: Packet) -> bytes | None:
        if packet.type == CONNECT:
            return scripted.connack(0)
        if packet.type == PUBLISH:
            return scripted.puback(packet) if len(subscribes) > 2 else None
        if packet.type != SUBSCRIBE:
            return b""
        subscribes.append(packet)
        refused = len(subscribes) > 2 and b"a/refused" in packet.body
        return scripted.suback(packet, 0x87 if refused else 1)

    with _scripted(identity, authority, script) as target:
        code, states = apart(_resubscribe, target, authority.certificate)
    assert (code, states) == ("mqtt-refused", ["connected", "lost", "resumed"])
    assert len(subscribes) == 4


def _resubscribe(identity: Identity, ca_file: Path) -> tuple[str, list[str]]:
    events = Events()
    with connect(identity, PIN, ca_file=ca_file, reconnects=True, on_connection=events) as connection:
        refused, kept = connection.subscribe("a/refused"), connection.subscribe("a/kept")
        connection.publish("a", b"cut off, and sent again")
        with pytest.raises(MqttError) as caught:
            refused.receive()
        assert kept.receive(timeout=0) is None
        events.wait_for(ConnectionState.RESUMED)
        return caught.value.code, events.states


def test_closing_ends_a_connection_that_is_being_tried(reachable: Identity, authority: Authority) -> None:
    """D20: close gives up an attempt that is under way, ends who waits, and nothing is tried or told after it."""
    messages, states, threads = apart(_close_in_outage, reachable, authority.certificate)
    assert messages == []
    assert states == ["connected", "lost"]
    assert "hsm-enroll connection" not in threads


def _close_in_outage(identity: Identity, ca_file: Path) -> tuple[list[bytes], list[str], list[str]]:
    events = Events()
    # Never answers, so that an attempt is under way when the connection is closed.
    with scripted.serving(None) as silent, _cabled(identity, ca_file, events) as (connection, laid):
        messages = connection.subscribe(f"device/{identity.thing_name}/x")
        laid.divert(silent)
        events.wait_for(ConnectionState.LOST)
        laid.wait_for_a_connection()
        connection.close()
        threads = [thread.name for thread in threading.enumerate()]
        return [message.payload for message in messages], events.states, threads


def test_a_callback_may_wait_for_the_connection(reachable: Identity, authority: Authority) -> None:
    """D26: what a callback publishes when the connection is lost arrives when it is back, without a delay."""
    assert apart(_publish_in_callback, reachable, authority.certificate) == b"lost"


def _publish_in_callback(identity: Identity, ca_file: Path) -> bytes:
    topic = f"device/{identity.thing_name}/x"
    connections: list[Connection] = []

    def publish(event: ConnectionEvent) -> None:
        if event.state is ConnectionState.LOST:
            connections[0].publish(topic, b"lost")

    with (
        cable(identity.mqtt_port) as laid,
        connect(identity, PIN, ca_file=ca_file, port=laid.port, reconnects=True, on_connection=publish) as connection,
    ):
        connections.append(connection)
        messages = connection.subscribe(topic)
        laid.cut()
        message = messages.receive(timeout=15.0)
        assert message is not None
        return message.payload


def test_who_has_stopped_waiting_for_a_connection_is_forgotten(identity: Identity) -> None:
    """D29: a message whose caller gave up during an outage takes no memory any more."""
    exchange = Exchange(Target.of(identity), reconnects=True)
    request = exchange.publish("a", b"x", 1, retain=False)
    forgotten = weakref.ref(request)
    request.outcome.cancel()
    del request
    gc.collect()
    assert forgotten() is None


def test_a_full_subscription_that_nobody_has_any_more_is_forgotten(identity: Identity) -> None:
    """D29: what waits in a subscription that was given up because it was full takes no memory any more."""
    exchange = Exchange(Target.of(identity), reconnects=True)
    stream, request = exchange.subscribe("a", 1)
    request.outcome.set_result(None)
    exchange.deliver(Message("a", bytes(CAPACITY // 2)))
    exchange.deliver(Message("a", bytes(CAPACITY // 2)))
    full = weakref.ref(stream)
    del stream, request
    gc.collect()
    assert full() is None


@pytest.mark.parametrize("mistake", [ValueError, SystemExit])
def test_a_mistake_in_the_callback_ends_nothing(
    reachable: Identity, authority: Authority, mistake: type[BaseException]
) -> None:
    """What a callback raises, sys.exit() too, goes to the threads' hook for exceptions, and the connection goes on."""
    assert apart(_faulty_callback, reachable, authority.certificate, mistake) == [mistake.__name__] * 3


def _faulty_callback(identity: Identity, ca_file: Path, mistake: type[BaseException]) -> list[str]:
    shown: list[str] = []
    threading.excepthook = lambda arguments: shown.append(arguments.exc_type.__name__)
    events = Events()

    def fail(event: ConnectionEvent) -> None:
        if event.state is not ConnectionState.FAILED:
            events(event)
            raise mistake

    with (
        cable(identity.mqtt_port) as laid,
        connect(identity, PIN, ca_file=ca_file, port=laid.port, reconnects=True, on_connection=fail) as connection,
    ):
        laid.cut()
        events.wait_for(ConnectionState.RESUMED)
        connection.publish(f"device/{identity.thing_name}/x", b"x")
    return shown


def test_a_connection_that_does_not_reconnect_tells_of_its_end(reachable: Identity, authority: Authority) -> None:
    """Without reconnecting, the callback hears of the connection and of its end, with the reason."""
    assert apart(_lost_once, reachable, authority.certificate) == (["connected", "ended"], [None, "mqtt-failed"])


def _lost_once(identity: Identity, ca_file: Path) -> tuple[list[str], list[str | None]]:
    events = Events()
    with (
        cable(identity.mqtt_port) as laid,
        connect(identity, PIN, ca_file=ca_file, port=laid.port, on_connection=events) as connection,
    ):
        laid.cut()
        events.wait_for(ConnectionState.ENDED)
        with pytest.raises(MqttError, match="was lost"):
            connection.publish("a/b", b"")
    return events.states, events.codes


@pytest.mark.parametrize(("failures", "limit"), [(0, 1.0), (1, 2.0), (3, 8.0), (6, 60.0), (10_000, 60.0)])
def test_the_delay_is_anything_up_to_a_growing_limit(failures: int, limit: float) -> None:
    """Full jitter: from none to a limit that doubles with each failure up to a minute, and spread over all of it."""
    delays = [full_jitter(failures) for _ in range(1000)]
    assert all(0.0 <= delay <= limit for delay in delays)
    assert min(delays) < limit / 10
    assert max(delays) > limit * 9 / 10


def test_each_attempt_waits_longer_than_the_one_before(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay grows with the number of failures so far, from the first attempt on."""
    failures: list[int] = []

    def delay(count: int) -> float:
        failures.append(count)
        return 0.0

    monkeypatch.setattr(keeper, "full_jitter", delay)
    errors: Iterator[HsmEnrollError] = iter([TokenRefusedError("busy")] * 3 + [PinWrongError("the PIN is wrong")])

    def login() -> NoReturn:
        raise next(errors)

    events = Events()
    with closing(keep(Target.of(identity), login, reconnects=True, on_connection=events, in_background=True)):
        events.wait_for(ConnectionState.ENDED)
    assert (events.states, failures) == (["failed"] * 3 + ["ended"], [0, 1, 2, 3])


@contextmanager
def _scripted(identity: Identity, authority: Authority, script: scripted.Script) -> Iterator[Identity]:
    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port:
        yield dataclasses.replace(identity, mqtt_port=port)
