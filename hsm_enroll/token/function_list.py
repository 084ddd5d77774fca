"""A module's function list (PKCS#11 v2.40 §3.6), for what python-pkcs11 does not wrap.

C_GetFunctionList is the one symbol that every module exports; p11-kit's proxy exports no other.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from hsm_enroll.errors import ModuleUnusableError
from hsm_enroll.token import modules, return_values

GET_TOKEN_INFO = 6
"""Index of C_GetTokenInfo in the list; C_Initialize has 0."""

INIT_TOKEN = 9
"""Index of C_InitToken."""

_FUNCTIONS = 68


class _List(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_ubyte * 2),
        ("functions", ctypes.c_void_p * _FUNCTIONS),
    )


def version(module: Path) -> tuple[int, int]:
    """Return the list's version, which awscrt checks; that of C_GetInfo may differ.

    Raises:
        ModuleMissingError, ModuleUnusableError: the module cannot be loaded, or has no function list.
    """
    major, minor = _of(module).version
    return major, minor


def function(module: Path, index: int, *arguments: Any) -> Any:
    """Return a function from the list; calling it returns a CK_RV.

    Args:
        module: the module's file.
        index: the function's index.
        arguments: the ctypes types of its arguments.

    Raises:
        ModuleMissingError, ModuleUnusableError: as for :func:`version`.
    """
    return ctypes.CFUNCTYPE(ctypes.c_ulong, *arguments)(_of(module).functions[index])


def _of(module: Path) -> _List:
    modules.load(module)
    get_function_list = ctypes.CDLL(str(module)).C_GetFunctionList
    get_function_list.restype = ctypes.c_ulong
    found = ctypes.POINTER(_List)()
    status = get_function_list(ctypes.byref(found))
    if status != 0:
        raise ModuleUnusableError(f"{module} has no function list ({return_values.name_of(status)})")
    return found.contents
