"""Watch and replace the functions of SoftHSM as this process sees them.

A module's C_GetFunctionList hands out its table of functions (PKCS#11 v2.40 §3.6); SoftHSM keeps that table in writable
memory, so an entry can be replaced by one of ours for whoever loads the module later in the same process.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

from tests.support.softhsm import MODULE

CKR_OK = 0x00
CKR_GENERAL_ERROR = 0x05
CKR_DEVICE_ERROR = 0x30
CKR_DEVICE_REMOVED = 0x32
CKR_PIN_LEN_RANGE = 0xA2
CKR_PIN_EXPIRED = 0xA3
CKR_PIN_LOCKED = 0xA4
CKR_TOKEN_NOT_PRESENT = 0xE0
CKR_USER_ALREADY_LOGGED_IN = 0x100

# Position in CK_FUNCTION_LIST; its first member is the version.
_POSITIONS = {"C_Initialize": 1, "C_OpenSession": 13, "C_CloseSession": 14, "C_Login": 19, "C_Sign": 44}
# Enough arguments for each of them: the ones too many are registers that nobody reads.
_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_ulong, *[ctypes.c_size_t] * 5)
_kept: list[Any] = []


def replace(name: str, replacement: Callable[[Callable[..., int], tuple[int, ...]], int]) -> None:
    """Have a function answered by ``replacement(original, arguments)``, which returns a CK_RV."""
    table = _function_list()
    position = _POSITIONS[name]
    original = _FUNCTION(table[position])
    ours = _FUNCTION(lambda *arguments: replacement(original, arguments))
    _kept.append(ours)
    table[position] = ctypes.cast(ours, ctypes.c_void_p).value


class Calls:
    """The names of the watched functions, in the order they were called, from whichever thread."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def note(self, name: str, original: Callable[..., int], arguments: tuple[int, ...]) -> int:
        """Call the original, then write it down."""
        value = original(*arguments)
        self.names.append(name)
        return value


def watch(*names: str) -> Calls:
    """Write down each call of these functions from now on."""
    calls = Calls()
    for name in names:
        replace(name, functools.partial(calls.note, name))
    return calls


def answers(name: str) -> list[int]:
    """Write down the CK_RV of each call of a function from now on."""
    values: list[int] = []

    def note(original: Callable[..., int], arguments: tuple[int, ...]) -> int:
        values.append(original(*arguments))
        return values[-1]

    replace(name, note)
    return values


def fail(name: str, value: int) -> None:
    """Have a function fail with a CK_RV each time it is called."""
    replace(name, lambda _original, _arguments: value)


def slowly(original: Callable[..., int], arguments: tuple[int, ...]) -> int:
    """Answer as the original does, but only after 0.3 s."""
    threading.Event().wait(0.3)
    return original(*arguments)


def log_out() -> None:
    """Log this process out of every token, as a program that shares the module may (PKCS#11 v2.40 §5.6, C_Logout)."""
    library = ctypes.CDLL(str(MODULE))
    count = ctypes.c_ulong()
    assert library.C_GetSlotList(1, None, ctypes.byref(count)) == CKR_OK
    slots = (ctypes.c_ulong * count.value)()
    assert library.C_GetSlotList(1, slots, ctypes.byref(count)) == CKR_OK
    for slot in slots:
        session = ctypes.c_ulong()
        if library.C_OpenSession(ctypes.c_ulong(slot), ctypes.c_ulong(4), None, None, ctypes.byref(session)) == CKR_OK:
            library.C_Logout(session)
            library.C_CloseSession(session)


def _function_list() -> Any:
    library = ctypes.CDLL(str(MODULE))
    library.C_GetFunctionList.restype = ctypes.c_ulong
    pointer = ctypes.c_void_p()
    assert library.C_GetFunctionList(ctypes.byref(pointer)) == 0
    assert pointer.value is not None
    return (ctypes.c_void_p * (max(_POSITIONS.values()) + 1)).from_address(pointer.value)
