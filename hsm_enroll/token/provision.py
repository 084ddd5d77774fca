"""Make a token: in SoftHSM, or in a TPM through tpm2-pkcs11."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from pkcs11 import TokenFlag
from pkcs11.exceptions import UserPinNotInitialized

from hsm_enroll.errors import TokenRefusedError, UsageError
from hsm_enroll.token import function_list, modules, selection
from hsm_enroll.token.inventory import list_tokens
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tpm2 import lockout
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from pathlib import Path

    from pkcs11 import Slot, Token

    from hsm_enroll.key import TokenName
    from hsm_enroll.secret import Secret

# PKCS#11 v2.40 §3.2: CK_TOKEN_INFO.label has 32 bytes, padded with blanks.
_LABEL_BYTES = 32
# SoftHSM's MIN_PIN_LEN and MAX_PIN_LEN, in bytes.
_SOFTHSM_PIN_BYTES = range(4, 256)
# tpm2-pkcs11's CK_TOKEN_INFO.ulMaxPinLen, in bytes; its ulMinPinLen is 0, and a PIN that is none protects nothing.
_TPM2_PIN_BYTES = range(4, 129)
_TPM2_REFUSAL_HINT = (
    "A TPM without a storage key is given one, and where its owner hierarchy has a password, that takes it: "
    "TPM2_PKCS11_OWNER_AUTH."
)


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
    if not _fit(so_pin, user_pin, _SOFTHSM_PIN_BYTES):
        raise UsageError(f"a PIN of SoftHSM has {_in_words(_SOFTHSM_PIN_BYTES)} bytes")
    return _create(module, label, so_pin, user_pin)


def create_tpm2_token(module: Path, label: str, *, so_pin: Secret, user_pin: Secret) -> TokenReport:
    """As :func:`create_softhsm_token`, with tpm2-pkcs11: the token's secret is sealed by the TPM, its store is a file.

    Makes the TPM's storage key where it has none (0x81000001, TCG "TPM v2.0 Provisioning Guidance" §7.5.1). Does *not*
    look at the store's mode; see ``tpm2.provision.prepare_store``.

    Args:
        module: tpm2-pkcs11's module.
        label: as there.
        so_pin: the security officer's PIN, 4 to 128 bytes of UTF-8.
        user_pin: the user's PIN, 4 to 128 bytes of UTF-8.

    Raises:
        UsageError, TokenAmbiguousError, TokenRefusedError: as there.
    """
    if not _fit(so_pin, user_pin, _TPM2_PIN_BYTES):
        raise UsageError(f"a PIN of tpm2-pkcs11 has {_in_words(_TPM2_PIN_BYTES)} bytes")
    return _create(module, label, so_pin, user_pin, refusal_hint=_TPM2_REFUSAL_HINT)


def complete_token(name: TokenName, *, so_pin: Secret, user_pin: Secret) -> None:
    """Set the user's PIN of a token whose making stopped between C_InitToken and C_InitPIN; else change nothing.

    Logs in with the user's PIN once to find out: tpm2-pkcs11 claims CKF_USER_PIN_INITIALIZED for such a token too. A
    token that has no PIN yet does not count that as a failed try.

    Raises:
        PinWrongError, PinLockedError: the token is complete, and has another PIN.
        PinFinalTryError: the next failed try would lock its TPM.
        TokenNotFoundError, TokenRefusedError: it is not there, or refuses.
    """
    lockout.refuse_last_try(name)
    with translated("set its PIN", f"token {name.label!r}"):
        token = modules.load(name.module).get_token(token_label=name.label)
        try:
            # Writable: a session that reads only would stay open, and keep the security officer out (§5.6, C_Login).
            token.open(rw=True, user_pin=user_pin.reveal()).close()
        except UserPinNotInitialized:
            _set_user_pin(token, so_pin, user_pin)


def _create(
    module: Path, label: str, so_pin: Secret, user_pin: Secret, *, refusal_hint: str | None = None
) -> TokenReport:
    encoded = label.encode("utf-8")
    if not 0 < len(encoded) <= _LABEL_BYTES:
        raise UsageError(f"a token's label has 1 to {_LABEL_BYTES} bytes; this one has {len(encoded)}")
    if not label.isprintable() or label != label.strip():
        raise UsageError(f"a token's label is printable and has no blank at its ends; {label!r} is not")
    selection.refuse_taken_label(list_tokens(module), label)
    slot = _free_slot(module)
    with translated("initialise a token", str(module)):
        _init_token(module, slot, so_pin, encoded, refusal_hint)
    # SoftHSM gives the token another slot id now, so it is looked up by its label.
    library = modules.load(module)
    with translated("set its PIN", f"token {label!r}"):
        _set_user_pin(library.get_token(token_label=label), so_pin, user_pin)
    return next(token for token in list_tokens(module) if token.name.label == label)


def _fit(so_pin: Secret, user_pin: Secret, lengths: range) -> bool:
    """Asked before anything is made: a token without a user PIN would keep its label and be of no use."""
    return all(len(pin.reveal().encode("utf-8")) in lengths for pin in (so_pin, user_pin))


def _in_words(lengths: range) -> str:
    return f"{lengths.start} to {lengths.stop - 1}"


def _free_slot(module: Path) -> Slot:
    for token in modules.tokens(module):
        if not token.flags & TokenFlag.TOKEN_INITIALIZED:
            return token.slot
    raise TokenRefusedError(f"{module} has no free slot for a new token")


def _init_token(module: Path, slot: Slot, so_pin: Secret, label: bytes, refusal_hint: str | None) -> None:
    """Call C_InitToken, which python-pkcs11 does not wrap; softhsm2-util and tpm2_ptool would want the PINs in argv."""
    types = (ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    init_token = function_list.function(module, function_list.INIT_TOKEN, *types)
    status = init_token(slot.slot_id, *_text(so_pin), label.ljust(_LABEL_BYTES))
    if status != 0:
        raise TokenRefusedError(f"{module} refused to initialise a token: CKR 0x{status:08x}", hint=refusal_hint)


def _set_user_pin(token: Token, so_pin: Secret, user_pin: Secret) -> None:
    with token.open(rw=True, so_pin=so_pin.reveal()) as session:
        session.init_pin(user_pin.reveal())


def _text(pin: Secret) -> tuple[bytes, int]:
    """Return a PIN as CK_UTF8CHAR_PTR and length; keep it out of variables, which tracebacks may show."""
    return pin.reveal().encode("utf-8"), len(pin.reveal().encode("utf-8"))
