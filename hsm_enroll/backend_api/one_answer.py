"""Connections that take one answer for each request: interim ones are passed over, and surplus ends the connection."""

from __future__ import annotations

import ssl
from http.client import SWITCHING_PROTOCOLS, HTTPResponse

from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool


class _FinalAnswer(HTTPResponse):
    """An answer that is not interim (RFC 9110 §15.2); http.client passes over 100 only."""

    def begin(self) -> None:
        """Read the head of the answer."""
        super().begin()
        while self.status < 200 and self.status != SWITCHING_PROTOCOLS:
            # It reads the next head if there is none yet.
            self.headers = None  # type: ignore[assignment]
            super().begin()


class _Connection(HTTPSConnection):
    response_class = _FinalAnswer

    @property
    def is_connected(self) -> bool:
        """Whether another request may be sent: not if there are bytes already that would count as its answer.

        Those that the operating system holds are seen by urllib3, those that TLS has decrypted are not.
        """
        has_surplus = isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0
        return super().is_connected and not has_surplus


class Pool(HTTPSConnectionPool):
    """The connections to one host."""

    ConnectionCls = _Connection
