"""A proxy in front of the broker: terminates TLS with client certificates, and authorizes each packet as AWS IoT does.

mosquitto would identify a client by its certificate's subject. In AWS IoT, what counts is what the certificate is
attached to. So TLS ends here, and allowed packets go on to mosquitto through a socket that only this user can reach.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local import guard, mqtt_packets
from hsm_enroll.local.delivery import Message, deliver
from hsm_enroll.local.guard import Guard, Verdict
from hsm_enroll.local.mqtt_packets import MalformedPacketError, Packet
from hsm_enroll.local.rights import Principal, Rights
from hsm_enroll.local.streams import Stream, TlsStream

_TIME_LIMIT = 10.0  # seconds for a handshake, for the first packet, and for a change to take effect
_STALLED_SECONDS = 30.0  # that a peer may take to read what it is sent; by then it has missed its keep-alive

Open = Callable[[], Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
_Result = TypeVar("_Result")


class Gate:
    """The proxy. It serves devices while it is entered, in a thread of its own.

    Args:
        listener: where it listens; it is closed at the end.
        tls: a server's context that requires a client certificate.
        open_broker: opens a connection to the broker.
        log: gets a line about each connection, and about each packet that is refused.
    """

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext, open_broker: Open, log: logging.Logger) -> None:
        self._listener = listener
        self._tls = tls
        self._open_broker = open_broker
        self._log = log
        self._principals: Mapping[str, Principal] = {}
        self._connections: set[_Connection] = set()
        self._handshakes: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)

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
        """Replace the certificates that are allowed to connect, and return once this has taken effect.

        By then, connections that would no longer be accepted are closed.

        Args:
            principals: what each certificate may do, by the SHA-256 of its DER in hexadecimal.

        Raises:
            LocalCloudError: it takes too long.
        """
        self._run(self._admit(principals))

    def publish(self, message: Message) -> None:
        """Publish a message to all subscribers, whatever the policies are, and return once the broker has it.

        Raises:
            LocalCloudError: it takes too long.
            OSError: the broker is not running.
        """
        self._run(deliver(message, self._open_broker))

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(_TIME_LIMIT)
        except concurrent.futures.TimeoutError as error:
            raise LocalCloudError("The local broker does not respond.") from error

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, sock=self._listener)

    async def _stop(self) -> None:
        self._server.close()
        for handshake in self._handshakes:
            handshake.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        await _close_all(self._connections)

    async def _admit(self, principals: Mapping[str, Principal]) -> None:
        self._principals = principals
        await _close_all([connection for connection in self._connections if not connection.update(principals)])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handshake = asyncio.ensure_future(TlsStream.accept(reader, writer, self._tls, _TIME_LIMIT))
        self._handshakes.add(handshake)
        try:
            device = await handshake
        except (OSError, TimeoutError) as error:
            self._log.info("handshake failed: %s", error or type(error).__name__)
            return
        except asyncio.CancelledError:
            return  # the gate is closing
        finally:
            self._handshakes.discard(handshake)
        connection = _Connection(device, self._log)
        self._connections.add(connection)
        try:
            if connection.update(self._principals):
                await connection.serve(self._open_broker)
            else:
                self._log.info("%s refused: the certificate is unknown to AWS IoT, or not active", connection)
        except MalformedPacketError as error:
            connection.send_disconnect(error.reason)
            self._log.info("%s closed: %s", connection, error)
        except (OSError, TimeoutError) as error:
            self._log.info("%s lost: %s", connection, error or type(error).__name__)
        finally:
            await connection.close()
            self._connections.discard(connection)


class _Peer:
    """The device or the broker: reads packets from its stream."""

    def __init__(self, stream: Stream, max_size: int | None) -> None:
        self.stream = stream
        self._max_size = max_size
        self._buffer = bytearray()

    async def packets(self) -> list[Packet]:
        """Wait for at least one packet; return an empty list at the end of the stream."""
        while not (packets := mqtt_packets.take_packets(self._buffer, self._max_size)):
            chunk = await self.stream.read()
            if not chunk:
                return []
            self._buffer += chunk
        return packets


class _Connection:
    """A device's connection, after the TLS handshake."""

    def __init__(self, device: TlsStream, log: logging.Logger) -> None:
        self._fingerprint = hashlib.sha256(device.client_certificate).hexdigest()
        self._device = _Peer(device, mqtt_packets.MAX_PACKET)
        self._log = log
        self._broker: _Peer | None = None
        self._guard: Guard | None = None
        self._client_id: str | None = None
        self._principal: Principal | None = None
        self.task = asyncio.current_task()

    def __str__(self) -> str:
        name = "" if self._client_id is None else f" {self._client_id!r}"
        return f"certificate {self._fingerprint[:12]}{name}"

    def update(self, principals: Mapping[str, Principal]) -> bool:
        """Update what the certificate may do, and return whether it may stay connected."""
        self._principal = principals.get(self._fingerprint)
        if self._principal is None:
            return False
        if self._guard is None or self._client_id is None:
            return True
        self._guard.rights = Rights(self._principal, self._client_id)
        return self._guard.rights.may_connect

    async def serve(self, open_broker: Open) -> None:
        """Accept or refuse the CONNECT, and then forward packets until the device or the broker closes.

        Raises:
            MalformedPacketError: the device sent a packet that is not valid.
            OSError, TimeoutError: the device or the broker was lost, or the device sent no CONNECT in time.
        """
        async with asyncio.timeout(_TIME_LIMIT):
            packets = await self._device.packets()
        if not packets or self._principal is None:
            return
        first, *others = packets
        connect = mqtt_packets.read_connect(first)
        self._client_id = connect.client_id
        rights = Rights(self._principal, connect.client_id)
        # Set before the connection to the broker is opened, so that `update` can already revoke it meanwhile.
        self._guard = Guard(connect.level, rights)
        verdict = guard.check_connect(connect, first, rights)
        self._log_refusal(verdict)
        if verdict.ends:
            self._device.stream.write(verdict.response)
            return
        self._broker = _Peer(Stream(*await open_broker()), None)
        self._broker.stream.write(verdict.forward)
        self._log.info("%s connected as %s", self, self._principal.thing_of(connect.client_id))
        await _run_until_first_ends(
            self._forward(others, self._device, self._broker, self._guard.from_device),
            self._forward([], self._broker, self._device, self._guard.from_broker),
        )

    def send_disconnect(self, reason: int) -> None:
        """Tell the device why its connection is closed, if its version of MQTT has a packet for that."""
        if self._guard is not None:
            self._device.stream.write(mqtt_packets.disconnect(reason, self._guard.level))

    def abort(self) -> None:
        """Close both streams at once."""
        for peer in self._peers():
            peer.stream.abort()

    async def close(self) -> None:
        """Send what has been written, and close both streams."""
        for peer in self._peers():
            await peer.stream.close()

    def _peers(self) -> list[_Peer]:
        return [peer for peer in (self._broker, self._device) if peer is not None]

    async def _forward(
        self, packets: list[Packet], source: _Peer, target: _Peer, decide: Callable[[Packet], Verdict]
    ) -> None:
        while True:
            for packet in packets:
                verdict = decide(packet)
                self._log_refusal(verdict)
                target.stream.write(verdict.forward)
                source.stream.write(verdict.response)
                if verdict.ends:
                    return
            async with asyncio.timeout(_STALLED_SECONDS):
                await target.stream.drain()
                await source.stream.drain()
            packets = await source.packets()
            if not packets:
                return

    def _log_refusal(self, verdict: Verdict) -> None:
        if verdict.refused is not None:
            self._log.info("%s is not allowed: %s", self, verdict.refused)


async def _run_until_first_ends(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines at the same time until the first one ends, and cancel the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close_all(connections: Iterable[_Connection]) -> None:
    """Abort connections, and return once they are closed."""
    tasks = {connection.task for connection in connections if connection.task is not None}
    for connection in connections:
        connection.abort()
    if tasks:
        await asyncio.wait(tasks)
