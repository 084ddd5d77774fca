"""An invite: the one URL that a technician is handed, ``https://API/#CODE``."""

from __future__ import annotations

from dataclasses import dataclass

from hsm_enroll.errors import UsageError
from hsm_enroll.secret import Secret

# Crockford's base32 (crockford.com/base32.html): no I, L, O, U. The check symbol is the number modulo 37; a code whose
# check symbol would be one of the five that exist for checking only (*~$=U) is never handed out.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHECK_MODULUS = 37
_LENGTH = 25
_LOOK_ALIKES = str.maketrans({"I": "1", "L": "1", "O": "0", "-": None, " ": None})

_HINT = "An invite looks like https://API/#CODE; copy it whole."
_CODE_HINT = (
    "Nothing was contacted. Compare it with what you were given: five groups of five characters after the #. "
    "If they are the same, ask the operator for a new invite."
)


@dataclass(frozen=True, slots=True)
class Invite:
    """Where to enroll, and the right to do so.

    Attributes:
        api_url: base URL of the enrollment API, without a trailing slash.
        code: the enrollment code, normalized: 25 characters of Crockford's base32, the last of which checks the others.
    """

    api_url: str
    code: Secret


def parse(text: str) -> Invite:
    """Split an invite into API and code, and check the code's check character.

    In the code case, spaces and dashes do not matter, I and L are read as 1, O as 0. Any single wrong character and any
    swap of two neighbours is found. Does *not* check that the API exists, nor that it knows the code.

    Args:
        text: ``https://API/#CODE``, with or without white space around it.

    Raises:
        UsageError: it is not an HTTPS URL with a code, or the code is mistyped; neither is repeated.
    """
    api_url, _, code = text.strip().partition("#")
    if not api_url.startswith("https://") or not code:
        raise UsageError("that is not an invite", hint=_HINT)
    return Invite(api_url.rstrip("/"), _normalized(code))


def _normalized(written: str) -> Secret:
    # Letters outside ASCII first: some have a capital inside it.
    code = written.upper().translate(_LOOK_ALIKES) if written.isascii() else ""
    if len(code) != _LENGTH or not set(code) <= set(_ALPHABET) or not _checks(code):
        raise UsageError("a character of the invite's code is wrong or missing, or one is too many", hint=_CODE_HINT)
    return Secret(code)


def _checks(code: str) -> bool:
    number = 0
    for symbol in code[:-1]:
        number = number * len(_ALPHABET) + _ALPHABET.index(symbol)
    return number % _CHECK_MODULUS == _ALPHABET.index(code[-1])
