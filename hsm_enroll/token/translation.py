"""PKCS#11 return values to our errors (PKCS#11 v2.40 §5.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pkcs11 import exceptions as cryptoki

from hsm_enroll.errors import (
    HsmEnrollError,
    ModuleUnusableError,
    PinLockedError,
    PinWrongError,
    TokenNotFoundError,
    TokenRefusedError,
)

_PIN_WRONG = (cryptoki.PinIncorrect, cryptoki.PinInvalid, cryptoki.PinLenRange)
_TOKEN_GONE = (cryptoki.TokenNotPresent, cryptoki.DeviceRemoved, cryptoki.SlotIDInvalid)

# What a return value means to the person in front of the token, where its name alone would not tell.
_REASONS: dict[type[cryptoki.PKCS11Error], str] = {
    cryptoki.DeviceMemory: "it is full",
    cryptoki.DeviceError: "its hardware reported a fault",
    cryptoki.FunctionNotSupported: "it does not know how",
    cryptoki.GeneralError: "its module reported a general failure",
    cryptoki.HostMemory: "this machine has no memory left",
    cryptoki.MechanismInvalid: "it does not have the mechanism",
    cryptoki.PinExpired: "its PIN has expired",
    cryptoki.SessionHandleInvalid: "it was reset or taken away meanwhile",
    cryptoki.TokenWriteProtected: "it is write-protected",
    cryptoki.UserNotLoggedIn: "it wants a login first",
    cryptoki.UserPinNotInitialized: "it has no user PIN yet",
}


@contextmanager
def translated(doing: str, token: str) -> Iterator[None]:
    """Turn what python-pkcs11 raises inside the block into one of our errors.

    Args:
        doing: what is asked of the token, an infinitive without "to": ``"generate a key"``.
        token: how to name the token in a message.

    Raises:
        PinWrongError, PinLockedError, TokenNotFoundError, TokenRefusedError: by the return value.
    """
    try:
        yield
    except cryptoki.PKCS11Error as error:
        raise _translate(error, doing, token) from error


def _translate(error: cryptoki.PKCS11Error, doing: str, token: str) -> HsmEnrollError:
    if isinstance(error, _PIN_WRONG):
        return PinWrongError(f"{token} refused the PIN")
    if isinstance(error, cryptoki.PinLocked):
        return PinLockedError(f"{token} is locked and accepts no PIN now")
    if isinstance(error, _TOKEN_GONE):
        return TokenNotFoundError(f"{token} is not there any more")
    return TokenRefusedError(f"{token} refused to {doing}: {_reason(error)}")


def unusable_module(error: cryptoki.PKCS11Error, module: str) -> ModuleUnusableError:
    """Return the error for a module that cannot be loaded or initialised."""
    return ModuleUnusableError(f"{module} cannot be used as a PKCS#11 module: {_reason(error)}")


def _reason(error: cryptoki.PKCS11Error) -> str:
    return _REASONS.get(type(error)) or str(error) or type(error).__name__
