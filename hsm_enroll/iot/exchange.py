"""What programs ask of a connection, as futures, whichever link carries it: requests, answers and subscriptions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hsm_enroll.errors import HsmEnrollError, MqttError, MqttUnreachableError
from hsm_enroll.iot import client, failures, limits
from hsm_enroll.iot.inbox import Inbox, Message, Stream
from hsm_enroll.iot.link import Link, settle, settle_error
from hsm_enroll.iot.target import QoS, Target


@dataclass(frozen=True, eq=False)
class Request:
    """Something to send, and its outcome.

    Attributes:
        what: names it in errors, for example "publishing to 'a/b'".
        send: sends it with an awscrt client.
        codes: returns the reason codes of the answer.
        may_repeat: whether to send it again if the link is lost before the answer.
        outcome: done once it was answered; its exception is an HsmEnrollError.
    """

    what: str
    send: Callable[[Any], Future[Any]]
    codes: Callable[[Any], list[Any]]
    may_repeat: bool
    outcome: Future[None] = field(default_factory=Future)


class Exchange:
    """The requests and subscriptions of one connection, over one link after another. It is thread-safe.

    Without a link, requests wait for the next one. A request of QoS 1 whose link is lost is sent again on the next one,
    so its message may arrive twice (MQTT 5.0 §4.3.2); one of QoS 0 is not.

    Args:
        target: the broker and the Thing, for errors.
        reconnects: whether there may be another link after the first.
    """

    def __init__(self, target: Target, *, reconnects: bool) -> None:
        self._inbox = Inbox()
        self._target = target
        self._reconnects = reconnects
        self._lock = threading.Lock()
        # Held while a subscription is added or removed and its request sent: the broker must get both in one order.
        self._changing = threading.Lock()
        self._link: Link | None = None
        self._waiting: dict[Request, None] = {}  # in the order in which they came
        self._subscribed: dict[Stream, tuple[QoS, Request]] = {}
        self._loss: HsmEnrollError | None = None
        self._end: HsmEnrollError | None = None

    @property
    def link(self) -> Link | None:
        """The link in use; None if there is none at the moment."""
        with self._lock:
            return None if self._link is None or self._link.ended.done() else self._link

    @property
    def awscrt_client(self) -> Any:
        """The ``awscrt.mqtt5.Client`` of the current link.

        Raises:
            MqttError: there is none at the moment, or the connection has ended.
        """
        with self._lock:
            link, end = self._link, self._end
        if end is not None:
            raise failures.again(end)
        if link is None:
            raise MqttUnreachableError(f"there is no connection to {self._target.broker} at the moment")
        return link.awscrt_client

    def deliver(self, message: Message) -> None:
        """Give a message to the streams, and forget those that are full: their programs may never take what waits."""
        for stream in self._inbox.deliver(message):
            self._forget(stream)

    def publish(self, topic: str, payload: bytes, qos: QoS, *, retain: bool) -> Request:
        """Publish a message; done once it has been acknowledged or, with QoS 0, sent.

        Raises:
            UsageError: see ``limits.check_message``.
        """
        limits.check_message(topic, payload, qos)
        packet = client.publish_packet(topic, bytes(payload), qos, retain=retain)
        request = Request(
            f"publishing to {topic!r}",
            lambda native: native.publish(packet),
            lambda done: [done.puback.reason_code] if qos else [],
            may_repeat=bool(qos),
        )
        with self._lock:
            low = self._link is not None and self._link.accepts_qos_0_only
        if low and qos:
            request.outcome.set_exception(failures.of_low_qos(self._target))
        else:
            self._start(request)
        return request

    def subscribe(self, topic_filter: str, qos: QoS, *, once: bool = False) -> tuple[Stream, Request]:
        """Subscribe; the stream has the messages once the request is done, and ends if it fails.

        Args:
            topic_filter: see ``limits.check_filter``.
            qos: 0 or 1.
            once: do not subscribe again on the next link; the caller unsubscribes when the link is lost.

        Raises:
            UsageError: see ``limits.check_filter``.
        """
        limits.check_filter(topic_filter)
        limits.check_qos(qos)
        # Before the request: the first message may come together with the SUBACK.
        with self._changing:
            stream = self._inbox.add(topic_filter)
            request = _subscribing(topic_filter, qos, may_repeat=not once)
            if not once:
                with self._lock:
                    self._subscribed[stream] = qos, request
            request.outcome.add_done_callback(partial(self._forget_failed, stream))
            self._start(request)
        return stream, request

    def unsubscribe(self, stream: Stream) -> Request:
        """End a stream, and unsubscribe unless another stream has the same filter or there is no link.

        The session is clean, so after the end of a link the broker has no subscription either.
        """
        packet = client.unsubscribe_packet(stream.topic_filter)
        request = Request(
            f"unsubscribing from {stream.topic_filter!r}",
            lambda native: native.unsubscribe(packet),
            lambda unsuback: list(unsuback.reason_codes),
            may_repeat=False,
        )
        with self._changing:
            self._forget(stream)
            stream.end()
            with self._lock:
                link = self._link
            if link is None or link.ended.done() or self._inbox.has(stream.topic_filter):
                settle(request.outcome, None)
            else:
                self._send(request, link)
        return request

    def seconds_for(self, timeout: float | None) -> float:
        """Return for how many seconds a request is waited for: as long as its caller says, or else as the target."""
        return self._target.operation_timeout if timeout is None else timeout

    def finish(self, request: Request, timeout: float | None) -> None:
        """Wait until a request is done, and raise its error, if it has one; the timeout as for :meth:`seconds_for`.

        Raises:
            MqttUnreachableError: it was not answered in time.
            HsmEnrollError: see :class:`Request`.
        """
        seconds = self.seconds_for(timeout)
        wait([request.outcome], seconds)
        if not request.outcome.done():
            raise self.unanswered(request, seconds)
        request.outcome.result()

    def unanswered(self, request: Request, timeout: float) -> MqttUnreachableError:
        """Give a request up, and return the error for not having been answered within a timeout, in seconds."""
        with self._lock:
            loss = self._loss if self._link is None else None
        request.outcome.cancel()
        if loss is None:
            message = f"{self._target.broker} did not acknowledge {request.what} within {timeout:g} s"
        else:
            message = f"{request.what} had to wait for a connection for more than {timeout:g} s: {loss.message}"
        return MqttUnreachableError(message)

    def use(self, link: Link, timeout: float) -> None:
        """Use a new link: subscribe on it to everything that was subscribed before, then send what has been waiting.

        Args:
            link: an open link.
            timeout: seconds until the SUBACKs.

        Raises:
            HsmEnrollError: the link is lost, or too slow to be used. A subscription that the broker refuses does not
                count: its stream ends with the refusal.
        """
        with self._lock:
            again = [
                (stream, _subscribing(stream.topic_filter, qos, may_repeat=False))
                for stream, (qos, first) in self._subscribed.items()
                if first.outcome.done()  # otherwise it is waiting for this link
            ]
        for _, request in again:
            self._send(request, link)
        wait([request.outcome for _, request in again], timeout)
        for stream, request in again:
            if not request.outcome.done():
                raise self.unanswered(request, timeout)
            if (error := request.outcome.exception()) is None:
                continue
            if link.ended.done() or not isinstance(error, HsmEnrollError):
                raise error
            self._forget(stream)
            stream.end(error)
        with self._lock:
            self._link, self._loss = link, None
            waiting, self._waiting = self._waiting, {}
        for request in waiting:
            self._start(request)

    def lose(self, error: HsmEnrollError) -> None:
        """Know that there is no link, for which reason, and that another one may come."""
        with self._lock:
            self._link, self._loss = None, error

    def end(self, error: HsmEnrollError | None) -> None:
        """End every stream and every request, now and from now on; None if this side has closed the connection."""
        with self._lock:
            if self._end is not None:
                return
            self._link = None
            self._end = MqttError(f"the connection to {self._target.broker} is closed") if error is None else error
            waiting, self._waiting = self._waiting, {}
        for request in waiting:
            settle_error(request.outcome, failures.again(self._end))
        self._inbox.end(error)

    def _start(self, request: Request) -> None:
        with self._lock:
            link, end = self._link, self._end
            must_wait = link is None or (self._reconnects and link.ended.done())
            is_waiting = end is None and must_wait
            if is_waiting:
                self._waiting[request] = None
        if is_waiting:  # until its caller stops waiting
            request.outcome.add_done_callback(partial(self._leave, request))
        elif end is not None:
            settle_error(request.outcome, failures.again(end))
        elif link is not None:
            self._send(request, link)

    def _leave(self, request: Request, _: Future[None]) -> None:
        with self._lock:
            self._waiting.pop(request, None)

    def _send(self, request: Request, link: Link) -> None:
        if not request.outcome.done():
            link.request(request.what, request.send).add_done_callback(partial(self._on_answer, request, link))

    def _on_answer(self, request: Request, link: Link, answer: Future[Any]) -> None:
        error = answer.exception()
        if error is None:
            self._settle(request, answer.result())
        elif self._reconnects and request.may_repeat and link.ended.done() and link.ended.result() is not None:
            self._start(request)
        else:
            settle_error(request.outcome, error)

    def _settle(self, request: Request, answer: Any) -> None:
        """Fail for reason codes of 0x80 or more (MQTT 5.0 §2.4), and for unknown ones, which awscrt gives as None."""
        for code in request.codes(answer):
            if code is None or code >= 0x80:
                reason = failures.reason_of(code)
                settle_error(request.outcome, failures.of_acknowledgement(reason, request.what, self._target))
                return
        settle(request.outcome, None)

    def _forget_failed(self, stream: Stream, outcome: Future[None]) -> None:
        if outcome.cancelled() or outcome.exception() is not None:
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        self._inbox.remove(stream)
        with self._lock:
            self._subscribed.pop(stream, None)


def _subscribing(topic_filter: str, qos: QoS, *, may_repeat: bool) -> Request:
    packet = client.subscribe_packet(topic_filter, qos)
    return Request(
        f"subscribing to {topic_filter!r}",
        lambda native: native.subscribe(packet),
        lambda suback: list(suback.reason_codes),
        may_repeat=may_repeat,
    )
