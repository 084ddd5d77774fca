"""Hardware-backed device identity on AWS IoT.

The names below are the library; everything else is the command's own. They are loaded on first use, so
that importing this package costs nothing (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hsm_enroll.version import __version__

if TYPE_CHECKING:
    from hsm_enroll.errors import HsmEnrollError
    from hsm_enroll.library import connect, enroll
    from hsm_enroll.store.identity import Identity

__all__ = ["HsmEnrollError", "Identity", "__version__", "connect", "enroll"]

_HOMES = {
    "HsmEnrollError": "hsm_enroll.errors",
    "Identity": "hsm_enroll.store.identity",
    "connect": "hsm_enroll.library",
    "enroll": "hsm_enroll.library",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
