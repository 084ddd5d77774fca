"""An invite: the one URL that a technician is given, ``https://API/#CODE``."""

from __future__ import annotations

from dataclasses import dataclass

from hsm_enroll.errors import UsageError
from hsm_enroll.secret import Secret

# Crockford's base32 (crockford.com/base32.html): no I, L, O, U. The check symbol is the number modulo 37. Codes whose
# check symbol would be one of the five that are used for checking only (*~$=U) are never made.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHECK_MODULUS = 37
_LENGTH = 25
_LOOK_ALIKES = str.maketrans({"I": "1", "L": "1", "O": "0", "-": None, " ": None})

_HINT = "An invite looks like https://API/#CODE; copy all of it."
_CODE_HINT = (
    "Nothing was sent. Compare it with the invite that you were given: five groups of five characters after the #. "
    "If they are the same, ask the operator for a new invite."
)


@dataclass(frozen=True, slots=True)
class Invite:
    """The API to enroll at, and the right to do so.

    Attributes:
        api_url: base URL of the enrollment API, without a trailing slash.
        code: the enrollment code, normalized: 25 characters of Crockford's base32; the last is a check character.
    """

    api_url: str
    code: Secret


def parse(text: str) -> Invite:
    """Split an invite into API and code, and verify the code's check character.

    In the code, case, spaces and dashes do not matter; I and L are read as 1, and O as 0. Any single wrong character
    and any swap of two adjacent ones is detected. Does *not* check that the API exists, nor that it knows the code.

    Args:
        text: ``https://API/#CODE``, with or without white space around it, or a byte order mark before it.

    Raises:
        UsageError: it is not an HTTPS URL with a code, or the code is mistyped. The message repeats neither.
    """
    api_url, _, code = text.strip().removeprefix("\ufeff").partition("#")
    # Scanners of QR codes return capitals.
    if not api_url.lower().startswith("https://") or not code:
        raise UsageError("not a valid invite", hint=_HINT)
    return Invite(api_url.rstrip("/"), _normalized(code))


def _normalized(written: str) -> Secret:
    # Refused before upper(), which turns some letters outside ASCII into letters inside it.
    code = written.upper().translate(_LOOK_ALIKES) if written.isascii() else ""
    if len(code) != _LENGTH or not set(code) <= set(_ALPHABET) or not _checks(code):
        raise UsageError("the invite's code is mistyped: a character is wrong, missing or extra", hint=_CODE_HINT)
    return Secret(code)


def _checks(code: str) -> bool:
    number = 0
    for symbol in code[:-1]:
        number = number * len(_ALPHABET) + _ALPHABET.index(symbol)
    return number % _CHECK_MODULUS == _ALPHABET.index(code[-1])
