"""A network on loopback: a TCP proxy that holds what passes through it for half of the round trip, each way.

Run as a program it takes the round trip in milliseconds and the ports to forward to, prints the ports it listens on,
and serves until it is ended. Throughput is not limited, and the order of bytes is kept.

A TCP connection takes a round trip of its own (RFC 9293 §3.5), but loopback opens one at once. So what a client says
before its server has answered is held for that round trip too: the answer comes when it would come over a network.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

_PIECE = 2**16


@contextmanager
def running(round_trip_ms: int, *ports: int) -> Iterator[list[int]]:
    """Put a network before ports of loopback, in a process of its own; return the ports to connect to, in their order.

    Args:
        round_trip_ms: milliseconds; 0 forwards at once.
        ports: where the servers listen.
    """
    command = [sys.executable, __file__, str(round_trip_ms), *map(str, ports)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            yield [int(port) for port in process.stdout.readline().split()]
        finally:
            process.terminate()


async def _serve(round_trip: float, ports: list[int]) -> None:
    servers = [await asyncio.start_server(partial(_connected, round_trip, port), "127.0.0.1", 0) for port in ports]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


async def _connected(
    round_trip: float, port: int, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
) -> None:
    from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
    has_answered = asyncio.Event()

    def there() -> float:
        return round_trip / 2 if has_answered.is_set() else round_trip * 1.5

    def back() -> float:
        has_answered.set()
        return round_trip / 2

    await asyncio.gather(_carry(from_client, to_server, there), _carry(from_server, to_client, back))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: Callable[[], float]) -> None:
    """Pass on what one side says, each piece so many seconds after it came, and that it has ended."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    delivery = asyncio.create_task(_deliver(pieces, writer))
    now = asyncio.get_running_loop().time
    piece = b"-"
    while piece:
        try:
            piece = await reader.read(_PIECE)
        except ConnectionError:
            piece = b""
        pieces.put_nowait((now() + delay(), piece))
    await delivery


async def _deliver(pieces: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    now = asyncio.get_running_loop().time
    # What one side's end does to the other is not this program's business.
    with suppress(ConnectionError):
        while True:
            due, piece = await pieces.get()
            if (wait := due - now()) > 0:
                await asyncio.sleep(wait)
            if not piece:
                break
            writer.write(piece)
    writer.close()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(int(sys.argv[1]) / 1000, [int(argument) for argument in sys.argv[2:]]))
