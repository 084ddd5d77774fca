"""How a PKCS#11 module is loaded, in the process that is there for it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pkcs11
from pkcs11.exceptions import DeviceRemoved, PKCS11Error, TokenNotPresent, TokenNotRecognised

from hsm_enroll.errors import ModuleMissingError, ModuleUnusableError, TokenNotFoundError, TokenRefusedError
from hsm_enroll.token.translation import translated, unusable_module

if TYPE_CHECKING:
    from pkcs11 import Token
    from pkcs11._pkcs11 import lib


_loaded: dict[Path, lib] = {}


def load(module: Path) -> lib:
    """Load a module and initialise it (PKCS#11 v2.40 §5.4, C_Initialize), once a process.

    A module is code: one that crashes takes the process with it (see ``worker``).

    Raises:
        ModuleMissingError: there is no such file.
        ModuleUnusableError: it is no PKCS#11 module for this machine, or fails to initialise.
    """
    if not os.path.isfile(module):  # noqa: PTH113 - unlike is_file it never raises
        raise ModuleMissingError(f"there is no PKCS#11 module {module}")
    try:
        _loaded[module] = pkcs11.lib(str(module))
    except PKCS11Error as error:
        raise unusable_module(error, str(module)) from error
    return _loaded[module]


def shut_down(module: Path) -> None:
    """End all that a module does for this process (PKCS#11 v2.40 §5.4, C_Finalize); ``load`` initializes it anew.

    Its sessions are closed, others' in this process among them. A module that refuses, or that is not initialized, is
    left as it is.
    """
    library = _loaded.get(module)
    if library is not None and library.initialized:
        with suppress(PKCS11Error):
            library.finalize()


def tokens(module: Path) -> list[Token]:
    """Load a module and return the tokens in its slots, uninitialised ones included.

    A slot whose token was pulled out meanwhile, or is none that the module knows, hides no other one.

    Raises:
        ModuleMissingError, ModuleUnusableError: see :func:`load`; or it does not list its slots.
    """
    found: list[Token] = []
    library = load(module)
    try:
        with translated("list its slots", str(module)):
            for slot in library.get_slots(token_present=True):
                with suppress(DeviceRemoved, TokenNotPresent, TokenNotRecognised):
                    found.append(slot.get_token())
    except (TokenNotFoundError, TokenRefusedError) as error:
        # Not one token's fault; and another module may have the one that is wanted.
        raise ModuleUnusableError(error.message) from error
    return found
