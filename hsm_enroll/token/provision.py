"""Create a token: in SoftHSM, or in a TPM with tpm2-pkcs11."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from pkcs11 import TokenFlag
from pkcs11.exceptions import UserPinNotInitialized

from hsm_enroll import softhsm
from hsm_enroll.errors import TokenNotFoundError, TokenRefusedError, UsageError
from hsm_enroll.token import diagnosis, function_list, modules, naming, return_values, selection
from hsm_enroll.token.inventory import list_tokens
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tpm2 import lockout
from hsm_enroll.token.translation import refused, translated

if TYPE_CHECKING:
    from pathlib import Path

    from pkcs11 import Slot, Token

    from hsm_enroll.key import TokenName
    from hsm_enroll.secret import Secret

# PKCS#11 v2.40 §3.2: CK_TOKEN_INFO.label has 32 bytes, padded with blanks.
_LABEL_BYTES = 32
# SoftHSM's MIN_PIN_LEN and MAX_PIN_LEN, in bytes.
_SOFTHSM_PIN_BYTES = range(4, 256)
# tpm2-pkcs11's CK_TOKEN_INFO.ulMaxPinLen, in bytes; its ulMinPinLen is 0, but an empty PIN protects nothing.
_TPM2_PIN_BYTES = range(4, 129)
_TPM2_REFUSAL_HINT = (
    "A TPM without a storage key gets one, which takes the password of its owner hierarchy: set TPM2_PKCS11_OWNER_AUTH "
    "if there is one."
)


def create_softhsm_token(module: Path, label: str, *, so_pin: Secret, user_pin: Secret) -> TokenReport:
    """Initialise SoftHSM's free slot as a new token and set its PINs (PKCS#11 v2.40 §5.5, C_InitToken, C_InitPIN).

    Existing tokens are left alone.

    Args:
        module: SoftHSM's module.
        label: 1 to 32 bytes of UTF-8, printable, without leading or trailing blanks, since labels are padded with
            blanks; no token of the module may have it yet, since awscrt selects a token by its label alone.
        so_pin: the security officer's PIN, 4 to 255 bytes of UTF-8.
        user_pin: the user's PIN, 4 to 255 bytes of UTF-8.

    Raises:
        UsageError: the label or a PIN is not of the form above.
        TokenAmbiguousError: a token with that label exists.
        TokenRefusedError: there is no free slot, or the module fails.
    """
    if not _have_length(so_pin, user_pin, _SOFTHSM_PIN_BYTES):
        raise UsageError(f"a PIN for SoftHSM must have {_in_words(_SOFTHSM_PIN_BYTES)} bytes")
    return _create(module, label, so_pin, user_pin)


def create_tpm2_token(module: Path, label: str, *, so_pin: Secret, user_pin: Secret) -> TokenReport:
    """Create a token with tpm2-pkcs11: the TPM seals the token's secret, and the token's store is a file.

    Creates the TPM's storage key if there is none (0x81000001, TCG "TPM v2.0 Provisioning Guidance" §7.5.1). Does *not*
    check the store's mode; see ``tpm2.provision.prepare_store``.

    Args:
        module: tpm2-pkcs11's module.
        label: as for :func:`create_softhsm_token`.
        so_pin: the security officer's PIN, 4 to 128 bytes of UTF-8.
        user_pin: the user's PIN, 4 to 128 bytes of UTF-8.

    Raises:
        UsageError, TokenAmbiguousError, TokenRefusedError: as for :func:`create_softhsm_token`.
    """
    if not _have_length(so_pin, user_pin, _TPM2_PIN_BYTES):
        raise UsageError(f"a PIN for tpm2-pkcs11 must have {_in_words(_TPM2_PIN_BYTES)} bytes")
    return _create(module, label, so_pin, user_pin, refusal_hint=_TPM2_REFUSAL_HINT)


def complete_token(name: TokenName, *, so_pin: Secret, user_pin: Secret) -> None:
    """Set the user's PIN of a token whose creation stopped between C_InitToken and C_InitPIN; else change nothing.

    Logs in once with the user's PIN to find out, since tpm2-pkcs11 sets CKF_USER_PIN_INITIALIZED even for such a token.
    A token without a PIN does not count that as a failed try.

    Raises:
        PinWrongError, PinLockedError: the token already has another PIN.
        PinFinalTryError: the next failed try would lock its TPM.
        TokenNotFoundError, TokenRefusedError: the token is missing or fails, or SoftHSM has not finished its file.
    """
    lockout.refuse_last_try(name)
    with softhsm.login(name.manufacturer), translated("set its PIN", f"token {name.label!r}"):
        token = _labelled(name.module, name.label)
        try:
            # Writable, because a read-only session would stay open and keep the security officer out (§5.6, C_Login).
            token.open(rw=True, user_pin=user_pin.reveal()).close()
        except UserPinNotInitialized:
            # Even its SO PIN may be missing.
            if (fault := diagnosis.lost_by(name)) is not None:
                raise TokenRefusedError(fault.message, hint=fault.hint) from None
            set_user_pin(token, so_pin, user_pin)


def _create(
    module: Path, label: str, so_pin: Secret, user_pin: Secret, *, refusal_hint: str | None = None
) -> TokenReport:
    encoded = label.encode("utf-8")
    if not 0 < len(encoded) <= _LABEL_BYTES:
        raise UsageError(f"a token's label must have 1 to {_LABEL_BYTES} bytes; {label!r} has {len(encoded)}")
    if not label.isprintable() or label != label.strip():
        raise UsageError(
            f"a token's label must be printable, without leading or trailing blanks; {label!r} is not",
            hint="Choose another label.",
        )
    selection.refuse_taken_label(list_tokens(module), label)
    free = _free_token(module)
    with softhsm.login(free.manufacturer_id.strip()):
        with translated("initialise a token", str(module)):
            _init_token(module, free.slot, so_pin, encoded, refusal_hint)
        if not function_list.is_shared(module):
            # Behind p11-kit's proxy the slots have other numbers now, and only some of its callers know them.
            modules.shut_down(module)
        # SoftHSM has moved the token to another slot id, so it is found by its label.
        with translated("set its PIN", f"token {label!r}"):
            set_user_pin(_labelled(module, label), so_pin, user_pin)
    return next(token for token in list_tokens(module) if token.name.label == label)


def _labelled(module: Path, label: str) -> Token:
    """Return the token with a label; no other has it, see ``selection.refuse_taken_label``."""
    for named in naming.tokens(module):
        if named.name.label == label:
            return named.token
    raise TokenNotFoundError(f"token {label!r} was not found")


def _have_length(so_pin: Secret, user_pin: Secret, lengths: range) -> bool:
    """Checked first: a token whose user PIN could not be set would be useless, but keep its label."""
    return all(len(pin.reveal().encode("utf-8")) in lengths for pin in (so_pin, user_pin))


def _in_words(lengths: range) -> str:
    return f"{lengths.start} to {lengths.stop - 1}"


def _free_token(module: Path) -> Token:
    for token in modules.tokens(module):
        if not token.flags & TokenFlag.TOKEN_INITIALIZED:
            return token
    raise TokenRefusedError(f"{module} has no free slot for a new token")


def _init_token(module: Path, slot: Slot, so_pin: Secret, label: bytes, refusal_hint: str | None) -> None:
    """Call C_InitToken, which python-pkcs11 does not wrap; softhsm2-util and tpm2_ptool take the PINs as arguments."""
    types = (ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    init_token = function_list.function(module, function_list.INIT_TOKEN, *types)
    status = init_token(slot.slot_id, *_text(so_pin), label.ljust(_LABEL_BYTES))
    if status != 0:
        raise refused(return_values.name_of(status), "initialise a token", str(module), hint=refusal_hint)


def set_user_pin(token: Token, so_pin: Secret, user_pin: Secret) -> None:
    """Set the user's PIN of an initialised token (PKCS#11 v2.40 §5.5, C_InitPIN)."""
    with token.open(rw=True, so_pin=so_pin.reveal()) as session:
        session.init_pin(user_pin.reveal())


def _text(pin: Secret) -> tuple[bytes, int]:
    """Return a PIN as CK_UTF8CHAR_PTR and length; no variable holds it, since tracebacks may show variables."""
    return pin.reveal().encode("utf-8"), len(pin.reveal().encode("utf-8"))
