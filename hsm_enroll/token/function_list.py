"""A module's list of functions (PKCS#11 v2.40 §3.6), for what python-pkcs11 does not wrap.

C_GetFunctionList is the one symbol that every module exports; p11-kit's proxy exports no other.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from hsm_enroll.errors import ModuleUnusableError
from hsm_enroll.token import modules

INIT_TOKEN = 9
"""Where C_InitToken stands among the functions, the first of which is C_Initialize."""

_FUNCTIONS = 68


class _List(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_ubyte * 2),
        ("functions", ctypes.c_void_p * _FUNCTIONS),
    )


def version(module: Path) -> tuple[int, int]:
    """Return the version of the list, which awscrt goes by; C_GetInfo's may be another.

    Raises:
        ModuleMissingError, ModuleUnusableError: the module cannot be loaded, or gives none.
    """
    major, minor = _of(module).version
    return major, minor


def function(module: Path, index: int, *arguments: Any) -> Any:
    """Return a function of the list, which answers with a CK_RV.

    Args:
        module: the module's file.
        index: where it stands.
        arguments: the ctypes types of its arguments.

    Raises:
        ModuleMissingError, ModuleUnusableError: as :func:`version`.
    """
    return ctypes.CFUNCTYPE(ctypes.c_ulong, *arguments)(_of(module).functions[index])


def _of(module: Path) -> _List:
    modules.load(module)
    get_function_list = ctypes.CDLL(str(module)).C_GetFunctionList
    get_function_list.restype = ctypes.c_ulong
    found = ctypes.POINTER(_List)()
    status = get_function_list(ctypes.byref(found))
    if status != 0:
        raise ModuleUnusableError(f"{module} gives no function list: CKR 0x{status:08x}")
    return found.contents
