"""A broker that records what it accepts, and fails as it is told: stopped, deaf, or with its connections frozen."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.scripted import CONNECT, PUBLISH

_TIME_LIMIT = 60.0
_PINGREQ, _DISCONNECT = 12, 14
_CONNACK, _PINGRESP = bytes((0x20, 3, 0, 0, 0)), bytes((0xD0, 0))
# MQTT 5.0 §3.1.2.8: in the connect flags of a CONNECT, "a clean start" is the only one that a device sets.
_NOT_AUTHORIZED = 0x87


class RecordingBroker:
    """A broker on a port of loopback that stays the same.

    Args:
        context: its TLS.

    Attributes:
        port: where it listens, while it does.
        received: topics and payloads in the order in which they were accepted.
        refused: the topics that it does not accept.
        is_deaf: whether it accepts connections, and does not answer messages.
        is_mute: whether it accepts connections, and says nothing at all, not even in the handshake.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.refused: set[str] = set()
        self.is_deaf = self.is_mute = False
        self._context = context
        self._changed = threading.Condition()
        self._connections: dict[socket.socket, bool] = {}  # with whether it is frozen
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
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Neither read nor say anything on the connections that there are, as if their cable had been cut."""
        with self._changed:
            self._connections = dict.fromkeys(self._connections, True)

    def wait_for(self, count: int) -> None:
        """Wait until that many different messages were accepted."""
        with self._changed:
            there = self._changed.wait_for(lambda: len(set(self.received)) >= count, _TIME_LIMIT)
            assert there, f"{len(set(self.received))} of {count} messages have come"

    def wait_for_a_connection(self) -> None:
        """Wait until somebody is connected."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._connections, _TIME_LIMIT)

    def payloads(self, topic: str) -> list[bytes]:
        """Return what was accepted on a topic, in order; of equal messages only the first."""
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
            with self._changed:
                self._connections[stream] = False
                self._changed.notify_all()
            self._speak(stream)

    def _speak(self, stream: ssl.SSLSocket) -> None:
        buffer = b""
        while data := stream.recv(65536):
            if self._connections.get(stream):
                self._over.wait(_TIME_LIMIT)
                return
            buffer += data
            answers = b""
            while packet := _first(buffer):
                kind, flags, body, buffer = packet
                if kind == _DISCONNECT:
                    return
                answers += self._answer(kind, flags, body)
            stream.sendall(answers)

    def _answer(self, kind: int, flags: int, body: bytes) -> bytes:
        if kind == CONNECT:
            return _CONNACK
        if kind == _PINGREQ:
            return _PINGRESP
        if kind != PUBLISH or self.is_deaf:
            return b""
        assert flags & 0b0110 == 0b0010, "QoS 1 is expected"
        length = int.from_bytes(body[:2])
        topic, number, rest = body[2 : 2 + length].decode(), body[2 + length : 4 + length], body[4 + length :]
        if topic in self.refused:
            return bytes((0x40, 4, *number, _NOT_AUTHORIZED, 0))
        with self._changed:
            self.received.append((topic, rest[1 + rest[0] :]))  # its properties are shorter than 128 bytes
            self._changed.notify_all()
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
