"""The library's connection for programs that use asyncio.

What :func:`hsm_enroll.connect` gives, with coroutines instead of methods that wait::

    import asyncio

    from hsm_enroll import Identity, aio


    async def main() -> None:
        identity = Identity.load()
        topics = f"device/{identity.thing_name}"
        async with aio.connect(identity, reconnect=True) as connection:
            commands = await connection.subscribe(f"{topics}/commands")
            await connection.publish(f"{topics}/online", b"yes")
            async for command in commands:
                await connection.publish(f"{topics}/done", command.payload)


    asyncio.run(main())

No thread waits for a message or an acknowledgement, so any number of coroutines can. Only connecting and closing use a
thread, for as long as they take. A connection belongs to the event loop in which it was made.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, overload

from hsm_enroll.errors import MqttError

if TYPE_CHECKING:
    from hsm_enroll.iot import Fallbacks, Keeper, Message, OnConnection, QoS, Will
    from hsm_enroll.iot.exchange import Exchange, Request
    from hsm_enroll.iot.inbox import Stream
    from hsm_enroll.library import Pin
    from hsm_enroll.store.identity import Identity

__all__ = ["Connection", "Subscription", "connect"]


@asynccontextmanager
async def connect(
    identity: Identity,
    *,
    pin: Pin | None = None,
    purpose: str | None = None,
    will: Will | None = None,
    reconnect: bool = False,
    on_connection: OnConnection | None = None,
) -> AsyncIterator[Connection]:
    """Connect, and close the connection at the end of the ``async with`` block; see :func:`hsm_enroll.connect`.

    Args:
        identity: the device's identity.
        pin: as for :func:`hsm_enroll.connect`; a function is called on another thread.
        purpose: as there.
        will: as there.
        reconnect: as there.
        on_connection: as there; it is called in the event loop.

    Raises:
        HsmEnrollError: as there.
    """
    from hsm_enroll import library

    loop = asyncio.get_running_loop()
    tell = None if on_connection is None else _in_loop(loop, on_connection)
    wanted = threading.Lock()

    def open_wanted() -> Keeper:
        keeper = library.keep(identity, pin=pin, purpose=purpose, will=will, reconnect=reconnect, on_connection=tell)
        if not wanted.acquire(blocking=False):
            keeper.close()
        return keeper

    opening = asyncio.ensure_future(asyncio.to_thread(open_wanted))
    try:
        keeper = await asyncio.shield(opening)
    except asyncio.CancelledError:
        # The thread cannot be cancelled; it closes a connection that nobody wants any more, unless it has opened it.
        if not wanted.acquire(blocking=False):
            await asyncio.to_thread((await opening).close)
        else:  # nobody wants its error either, which asyncio would otherwise report
            opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise
    try:
        yield Connection(keeper)
    finally:
        await asyncio.to_thread(keeper.close)


class Connection:
    """An MQTT 5 connection, as :class:`hsm_enroll.Connection`, for coroutines of one event loop."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    @property
    def fallbacks(self) -> Fallbacks:
        """What it asked for, was refused, and goes without."""
        return self._keeper.fallbacks

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: QoS = 1,
        retain: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Publish one message; see :meth:`hsm_enroll.Connection.publish`. Many may be under way at once."""
        exchange = self._keeper.exchange
        await _finish(exchange, exchange.publish(topic, payload, qos, retain=retain), timeout)

    async def subscribe(self, topic: str, *, qos: QoS = 1, timeout: float | None = None) -> Subscription:
        """Subscribe; see :meth:`hsm_enroll.Connection.subscribe`."""
        exchange = self._keeper.exchange
        stream, request = exchange.subscribe(topic, qos)
        await _finish(exchange, request, timeout)
        return Subscription(exchange, stream)


class Subscription:
    """The messages of one subscription, as :class:`hsm_enroll.Subscription`: an asynchronous iterator.

    Leaving its ``async with`` block unsubscribes.
    """

    def __init__(self, exchange: Exchange, stream: Stream) -> None:
        self._exchange = exchange
        self._stream = stream
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(self._changed.set)

        stream.on_change = wake

    @property
    def topic(self) -> str:
        """The topic filter."""
        return self._stream.topic_filter

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        message = await self._next()
        if message is None:
            raise StopAsyncIteration
        return message

    @overload
    async def receive(self) -> Message: ...

    @overload
    async def receive(self, timeout: float | None) -> Message | None: ...

    async def receive(self, timeout: float | None = None) -> Message | None:
        """Wait for the next message; see :meth:`hsm_enroll.Subscription.receive`."""
        try:
            async with asyncio.timeout(timeout):
                message = await self._next()
        except TimeoutError:
            return None
        if message is None:
            raise MqttError(f"the subscription to {self.topic!r} has ended", hint="Subscribe again.")
        return message

    async def unsubscribe(self, *, timeout: float | None = None) -> None:
        """Unsubscribe; see :meth:`hsm_enroll.Subscription.unsubscribe`."""
        await _finish(self._exchange, self._exchange.unsubscribe(self._stream), timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # No further message comes even if the broker did not answer.
        with suppress(MqttError):
            await self.unsubscribe()

    async def _next(self) -> Message | None:
        """Return the next message, or None once the stream is over."""
        while True:
            self._changed.clear()
            # First, so that an error that comes in between is raised, and not taken for the end.
            is_over = self._stream.is_over
            message = self._stream.take()
            if message is not None or is_over:
                return message
            await self._changed.wait()


async def _finish(exchange: Exchange, request: Request, timeout: float | None) -> None:
    timeout = exchange.seconds_for(timeout)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.wrap_future(request.outcome)
    except TimeoutError:
        raise exchange.unanswered(request, timeout) from None


def _in_loop(loop: asyncio.AbstractEventLoop, on_connection: OnConnection) -> OnConnection:
    return lambda event: loop.call_soon_threadsafe(on_connection, event)
