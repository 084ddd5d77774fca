"""Make a token: SoftHSM."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from pkcs11 import TokenFlag

from hsm_enroll.errors import TokenAmbiguousError, TokenRefusedError, UsageError
from hsm_enroll.token import modules
from hsm_enroll.token.inventory import TokenReport, list_tokens
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from pathlib import Path

    from pkcs11 import Slot

    from hsm_enroll.secret import Secret

# PKCS#11 v2.40 §3.2: CK_TOKEN_INFO.label has 32 bytes, padded with blanks.
_LABEL_BYTES = 32
# SoftHSM's MIN_PIN_LEN and MAX_PIN_LEN, in bytes.
_PIN_BYTES = range(4, 256)


def create_softhsm_token(module: Path, label: str, *, so_pin: Secret, user_pin: Secret) -> TokenReport:
    """Initialise SoftHSM's free slot as a new token and set its PINs (PKCS#11 v2.40 §5.5, C_InitToken, C_InitPIN).

    An initialised token is never touched.

    Args:
        module: SoftHSM's module.
        label: up to 32 bytes of UTF-8, printable, with no blank at its ends, since labels are padded with blanks; no
            token of the module may have it yet, since awscrt selects by it alone.
        so_pin: the security officer's PIN, 4 to 255 bytes of UTF-8.
        user_pin: the user's PIN, 4 to 255 bytes of UTF-8.

    Raises:
        UsageError: the label or a PIN is empty, too long, or not of the form above.
        TokenAmbiguousError: a token of that label exists.
        TokenRefusedError: there is no free slot, or the module refuses.
    """
    encoded = label.encode("utf-8")
    if not 0 < len(encoded) <= _LABEL_BYTES:
        raise UsageError(f"a token's label has 1 to {_LABEL_BYTES} bytes; this one has {len(encoded)}")
    if not label.isprintable() or label != label.strip():
        raise UsageError(f"a token's label is printable and has no blank at its ends; {label!r} is not")
    # Asked before anything is made: a token without a user PIN would keep its label and be of no use.
    if any(len(pin.reveal().encode("utf-8")) not in _PIN_BYTES for pin in (so_pin, user_pin)):
        raise UsageError(f"a PIN of SoftHSM has {_PIN_BYTES.start} to {_PIN_BYTES.stop - 1} bytes")
    refuse_taken_label(list_tokens(module), label)
    slot = _free_slot(module)
    with translated("initialise a token", str(module)):
        _init_token(module, slot, so_pin, encoded)
    # SoftHSM gives the token another slot id now, so it is looked up by its label.
    library = modules.load(module)
    with translated("set its PIN", f"token {label!r}"):
        token = library.get_token(token_label=label)
        with token.open(rw=True, so_pin=so_pin.reveal()) as session:
            session.init_pin(user_pin.reveal())
    return next(token for token in list_tokens(module) if token.name.label == label)


def refuse_taken_label(tokens: list[TokenReport], label: str) -> None:
    """See that no token has a label.

    Raises:
        TokenAmbiguousError: one has.
    """
    if any(token.initialized and token.name.label == label for token in tokens):
        raise TokenAmbiguousError(
            f"a token labelled {label!r} exists already",
            hint="Choose another label, or use that token.",
        )


def _free_slot(module: Path) -> Slot:
    for token in modules.tokens(module):
        if not token.flags & TokenFlag.TOKEN_INITIALIZED:
            return token.slot
    raise TokenRefusedError(f"{module} has no free slot for a new token")


def _init_token(module: Path, slot: Slot, so_pin: Secret, label: bytes) -> None:
    """Call C_InitToken, which python-pkcs11 does not wrap; softhsm2-util would want the PINs in argv."""
    init_token = ctypes.CDLL(str(module)).C_InitToken
    init_token.argtypes = [ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
    init_token.restype = ctypes.c_ulong
    status = init_token(slot.slot_id, *_text(so_pin), label.ljust(_LABEL_BYTES))
    if status != 0:
        raise TokenRefusedError(f"{module} refused to initialise a token: CKR 0x{status:08x}")


def _text(pin: Secret) -> tuple[bytes, int]:
    """Return a PIN as CK_UTF8CHAR_PTR and length; keep it out of variables, which tracebacks may show."""
    return pin.reveal().encode("utf-8"), len(pin.reveal().encode("utf-8"))
