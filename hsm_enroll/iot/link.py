"""One MQTT 5 connection of awscrt's, from its CONNECT to its end; another one takes another link.

awscrt calls back on a thread of its own; every event becomes the result of a future here. It would reconnect by itself
forever, so it is stopped as soon as a connection, or an attempt, has ended.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from hsm_enroll.errors import HsmEnrollError, MqttError, MqttUnreachableError
from hsm_enroll.iot import client, failures, trust, unreadable
from hsm_enroll.iot.inbox import Message
from hsm_enroll.iot.target import Target
from hsm_enroll.iot.unreadable import UnreadablePacketError

# If a handshake takes longer, awscrt may have found that it failed and be delaying the error.
_SUSPICION_SECONDS = 2.0
# Sending DISCONNECT and closing the socket takes milliseconds; a peer that has gone is not waited for longer.
_CLOSE_SECONDS = 3.0
_TRUST_CHECK_SECONDS = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection or an attempt ended; ``reason`` names the reason code of the CONNACK or DISCONNECT, if any."""

    error: BaseException
    reason: str | None


class Link:
    """A connection that is opened once and ends once. It is thread-safe.

    Args:
        target: which broker, as which client.
        login: to the token.
        timeout: seconds for the TCP connection, and again for the CONNACK.
        on_message: called with each message, on awscrt's thread; must not wait.

    Attributes:
        target: as above.
        ended: done once the connection has ended; its result is None if this side closed it.
    """

    def __init__(
        self, target: Target, login: client.Login, timeout: float, on_message: Callable[[Message], None]
    ) -> None:
        self.target = target
        self.ended: Future[Ending | None] = Future()
        self._opened: Future[Ending | None] = Future()
        self._accepts_qos_0_only = False
        self._receive_maximum = 0
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        self._ended_at: float | None = None
        self._on_message = on_message
        # Unanswered requests in the order they were sent.
        self._requests: dict[Future[Any], None] = {}
        callbacks = client.Callbacks(
            on_connected=self._on_connected,
            on_connection_failure=self._on_connection_failure,
            on_disconnection=self._on_disconnection,
            on_stopped=lambda _: self._stopped.set(),
            on_message=self._on_publish,
        )
        self._client: Any = client.build(target, login, callbacks, timeout)
        self._held = weakref.ref(self._client)
        self.ended.add_done_callback(lambda _: self._fail_requests())
        unreadable.watch(self)

    @property
    def failed(self) -> Ending | None:
        """How the attempt to open it failed; None if it did not, or there was no answer."""
        return self._opened.result() if self._opened.done() else None

    @property
    def accepts_qos_0_only(self) -> bool:
        """Whether the broker accepts nothing above QoS 0 (MQTT 5.0 §3.2.2.3.4)."""
        return self._accepts_qos_0_only

    @property
    def receive_maximum(self) -> int:
        """How many messages of QoS 1 may be unacknowledged (MQTT 5.0 §3.2.2.3.3); awscrt sends more only after that."""
        return self._receive_maximum

    @property
    def awscrt_client(self) -> Any:
        """The ``awscrt.mqtt5.Client``.

        Raises:
            MqttError: the connection has ended.
        """
        native = self._client
        if native is None or self.ended.done():
            raise self.loss()
        return native

    def open(self, timeout: float) -> None:
        """Connect, and wait for the CONNACK.

        Raises:
            HsmEnrollError: there is no connection; the class says why.
        """
        deadline = time.monotonic() + timeout
        with self._starting:
            if self._client is not None:
                self._client.start()
        wait([self._opened], min(timeout, _SUSPICION_SECONDS))
        if self._is_suspicious():
            patience = min(_TRUST_CHECK_SECONDS, max(1.0, deadline - time.monotonic()))
            why = trust.why_distrusted(self.target.endpoint, self.target.port, self.target.ca_file, patience)
            if why is not None:
                raise failures.of_distrust(why, self.target)
        wait([self._opened], max(0.0, deadline - time.monotonic()))
        if not self._opened.done():
            raise MqttUnreachableError(f"no broker answers at {self.target.broker} within {round(timeout, 1):g} s")
        ending = self._opened.result()
        if ending is not None:
            raise failures.of_connecting(ending.error, ending.reason, self.target) from ending.error

    def request(self, what: str, send: Callable[[Any], Future[Any]]) -> Future[Any]:
        """Send a request, and return a future of its answer.

        Args:
            what: names the request in errors, for example "publishing to 'a/b'".
            send: sends it with the awscrt client.

        Returns:
            A future that gets awscrt's answer, or an HsmEnrollError. The error is one of the connection's end if that
            came before the answer; then ``ended`` is done.
        """
        outcome: Future[Any] = Future()
        self._requests[outcome] = None
        native = self._client
        if native is None or self.ended.done():
            self._fail_requests()
            return outcome
        try:
            send(native).add_done_callback(partial(self._on_answer, outcome, what))
        except RuntimeError as error:
            self._fail(outcome, what, error)
        return outcome

    def loss(self) -> HsmEnrollError:
        """Return the error that says how this connection, which has ended, ended."""
        ending = self.ended.result()
        if ending is None:
            return MqttError(f"the connection to {self.target.broker} is closed")
        return _caused(failures.of_lost(ending.error, ending.reason, self.target), ending.error)

    def close(self) -> None:
        """Send DISCONNECT and close the connection, or give up opening it. Calling it again has no effect."""
        is_being_tried = not self._opened.done()
        settle(self.ended, None)
        settle(self._opened, Ending(ConnectionAbortedError("closed"), None))
        with self._starting:
            native, self._client = self._client, None
        if native is None:
            return
        self._note_stop()
        native.stop(client.disconnect_packet())
        if not is_being_tried:
            self._stopped.wait(_CLOSE_SECONDS)

    def abandon(self, error: HsmEnrollError) -> None:
        """End the connection, which does not work any more, because of an error of this side's."""
        self._end(Ending(error, None))

    @property
    def closing_seconds(self) -> float:
        """How long awscrt has been closing it; 0 if it is open, or closed."""
        since = self._ended_at
        return 0.0 if since is None or self._stopped.is_set() else time.monotonic() - since

    @property
    def is_released(self) -> bool:
        """Whether awscrt has closed it, and no program has kept its client."""
        return self._stopped.is_set() and self._held() is None

    def end_unreadable(self, error: UnreadablePacketError) -> None:
        """End the connection because of a packet that awscrt cannot read."""
        self._end(Ending(error, None))

    def _note_stop(self) -> None:
        if self._ended_at is None:
            self._ended_at = time.monotonic()

    def _is_suspicious(self) -> bool:
        if not self._opened.done():
            return True
        ending = self._opened.result()
        return ending is not None and failures.is_handshake_failure(ending.error)

    def _fail_requests(self) -> None:
        for outcome in list(self._requests):
            if self._claim(outcome):
                settle_error(outcome, self.loss())

    def _fail(self, outcome: Future[Any], what: str, error: BaseException) -> None:
        if self._claim(outcome):
            settle_error(outcome, _caused(failures.of_request(error, what, self.target), error))

    def _claim(self, outcome: Future[Any]) -> bool:
        """Whether the caller is to settle this request; False if another thread has."""
        try:
            del self._requests[outcome]
        except KeyError:
            return False
        return True

    # The following are called by awscrt on its own thread, and must not wait.

    def _on_connected(self, data: Any) -> None:
        self._accepts_qos_0_only = data.negotiated_settings.maximum_qos == 0
        self._receive_maximum = data.negotiated_settings.receive_maximum_from_server
        settle(self._opened, None)

    def _on_connection_failure(self, data: Any) -> None:
        self._end(Ending(data.exception, _reason(data.connack_packet)))

    def _on_disconnection(self, data: Any) -> None:
        self._end(Ending(data.exception, _reason(data.disconnect_packet)))

    def _on_publish(self, data: Any) -> None:
        packet = data.publish_packet
        self._on_message(Message(packet.topic, bytes(packet.payload), bool(packet.retain)))

    def _on_answer(self, outcome: Future[Any], what: str, answer: Future[Any]) -> None:
        error = answer.exception()
        if error is None:
            if self._claim(outcome):
                settle(outcome, answer.result())
        elif not failures.is_loss(error):  # it is failed when the loss is known in full, which is just after
            self._fail(outcome, what, error)

    def _end(self, ending: Ending) -> None:
        native = self._client
        if native is not None:
            self._note_stop()
            native.stop()
        settle(self._opened, ending)
        settle(self.ended, ending)


def settle(future: Future[T], value: T) -> None:
    """Set a future's result, unless another thread has set one, or nobody waits for it any more."""
    with suppress(InvalidStateError):
        future.set_result(value)


def settle_error(future: Future[Any], error: BaseException) -> None:
    """Set a future's exception; see :func:`settle`."""
    with suppress(InvalidStateError):
        future.set_exception(error)


def _caused(error: HsmEnrollError, cause: BaseException) -> HsmEnrollError:
    """As ``raise … from``, for an error that a future takes to its thread."""
    error.__cause__ = cause
    return error


def _reason(packet: Any) -> str | None:
    return None if packet is None else failures.reason_of(packet.reason_code)
