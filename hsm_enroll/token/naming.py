"""Read which token is which, byte by byte: python-pkcs11 decodes names for display, and two tokens may look alike then.

awscrt compares a label's bytes, without the blanks that pad it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hsm_enroll.errors import ModuleUnusableError
from hsm_enroll.key import TokenName
from hsm_enroll.token import function_list, modules, return_values
from hsm_enroll.token.translation import refused

if TYPE_CHECKING:
    from pkcs11 import Token

# The slot's token was removed since the slots were listed.
_GONE = {"CKR_TOKEN_NOT_PRESENT", "CKR_TOKEN_NOT_RECOGNIZED", "CKR_DEVICE_REMOVED"}


class NamedToken(NamedTuple):
    """A token and what it is called.

    Attributes:
        token: the token.
        name: its name, as text: padding removed, and bytes that are not UTF-8 as ``\\xNN``.
        label: the bytes of CK_TOKEN_INFO.label, trailing blanks removed.
    """

    token: Token
    name: TokenName
    label: bytes

    @property
    def is_utf8(self) -> bool:
        """Whether the label is UTF-8, as PKCS#11 v2.40 §3.2 requires."""
        try:
            self.label.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True


class _TokenInfo(ctypes.Structure):
    """The first members of CK_TOKEN_INFO (PKCS#11 v2.40 §3.2), and room for the others."""

    _fields_ = (
        ("label", ctypes.c_ubyte * 32),
        ("manufacturer", ctypes.c_ubyte * 32),
        ("model", ctypes.c_ubyte * 16),
        ("serial", ctypes.c_ubyte * 16),
        ("others", ctypes.c_ulong * 32),
    )


def tokens(module: Path) -> list[NamedToken]:
    """Load a module and return the tokens in its slots with their names; see ``modules.tokens``.

    Raises:
        ModuleMissingError, ModuleUnusableError: as for ``modules.tokens``, or a token does not say what it is called.
    """
    named = (_named(module, token) for token in modules.tokens(module))
    return [token for token in named if token is not None]


def _named(module: Path, token: Token) -> NamedToken | None:
    get_token_info = function_list.function(
        module, function_list.GET_TOKEN_INFO, ctypes.c_ulong, ctypes.POINTER(_TokenInfo)
    )
    info = _TokenInfo()
    status = get_token_info(token.slot.slot_id, ctypes.byref(info))
    ckr = return_values.name_of(status)
    if ckr in _GONE:
        return None
    if status != 0:
        raise ModuleUnusableError(refused(ckr, "describe a token", str(module)).message)
    label = bytes(info.label)
    texts = (_text(padded) for padded in (label, bytes(info.serial), bytes(info.manufacturer), bytes(info.model)))
    return NamedToken(token, TokenName(module, *texts), label.rstrip(b" "))


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0 ").decode("utf-8", "backslashreplace")
