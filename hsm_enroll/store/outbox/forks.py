"""Forks: what must be closed before one, and the locks that are held over it.

Forks that do not run Python code in the child (subprocess) are not concerned.

A signal handler may raise an exception anywhere in here, in particular at the very beginning of what is called after a
fork, since handlers do not run during one. So everything is called twice, and goes on where it was. A lock is noted in
the same call that takes it: handlers run between Python's instructions, but not within such a call.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import methodcaller
from typing import Protocol
from weakref import WeakSet

Hold = Callable[[threading.Lock], None]
"""Takes a lock, unless it is held for this fork already; it is released in either process."""


class ForksAlong(Protocol):
    """An object that has to be told of forks."""

    def before_fork(self, hold: Hold) -> None:
        """Hold all locks, since in the child there are no threads that could release them; close what cannot be shared.

        Called again, whether it came to its end or not.
        """


class _Held(threading.local):
    """The locks that this thread holds for a fork, which is also the child's only thread."""

    def __init__(self) -> None:
        self.locks: list[threading.Lock] = []


_watched: WeakSet[ForksAlong] = WeakSet()
_held = _Held()
_forking = threading.Lock()


def watch(one: ForksAlong) -> None:
    """Tell an object of forks, as long as it exists."""
    _watched.add(one)


def _prepare() -> None:
    _hold(_forking)
    for one in list(_watched):
        one.before_fork(_hold)


def _hold(lock: threading.Lock) -> None:
    if lock not in _held.locks:
        _held.locks.extend(filter(methodcaller("acquire"), [lock]))


def _release() -> None:
    with suppress(IndexError):  # there are no more
        deque(map(methodcaller("release"), iter(_held.locks.pop, None)), maxlen=0)


for _ in range(2):
    os.register_at_fork(before=_prepare, after_in_parent=_release, after_in_child=_release)
