"""PKCS#11 return values to our errors (PKCS#11 v2.40 §5.1)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

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

_AGAIN = "Run the same command again; if it fails again, run hsm-enroll doctor."
_RECONNECT = "Reconnect the token, then run the same command again; hsm-enroll tokens shows what is there."
_OTHER_PROGRAMS = "End the other programs that use the token, then run the same command again."
_OTHER_KEY_TYPE = "Choose another type of key with --key-type, or another token."
_ROOM = "Delete objects that nothing uses any more with the token's own tool, then run the same command again."
_PIN_TOOL = "Set the PIN anew with the token's own tool."
_UNANNOUNCED_LOGIN = "Where it has no PIN, set one with the token's own tool; else run hsm-enroll doctor."
_REPORT = "This token and hsm-enroll do not understand each other: report it, with what --verbose shows."


class _Refusal(NamedTuple):
    """What a return value means to the person in front of the token, and what they can do."""

    reason: str
    hint: str


# It says of no request of ours what is wrong with it.
_OUT_OF_PLACE = _Refusal("its answer, {name}, does not belong to what was asked", _REPORT)
_GONE_MEANWHILE = _Refusal("it was reset or taken away meanwhile", _RECONNECT)
_KEY_GONE = _Refusal("the key has gone meanwhile", _AGAIN)
_LOGGED_IN_ELSEWHERE = _Refusal("somebody is logged in to it already", _OTHER_PROGRAMS)
_ATTRIBUTES = _Refusal("it does not take the attributes asked for ({name})", _REPORT)
_FULL = _Refusal("it is full", _ROOM)
_INTERRUPTED = _Refusal("it was interrupted", _AGAIN)
_THREADS = _Refusal("its module does not get along with this program's threads ({name})", _REPORT)

_REFUSALS: dict[type[cryptoki.PKCS11Error], _Refusal] = {
    cryptoki.AnotherUserAlreadyLoggedIn: _LOGGED_IN_ELSEWHERE,
    cryptoki.ArgumentsBad: _Refusal("it does not understand the request", _REPORT),
    cryptoki.AttributeReadOnly: _ATTRIBUTES,
    cryptoki.AttributeTypeInvalid: _ATTRIBUTES,
    cryptoki.AttributeValueInvalid: _ATTRIBUTES,
    cryptoki.DataInvalid: _Refusal("it does not sign data of this form", _OTHER_KEY_TYPE),
    cryptoki.DataLenRange: _Refusal("it does not sign data of this length", _OTHER_KEY_TYPE),
    cryptoki.DeviceError: _Refusal("its hardware reported a fault", _RECONNECT),
    cryptoki.DeviceMemory: _FULL,
    cryptoki.DomainParamsInvalid: _Refusal("it does not have the curve", _OTHER_KEY_TYPE),
    cryptoki.ExceededMaxIterations: _Refusal("it found no key in the time that it takes for it", _AGAIN),
    cryptoki.FunctionCancelled: _INTERRUPTED,
    cryptoki.FunctionFailed: _Refusal("it failed, and its module does not say why", _AGAIN),
    cryptoki.FunctionNotSupported: _Refusal("it does not know how", "Use another token, or a newer module for it."),
    cryptoki.FunctionRejected: _Refusal(
        "somebody rejected it at the token", "Run the same command again, and agree at the token."
    ),
    cryptoki.GeneralError: _Refusal("its module reported a general failure", _RECONNECT),
    cryptoki.HostMemory: _Refusal("this machine has no memory left", "End other programs, then run it again."),
    cryptoki.KeyHandleInvalid: _KEY_GONE,
    cryptoki.KeySizeRange: _Refusal("it has no keys of this size", _OTHER_KEY_TYPE),
    cryptoki.KeyTypeInconsistent: _Refusal("the key is of another type", _OTHER_KEY_TYPE),
    cryptoki.MechanismInvalid: _Refusal("it does not have the mechanism", _OTHER_KEY_TYPE),
    cryptoki.MechanismParamInvalid: _Refusal("it does not take the mechanism's parameters", _OTHER_KEY_TYPE),
    cryptoki.ObjectHandleInvalid: _KEY_GONE,
    cryptoki.OperationActive: _Refusal("it has not ended what it did before", _AGAIN),
    cryptoki.OperationNotInitialized: _Refusal("it has forgotten what it was about to do", _AGAIN),
    cryptoki.PinExpired: _Refusal("its PIN has expired", _PIN_TOOL),
    cryptoki.PinTooWeak: _Refusal("the PIN is too weak for it", "Choose a longer PIN."),
    cryptoki.PublicKeyInvalid: _Refusal("it says that the public key is none", _REPORT),
    cryptoki.RandomNoRNG: _Refusal("it has no random number generator", "Use a token that can make keys."),
    cryptoki.SessionClosed: _GONE_MEANWHILE,
    cryptoki.SessionCount: _Refusal("it has no session left", _OTHER_PROGRAMS),
    cryptoki.SessionExists: _Refusal("another program uses it", _OTHER_PROGRAMS),
    cryptoki.SessionHandleInvalid: _GONE_MEANWHILE,
    cryptoki.SessionReadOnly: _Refusal("nothing can be changed in it at the moment", _OTHER_PROGRAMS),
    cryptoki.SessionReadOnlyExists: _Refusal("another program uses it", _OTHER_PROGRAMS),
    cryptoki.SessionReadWriteSOExists: _Refusal("its security officer is at work", _OTHER_PROGRAMS),
    cryptoki.TemplateIncomplete: _ATTRIBUTES,
    cryptoki.TemplateInconsistent: _ATTRIBUTES,
    cryptoki.TokenNotRecognised: _Refusal(
        "its module does not know this kind of token", "Name the module that belongs to the token with --module."
    ),
    cryptoki.TokenWriteProtected: _Refusal(
        "it is write-protected", "Take its write protection away, or use another token; then run it again."
    ),
    cryptoki.UserAlreadyLoggedIn: _LOGGED_IN_ELSEWHERE,
    cryptoki.UserNotLoggedIn: _Refusal("it wants a login first", _UNANNOUNCED_LOGIN),
    cryptoki.UserPinNotInitialized: _Refusal("it has no user PIN yet", _PIN_TOOL),
    cryptoki.UserTooManyTypes: _LOGGED_IN_ELSEWHERE,
}

# Return values for which python-pkcs11 has no class; the numbers are those of pkcs11t.h, the last two of v3.0.
_UNNAMED_REFUSALS = {
    0x1: _INTERRUPTED,  # CKR_CANCEL
    0x9: _THREADS,  # CKR_NEED_TO_CREATE_THREADS
    0xA: _THREADS,  # CKR_CANT_LOCK
    0x1B: _Refusal("its policy forbids it", "Have its policy changed, or use another token."),  # CKR_ACTION_PROHIBITED
    0x68: _Refusal("the key is not meant for that", "Use another key."),  # CKR_KEY_FUNCTION_NOT_PERMITTED
    0x103: _Refusal("it knows no user such as this", _REPORT),  # CKR_USER_TYPE_INVALID
    0x140: _Refusal("it does not have the curve", _OTHER_KEY_TYPE),  # CKR_CURVE_NOT_SUPPORTED
    0x190: _Refusal("its module was shut down meanwhile", _AGAIN),  # CKR_CRYPTOKI_NOT_INITIALIZED
    # CKR_CRYPTOKI_ALREADY_INITIALIZED
    0x191: _Refusal("something else in this process uses its module", "Use it in a process of its own."),
    0x1A0: _THREADS,  # CKR_MUTEX_BAD
    0x1A1: _THREADS,  # CKR_MUTEX_NOT_LOCKED
    0x1B0: _Refusal("it wants a new PIN", _PIN_TOOL),  # CKR_NEW_PIN_MODE
    0x1B1: _Refusal("it wants its next one-time password", _AGAIN),  # CKR_NEXT_OTP
    0x1B6: _Refusal("its self-test failed", "Do not use it; ask its vendor."),  # CKR_FIPS_SELF_TEST_FAILED
    # CKR_LIBRARY_LOAD_FAILED
    0x1B7: _Refusal("its module could not load a library that it needs", "Install the token's module anew."),
    0x201: _FULL,  # CKR_TOKEN_RESOURCE_EXCEEDED
    0x202: _Refusal("it has not ended what it did before", _AGAIN),  # CKR_OPERATION_CANCEL_FAILED
}
_VENDOR_DEFINED = 0x80000000  # CKR_VENDOR_DEFINED and above

_NUMBER = re.compile(r"Unmapped error code 0x([0-9a-f]+)")
# What python-pkcs11 says of five others, and nothing but that.
_TEXTS = {
    "Buffer was too small": 0x150,
    "Initialisation error (already": 0x191,
    "Initialisation error (not": 0x190,
    "Parallel not supported": 0xB4,
    "User type invalid": 0x103,
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
        with _quiet_searches():
            yield
    except cryptoki.PKCS11Error as error:
        raise _translate(error, doing, token) from error


@contextmanager
def _quiet_searches() -> Iterator[None]:
    """Say nothing of how a search ends that never began.

    Where C_FindObjectsInit fails, python-pkcs11 calls C_FindObjectsFinal from a ``__del__``. What that raises nobody
    can catch: it is shown, twice, by these two hooks, as a traceback that tells nothing new.
    """
    unraisable_hook, except_hook = sys.unraisablehook, sys.excepthook

    def not_caught(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, cryptoki.PKCS11Error):
            unraisable_hook(unraisable)

    def not_caught_either(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(value, cryptoki.PKCS11Error):
            except_hook(kind, value, traceback)

    sys.unraisablehook, sys.excepthook = not_caught, not_caught_either
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = unraisable_hook, except_hook


def _translate(error: cryptoki.PKCS11Error, doing: str, token: str) -> HsmEnrollError:
    if isinstance(error, _PIN_WRONG):
        return PinWrongError(f"{token} refused the PIN")
    if isinstance(error, cryptoki.PinLocked):
        return PinLockedError(f"{token} is locked and accepts no PIN now")
    if isinstance(error, _TOKEN_GONE):
        return TokenNotFoundError(f"{token} is not there any more", hint=_RECONNECT)
    refusal = _refusal(error)
    of_key_type = refusal.hint is _OTHER_KEY_TYPE
    return TokenRefusedError(
        f"{token} refused to {doing}: {refusal.reason}", hint=refusal.hint, of_key_type=of_key_type
    )


def unusable_module(error: cryptoki.PKCS11Error, module: str) -> ModuleUnusableError:
    """Return the error for a module that cannot be loaded or initialised."""
    return ModuleUnusableError(f"{module} cannot be used as a PKCS#11 module: {_refusal(error).reason}")


def _refusal(error: cryptoki.PKCS11Error) -> _Refusal:
    number, text = _number(error), str(error)
    if number is not None:
        name = f"CKR 0x{number:x}"
        vendors = _Refusal(f"its module says {name}", "Look that number up in the documentation of the token's module.")
        known = _UNNAMED_REFUSALS.get(number, vendors if number >= _VENDOR_DEFINED else _OUT_OF_PLACE)
    elif text:
        # What python-pkcs11 itself has to say.
        return _Refusal(text, TokenRefusedError.default_hint)
    else:
        name = type(error).__name__
        known = _REFUSALS.get(type(error), _OUT_OF_PLACE)
    return known._replace(reason=known.reason.format(name=name))


def _number(error: cryptoki.PKCS11Error) -> int | None:
    """Return the CKR of an error that has no class of its own, or None."""
    text = str(error)
    if unmapped := _NUMBER.fullmatch(text):
        return int(unmapped[1], 16)
    return next((number for start, number in _TEXTS.items() if text.startswith(start)), None)
