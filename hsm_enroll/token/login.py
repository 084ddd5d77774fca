"""Before a login: whether a token's PIN may be tried, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable

from hsm_enroll.errors import PinFinalTryError, PinLockedError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tpm2 import lockout

PinSource = Callable[[TokenName], Secret]
"""Returns a token's PIN."""

AtPinPad = Callable[[TokenName], None]
"""Called before a token waits for its PIN at its own keypad (CKF_PROTECTED_AUTHENTICATION_PATH)."""


def credentials(token: TokenReport, pin: PinSource, at_pin_pad: AtPinPad) -> Secret | None:
    """Check that a token's PIN may be tried, and return what to log in with.

    Three wrong PINs lock a whole TPM, so the PIN is not tried if the token, or its TPM, says that only one try is left.

    Args:
        token: the token, as its module described it.
        pin: called once, if the token requires a PIN.
        at_pin_pad: called if the PIN is entered at the token itself.

    Returns:
        The PIN; None if it is entered at the token. For a token without CKF_LOGIN_REQUIRED the PIN is empty: awscrt
        calls C_Login anyway, and tpm2-pkcs11 fails if that has no PIN at all.

    Raises:
        PinLockedError, PinFinalTryError: the PIN must not be tried.
        HsmEnrollError: what `pin` raises.
    """
    if not token.login_required:
        return Secret("")
    if token.pin_locked:
        raise PinLockedError(f"token {token.name.label!r} is locked and accepts no PIN now")
    if token.pin_final_try:
        raise PinFinalTryError(f"one more wrong PIN would lock token {token.name.label!r}, so no PIN was tried")
    lockout.refuse_last_try(token.name)
    if token.protected_authentication_path:
        at_pin_pad(token.name)
        return None
    return pin(token.name)
