"""Translate PKCS#11 return values (PKCS#11 v2.40 §5.1) into our errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

from pkcs11.exceptions import PKCS11Error

from hsm_enroll.errors import (
    HsmEnrollError,
    ModuleUnusableError,
    PinLockedError,
    PinWrongError,
    TokenNotFoundError,
    TokenRefusedError,
)
from hsm_enroll.token import return_values
from hsm_enroll.token.reports import NO_USER_PIN_HINT

_PIN_WRONG = {"CKR_PIN_INCORRECT", "CKR_PIN_INVALID", "CKR_PIN_LEN_RANGE"}
_TOKEN_GONE = {"CKR_TOKEN_NOT_PRESENT", "CKR_DEVICE_REMOVED", "CKR_SLOT_ID_INVALID"}

_AGAIN = "Run the same command again. If it fails again, reconnect the token, and stop other programs that use it."
_RECONNECT = "Reconnect the token, then run the same command again; hsm-enroll tokens lists the tokens present."
_OTHER_PROGRAMS = "Stop the other programs that use the token, then run the same command again."
_OTHER_KEY_TYPE = "Choose another type of key with --key-type, or another token."
_ROOM = "Delete objects that are no longer needed with the token's own tool, then run the same command again."
_PIN_TOOL = "Set a new PIN with the token's own tool."
_UNANNOUNCED_LOGIN = (
    "If the token has no PIN, set one with the token's own tool: hsm-enroll logs in only where the token demands it."
)
_REPORT = "hsm-enroll cannot use this token: please report it, with the output of --verbose."


class _Refusal(NamedTuple):
    """What a return value means to the person in front of the token, and what they can do."""

    reason: str
    hint: str


# For return values that say nothing about any call that we make.
_UNEXPECTED = _Refusal("unexpected return value", _REPORT)
_GONE_MEANWHILE = _Refusal("the token was reset or removed", _RECONNECT)
_KEY_GONE = _Refusal("the key no longer exists", _AGAIN)
_LOGGED_IN_ELSEWHERE = _Refusal("another user is already logged in", _OTHER_PROGRAMS)
_ATTRIBUTES = _Refusal("the token does not accept the key's attributes", _REPORT)
_FULL = _Refusal("the token is full", _ROOM)
_IN_USE = _Refusal("another program is using the token", _OTHER_PROGRAMS)
_INTERRUPTED = _Refusal("the operation was cancelled", _AGAIN)
_NO_CURVE = _Refusal("the token does not support the curve", _OTHER_KEY_TYPE)
_STILL_BUSY = _Refusal("an earlier operation is still active", _AGAIN)
_THREADS = _Refusal("the module cannot run in a process with threads", _REPORT)

_REFUSALS = {
    "CKR_ACTION_PROHIBITED": _Refusal("the token's policy forbids it", "Change the policy, or use another token."),
    "CKR_ARGUMENTS_BAD": _Refusal("the module rejected the arguments", _REPORT),
    "CKR_ATTRIBUTE_READ_ONLY": _ATTRIBUTES,
    "CKR_ATTRIBUTE_TYPE_INVALID": _ATTRIBUTES,
    "CKR_ATTRIBUTE_VALUE_INVALID": _ATTRIBUTES,
    "CKR_CANCEL": _INTERRUPTED,
    "CKR_CANT_LOCK": _THREADS,
    "CKR_CRYPTOKI_ALREADY_INITIALIZED": _Refusal(
        "something else in this process uses the module", "Use hsm-enroll in a process of its own."
    ),
    "CKR_CRYPTOKI_NOT_INITIALIZED": _Refusal("the module was shut down", _AGAIN),
    "CKR_CURVE_NOT_SUPPORTED": _NO_CURVE,
    "CKR_DATA_INVALID": _Refusal("the token cannot sign this data", _OTHER_KEY_TYPE),
    "CKR_DATA_LEN_RANGE": _Refusal("the token cannot sign data of this length", _OTHER_KEY_TYPE),
    "CKR_DEVICE_ERROR": _Refusal("the token reported a hardware fault", _RECONNECT),
    "CKR_DEVICE_MEMORY": _FULL,
    "CKR_DOMAIN_PARAMS_INVALID": _NO_CURVE,
    "CKR_EXCEEDED_MAX_ITERATIONS": _Refusal("the token found no key in the time it allows itself", _AGAIN),
    "CKR_FIPS_SELF_TEST_FAILED": _Refusal("the token's self-test failed", "Do not use the token; ask its vendor."),
    "CKR_FUNCTION_CANCELED": _INTERRUPTED,
    "CKR_FUNCTION_FAILED": _Refusal("the module gave no reason", _AGAIN),
    "CKR_FUNCTION_NOT_SUPPORTED": _Refusal(
        "the module does not support it", "Use another token, or a newer module for this one."
    ),
    "CKR_FUNCTION_REJECTED": _Refusal(
        "someone declined it at the token", "Run the same command again, and confirm at the token."
    ),
    "CKR_GENERAL_ERROR": _Refusal("the module reported a general failure", _RECONNECT),
    "CKR_HOST_MEMORY": _Refusal("this machine is out of memory", "Stop other programs, then run the command again."),
    "CKR_KEY_FUNCTION_NOT_PERMITTED": _Refusal("the key does not allow it", "Use another key."),
    "CKR_KEY_HANDLE_INVALID": _KEY_GONE,
    "CKR_KEY_SIZE_RANGE": _Refusal("the token does not support keys of this size", _OTHER_KEY_TYPE),
    "CKR_KEY_TYPE_INCONSISTENT": _Refusal("the key is of another type", _OTHER_KEY_TYPE),
    "CKR_LIBRARY_LOAD_FAILED": _Refusal(
        "the module could not load a library that it needs", "Reinstall the token's module."
    ),
    "CKR_MECHANISM_INVALID": _Refusal("the token does not support the mechanism", _OTHER_KEY_TYPE),
    "CKR_MECHANISM_PARAM_INVALID": _Refusal("the token does not accept the mechanism's parameters", _OTHER_KEY_TYPE),
    "CKR_MUTEX_BAD": _THREADS,
    "CKR_MUTEX_NOT_LOCKED": _THREADS,
    "CKR_NEED_TO_CREATE_THREADS": _THREADS,
    "CKR_NEW_PIN_MODE": _Refusal("the token requires a new PIN", _PIN_TOOL),
    "CKR_NEXT_OTP": _Refusal("the token requires its next one-time password", _AGAIN),
    "CKR_OBJECT_HANDLE_INVALID": _KEY_GONE,
    "CKR_OPERATION_ACTIVE": _STILL_BUSY,
    "CKR_OPERATION_CANCEL_FAILED": _STILL_BUSY,
    "CKR_OPERATION_NOT_INITIALIZED": _Refusal("the token lost the operation it had begun", _AGAIN),
    "CKR_PIN_EXPIRED": _Refusal("the PIN has expired", _PIN_TOOL),
    "CKR_PIN_TOO_WEAK": _Refusal("the PIN is too weak", "Choose a longer PIN."),
    "CKR_PUBLIC_KEY_INVALID": _Refusal("the token says that the public key is invalid", _REPORT),
    "CKR_RANDOM_NO_RNG": _Refusal("the token has no random number generator", "Use a token that can generate keys."),
    "CKR_SESSION_CLOSED": _GONE_MEANWHILE,
    "CKR_SESSION_COUNT": _Refusal("the token has no session left", _OTHER_PROGRAMS),
    "CKR_SESSION_EXISTS": _IN_USE,
    "CKR_SESSION_HANDLE_INVALID": _GONE_MEANWHILE,
    "CKR_SESSION_READ_ONLY": _Refusal("the session is read-only", _OTHER_PROGRAMS),
    "CKR_SESSION_READ_ONLY_EXISTS": _IN_USE,
    "CKR_SESSION_READ_WRITE_SO_EXISTS": _Refusal("the security officer is logged in", _OTHER_PROGRAMS),
    "CKR_TEMPLATE_INCOMPLETE": _ATTRIBUTES,
    "CKR_TEMPLATE_INCONSISTENT": _ATTRIBUTES,
    "CKR_TOKEN_NOT_RECOGNIZED": _Refusal(
        "the module does not recognise this token", "Name the module that belongs to the token with --module."
    ),
    "CKR_TOKEN_RESOURCE_EXCEEDED": _FULL,
    "CKR_TOKEN_WRITE_PROTECTED": _Refusal(
        "the token is write-protected", "Remove the write protection or use another token, then run the command again."
    ),
    "CKR_USER_ALREADY_LOGGED_IN": _LOGGED_IN_ELSEWHERE,
    "CKR_USER_ANOTHER_ALREADY_LOGGED_IN": _LOGGED_IN_ELSEWHERE,
    "CKR_USER_NOT_LOGGED_IN": _Refusal("the token requires a login, but does not say so", _UNANNOUNCED_LOGIN),
    "CKR_USER_PIN_NOT_INITIALIZED": _Refusal("the token has no user PIN yet", NO_USER_PIN_HINT),
    "CKR_USER_TOO_MANY_TYPES": _LOGGED_IN_ELSEWHERE,
}
_VENDORS = _Refusal("the module's own return value", "Look the number up in the documentation of the token's module.")

# python-pkcs11 names its classes after the return values, but spells these three in its own way.
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_OTHER_SPELLINGS = {
    "CKR_ANOTHER_USER_ALREADY_LOGGED_IN": "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
    "CKR_FUNCTION_CANCELLED": "CKR_FUNCTION_CANCELED",
    "CKR_TOKEN_NOT_RECOGNISED": "CKR_TOKEN_NOT_RECOGNIZED",
}
# The rest are bare PKCS11Errors: most with their number, five with a text instead.
_NUMBER = re.compile(r"Unmapped error code 0x([0-9a-f]+)")
_TEXTS = {
    "Buffer was too small": "CKR_BUFFER_TOO_SMALL",
    "Initialisation error (already": "CKR_CRYPTOKI_ALREADY_INITIALIZED",
    "Initialisation error (not": "CKR_CRYPTOKI_NOT_INITIALIZED",
    "Parallel not supported": "CKR_SESSION_PARALLEL_NOT_SUPPORTED",
    "User type invalid": "CKR_USER_TYPE_INVALID",
}


@contextmanager
def translated(operation: str, token: str) -> Iterator[None]:
    """Turn what python-pkcs11 raises inside the block into one of our errors, which names the return value.

    Args:
        operation: what the token is to do, an infinitive without "to": ``"generate a key"``.
        token: how messages name the token.

    Raises:
        PinWrongError, PinLockedError, TokenNotFoundError, TokenRefusedError: by the return value.
    """
    try:
        with _quiet_searches():
            yield
    except PKCS11Error as error:
        raise _translate(error, operation, token) from error


@contextmanager
def _quiet_searches() -> Iterator[None]:
    """Suppress the tracebacks of searches that failed to start.

    Where C_FindObjectsInit fails, python-pkcs11 calls C_FindObjectsFinal from a ``__del__``. Nobody can catch what that
    raises; these two hooks would each print it as a traceback that says nothing new.
    """
    unraisable_hook, except_hook = sys.unraisablehook, sys.excepthook

    def quiet_unraisable_hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, PKCS11Error):
            unraisable_hook(unraisable)

    def quiet_except_hook(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(value, PKCS11Error):
            except_hook(kind, value, traceback)

    sys.unraisablehook, sys.excepthook = quiet_unraisable_hook, quiet_except_hook
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = unraisable_hook, except_hook


def refused(ckr: str, operation: str, token: str, *, hint: str | None = None) -> TokenRefusedError:
    """Return the error for a return value of an operation.

    Args:
        ckr: its name, see ``return_values.name_of``.
        operation: as for :func:`translated`.
        token: as for :func:`translated`.
        hint: what to do, where the caller knows better than the return value tells.
    """
    refusal = _refusal(ckr)
    return TokenRefusedError(
        f"{token} failed to {operation}: {refusal.reason} ({ckr})",
        hint=hint or refusal.hint,
        of_key_type=refusal.hint is _OTHER_KEY_TYPE,
    )


def unusable_module(error: PKCS11Error, module: str) -> ModuleUnusableError:
    """Return the error for a module that cannot be loaded or initialised."""
    ckr = _name_of(error)
    reason = str(error) if ckr is None else f"{_refusal(ckr).reason} ({ckr})"
    return ModuleUnusableError(f"{module} cannot be used as a PKCS#11 module: {reason}")


def _translate(error: PKCS11Error, operation: str, token: str) -> HsmEnrollError:
    ckr = _name_of(error)
    if ckr is None:
        return TokenRefusedError(f"{token} failed to {operation}: {error}")
    if ckr in _PIN_WRONG:
        return PinWrongError(f"{token} refused the PIN ({ckr})")
    if ckr == "CKR_PIN_LOCKED":
        return PinLockedError(f"{token} is locked and accepts no PIN now ({ckr})")
    if ckr in _TOKEN_GONE:
        return TokenNotFoundError(f"{token} is no longer present ({ckr})", hint=_RECONNECT)
    return refused(ckr, operation, token)


def _refusal(ckr: str) -> _Refusal:
    return _REFUSALS.get(ckr, _VENDORS if ckr.startswith("CKR_VENDOR_DEFINED") else _UNEXPECTED)


def _name_of(error: PKCS11Error) -> str | None:
    """Return the name of the return value that an error stands for; None for an error of python-pkcs11's own."""
    text = str(error)
    if unmapped := _NUMBER.fullmatch(text):
        return return_values.name_of(int(unmapped[1], 16))
    if text:
        return next((ckr for start, ckr in _TEXTS.items() if text.startswith(start)), None)
    name = "CKR_" + _WORD.sub("_", type(error).__name__).upper()
    return _OTHER_SPELLINGS.get(name, name)
