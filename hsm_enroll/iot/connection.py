"""An MQTT 5 connection with mutual TLS, the token making the handshake's signature (RFC 5246 §7.4.8).

One :class:`Connection` is one connection: it does not come back by itself. awscrt would try for ever, and two programs
with one identity would take it over from each other for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from hsm_enroll.errors import MqttError, MqttNotTrustedError, MqttUnreachableError
from hsm_enroll.iot import client, failures, trust
from hsm_enroll.iot.fallbacks import Fallbacks
from hsm_enroll.iot.inbox import Inbox, Message, Stream
from hsm_enroll.iot.target import Target
from hsm_enroll.secret import Secret

if TYPE_CHECKING:
    from hsm_enroll.store.identity import Identity

_TIMEOUT_SECONDS = 20.0
# A handshake that takes longer may be one that awscrt knows to have failed and keeps silent about.
_SUSPICION_SECONDS = 2.0
# DISCONNECT is sent and the socket closed within milliseconds; a peer that is gone is not waited for.
_CLOSE_SECONDS = 3.0
_TRUST_CHECK_SECONDS = 5.0
_SETTLE_SECONDS = 1.0
_NOTHING_MISSED = Fallbacks()


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a connection, or an attempt at one, ended; ``reason`` names the reason code of CONNACK or DISCONNECT."""

    error: BaseException
    reason: str | None


class _Attempt(NamedTuple):
    """What to try next, what is then done without, and whether it is the same as before."""

    target: Target
    fallbacks: Fallbacks
    repeated: bool = False


def connect(
    identity: Identity,
    pin: Secret | None,
    *,
    purpose: str | None = None,
    ca_file: Path | None = None,
    endpoint: str | None = None,
    port: int | None = None,
    tls13: bool = False,
    timeout: float = _TIMEOUT_SECONDS,
) -> Connection:
    """Connect to the broker as the Thing, with the key in the token (MQTT 5.0 §3.1; TLS 1.2 or later).

    A broker ends a connection when another one comes with its client id (§3.1.4), which is the Thing's name unless
    there is a purpose: then it is one that no other connection has.

    The PIN is tried once, and so is the connection, with two exceptions, both within the same time. Where TLS 1.3 was
    offered and the handshake failed, it is tried again with TLS 1.2. Where a client id of the connection's own was
    refused, or the connection was closed without a word twice, it is tried again with the Thing's name: the policy may
    be an older one or the operator's own, or the certificate attached without EXCLUSIVE_THING (not tried on a real
    account). :attr:`Connection.fallbacks` tells. Must not be called in a process that itself uses python-pkcs11:
    closing a session there logs this one out. ``hsm_enroll`` does not: its worker is a process of its own.

    Does *not* check that the certificate belongs to the key, the token's serial number (awscrt selects by label), or
    how many tries the PIN has left.

    Args:
        identity: what the device holds.
        pin: the token's user PIN; None asks at a protected authentication path; empty where it wants no login.
        purpose: a word for the client id, ``THING/PURPOSE-XXXXXXXX``; None is the Thing's name.
        ca_file: PEM file with the trust anchors of the broker; None is the system's.
        endpoint: host name that overrides the identity's.
        port: TCP port that overrides the identity's.
        tls13: offer TLS 1.3 too, where the key is an EC key; with an RSA key it stays at 1.2.
        timeout: seconds until CONNACK.

    Raises:
        UsageError: the CA file is none.
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError, PinWrongError, PinLockedError, KeyMissingError,
        TokenRefusedError: the module, the token or the key.
        MqttUnreachableError: no broker answers.
        MqttNotTrustedError: the server's certificate is not trusted, or its TLS too old.
        MqttRefusedError: the broker does not want this certificate or this client id.
        MqttError: anything else.
    """
    target = Target.of(identity, purpose=purpose, ca_file=ca_file, endpoint=endpoint, port=port, tls13=tls13)
    return connect_to(target, pin, timeout)


def connect_to(target: Target, pin: Secret | None, timeout: float) -> Connection:
    """Connect to a target; see :func:`connect`."""
    connection = Connection(target, pin, timeout)
    # From here on: before, a person may have typed a PIN at the token.
    deadline = time.monotonic() + timeout
    with ExitStack() as on_failure:
        while True:
            on_failure.callback(connection.close)
            try:
                connection._open(deadline - time.monotonic())  # noqa: SLF001 - opened here and nowhere else
            except MqttNotTrustedError:
                raise
            except MqttError:
                easier = connection._easier()  # noqa: SLF001
                left = deadline - time.monotonic()
                if easier is None or left <= 0:
                    raise
            else:
                on_failure.pop_all()
                return connection
            # Made while the last one's session is open: the token has its login and takes no PIN a second time.
            following = Connection(easier.target, pin, left, fallbacks=easier.fallbacks, repeated=easier.repeated)
            connection.close()
            connection = following


class Connection:
    """An open connection; made by :func:`connect`, closed by leaving its ``with`` block. Threads may share it.

    Attributes:
        fallbacks: what it has done without.
    """

    def __init__(
        self,
        target: Target,
        pin: Secret | None,
        timeout: float,
        *,
        fallbacks: Fallbacks = _NOTHING_MISSED,
        repeated: bool = False,
    ) -> None:
        self.fallbacks = fallbacks
        self._target = target
        self._repeated = repeated
        self._opened: Future[_Ending | None] = Future()
        # None where this side closed it.
        self._ended: Future[_Ending | None] = Future()
        self._stopped = threading.Event()
        self._inbox = Inbox()
        self._ended.add_done_callback(lambda _: self._inbox.end())
        callbacks = client.Callbacks(
            on_connected=self._on_connected,
            on_connection_failure=self._on_connection_failure,
            on_disconnection=self._on_disconnection,
            on_stopped=lambda _: self._stopped.set(),
            on_message=self._on_message,
        )
        self._client: Any = client.build(target, pin, callbacks, timeout)

    @property
    def tls_fallback(self) -> str | None:
        """How the handshake that offered TLS 1.3 failed, a sentence, where this connection offered 1.2 alone then."""
        return self.fallbacks.tls

    @property
    def client_id_fallback(self) -> str | None:
        """How a client id of its own was refused, a sentence, where this connection has the Thing's name instead."""
        return self.fallbacks.client_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, topic: str, payload: bytes, *, timeout: float = _TIMEOUT_SECONDS) -> None:
        """Publish one message with QoS 1 and wait for its PUBACK (MQTT 5.0 §4.3.2).

        Does *not* check that anybody is subscribed. A message whose PUBACK did not come may have been delivered.

        Args:
            topic: where to; no wildcards.
            payload: what; AWS IoT takes up to 128 KiB.
            timeout: seconds until the PUBACK.

        Raises:
            UsageError: this is no topic.
            MqttRefusedError: the broker does not allow it.
            MqttTakenOverError: another connection has taken this one over.
            MqttUnreachableError: no PUBACK came in time.
            MqttError: anything else, a lost or closed connection among it.
        """
        packet = client.publish_packet(topic, payload)
        what = f"publishing to {topic!r}"
        completion = self._request(what, lambda native: native.publish(packet), timeout)
        self._check(completion.puback.reason_code, what)

    def subscribe(self, topic: str, *, timeout: float = _TIMEOUT_SECONDS) -> Iterator[Message]:
        """Subscribe with QoS 1, wait for the SUBACK, and return the messages as they come (MQTT 5.0 §3.8).

        The iterator waits for the next message without a time limit and ends when this side closes the connection.
        Messages are kept in memory until they are taken.

        Args:
            topic: a topic filter (MQTT 5.0 §4.7).
            timeout: seconds until the SUBACK.

        Raises:
            UsageError, MqttRefusedError, MqttTakenOverError, MqttUnreachableError, MqttError: as :meth:`publish`, here
                and, where the connection ends otherwise, from the iterator.
        """
        packet = client.subscribe_packet(topic)
        what = f"subscribing to {topic!r}"
        with ExitStack() as on_failure:
            # Before the request: the first message may come together with the SUBACK.
            stream = self._inbox.add(topic)
            on_failure.callback(self._inbox.remove, stream)
            suback = self._request(what, lambda native: native.subscribe(packet), timeout)
            self._check(suback.reason_codes[0], what)
            on_failure.pop_all()
        return self._messages(stream)

    def close(self) -> None:
        """Send DISCONNECT and close the connection; the token's session is closed right after. Again does nothing."""
        _settle(self._ended, None)
        native, self._client = self._client, None
        if native is None:
            return
        native.stop(client.disconnect_packet())
        if self._opened.done() and self._opened.result() is None:
            self._stopped.wait(_CLOSE_SECONDS)

    def _open(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._client.start()
        wait([self._opened], min(timeout, _SUSPICION_SECONDS))
        if self._is_suspicious():
            patience = min(_TRUST_CHECK_SECONDS, max(1.0, deadline - time.monotonic()))
            why = trust.why_distrusted(self._target.endpoint, self._target.port, self._target.ca_file, patience)
            if why is not None:
                raise failures.of_distrust(why, self._target)
        wait([self._opened], max(0.0, deadline - time.monotonic()))
        if not self._opened.done():
            raise MqttUnreachableError(f"no broker answers at {self._target.broker} within {round(timeout, 1):g} s")
        ending = self._opened.result()
        if ending is not None:
            raise failures.of_connecting(ending.error, ending.reason, self._target) from ending.error

    def _easier(self) -> _Attempt | None:
        """Return what may succeed where this attempt failed; None where nothing may.

        Where both may be the reason TLS 1.3 is given up first: to go without it takes nothing from anybody. A client id
        of the connection's own is given up last, and where the connection was closed without a word only after the same
        has happened again: a network that drops once must not end another program's connection.
        """
        ending = self._opened.result() if self._opened.done() else None
        if ending is None:
            return None
        attempt = ending.error, ending.reason, self._target
        if self._target.offers_tls13 and (failure := failures.of_tls13(*attempt)):
            return _Attempt(replace(self._target, offers_tls13=False), self.fallbacks._replace(tls=failure))
        if self._target.client_id == self._target.thing_name or not (failure := failures.of_client_id(*attempt)):
            return None
        if ending.reason is None and not self._repeated:
            return _Attempt(self._target, self.fallbacks, repeated=True)
        target = replace(self._target, client_id=self._target.thing_name)
        return _Attempt(target, self.fallbacks._replace(client_id=failure))

    def _is_suspicious(self) -> bool:
        if not self._opened.done():
            return True
        ending = self._opened.result()
        return ending is not None and failures.is_handshake_failure(ending.error)

    def _request(self, what: str, send: Callable[[Any], Future[Any]], timeout: float) -> Any:
        native = self._client
        self._raise_if_ended()
        try:
            answer = send(native)
        except RuntimeError as error:
            raise failures.of_request(error, what, self._target) from error
        try:
            failure = answer.exception(timeout)
        except TimeoutError as error:
            raise MqttUnreachableError(f"no answer from {self._target.broker} to {what} in {timeout:g} s") from error
        if failure is None:
            return answer.result()
        # A request that fails with its connection hears of it first.
        wait([self._ended], _SETTLE_SECONDS)
        self._raise_if_ended()
        raise failures.of_request(failure, what, self._target) from failure

    def _check(self, reason_code: Any, what: str) -> None:
        """Refuse reason codes of 0x80 or more (MQTT 5.0 §2.4), and unknown ones, which awscrt gives as None."""
        if reason_code is None or reason_code >= 0x80:
            raise failures.of_acknowledgement(_name(reason_code), what, self._target)

    def _messages(self, stream: Stream) -> Iterator[Message]:
        while (message := stream.messages.get()) is not None:
            yield message
        if self._ended.result() is not None:
            self._raise_if_ended()

    def _raise_if_ended(self) -> None:
        if not self._ended.done():
            return
        ending = self._ended.result()
        if ending is None:
            raise MqttError(f"the connection to {self._target.broker} is closed")
        raise failures.of_lost(ending.error, ending.reason, self._target) from ending.error

    # What follows is called by awscrt, on its own thread; it must not wait.

    def _on_connected(self, _: Any) -> None:
        _settle(self._opened, None)

    def _on_connection_failure(self, data: Any) -> None:
        self._stop()
        _settle(self._opened, _Ending(data.exception, _reason(data.connack_packet)))

    def _on_disconnection(self, data: Any) -> None:
        self._stop()
        _settle(self._ended, _Ending(data.exception, _reason(data.disconnect_packet)))

    def _on_message(self, data: Any) -> None:
        packet = data.publish_packet
        self._inbox.deliver(Message(packet.topic, bytes(packet.payload)))

    def _stop(self) -> None:
        native = self._client
        if native is not None:
            native.stop()


def _settle(future: Future[_Ending | None], ending: _Ending | None) -> None:
    """Say how it ended, where the other side, or the other thread, has not said so before."""
    with suppress(InvalidStateError):
        future.set_result(ending)


def _reason(packet: Any) -> str | None:
    return None if packet is None else _name(packet.reason_code)


def _name(reason_code: Any) -> str:
    return "a reason code unknown to MQTT 5" if reason_code is None else str(reason_code.name)
