"""How Ctrl-C and SIGTERM end a command."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from hsm_enroll.errors import InterruptedRunError

TERMINATED_STATUS = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM; what is done about Ctrl-C is done about it, too."""


def of(error: BaseException | None) -> signal.Signals:
    """Return the signal that an error comes from: SIGTERM, if that is among its causes, or else SIGINT."""
    seen: set[int] = set()  # what is raised from its own effect, in `raised`, makes a circle
    while error is not None and id(error) not in seen:
        if isinstance(error, Terminated):
            return signal.SIGTERM
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return signal.SIGINT


@contextmanager
def raised() -> Iterator[None]:
    """Inside the block Ctrl-C and SIGTERM raise, so that sessions are closed and locks released.

    Outside it, while modules are imported and when the command has ended, ``__main__`` has the process exit at once: an
    exception at such a moment is shown as a traceback.

    What is raised may be replaced on its way: up to Python 3.11 a class's ``__set_name__``, which runs while a module
    with an enumeration is imported, turns every exception into a RuntimeError. Here it is what it was again.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interruptions: list[BaseException] = []

    def handle(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - signal's signature
        interruptions.append(KeyboardInterrupt() if number == signal.SIGINT else Terminated())
        raise interruptions[-1]

    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handle)
        yield
    except InterruptedRunError:
        raise  # it says what the interruption means there
    except Exception as error:
        if (interruption := _cause(error)) in interruptions:
            raise interruption from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cause(error: BaseException) -> BaseException:
    """Return the error that was first in a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class Stop:
    """The signal that has stopped a command that runs until then.

    Attributes:
        status: the exit status that belongs to it; None if there was none.
    """

    status: int | None = None


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[Stop]:
    """Inside a block of :func:`raised`, have the first Ctrl-C or SIGTERM call a function; a second one raises.

    Args:
        stop: lets the block end soon, in order; called in a signal handler.
    """
    told = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
        told.status = 128 + number
        for each, handler in before.items():
            signal.signal(each, handler)
        stop()

    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handle)
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
