"""Forks: what must be closed before one, and what each of the two processes begins with.

Forks that do not run Python code in the child (subprocess) are not concerned.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet


class ForksAlong(Protocol):
    """An object that has to be told of forks."""

    def before_fork(self) -> None:
        """Take all locks, so that no other thread holds one: in the child there are no other threads."""

    def after_fork(self) -> None:
        """Release the locks, in either process."""


_watched: WeakSet[ForksAlong] = WeakSet()
_told: list[ForksAlong] = []
_forking = threading.Lock()


def watch(one: ForksAlong) -> None:
    """Tell an object of forks, as long as it exists."""
    _watched.add(one)


def _before() -> None:
    _forking.acquire()
    _told.extend(_watched)
    for one in _told:
        one.before_fork()


def _after() -> None:
    for one in _told:
        one.after_fork()
    _told.clear()
    _forking.release()


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
