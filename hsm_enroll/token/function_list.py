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

DESTROY_OBJECT = 22
"""Index of C_DestroyObject."""

GET_ATTRIBUTE_VALUE = 24
"""Index of C_GetAttributeValue."""

FIND_OBJECTS_INIT = 26
"""Index of C_FindObjectsInit; C_FindObjects and C_FindObjectsFinal follow it."""

_INITIALIZE, _FINALIZE = 0, 1
_FUNCTIONS = 68


# By module, the list that only this module has; see `is_shared`.
_own: dict[Path, _List] = {}


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


def is_shared(module: Path) -> bool:
    """Whether everybody in this process gets the same list, and so shares its sessions.

    p11-kit's proxy gives each caller a list of its own, with an initialisation and sessions of its own.

    Raises:
        ModuleMissingError, ModuleUnusableError: as for :func:`version`.
    """
    _of(module)
    return module not in _own


def _of(module: Path) -> _List:
    modules.load(module)
    if module in _own:
        return _own[module]
    found = _given(module)
    if ctypes.addressof(found) == ctypes.addressof(_given(module)):
        return found
    _initialize(module, found)
    return found


def _given(module: Path) -> _List:
    get_function_list = ctypes.CDLL(str(module)).C_GetFunctionList
    get_function_list.restype = ctypes.c_ulong
    found = ctypes.POINTER(_List)()
    status = get_function_list(ctypes.byref(found))
    if status != 0:
        raise ModuleUnusableError(f"{module} has no function list ({return_values.name_of(status)})")
    return found.contents


def _initialize(module: Path, own: _List) -> None:
    """Initialise a list of our own, which python-pkcs11 does not know, until the module is shut down."""
    status = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)(own.functions[_INITIALIZE])(None)
    if status != 0:
        raise ModuleUnusableError(f"{module} cannot be initialised again ({return_values.name_of(status)})")
    _own[module] = own

    def finalize() -> None:
        del _own[module]
        ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)(own.functions[_FINALIZE])(None)

    modules.before_shut_down(module, finalize)
