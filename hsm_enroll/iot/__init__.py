"""AWS IoT over MQTT: the only room that imports ``awscrt``.

Importing the package is cheap: each name is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_enroll.iot.connection import Connection, connect
    from hsm_enroll.iot.fallbacks import Fallbacks
    from hsm_enroll.iot.inbox import Message

__all__ = ["Connection", "Fallbacks", "Message", "connect"]

_HOMES = {
    "Connection": "hsm_enroll.iot.connection",
    "Fallbacks": "hsm_enroll.iot.fallbacks",
    "Message": "hsm_enroll.iot.inbox",
    "connect": "hsm_enroll.iot.connection",
}

if not TYPE_CHECKING:  # a type checker would take any name for one of this module's

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)
