"""Byte streams, plain and with TLS.

asyncio's own TLS closes the connection without an alert when a handshake fails, so a client could not distinguish a
refused certificate from a broken connection.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Self

_CHUNK = 64 * 1024
_CLOSE_SECONDS = 5.0  # that a peer may take to read the last bytes


class Stream:
    """A connection without TLS.

    Args:
        reader, writer: asyncio's streams of the connection.

    Every method raises OSError if the connection is lost.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """Wait for bytes; return no bytes at the end of the stream."""
        return await self._reader.read(_CHUNK)

    def write(self, content: bytes) -> None:
        """Send bytes, now or later."""
        self._writer.write(content)

    async def drain(self) -> None:
        """Wait until the write buffer has room for more."""
        await self._writer.drain()

    async def close(self) -> None:
        """Send what has been written, and close."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()
        except TimeoutError:
            self.abort()
        except OSError:
            pass

    def abort(self) -> None:
        """Close at once."""
        self._writer.transport.abort()


class TlsStream(Stream):
    """The server's side of TLS (RFC 8446; RFC 5246)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        super().__init__(reader, writer)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    @classmethod
    async def accept(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, limit: float
    ) -> Self:
        """Perform the TLS handshake, and return the stream.

        Args:
            reader, writer: asyncio's streams of the connection.
            context: a server's context.
            limit: seconds that the handshake may take.

        Raises:
            OSError, TimeoutError: the handshake failed; an alert was sent to the client, and the connection is closed.
        """
        stream = cls(reader, writer, context)
        try:
            async with asyncio.timeout(limit):
                await stream._handshake()
        except BaseException:
            await Stream.close(stream)
            raise
        return stream

    @property
    def client_certificate(self) -> bytes:
        """The client's certificate in DER."""
        certificate = self._tls.getpeercert(binary_form=True)
        assert certificate is not None  # noqa: S101 - the context requires one
        return certificate

    async def read(self) -> bytes:
        """Wait for bytes; return no bytes at the end of the stream, with or without close_notify."""
        while True:
            try:
                return self._tls.read(_CHUNK)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                if not await self._receive():
                    return b""

    def write(self, content: bytes) -> None:
        """Send bytes, now or later."""
        if content:
            self._tls.write(content)
            self._flush()

    async def close(self) -> None:
        """Send what has been written and close_notify, and close without waiting for the client's close_notify."""
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()
        await super().close()

    async def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not await self._receive():
                    raise ConnectionResetError("the client closed the connection during the handshake") from None
            else:
                return
            finally:
                self._flush()

    async def _receive(self) -> bool:
        content = await self._reader.read(_CHUNK)
        self._incoming.write(content)
        return bool(content)

    def _flush(self) -> None:
        self._writer.write(self._outgoing.read())
