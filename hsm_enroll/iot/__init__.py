"""AWS IoT over MQTT: the only room that imports ``awscrt``.

Importing the package is cheap: each name is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_enroll.iot.connection import Connection, keep
    from hsm_enroll.iot.fallbacks import Fallbacks
    from hsm_enroll.iot.inbox import Message
    from hsm_enroll.iot.keeper import ConnectionEvent, ConnectionState, Keeper, OnConnection
    from hsm_enroll.iot.subscription import Subscription
    from hsm_enroll.iot.target import QoS, Target, Will

__all__ = [
    "Connection",
    "ConnectionEvent",
    "ConnectionState",
    "Fallbacks",
    "Keeper",
    "Message",
    "OnConnection",
    "QoS",
    "Subscription",
    "Target",
    "Will",
    "keep",
]

_HOMES = {
    "Connection": "connection",
    "ConnectionEvent": "keeper",
    "ConnectionState": "keeper",
    "Fallbacks": "fallbacks",
    "Keeper": "keeper",
    "Message": "inbox",
    "OnConnection": "keeper",
    "QoS": "target",
    "Subscription": "subscription",
    "Target": "target",
    "Will": "target",
    "keep": "connection",
}

if not TYPE_CHECKING:  # a type checker would take any name for one of this module's

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
