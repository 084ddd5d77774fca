"""A session with one token, opened with at most one login (PKCS#11 v2.40 §5.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from pkcs11 import PROTECTED_AUTH, Session, TokenFlag
from pkcs11.exceptions import PKCS11Error, UserAlreadyLoggedIn

from hsm_enroll import softhsm
from hsm_enroll.errors import (
    HsmEnrollError,
    PinFinalTryError,
    PinLockedError,
    TokenAmbiguousError,
    TokenNotFoundError,
)
from hsm_enroll.secret import Secret
from hsm_enroll.token import diagnosis, modules, naming, second_look
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from pkcs11 import Token

    from hsm_enroll.key import TokenName

__all__ = ["Session", "find", "opened"]


@contextmanager
def opened(
    name: TokenName,
    pin: Callable[[], Secret] | None,
    *,
    pin_is_certain: bool = False,
    writable: bool = False,
    at_pin_pad: Callable[[], None] = lambda: None,
) -> Iterator[Session]:
    """Open a session on a token; log in once, or not at all, and never retry.

    Three wrong PINs lock a whole TPM, so the PIN is not tried if the token, or its TPM, says that only one try is left.
    Leaving the block logs the whole *process* out of the token. If the login fails, or the session cannot be closed,
    the module is shut down: python-pkcs11 would leave the session open, and after a transport error a TPM's module does
    not work until it is initialised again.

    Args:
        name: which token.
        pin: called if the token requires a PIN; None does not log in, so that private keys stay hidden.
        pin_is_certain: whether the last try before a TPM's lockout may be used; see ``lockout.refuse``.
        writable: whether objects will be created or destroyed.
        at_pin_pad: called before the token waits for its PIN at its own keypad.

    Raises:
        ModuleMissingError, ModuleUnusableError: the module cannot be loaded.
        TokenNotFoundError, TokenAmbiguousError: the token is missing, or another one has its name.
        PinWrongError, PinLockedError, PinFinalTryError: the login failed.
        TokenRefusedError: the token cannot open the session, or the disk has no room for a login to SoftHSM.
    """
    token = find(name)
    with ExitStack() as after_failure:
        after_failure.callback(modules.shut_down, name.module)
        with _login(name, pin), translated("open a session", _named(name)):
            try:
                # No variable holds the PIN, since tracebacks may show variables.
                session = token.open(
                    rw=writable,
                    user_pin=None
                    if pin is None
                    else _credentials(token, name, pin, at_pin_pad, pin_is_certain=pin_is_certain),
                )
            except (HsmEnrollError, UserAlreadyLoggedIn):
                # There was no login, or something else in this process is logged in (PKCS#11 v2.40 §5.6).
                after_failure.pop_all()
                raise
        try:
            yield session
        finally:
            # The work has succeeded or failed by now, and the session of a removed token cannot be closed.
            with suppress(PKCS11Error):
                session.close()
                after_failure.pop_all()


def find(name: TokenName) -> Token:
    """Find the one token of this name; no session.

    Raises:
        ModuleMissingError, ModuleUnusableError: the module cannot be loaded, or does not list its slots.
        TokenNotFoundError, TokenAmbiguousError: the token is missing, or another one has its name.
    """
    listed = second_look.tokens(name.module, lambda: naming.tokens(name.module))
    found = [named.token for named in listed if (named.name.label, named.name.serial) == (name.label, name.serial)]
    if not found:
        lost = diagnosis.lost(named.name for named in listed)
        message = "; ".join([diagnosis.not_found(name), *(fault.message for fault in lost)])
        raise TokenNotFoundError(message, hint=lost[0].hint if lost else diagnosis.GONE_HINT)
    if len(found) > 1:
        raise TokenAmbiguousError(
            f"{len(found)} tokens have the label {name.label!r} and the serial number {name.serial!r}",
            hint="Relabel one of them with the token's own tool.",
        )
    return found[0]


def _login(name: TokenName, pin: Callable[[], Secret] | None) -> AbstractContextManager[None]:
    return nullcontext() if pin is None else softhsm.login(name.manufacturer)


def _credentials(
    token: Token,
    name: TokenName,
    pin: Callable[[], Secret],
    at_pin_pad: Callable[[], None],
    *,
    pin_is_certain: bool,
) -> str | object | None:
    flags = token.flags
    if not flags & TokenFlag.LOGIN_REQUIRED:
        return None
    if flags & TokenFlag.USER_PIN_LOCKED:
        raise PinLockedError(f"token {token.label!r} is locked and accepts no PIN now")
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise PinFinalTryError(f"one more wrong PIN would lock token {token.label!r}, so no PIN was tried")
    from hsm_enroll.token.tpm2 import lockout

    lockout.refuse_last_try(name, pin_is_certain=pin_is_certain)
    if flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
        at_pin_pad()
        return PROTECTED_AUTH
    return pin().reveal()


def _named(name: TokenName) -> str:
    return f"token {name.label!r}"
