"""Ask a D-Bus service whether it is alive, with the few messages that this takes (D-Bus Specification 0.43)."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote

_SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
_METHOD_CALL, _METHOD_RETURN = 1, 2
# Header fields ("Message Protocol", "Header Fields").
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION = 1, 2, 3, 4, 5, 6
_BUS = "org.freedesktop.DBus"
_FIXED_HEADER = "BBBBIII"
_LARGEST_MESSAGE = 2**16  # bytes; none of the few that are expected comes near it


class BusUnreachableError(Exception):
    """The bus itself cannot be used; the text says why."""


class _Message(NamedTuple):
    kind: int
    fields: dict[int, str | int]


def address(environment: Mapping[str, str], *, session: bool) -> str:
    """Return the address of the session's or the system's bus; empty if there is no session bus."""
    if not session:
        return environment.get("DBUS_SYSTEM_BUS_ADDRESS") or _SYSTEM_BUS
    runtime = environment.get("XDG_RUNTIME_DIR")
    return environment.get("DBUS_SESSION_BUS_ADDRESS") or (f"unix:path={runtime}/bus" if runtime else "")


def ping(bus: str, service: str, *, time_limit: float) -> str | None:
    """Call ``org.freedesktop.DBus.Peer.Ping`` of a service, which starts it if the bus can.

    Args:
        bus: the bus's address, as of :func:`address`; only sockets of this machine are supported.
        service: the service's well-known name.
        time_limit: seconds for everything.

    Returns:
        None if the service answered; otherwise the name of the D-Bus error, or ``TimeoutError``.

    Raises:
        BusUnreachableError: the bus cannot be reached, or does not let this user in.
    """
    until = time.monotonic() + time_limit
    with _connected(bus, until) as connection:
        try:
            # Every connection begins with Hello; the bus answers it before anything else.
            connection.sendall(_call(1, _BUS, "/org/freedesktop/DBus", _BUS, "Hello"))
            connection.sendall(_call(2, service, "/", "org.freedesktop.DBus.Peer", "Ping"))
            for message in _messages(connection, until):
                if message.fields.get(_REPLY_SERIAL) == 2:
                    return None if message.kind == _METHOD_RETURN else str(message.fields.get(_ERROR_NAME))
        except TimeoutError:
            return TimeoutError.__name__
        except (BrokenPipeError, ConnectionResetError):
            pass  # a bus closes the connection of a user whom it does not let in
        except (OSError, ValueError, struct.error) as error:
            raise BusUnreachableError(str(error)) from error
    raise BusUnreachableError("it does not let this user in")


def _connected(bus: str, until: float) -> socket.socket:
    """Connect to the first address that accepts, and authenticate by this process's user id (EXTERNAL)."""
    reason = "there is no such bus"
    for place in _places(bus):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(max(0.001, until - time.monotonic()))
            connection.connect(place)
            connection.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
            if not connection.recv(512).startswith(b"OK "):
                raise OSError("it does not let this user in")
            connection.sendall(b"BEGIN\r\n")
        except OSError as error:
            connection.close()
            reason = error.strerror or str(error)
            continue
        return connection
    raise BusUnreachableError(reason)


def _places(bus: str) -> Iterator[str]:
    for one in bus.split(";"):
        kind, _, rest = one.partition(":")
        options = dict(option.partition("=")[::2] for option in rest.split(","))
        if kind == "unix" and "path" in options:
            yield unquote(options["path"])
        elif kind == "unix" and "abstract" in options:
            yield "\0" + unquote(options["abstract"])


def _call(serial: int, destination: str, path: str, interface: str, member: str) -> bytes:
    fields = b""
    for code, signature, value in (
        (_PATH, b"o", path),
        (_INTERFACE, b"s", interface),
        (_MEMBER, b"s", member),
        (_DESTINATION, b"s", destination),
    ):
        text = value.encode()
        fields = _padded(fields, 8) + bytes([code, 1]) + signature + b"\0"
        fields = _padded(fields, 4) + struct.pack("<I", len(text)) + text + b"\0"
    header = struct.pack("<BBBBIII", ord("l"), _METHOD_CALL, 0, 1, 0, serial, len(fields))
    return _padded(header + fields, 8)


def _messages(connection: socket.socket, until: float) -> Iterator[_Message]:
    with suppress(EOFError):
        while True:
            start = _received(connection, struct.calcsize("<" + _FIXED_HEADER), until)
            order = "<" if start[:1] == b"l" else ">"
            _, kind, _, _, body, _, length = struct.unpack(order + _FIXED_HEADER, start)
            if max(body, length) > _LARGEST_MESSAGE:
                raise ValueError("a message of the bus is too large")
            fields = _fields(_received(connection, -(-length // 8) * 8, until)[:length], order)
            _received(connection, body, until)
            yield _Message(kind, fields)


def _received(connection: socket.socket, length: int, until: float) -> bytes:
    data = b""
    while len(data) < length:
        connection.settimeout(max(0.001, until - time.monotonic()))
        part = connection.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _fields(data: bytes, order: str) -> dict[int, str | int]:
    """Parse the header fields: an array of structs of a byte and a variant, all of basic types."""
    fields: dict[int, str | int] = {}
    position = 0
    while position < len(data):
        position = -(-position // 8) * 8
        code, signature = data[position], data[position + 2 : position + 3]
        position += 4
        if signature == b"g":
            position += data[position] + 2
            continue
        [number] = struct.unpack_from(order + "I", data, position)
        position += 4
        if signature == b"u":
            fields[code] = number
        else:
            fields[code] = data[position : position + number].decode("utf-8", "backslashreplace")
            position += number + 1
    return fields


def _padded(data: bytes, boundary: int) -> bytes:
    return data + b"\0" * (-len(data) % boundary)
