"""What it takes to log in to a token, found out without one: may its PIN be tried, and where does it come from?"""

from __future__ import annotations

from collections.abc import Callable

from hsm_enroll.errors import PinFinalTryError, PinLockedError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tpm2 import lockout


def credentials(
    token: TokenReport, pin: Callable[[TokenName], Secret], at_pin_pad: Callable[[TokenName], None]
) -> Secret | None:
    """See that a token may be tried, and get what to log in with.

    A wrong PIN three times locks a whole TPM, so a token is not tried where it, or its TPM, says that the next try is
    its last.

    Args:
        token: as it has shown itself.
        pin: gives its PIN; called where it wants one, once.
        at_pin_pad: called where its PIN is typed at the token itself (CKF_PROTECTED_AUTHENTICATION_PATH).

    Returns:
        The PIN; None where it is typed at the token. An empty one for a token without CKF_LOGIN_REQUIRED: awscrt calls
        C_Login all the same, and tpm2-pkcs11 has no answer to one without a PIN.

    Raises:
        PinLockedError, PinFinalTryError: the PIN is not to be tried.
        HsmEnrollError: what `pin` raises.
    """
    if not token.login_required:
        return Secret("")
    if token.pin_locked:
        raise PinLockedError(f"token {token.name.label!r} is locked and accepts no PIN now")
    if token.pin_final_try:
        raise PinFinalTryError(f"one more wrong PIN locks token {token.name.label!r}; it was not tried")
    lockout.refuse_last_try(token.name)
    if token.protected_authentication_path:
        at_pin_pad(token.name)
        return None
    return pin(token.name)
