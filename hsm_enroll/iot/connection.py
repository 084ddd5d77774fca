"""An MQTT 5 connection with mutual TLS; the token signs the handshake (RFC 5246 §7.4.8).

A :class:`Connection` does not reconnect. awscrt would retry forever, and two programs with the same client id would
disconnect each other forever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from hsm_enroll.errors import MqttError, MqttNotTrustedError, MqttUnreachableError
from hsm_enroll.iot import client, failures, limits, trust, unreadable
from hsm_enroll.iot.fallbacks import Fallbacks
from hsm_enroll.iot.inbox import Inbox, Message, Stream
from hsm_enroll.iot.target import Target
from hsm_enroll.iot.unreadable import UnreadablePacketError
from hsm_enroll.secret import Secret

if TYPE_CHECKING:
    from awscrt import mqtt5

    from hsm_enroll.store.identity import Identity

_TIMEOUT_SECONDS = 20.0
# If a handshake takes longer, awscrt may have found that it failed and be delaying the error.
_SUSPICION_SECONDS = 2.0
# Sending DISCONNECT and closing the socket takes milliseconds; a peer that has gone is not waited for longer.
_CLOSE_SECONDS = 3.0
_TRUST_CHECK_SECONDS = 5.0
_SETTLE_SECONDS = 1.0
_NOTHING_MISSED = Fallbacks()


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a connection or an attempt ended; ``reason`` names the reason code of the CONNACK or DISCONNECT, if any."""

    error: BaseException
    reason: str | None


class _Attempt(NamedTuple):
    """What to try next, what it goes without, and whether it repeats the attempt before."""

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

    A broker ends a connection when another client connects with the same client id (§3.1.4). The client id is the
    Thing's name; with a purpose, it is one that no other connection has.

    The PIN is tried once. The connection is tried once too, with two exceptions, all within the timeout:

    - If TLS 1.3 was offered and the handshake failed, the next attempt offers only TLS 1.2.
    - If the connection's own client id was refused, or the broker closed the connection twice without a CONNACK, the
      next attempt uses the Thing's name: the policy may be an older one or the operator's own, or the certificate may
      be attached without EXCLUSIVE_THING (not tested on a real account).

    :attr:`Connection.fallbacks` says which of these happened.

    Must not be called in a process that uses python-pkcs11 itself: closing a session there would log this connection
    out. ``hsm_enroll`` uses it only in a worker process.

    Does *not* check that the certificate belongs to the key, the token's serial number (awscrt selects the token by
    label), or how many tries the PIN has left.

    Args:
        identity: what the device holds.
        pin: the token's user PIN; None if it is typed at the token itself (CKF_PROTECTED_AUTHENTICATION_PATH); empty if
            the token needs no login.
        purpose: a word for the client id, ``THING/PURPOSE-XXXXXXXX``; None uses the Thing's name.
        ca_file: PEM file with the trust anchors for the broker; None as for ``trust_anchors.pem``.
        endpoint: host name to use instead of the identity's.
        port: TCP port to use instead of the identity's.
        tls13: offer TLS 1.3 as well; has no effect with an RSA key.
        timeout: seconds until the CONNACK, for all attempts together.

    Returns:
        An open connection, a context manager.

    Raises:
        UsageError: the CA file cannot be used.
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError, PinWrongError, PinLockedError, KeyMissingError,
        TokenRefusedError: the module, the token or the key.
        MqttUnreachableError: no broker answers.
        MqttNotTrustedError: the server's certificate is not trusted, or its TLS is too old.
        MqttRefusedError: the broker refused this certificate or this client id.
        MqttError: any other failure.
    """
    target = Target.of(identity, purpose=purpose, ca_file=ca_file, endpoint=endpoint, port=port, tls13=tls13)
    return connect_to(target, pin, timeout)


def connect_to(target: Target, pin: Secret | None, timeout: float) -> Connection:
    """Connect to a target; see :func:`connect`."""
    connection = Connection(target, pin, timeout)
    # The time starts here: until now, a person may have been typing a PIN at the token.
    deadline = time.monotonic() + timeout
    with ExitStack() as on_failure:
        while True:
            on_failure.callback(connection.close)
            try:
                connection._open(deadline - time.monotonic())  # noqa: SLF001 - only opened here
            except MqttNotTrustedError:
                raise
            except MqttError:
                attempt = connection._next_attempt()  # noqa: SLF001
                left = deadline - time.monotonic()
                if attempt is None or left <= 0:
                    raise
            else:
                on_failure.pop_all()
                return connection
            # Made while the last connection's session keeps the token logged in, so that the PIN is not tried again.
            following = Connection(attempt.target, pin, left, fallbacks=attempt.fallbacks, repeated=attempt.repeated)
            connection.close()
            connection = following


class Connection:
    """An open MQTT 5 connection, made by :func:`connect` and closed by leaving its ``with`` block. It is thread-safe.

    It does not reconnect: once it has ended, each method raises an :class:`MqttError` that says why.

    Attributes:
        fallbacks: what it asked for, was refused, and goes without.
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
        self._accepts_qos_0_only = False
        self._opened: Future[_Ending | None] = Future()
        # None if this side closed the connection.
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
        unreadable.watch(self)

    @property
    def tls_fallback(self) -> str | None:
        """If this connection fell back to TLS 1.2, a sentence that says how TLS 1.3 failed; otherwise None."""
        return self.fallbacks.tls

    @property
    def client_id_fallback(self) -> str | None:
        """If this connection fell back to the Thing's name, a sentence that says how its own client id was refused."""
        return self.fallbacks.client_id

    @property
    def awscrt_client(self) -> mqtt5.Client:
        """The ``awscrt.mqtt5.Client`` of this connection, for libraries that take one, such as ``awsiot.iotshadow``.

        It belongs to this connection: do not start or stop it, and do not use it after the connection has ended.

        Raises:
            MqttError: the connection has ended; its kind says why.
        """
        self._raise_if_ended()
        return self._client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, topic: str, payload: bytes, *, timeout: float = _TIMEOUT_SECONDS) -> None:
        """Publish one message with QoS 1 and wait for its PUBACK (MQTT 5.0 §4.3.2).

        Does *not* check that anyone is subscribed. If the PUBACK does not arrive, the message may still have been
        delivered.

        Args:
            topic: the topic; see ``limits.check_message``.
            payload: the message, up to 128 KiB.
            timeout: seconds until the PUBACK.

        Raises:
            UsageError: the topic is invalid, or the message too large.
            MqttRefusedError: the broker does not allow it.
            MqttTakenOverError: another client has connected with the same client id.
            MqttUnreachableError: no PUBACK arrived in time.
            MqttError: any other failure, for example that the connection was lost or is closed.
        """
        limits.check_message(topic, payload)
        if self._accepts_qos_0_only:
            raise failures.of_low_qos(self._target)
        packet = client.publish_packet(topic, payload)
        what = f"publishing to {topic!r}"
        completion = self._request(what, lambda native: native.publish(packet), timeout)
        self._check(completion.puback.reason_code, what)

    def subscribe(self, topic: str, *, timeout: float = _TIMEOUT_SECONDS) -> Iterator[Message]:
        """Subscribe with QoS 1, wait for the SUBACK, and return an iterator of the messages (MQTT 5.0 §3.8).

        The iterator waits for the next message without a time limit, and stops when this side closes the connection. If
        the connection ends in another way, the iterator raises as :meth:`publish` does. Messages are kept in memory
        until they are taken, up to 32 MiB; after that the iterator yields those that it has, and raises.

        Args:
            topic: a topic filter; see ``limits.check_filter``.
            timeout: seconds until the SUBACK.

        Returns:
            The messages in order of arrival.

        Raises:
            UsageError, MqttRefusedError, MqttTakenOverError, MqttUnreachableError, MqttError: as :meth:`publish`.
        """
        limits.check_filter(topic)
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
        """Send DISCONNECT and close the connection and the token's session. Calling it again has no effect."""
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

    def _next_attempt(self) -> _Attempt | None:
        """Return an attempt that may succeed after this one failed; None if there is none.

        If TLS 1.3 and the client id may both be the reason, TLS 1.3 is given up first, since that disturbs no one else.
        The connection's own client id is given up last and, if the connection was closed without a CONNACK, only after
        that has happened twice: one dropped connection must not end another program's connection.
        """
        ending = self._opened.result() if self._opened.done() else None
        if ending is None:
            return None
        ended = ending.error, ending.reason, self._target
        if self._target.offers_tls13 and (failure := failures.of_tls13(*ended)):
            return _Attempt(replace(self._target, offers_tls13=False), self.fallbacks._replace(tls=failure))
        if self._target.client_id == self._target.thing_name or not (failure := failures.of_client_id(*ended)):
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
        wait([answer, self._ended], timeout, FIRST_COMPLETED)
        if not answer.done():
            self._raise_if_ended()
            raise MqttUnreachableError(f"{self._target.broker} did not acknowledge {what} within {timeout:g} s")
        failure = answer.exception()
        if failure is None:
            return answer.result()
        # If the connection was lost, the request fails shortly before the connection is known to have ended.
        wait([self._ended], _SETTLE_SECONDS)
        self._raise_if_ended()
        raise failures.of_request(failure, what, self._target) from failure

    def _check(self, reason_code: Any, what: str) -> None:
        """Raise for reason codes of 0x80 or more (MQTT 5.0 §2.4), and for unknown ones, which awscrt gives as None."""
        if reason_code is None or reason_code >= 0x80:
            raise failures.of_acknowledgement(_name(reason_code), what, self._target)

    def _messages(self, stream: Stream) -> Iterator[Message]:
        yield from stream
        if stream.overflowed:
            message = f"messages of {stream.topic_filter!r} came faster than they were taken: 32 MiB are waiting"
            raise MqttError(message, hint="Take them faster, or subscribe to fewer topics.")
        if self._ended.result() is not None:
            self._raise_if_ended()

    def _raise_if_ended(self) -> None:
        if not self._ended.done():
            return
        ending = self._ended.result()
        if ending is None:
            raise MqttError(f"the connection to {self._target.broker} is closed")
        raise failures.of_lost(ending.error, ending.reason, self._target) from ending.error

    # The following are called by awscrt on its own thread, and must not wait.

    def _on_connected(self, data: Any) -> None:
        self._accepts_qos_0_only = data.negotiated_settings.maximum_qos == 0
        _settle(self._opened, None)

    def _on_connection_failure(self, data: Any) -> None:
        self._stop()
        _settle(self._opened, _Ending(data.exception, _reason(data.connack_packet)))

    def _on_disconnection(self, data: Any) -> None:
        self._stop()
        _settle(self._ended, _Ending(data.exception, _reason(data.disconnect_packet)))

    def end_unreadable(self, error: UnreadablePacketError) -> None:
        """End the connection because of a packet that awscrt cannot read."""
        self._stop()
        _settle(self._opened, _Ending(error, None))
        _settle(self._ended, _Ending(error, None))

    def _on_message(self, data: Any) -> None:
        packet = data.publish_packet
        self._inbox.deliver(Message(packet.topic, bytes(packet.payload)))

    def _stop(self) -> None:
        native = self._client
        if native is not None:
            native.stop()


def _settle(future: Future[_Ending | None], ending: _Ending | None) -> None:
    """Set how it ended, unless another thread has already."""
    with suppress(InvalidStateError):
        future.set_result(ending)


def _reason(packet: Any) -> str | None:
    return None if packet is None else _name(packet.reason_code)


def _name(reason_code: Any) -> str:
    return "unknown reason code" if reason_code is None else str(reason_code.name)
