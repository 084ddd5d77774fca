"""A broker that records what it accepts, and fails as it is told: stopped, deaf, or with its connections frozen."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from tests.support.scripted import CONNECT, PUBLISH, Packet, client_id

# Longer than the longest pause between two tries to connect, which is a minute.
_TIME_LIMIT = 150.0
_PINGREQ, _DISCONNECT = 12, 14
_CONNACK, _PINGRESP = bytes((0x20, 3, 0, 0, 0)), bytes((0xD0, 0))
_NOT_AUTHORIZED = 0x87
_EXPIRY = 2  # MQTT 5.0 §3.3.2.3.3


class End(StrEnum):
    """How a connection has ended."""

    CLOSED = "closed by the device"
    FAILED = "connection lost"
    VANISHED = "device killed"


@dataclass
class Session:
    """A connection.

    Attributes:
        messages: topics and payloads of what came, in order.
        acknowledged: how many of them, counted from the first, have been acknowledged.
        end: how it has ended; None while it has not.
        client_id: that of its CONNECT; None before there is one.
    """

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    acknowledged: int = 0
    end: End | None = None
    client_id: str | None = None


class _Answer(NamedTuple):
    """Packets to be sent, when they are due, and how many messages are acknowledged then."""

    due: float
    packets: bytes
    acknowledged: int


class RecordingBroker:
    """A broker on a port of loopback that stays the same.

    Args:
        context: its TLS.

    Attributes:
        port: where it listens, while it does.
        received: topics and payloads in the order in which they came, without those that were refused.
        sessions: its connections, in order.
        expiries: the seconds after which messages expire, of those that do.
        refused: the topics that it does not accept.
        latency: seconds until it answers.
        is_deaf: whether it accepts connections, and does not answer messages.
        is_mute: whether it accepts connections, and says nothing at all, not even in the handshake.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.received: list[tuple[str, bytes]] = []
        self._different: set[tuple[str, bytes]] = set()
        self.sessions: list[Session] = []
        self.expiries: list[int] = []
        self.refused: set[str] = set()
        self.latency = 0.0
        self.is_deaf = self.is_mute = False
        self._context = context
        self._changed = threading.Condition()
        self._connections: dict[socket.socket, Session] = {}
        self._frozen: set[socket.socket] = set()
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Listen."""
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening, and end every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection."""
        with self._changed:
            connections, self._connections = self._connections, {}
            for session in connections.values():
                session.end = session.end or End.FAILED
        for connection in connections:
            with suppress(OSError):
                # Not SSLSocket's: after that one, what is left to be read is not decrypted any more.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Neither read nor say anything on the connections that there are, as if their cable had been cut."""
        with self._changed:
            self._frozen |= set(self._connections)
            for session in self._connections.values():
                session.end = End.FAILED

    def wait_for(self, count: int) -> None:
        """Wait until that many different messages have come."""
        with self._changed:
            there = self._changed.wait_for(lambda: len(self._different) >= count, _TIME_LIMIT)
            assert there, f"{len(self._different)} of {count} messages have come"

    def wait_for_all(self, messages: Set[tuple[str, bytes]]) -> None:
        """Wait until these have come, given by topic and payload."""
        with self._changed:
            there = self._changed.wait_for(lambda: self._different >= messages, _TIME_LIMIT)
            assert there, f"{len(messages - self._different)} of {len(messages)} messages have not come"

    def wait_for_a_connection(self) -> None:
        """Wait until somebody is connected."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._connections, _TIME_LIMIT)

    def payloads(self, topic: str) -> list[bytes]:
        """Return what has come on a topic, in order; of equal messages only the first."""
        return list(dict.fromkeys(payload for each, payload in self.received if each == topic))

    def close(self) -> None:
        """End."""
        self._over.set()
        with suppress(OSError):
            self.stop()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self.is_mute:
            with connection:
                self._over.wait(_TIME_LIMIT)
            return
        with suppress(OSError), connection, self._context.wrap_socket(connection, server_side=True) as stream:
            session = Session()
            with self._changed:
                self._connections[stream] = session
                self.sessions.append(session)
                self._changed.notify_all()
            try:
                self._speak(stream, session)
            finally:
                session.end = session.end or End.VANISHED

    def _speak(self, stream: ssl.SSLSocket, session: Session) -> None:
        buffer = b""
        answers: deque[_Answer] = deque()
        while data := self._receive(stream, session, answers):
            buffer += data
            packets = b""
            while packet := _first(buffer):
                kind, flags, body, buffer = packet
                if kind == _DISCONNECT:
                    session.end = session.end or End.CLOSED
                    return
                packets += self._answer(kind, flags, body, session)
            answers.append(_Answer(time.monotonic() + self.latency, packets, len(session.messages)))

    def _receive(self, stream: ssl.SSLSocket, session: Session, answers: deque[_Answer]) -> bytes:
        """Wait for data, and send the answers meanwhile, each when it is due; return nothing at the end."""
        while True:
            while answers and answers[0].due <= time.monotonic():
                answer = answers.popleft()
                stream.sendall(answer.packets)
                if session.end is None:
                    session.acknowledged = answer.acknowledged
            wait = max(0.0, answers[0].due - time.monotonic()) if answers else None
            there = stream.pending() or select.select([stream], [], [], wait)[0]
            if stream in self._frozen:
                self._over.wait(_TIME_LIMIT)
                return b""
            if there:
                return stream.recv(65536)

    def _answer(self, kind: int, flags: int, body: bytes, session: Session) -> bytes:
        if kind == CONNECT:
            session.client_id = client_id(Packet(kind, body, flags))
            return _CONNACK
        if kind == _PINGREQ:
            return _PINGRESP
        if kind != PUBLISH:
            return b""
        assert flags & 0b0110 == 0b0010, "QoS 1 is expected"
        length = int.from_bytes(body[:2])
        topic, number, rest = body[2 : 2 + length].decode(), body[2 + length : 4 + length], body[4 + length :]
        if topic in self.refused:
            return bytes((0x40, 4, *number, _NOT_AUTHORIZED, 0))
        properties, payload = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]  # the properties are shorter than 128 bytes
        if properties[:1] == bytes((_EXPIRY,)):
            self.expiries.append(int.from_bytes(properties[1:5]))
        with self._changed:
            self.received.append((topic, payload))
            self._different.add((topic, payload))
            session.messages.append((topic, payload))
            self._changed.notify_all()
        if self.is_deaf:
            session.end = End.FAILED
            return b""
        return bytes((0x40, 2, *number))


def _first(buffer: bytes) -> tuple[int, int, bytes, bytes] | None:
    """Return the first packet's type, flags and body, and what comes after it; None if it is not whole (§2.1)."""
    length = shift = 0
    for at, byte in enumerate(buffer[1:5], 2):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            end = at + length
            return (buffer[0] >> 4, buffer[0] & 15, buffer[at:end], buffer[end:]) if len(buffer) >= end else None
    return None


@contextmanager
def recording(context: ssl.SSLContext) -> Iterator[RecordingBroker]:
    """Run a broker until the block ends."""
    broker = RecordingBroker(context)
    try:
        yield broker
    finally:
        broker.close()
