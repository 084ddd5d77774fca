"""Which PKCS#11 modules this machine has, and how one is loaded."""

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

    from hsm_enroll.key import TokenName

# Where vendors and distributions put their modules; the star is the multiarch triplet.
_KNOWN = (
    "usr/lib/softhsm/libsofthsm2.so",
    "usr/lib/*/softhsm/libsofthsm2.so",
    "usr/local/lib/softhsm/libsofthsm2.so",
    "usr/lib/*/pkcs11/libtpm2_pkcs11.so",
    "usr/lib/*/libtpm2_pkcs11.so.1",
    "usr/lib/*/pkcs11/yubihsm_pkcs11.so",
    "usr/lib/*/libykcs11.so",
    "usr/lib/*/opensc-pkcs11.so",
    "opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
)

# tpm2-pkcs11 gives every token this serial number, and as manufacturer its TPM's: TPM_PT_MANUFACTURER, four bytes.
_TPM2_PKCS11_SERIAL = "0" * 16
_TPM_MANUFACTURER_LENGTHS = range(1, 5)

_loaded: list[Path] = []


def discover(root: Path = Path("/")) -> list[Path]:
    """Return the modules of known names below ``root``, each file once, in a stable order.

    Does *not* load them.
    """
    found: dict[Path, Path] = {}
    for pattern in _KNOWN:
        for path in sorted(root.glob(pattern)):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def load(module: Path) -> lib:
    """Load a module and initialise it (PKCS#11 v2.40 §5.4, C_Initialize), once a process.

    A module is code: one that crashes takes the process with it (see ``shield.asked``).

    Raises:
        ModuleMissingError: there is no such file.
        ModuleUnusableError: it is no PKCS#11 module for this machine, or fails to initialise.
    """
    if not os.path.isfile(module):  # noqa: PTH113 - unlike is_file it never raises
        raise ModuleMissingError(f"there is no PKCS#11 module {module}")
    _loaded.append(module)
    try:
        return pkcs11.lib(str(module))
    except PKCS11Error as error:
        raise unusable_module(error, str(module)) from error


def any_loaded() -> bool:
    """Whether :func:`load` has loaded a module in this process."""
    return bool(_loaded)


def shut_down(module: Path) -> None:
    """End all that a module does for this process (PKCS#11 v2.40 §5.4, C_Finalize); ``load`` initializes it anew.

    Its sessions are closed, others' in this process among them. A module that refuses is left as it is.
    """
    with suppress(PKCS11Error, ModuleMissingError, ModuleUnusableError):
        load(module).finalize()


def is_tpm2_pkcs11(token: TokenName) -> bool:
    """Whether a token is one of tpm2-pkcs11, by what it says of itself: a module may be renamed, or be behind another.

    Its TPM counts wrong PINs, and its flags are silent about them.
    """
    return token.serial == _TPM2_PKCS11_SERIAL and len(token.manufacturer.rstrip("\0 ")) in _TPM_MANUFACTURER_LENGTHS


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
