"""SIGINT and SIGTERM as a socket that becomes readable."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[socket.socket]:
    """Yield a socket that becomes readable on the first SIGINT or SIGTERM; any further one ends the process.

    An exception in the handler would be lost if a destructor happens to run. A lock or a queue would miss a signal that
    arrives just before the wait. A byte in a socket stays there until it is read.
    """
    # One that is ignored from the start stays ignored, as for any program that a script starts with `&`.
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]

    def handle(_number: int, _frame: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    reading, writing = socket.socketpair()
    with reading, writing:
        writing.setblocking(False)
        wakeup = signal.set_wakeup_fd(writing.fileno())
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield reading
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
