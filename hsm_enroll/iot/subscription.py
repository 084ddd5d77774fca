"""What a program receives messages from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self, overload

from hsm_enroll.errors import MqttError
from hsm_enroll.iot.exchange import Exchange
from hsm_enroll.iot.inbox import Message, Stream


class Subscription(Iterator[Message]):
    """The messages of one subscription, in order of arrival, made by :meth:`Connection.subscribe`.

    Iterating waits for each message without a time limit, and stops when this side unsubscribes or closes the
    connection. If the connection ends in another way, it raises an :class:`MqttError` that says why. Messages are kept
    in memory until they are taken, up to 32 MiB; after that it yields those that it has, and raises.

    Leaving its ``with`` block unsubscribes.
    """

    def __init__(self, exchange: Exchange, stream: Stream) -> None:
        self._exchange = exchange
        self._stream = stream

    @property
    def topic(self) -> str:
        """The topic filter."""
        return self._stream.topic_filter

    def __next__(self) -> Message:
        message = self._stream.wait(None)
        if message is None:
            raise StopIteration
        return message

    @overload
    def receive(self) -> Message: ...

    @overload
    def receive(self, timeout: float | None) -> Message | None: ...

    def receive(self, timeout: float | None = None) -> Message | None:
        """Wait for the next message.

        Args:
            timeout: seconds to wait; 0 takes a message that is there already. None waits without a limit.

        Returns:
            The message, or None if none came in time.

        Raises:
            MqttError: it is unsubscribed, or the connection is closed or has ended; its kind says why.
        """
        message = self._stream.wait(timeout)
        if message is None and self._stream.is_over:
            raise MqttError(f"the subscription to {self.topic!r} has ended", hint="Subscribe again.")
        return message

    def unsubscribe(self, *, timeout: float | None = None) -> None:
        """Unsubscribe and wait for the UNSUBACK (MQTT 5.0 §3.10); messages that came before can still be taken.

        Does nothing at the broker if another subscription of this connection has the same filter, or if there is no
        connection: the broker then has no subscription.

        Args:
            timeout: seconds until the UNSUBACK; None as for :meth:`Connection.publish`.

        Raises:
            MqttUnreachableError: no UNSUBACK arrived in time.
            MqttError: any other failure. In any case no further message comes.
        """
        self._exchange.finish(self._exchange.unsubscribe(self._stream), timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # No further message comes even if the broker did not answer.
        with suppress(MqttError):
            self.unsubscribe()
