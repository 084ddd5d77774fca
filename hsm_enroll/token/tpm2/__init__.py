"""Everything that is specific to tpm2-pkcs11 or to TPMs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hsm_enroll.key import TokenName

MODULE_NAME = "libtpm2_pkcs11.so"
"""What the name of tpm2-pkcs11's module begins with."""

# tpm2-pkcs11 gives every token this serial number, and its TPM's manufacturer: TPM_PT_MANUFACTURER, four bytes.
_SERIAL = "0" * 16
_MANUFACTURER_LENGTHS = range(1, 5)


def is_tpm2(token: TokenName) -> bool:
    """Whether a token belongs to tpm2-pkcs11, by its own data: the module may be renamed, or wrapped by another one.

    Such a token's TPM counts wrong PINs, but the token's flags do not show it.
    """
    return token.serial == _SERIAL and len(token.manufacturer.rstrip("\0 ")) in _MANUFACTURER_LENGTHS
