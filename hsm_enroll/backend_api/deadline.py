"""Calls in threads of their own: beside other work, or with a limit on how long they take in total.

The limit is for libraries whose own time-outs start again with every byte.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from hsm_enroll import machine

T = TypeVar("T")

TRY_SECONDS = 45.0
"""How long one try of a request to the API may take at most."""


def started(call: Callable[[], T]) -> Future[T]:
    """Start a call in a thread of its own, which continues until the call or the process ends.

    Returns:
        What gives its result, or raises what the call raised.

    Raises:
        MachineLimitError: the system cannot start a thread.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            future.set_exception(error)

    thread = threading.Thread(target=run, name="hsm-enroll-call", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise machine.no_process(error, "a thread for a request to the API") from error
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
