"""Before and after a login: whether a token's PIN may be tried, where it comes from, and what a wrong one means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from hsm_enroll.errors import PinFinalTryError, PinLockedError, PinWrongError
from hsm_enroll.key import TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tpm2 import is_tpm2, lockout

PinSource = Callable[[TokenName], Secret]
"""Returns a token's PIN."""

AtPinPad = Callable[[TokenName], None]
"""Called before a token waits for its PIN at its own keypad (CKF_PROTECTED_AUTHENTICATION_PATH)."""


class Origin(NamedTuple):
    """Where a PIN came from.

    Attributes:
        text: a noun phrase, such as "the PIN in HSM_ENROLL_PIN"; "" if it is not known.
        distrust: only for a PIN that ``token create`` generated for this very token, which is the right one unless
            another program has changed it: called if the token refuses it, so that it is not taken for certain again.
    """

    text: str = ""
    distrust: Callable[[], None] | None = None

    @property
    def is_certain(self) -> bool:
        """Whether the PIN is the token's, so that the last try before a lockout may be used for it."""
        return self.distrust is not None


class Pin(Secret):
    """A PIN that knows where it came from."""

    __slots__ = ("origin",)

    def __init__(self, value: str, origin: Origin) -> None:
        super().__init__(value)
        self.origin = origin


def origin_of(pin: Secret | None) -> Origin:
    """Return where a PIN came from; None is one that was entered at the token itself."""
    if pin is None:
        return Origin("the PIN that was entered at the token")
    return pin.origin if isinstance(pin, Pin) else Origin()


def once(pin: PinSource) -> PinSource:
    """Request the PIN only at the first call, so that the user enters it once."""
    cached: list[Secret] = []

    def source(token: TokenName) -> Secret:
        if not cached:
            cached.append(pin(token))
        return cached[0]

    return source


def credentials(token: TokenReport, pin: PinSource, at_pin_pad: AtPinPad) -> Secret | None:
    """Check that a token's PIN may be tried, and return what to log in with.

    A few wrong PINs lock a whole TPM, so the PIN is not tried if the token, or its TPM, says that only one try is left;
    unless ``token create`` generated it for this token, since then it is the right one.

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
    if token.protected_authentication_path:
        lockout.refuse_last_try(token.name)
        at_pin_pad(token.name)
        return None
    tries = lockout.read(token.name)
    # Before anybody is asked for a PIN.
    lockout.refuse(token.name, tries, pin_is_certain=True)
    secret = pin(token.name)
    lockout.refuse(token.name, tries, pin_is_certain=origin_of(secret).is_certain)
    return secret


@contextmanager
def wrong_pin_named(token: TokenName, origin: Origin) -> Iterator[None]:
    """Have the error of a wrong PIN say where the PIN came from, and what it means for the token.

    Args:
        token: which token.
        origin: where its PIN came from.

    Raises:
        PinWrongError: the error of the block, with more to say.
    """
    try:
        yield
    except PinWrongError as error:
        raise wrong_pin(error, token, origin) from error


def wrong_pin(error: PinWrongError, token: TokenName, origin: Origin) -> PinWrongError:
    """Return a wrong PIN's error that says where the PIN came from; arguments as for :func:`wrong_pin_named`."""
    if origin.distrust is not None:
        origin.distrust()
    message = f"{error.message}: it was {origin.text}" if origin.text else error.message
    return PinWrongError(message, hint=_after_wrong_pin(token, origin))


def _after_wrong_pin(token: TokenName, origin: Origin) -> str:
    hint = "It was tried only once. Correct it, then run the command again."
    if origin.is_certain:
        hint = (
            "It was tried only once. Another program must have changed the token's PIN: set HSM_ENROLL_PIN_FILE to a "
            "file with the right one."
        )
    if not is_tpm2(token):
        return hint
    tries = lockout.read(token)
    count = "Some wrong PINs lock a TPM." if tries is None else f"The TPM counts {tries.summary}."
    return f"{hint} {count}"
