"""Load a PKCS#11 module, in the worker's process."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pkcs11
from pkcs11.exceptions import DeviceRemoved, PKCS11Error, TokenNotPresent, TokenNotRecognised

from hsm_enroll import softhsm
from hsm_enroll.errors import ModuleMissingError, ModuleUnusableError, TokenNotFoundError, TokenRefusedError
from hsm_enroll.token.translation import translated, unusable_module

if TYPE_CHECKING:
    from pkcs11 import Token
    from pkcs11._pkcs11 import lib


_loaded: dict[Path, lib] = {}
_before_shut_down: dict[Path, list[Callable[[], None]]] = {}


def load(module: Path) -> lib:
    """Load a module and initialise it (PKCS#11 v2.40 §5.4, C_Initialize), once per process.

    A module that crashes ends the process (see ``worker``).

    Raises:
        ModuleMissingError: there is no such file.
        ModuleUnusableError: the file is not a PKCS#11 module for this machine, or initialising it fails.
    """
    if not os.path.isfile(module):  # noqa: PTH113 - unlike is_file it never raises
        raise ModuleMissingError(f"there is no PKCS#11 module {module}")
    known = _loaded.get(module)
    # SoftHSM writes when it is initialised; see `softhsm.alone`.
    maker = "" if known is not None and known.initialized else softhsm.maker_of(module)
    try:
        with softhsm.alone(maker):
            _loaded[module] = pkcs11.lib(str(module))
    except PKCS11Error as error:
        raise unusable_module(error, str(module)) from error
    return _loaded[module]


def maker(module: Path) -> str | None:
    """Return CK_INFO.manufacturerID of a module; None if it was never loaded and initialised."""
    library = _loaded.get(module)
    return None if library is None else str(library.manufacturer_id)


def shut_down(module: Path) -> None:
    """Shut a module down (PKCS#11 v2.40 §5.4, C_Finalize); ``load`` initialises it again.

    This closes all sessions of this process. If the module fails to shut down, or is not initialised, nothing happens.
    """
    for callback in _before_shut_down.pop(module, ()):
        callback()
    library = _loaded.get(module)
    if library is not None and library.initialized:
        with suppress(PKCS11Error):
            library.finalize()


def before_shut_down(module: Path, callback: Callable[[], None]) -> None:
    """Call a function once, before the module is next shut down."""
    _before_shut_down.setdefault(module, []).append(callback)


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
