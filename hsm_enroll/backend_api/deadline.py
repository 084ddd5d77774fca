"""A limit on how long a call takes as a whole, for libraries whose own time-outs start anew with every byte."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Run a call in a thread of its own, and return what it returns.

    Raises:
        TimeoutError: it took longer. It goes on, unheard, until it or the process ends.
        Exception: what the call raised.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
            future.set_exception(error)

    threading.Thread(target=run, name="hsm-enroll-deadline", daemon=True).start()
    return future.result(timeout=seconds)
