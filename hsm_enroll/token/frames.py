"""The messages between a worker's process and ours: JSON objects, each behind its length in four octets."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

_LENGTH_BYTES = 4
# More is no message, but what foreign code has written to a descriptor that is not its own.
_LONGEST = 2**26
_PIECE = 2**16
# For a message that has begun to arrive in time, whenever it is read.
_REST_SECONDS = 1.0


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message.

    Raises:
        OSError: the other side has ended; no SIGPIPE comes, whatever the caller does about it.
    """
    content = json.dumps(message).encode("ascii")
    connection.sendall(len(content).to_bytes(_LENGTH_BYTES) + content, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket, deadline: float | None = None) -> dict[str, Any] | None:
    """Wait for a message.

    Args:
        connection: of a stream.
        deadline: until when, by ``time.monotonic``; None waits without an end.

    Returns:
        The message; None where the other side has ended, in the middle of one too.

    Raises:
        TimeoutError: nothing comes in time.
        ValueError: what comes is no message.
    """
    header = _octets(connection, _LENGTH_BYTES, deadline)
    if header is None:
        return None
    size = int.from_bytes(header)
    if size > _LONGEST:
        raise ValueError(f"not a message: it has {size} octets")
    if deadline is not None:
        deadline = max(deadline, time.monotonic() + _REST_SECONDS)
    content = _octets(connection, size, deadline)
    if content is None:
        return None
    try:
        message = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("not a message: it is not JSON") from error
    if not isinstance(message, dict):
        raise ValueError("not a message: it is not an object")  # noqa: TRY004 - of what came, not of an argument
    return message


def _octets(connection: socket.socket, size: int, deadline: float | None) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        # What is there already is read after the deadline too.
        connection.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
        try:
            piece = connection.recv(min(size - len(received), _PIECE))
        except ConnectionError:
            return None
        if not piece:
            return None
        received += piece
    return bytes(received)
