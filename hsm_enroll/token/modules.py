"""Load a PKCS#11 module, in the worker's process."""

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
    """Load a module and initialise it (PKCS#11 v2.40 §5.4, C_Initialize), once per process.

    A module that crashes ends the process (see ``worker``).

    Raises:
        ModuleMissingError: there is no such file.
        ModuleUnusableError: the file is not a PKCS#11 module for this machine, or initialising it fails.
    """
    if not os.path.isfile(module):  # noqa: PTH113 - unlike is_file it never raises
        raise ModuleMissingError(f"there is no PKCS#11 module {module}")
    try:
        _loaded[module] = pkcs11.lib(str(module))
    except PKCS11Error as error:
        raise unusable_module(error, str(module)) from error
    return _loaded[module]


def shut_down(module: Path) -> None:
    """Shut a module down (PKCS#11 v2.40 §5.4, C_Finalize); ``load`` initialises it again.

    This closes all sessions of this process. If the module fails to shut down, or is not initialised, nothing happens.
    """
    library = _loaded.get(module)
    if library is not None and library.initialized:
        with suppress(PKCS11Error):
            library.finalize()


def tokens(module: Path) -> list[Token]:
    """Load a module and return the tokens in its slots, including uninitialised ones.

    Slots whose token has just been removed, or is not recognised by the module, are skipped.

    Raises:
        ModuleMissingError, ModuleUnusableError: see :func:`load`; or the module does not list its slots.
    """
    found: list[Token] = []
    library = load(module)
    try:
        with translated("list its slots", str(module)):
            for slot in library.get_slots(token_present=True):
                with suppress(DeviceRemoved, TokenNotPresent, TokenNotRecognised):
                    found.append(slot.get_token())
    except (TokenNotFoundError, TokenRefusedError) as error:
        # An error of the module rather than of one token: another module may have the right token.
        raise ModuleUnusableError(error.message) from error
    return found
