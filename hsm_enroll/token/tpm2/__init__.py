"""What knows tpm2-pkcs11, or a TPM."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_enroll.key import TokenName

MODULE_NAME = "libtpm2_pkcs11.so"
"""What the file of tpm2-pkcs11's module is called, or begins with."""

# tpm2-pkcs11 gives every token this serial number, and as manufacturer its TPM's: TPM_PT_MANUFACTURER, four bytes.
_SERIAL = "0" * 16
_MANUFACTURER_LENGTHS = range(1, 5)


def is_tpm2(token: TokenName) -> bool:
    """Whether a token is one of tpm2-pkcs11, by what it says of itself: a module may be renamed, or be behind another.

    Its TPM counts wrong PINs, and its flags are silent about them.
    """
    return token.serial == _SERIAL and len(token.manufacturer.rstrip("\0 ")) in _MANUFACTURER_LENGTHS
