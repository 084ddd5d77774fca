"""The supervisor's own MQTT connections to its broker: a few bytes of MQTT 3.1.1 over TLS, no library."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack, suppress

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.home import Home

CLIENT_ID = "local.supervisor"
"""No Thing can be called so, and take this connection over: the dot is not among the characters of a Thing's name."""

_TIME_LIMIT = 10.0
# MQTT 3.1.1 §3.1: protocol name and level 4, clean session, no keep-alive, then the client id.
_VARIABLE_HEADER = b"\x00\x04MQTT\x04\x02\x00\x00"
_CONNACK_ACCEPTED = b"\x20\x02\x00\x00"
_CONNECT, _DISCONNECT = b"\x10", b"\xe0\x00"
_PINGREQ = b"\xc0\x00"
_PINGRESP = b"\xd0\x00"


class ControlConnection:
    """Connected as the observer, under a client id of choice.

    The broker ends whatever connection has that id before it answers (MQTT 3.1.1 §3.1.4, statement 2).

    Args:
        home: where the observer's certificate is.
        port: the observer's.
        client_id: at most 128 characters, as a Thing's name has.

    Raises:
        LocalCloudError: the broker does not let it in.
    """

    def __init__(self, home: Home, port: int, client_id: str) -> None:
        context = ssl.create_default_context(cafile=home.ca_certificate)
        context.load_cert_chain(home.observer_certificate, home.observer_key)
        packet = _VARIABLE_HEADER + len(client_id).to_bytes(2) + client_id.encode()
        with ExitStack() as undo:
            try:
                plain = undo.enter_context(socket.create_connection(("127.0.0.1", port), _TIME_LIMIT))
                self._socket = undo.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
                self._ask(_CONNECT + _remaining_length(packet) + packet, _CONNACK_ACCEPTED)
            except OSError as error:
                raise _lost(home) from error
            undo.pop_all()
        self._home = home

    def round_trip(self) -> None:
        """Return once the broker's loop has come round: what it had begun before is then done (PINGREQ, §3.12).

        Raises:
            LocalCloudError: the broker does not answer within ten seconds.
        """
        try:
            self._ask(_PINGREQ, _PINGRESP)
        except OSError as error:
            raise _lost(self._home) from error

    def close(self) -> None:
        """Disconnect (§3.14). The broker may be gone already."""
        with self._socket, suppress(OSError):
            self._socket.sendall(_DISCONNECT)

    def _ask(self, request: bytes, answer: bytes) -> None:
        self._socket.sendall(request)
        received = b""
        while len(received) < len(answer):
            chunk = self._socket.recv(len(answer) - len(received))
            if not chunk:
                raise ConnectionResetError
            received += chunk
        if received != answer:
            raise ConnectionRefusedError


def _remaining_length(packet: bytes) -> bytes:
    """Return the length in seven bits a byte, the eighth saying that another one follows (§2.2.3)."""
    high, low = divmod(len(packet), 128)
    return bytes((low | 128, high)) if high else bytes((low,))


def _lost(home: Home) -> LocalCloudError:
    return LocalCloudError(f"mosquitto does not answer; see {home.logs / 'mosquitto.log'}.")
