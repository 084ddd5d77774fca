"""A session with one token, opened with one login at the most (PKCS#11 v2.40 §5.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from pkcs11 import PROTECTED_AUTH, Session, TokenFlag
from pkcs11.exceptions import PKCS11Error, UserAlreadyLoggedIn

from hsm_enroll.errors import (
    HsmEnrollError,
    PinFinalTryError,
    PinLockedError,
    TokenAmbiguousError,
    TokenNotFoundError,
)
from hsm_enroll.secret import Secret
from hsm_enroll.token import modules
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from pkcs11 import Token

    from hsm_enroll.key import TokenName

__all__ = ["PinSource", "Session", "find", "opened"]

PinSource = Callable[[], Secret]


@contextmanager
def opened(
    name: TokenName, pin: PinSource | None, *, writable: bool = False, at_pin_pad: Callable[[], None] = lambda: None
) -> Iterator[Session]:
    """Open a session on a token; log in once, or not at all, and never try again.

    A wrong PIN three times locks a whole TPM, so a token is not tried where it, or its TPM, says that the next try is
    its last.
    Leaving the block logs the *process* out of the token: whatever else uses it in this process fails then. Where the
    login fails, or the session cannot be ended, the module is shut down: python-pkcs11 would leave the session open,
    and after a transport error a TPM's module answers nothing until it is initialized anew.

    Args:
        name: which token.
        pin: called for the PIN where the token wants one; None does not log in: private keys stay hidden.
        writable: whether objects will be made or destroyed.
        at_pin_pad: called where the PIN is typed at the token itself, before the token waits for it.

    Raises:
        ModuleMissingError, ModuleUnusableError: the module cannot be loaded.
        TokenNotFoundError, TokenAmbiguousError: the token is not there, or another one has its name.
        PinWrongError, PinLockedError, PinFinalTryError: the login.
        TokenRefusedError: the token refuses the session.
    """
    token = find(name)
    with ExitStack() as not_ended:
        not_ended.callback(modules.shut_down, name.module)
        with translated("open a session", _named(name)):
            try:
                # The PIN has no name here: a traceback that shows local variables does not show it.
                session = token.open(
                    rw=writable, user_pin=None if pin is None else _credentials(token, name, pin, at_pin_pad)
                )
            except (HsmEnrollError, UserAlreadyLoggedIn):
                # There was no login, or it is that of something else in this process (PKCS#11 v2.40 §5.6).
                not_ended.pop_all()
                raise
        try:
            yield session
        finally:
            # The work is done or has failed by now, and a token that was pulled out cannot be closed.
            with suppress(PKCS11Error):
                session.close()
                not_ended.pop_all()


def find(name: TokenName) -> Token:
    """Find the one token of this name; no session.

    Raises:
        ModuleMissingError, ModuleUnusableError: the module cannot be loaded, or does not list its slots.
        TokenNotFoundError, TokenAmbiguousError: the token is not there, or another one has its name.
    """
    found = [
        token
        for token in modules.tokens(name.module)
        if token.label == name.label and token.serial.decode("utf-8", "replace").rstrip("\0 ") == name.serial
    ]
    if not found:
        raise TokenNotFoundError(f"{_named(name)} is not there")
    if len(found) > 1:
        raise TokenAmbiguousError(
            f"{len(found)} tokens are called {name.label!r} and have the serial number {name.serial!r}",
            hint="Relabel one of them with the token's own tool.",
        )
    return found[0]


def _credentials(token: Token, name: TokenName, pin: PinSource, at_pin_pad: Callable[[], None]) -> str | object | None:
    flags = token.flags
    if not flags & TokenFlag.LOGIN_REQUIRED:
        return None
    if flags & TokenFlag.USER_PIN_LOCKED:
        raise PinLockedError(f"token {token.label!r} is locked and accepts no PIN now")
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise PinFinalTryError(f"one more wrong PIN locks token {token.label!r}; it was not tried")
    from hsm_enroll.token.tpm2 import lockout

    lockout.refuse_last_try(name)
    if flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
        at_pin_pad()
        return PROTECTED_AUTH
    return pin().reveal()


def _named(name: TokenName) -> str:
    return f"token {name.label!r}"
