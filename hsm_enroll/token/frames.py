"""The messages between a worker's process and ours: JSON objects, each preceded by its length in four octets."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

_LENGTH_BYTES = 4
# Anything longer is not a message, but something that the module wrote to a descriptor that is not its own.
_MAX_OCTETS = 2**26
_CHUNK_OCTETS = 2**16
# A message whose first octets arrived in time gets at least this long to arrive whole.
_REST_SECONDS = 1.0


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message.

    Raises:
        OSError: the other side has ended; SIGPIPE is never raised.
    """
    content = json.dumps(message).encode("ascii")
    connection.sendall(len(content).to_bytes(_LENGTH_BYTES) + content, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket, deadline: float | None = None) -> dict[str, Any] | None:
    """Wait for a message.

    Args:
        connection: a stream socket.
        deadline: when to give up, by ``time.monotonic``; None waits for ever.

    Returns:
        The message; None if the other side has ended, even in the middle of a message.

    Raises:
        TimeoutError: no message came in time.
        ValueError: what came is not a message.
    """
    header = _octets(connection, _LENGTH_BYTES, deadline)
    if header is None:
        return None
    size = int.from_bytes(header)
    if size > _MAX_OCTETS:
        raise ValueError(f"not a message: {size} octets long")
    if deadline is not None:
        deadline = max(deadline, time.monotonic() + _REST_SECONDS)
    content = _octets(connection, size, deadline)
    if content is None:
        return None
    try:
        message = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("not a message: not JSON") from error
    if not isinstance(message, dict):
        raise ValueError("not a message: not an object")  # noqa: TRY004 - about what came, not about an argument
    return message


def _octets(connection: socket.socket, size: int, deadline: float | None) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        # What has already arrived is read even after the deadline.
        connection.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
        try:
            chunk = connection.recv(min(size - len(received), _CHUNK_OCTETS))
        except ConnectionError:
            return None
        if not chunk:
            return None
        received += chunk
    return bytes(received)
