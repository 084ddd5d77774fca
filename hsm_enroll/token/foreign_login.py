"""The login of a library that goes by a token's label alone and asks about nothing, as awscrt does: prepared here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hsm_enroll.errors import PinFinalTryError, PinLockedError, TokenNotFoundError
from hsm_enroll.secret import Secret
from hsm_enroll.token import inventory, lockout, selection
from hsm_enroll.uri import Pkcs11Uri

if TYPE_CHECKING:
    from hsm_enroll.key import TokenName


def prepare(token: TokenName, pin: Callable[[TokenName], Secret], at_pin_pad: Callable[[], None]) -> Secret | None:
    """See, without a login, that one token of this name is there and may be tried, and get what to log in with.

    Args:
        token: which one.
        pin: gives its PIN; called where it wants one, once.
        at_pin_pad: called where its PIN is typed at the token itself (CKF_PROTECTED_AUTHENTICATION_PATH).

    Returns:
        The PIN; None where it is typed at the token. An empty one for a token without CKF_LOGIN_REQUIRED: awscrt calls
        C_Login all the same, and tpm2-pkcs11 has no answer to one without a PIN.

    Raises:
        ModuleMissingError, ModuleUnusableError, TokenNotFoundError: it is not there.
        TokenAmbiguousError: another token has its label.
        PinLockedError, PinFinalTryError: the PIN is not to be tried.
        HsmEnrollError: what `pin` raises.
    """
    report = selection.choose([token.module], Pkcs11Uri(token=token.label), inventory.inspect)
    if report.name.serial != token.serial:
        raise TokenNotFoundError(
            f"token {token.label!r} with serial {token.serial} is not there; another one has its label"
        )
    if report.pin_locked:
        raise PinLockedError(f"token {token.label!r} is locked and accepts no PIN now")
    if report.pin_final_try:
        raise PinFinalTryError(f"one more wrong PIN locks token {token.label!r}; it was not tried")
    lockout.refuse_last_try(report.name)
    if not report.login_required:
        return Secret("")
    if report.protected_authentication_path:
        at_pin_pad()
        return None
    return pin(token)
