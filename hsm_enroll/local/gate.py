"""The way in to the broker: TLS with client certificates, and each packet decided on as AWS IoT Core does.

mosquitto knows a client by its certificate's subject. AWS IoT does not: what counts there is what the certificate is
attached to. So TLS ends here, and what may pass goes on to mosquitto through a socket that only this user reaches.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import logging
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local import guard, mqtt_packets
from hsm_enroll.local.guard import Guard, Verdict
from hsm_enroll.local.mqtt_packets import MalformedPacketError, Packet
from hsm_enroll.local.rights import Principal, Rights
from hsm_enroll.local.server import ADDRESS
from hsm_enroll.local.streams import Stream, TlsStream

_TIME_LIMIT = 10.0  # seconds for a handshake, for the first packet, and for a change to take effect
_STALLED_SECONDS = 30.0  # that a side may take to read what it is sent; by then it has missed its keep-alive
_BACKLOG = 128

Open = Callable[[], Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
_Result = TypeVar("_Result")


class Gate:
    """Listens on a free loopback port while it is entered, in a thread of its own.

    Args:
        tls: the server's side, which demands a client certificate.
        open_broker: makes a connection to the broker.
        log: takes a line for each connection, and for each thing that was refused.
    """

    def __init__(self, tls: ssl.SSLContext, open_broker: Open, log: logging.Logger) -> None:
        self._tls = tls
        self._open_broker = open_broker
        self._log = log
        self._principals: Mapping[str, Principal] = {}
        self._connections: set[_Connection] = set()
        self._handshakes: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(self._listen())
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def admit(self, principals: Mapping[str, Principal]) -> None:
        """Return once these certificates, by the SHA-256 of their DER in hexadecimal, have these rights and no others.

        A connection that would no longer be let in has ended by then.

        Raises:
            LocalCloudError: that takes too long.
        """
        self._run(self._admit(principals))

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(_TIME_LIMIT)
        except concurrent.futures.TimeoutError as error:
            raise LocalCloudError("The local broker does not follow AWS IoT any more.") from error

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, ADDRESS, 0, backlog=_BACKLOG)

    async def _stop(self) -> None:
        self._server.close()
        for handshake in self._handshakes:
            handshake.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        await _end(self._connections)

    async def _admit(self, principals: Mapping[str, Principal]) -> None:
        self._principals = principals
        await _end([connection for connection in self._connections if not connection.renew(principals)])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handshake = asyncio.ensure_future(TlsStream.accept(reader, writer, self._tls, _TIME_LIMIT))
        self._handshakes.add(handshake)
        try:
            device = await handshake
        except (OSError, TimeoutError) as error:
            self._log.info("no handshake: %s", error or type(error).__name__)
            return
        except asyncio.CancelledError:
            return  # the gate is closed
        finally:
            self._handshakes.discard(handshake)
        connection = _Connection(device, self._log)
        self._connections.add(connection)
        try:
            if connection.renew(self._principals):
                await connection.serve(self._open_broker)
            else:
                self._log.info("%s refused: its certificate is unknown to AWS IoT, or not active", connection)
        except MalformedPacketError as error:
            connection.say(error.reason)
            self._log.info("%s ended: %s", connection, error)
        except (OSError, TimeoutError) as error:
            self._log.info("%s lost: %s", connection, error or type(error).__name__)
        finally:
            await connection.close()
            self._connections.discard(connection)


class _Side:
    """One end of a connection: packets from a stream."""

    def __init__(self, stream: Stream, largest: int | None) -> None:
        self.stream = stream
        self._largest = largest
        self._buffer = bytearray()

    async def packets(self) -> list[Packet]:
        """Wait for at least one packet; none is the end."""
        while not (packets := mqtt_packets.take(self._buffer, self._largest)):
            chunk = await self.stream.read()
            if not chunk:
                return []
            self._buffer += chunk
        return packets


class _Connection:
    """One device's connection, from its handshake to its end."""

    def __init__(self, device: TlsStream, log: logging.Logger) -> None:
        self._fingerprint = hashlib.sha256(device.client_certificate).hexdigest()
        self._device = _Side(device, mqtt_packets.LARGEST)
        self._log = log
        self._broker: _Side | None = None
        self._guard: Guard | None = None
        self._client_id: str | None = None
        self._principal: Principal | None = None
        self.task = asyncio.current_task()

    def __str__(self) -> str:
        name = "" if self._client_id is None else f" {self._client_id!r}"
        return f"certificate {self._fingerprint[:12]}{name}"

    def renew(self, principals: Mapping[str, Principal]) -> bool:
        """Take over what the certificate may do now; return whether it may still be connected."""
        self._principal = principals.get(self._fingerprint)
        if self._principal is None:
            return False
        if self._guard is None or self._client_id is None:
            return True
        self._guard.rights = Rights(self._principal, self._client_id)
        return self._guard.rights.may_connect

    async def serve(self, open_broker: Open) -> None:
        """Let in, or refuse, and then pass on what may pass until one side ends.

        Raises:
            MalformedPacketError: the device sent something that is no MQTT.
            OSError, TimeoutError: a side was lost, or the device never said CONNECT.
        """
        async with asyncio.timeout(_TIME_LIMIT):
            packets = await self._device.packets()
        if not packets or self._principal is None:
            return
        first, *others = packets
        connect = mqtt_packets.read_connect(first)
        self._client_id = connect.client_id
        rights = Rights(self._principal, connect.client_id)
        # Before the broker is waited for: `renew` may find meanwhile that it is not to be let in any more.
        self._guard = Guard(connect.level, rights)
        verdict = guard.at_the_door(connect, first, rights)
        self._note(verdict)
        if verdict.ends:
            self._device.stream.write(verdict.answer)
            return
        self._broker = _Side(Stream(*await open_broker()), None)
        self._broker.stream.write(verdict.forward)
        self._log.info("%s connected as %s", self, self._principal.thing_of(connect.client_id))
        await _first_of(
            self._pass(others, self._device, self._broker, self._guard.from_device),
            self._pass([], self._broker, self._device, self._guard.from_broker),
        )

    def say(self, reason: int) -> None:
        """Tell the device why its connection ends, where its protocol has a way to."""
        if self._guard is not None:
            self._device.stream.write(mqtt_packets.disconnection(reason, self._guard.level))

    def abort(self) -> None:
        """Cut it off at once."""
        for side in self._sides():
            side.stream.abort()

    async def close(self) -> None:
        """Send what was written, and close both sides."""
        for side in self._sides():
            await side.stream.close()

    def _sides(self) -> list[_Side]:
        return [side for side in (self._broker, self._device) if side is not None]

    async def _pass(
        self, packets: list[Packet], source: _Side, onward: _Side, decide: Callable[[Packet], Verdict]
    ) -> None:
        while True:
            for packet in packets:
                verdict = decide(packet)
                self._note(verdict)
                onward.stream.write(verdict.forward)
                source.stream.write(verdict.answer)
                if verdict.ends:
                    return
            async with asyncio.timeout(_STALLED_SECONDS):
                await onward.stream.drain()
                await source.stream.drain()
            packets = await source.packets()
            if not packets:
                return

    def _note(self, verdict: Verdict) -> None:
        if verdict.refused is not None:
            self._log.info("%s is not allowed: %s", self, verdict.refused)


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run them at the same time until the first has ended, and end the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _end(connections: Iterable[_Connection]) -> None:
    """Cut connections off, and return once they are gone."""
    tasks = {connection.task for connection in connections if connection.task is not None}
    for connection in connections:
        connection.abort()
    if tasks:
        await asyncio.wait(tasks)
