"""Notices packets that awscrt cannot read, such as a topic that is not UTF-8 or a SUBACK without reason codes.

Its callbacks then fail before ours are called, which Python reports to ``sys.unraisablehook`` only. Without this,
whoever waits for the packet waits in vain.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from hsm_enroll.iot.link import Link

_open: WeakSet[Link] = WeakSet()
_is_installed = False


class UnreadablePacketError(Exception):
    """The broker sent a packet that awscrt cannot read."""


def watch(link: Link) -> None:
    """Have a connection ended when awscrt meets such a packet.

    awscrt does not say whose packet it was: of several connections in one process, all end.
    """
    global _is_installed
    _open.add(link)
    if not _is_installed:
        _is_installed = True
        sys.unraisablehook = partial(_hook, sys.unraisablehook)


def _hook(following: Callable[[sys.UnraisableHookArgs], object], unraisable: sys.UnraisableHookArgs) -> None:
    if not _is_awscrts_own(unraisable):
        following(unraisable)
        return
    for link in list(_open):
        link.end_unreadable(UnreadablePacketError(str(unraisable.exc_value)))


def _is_awscrts_own(unraisable: sys.UnraisableHookArgs) -> bool:
    """Whether awscrt itself failed, and not a callback of the program's; awscrt gives the class as the object."""
    if unraisable.object is not unraisable.exc_type:
        return False
    frames = [frame for frame, _ in traceback.walk_tb(unraisable.exc_traceback)]
    return not frames or str(frames[-1].f_globals.get("__name__")).startswith("awscrt.")
