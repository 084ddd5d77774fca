"""Calls in threads of their own: beside other work, or with a limit on how long they take in total.

The limit is for libraries whose own time-outs start again with every byte.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def started(call: Callable[[], T]) -> Future[T]:
    """Start a call in a thread of its own, which continues until the call or the process ends.

    Returns:
        What gives its result, or raises what the call raised.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            future.set_exception(error)

    threading.Thread(target=run, name="hsm-enroll-call", daemon=True).start()
    return future


def within(seconds: float, call: Callable[[], T]) -> T:
    """Run a call in a thread of its own and return its result.

    Args:
        seconds: how long to wait for it.
        call: is not stopped at the limit; see :func:`started`.

    Raises:
        TimeoutError: it took longer.
        Exception: what the call raised.
    """
    return started(call).result(timeout=seconds)
