"""Enrollment codes: made, read, hashed, and whether one may be used. Pure, but for the randomness of a new one."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from hmac import compare_digest

# Crockford's base32: no I, L, O, U. The check symbol is the number modulo 37, for which five more symbols exist; codes
# whose check symbol is one of these are never made, so that every code is safe in a shell and easy to read aloud.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHECK_MODULUS = 37
_SYMBOLS = 24  # 120 random bits
_GROUP = 5
_CODE = re.compile(rf"[{_ALPHABET}]{{{_SYMBOLS + 1}}}")
_LOOK_ALIKES = str.maketrans({"I": "1", "L": "1", "O": "0", "-": None, " ": None})
_MAX_WRITTEN = 200  # characters; more is not looked at
_ID_DIGITS = 16


@dataclass(frozen=True)
class Invite:
    """What the ledger keeps of an invite. The code itself is not among it.

    Attributes:
        code_sha256: SHA-256 of the normalized code, in hexadecimal.
        thing: the Thing it is for, or a prefix of Things' names followed by ``*``.
        uses: how many enrollments it was made for.
        uses_left: how many are left.
        created: when it was made, in seconds since the epoch.
        expires: from when on it is not valid.
        created_by: ARN of the IAM identity that made it.
        existing_thing: whether it may take over a Thing that AWS IoT has and the ledger does not know.
        ek_sha256: fingerprint of the TPM's endorsement key certificate that it is for; None is any, or no TPM.
        revoked: whether the operator took it back.
    """

    code_sha256: str
    thing: str
    uses: int
    uses_left: int
    created: int
    expires: int
    created_by: str
    existing_thing: bool = False
    ek_sha256: str | None = None
    revoked: bool = False

    @property
    def id(self) -> str:
        """The name that operators see: it tells nothing about the code."""
        return invite_id(self.code_sha256)

    def fault(self, code_sha256: str, thing: str, now: float) -> str | None:
        """Say why a code is not valid for a Thing: ``unknown``, ``revoked``, ``other-thing``, ``expired``, ``used``.

        None if it is valid. Does not look at the endorsement key.
        """
        if not compare_digest(self.code_sha256, code_sha256):
            return "unknown"
        if self.revoked:
            return "revoked"
        if not names(self.thing, thing):
            return "other-thing"
        if self.expires <= now:
            return "expired"
        return "used" if self.uses_left < 1 else None


def make_code() -> str:
    """Return a new code as it is shown: five groups of five, joined by dashes."""
    while True:
        number = secrets.randbits(5 * _SYMBOLS)
        check = number % _CHECK_MODULUS
        if check < len(_ALPHABET):
            break
    symbols = [_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_SYMBOLS))]
    code = "".join((*symbols, _ALPHABET[check]))
    return "-".join(code[start : start + _GROUP] for start in range(0, len(code), _GROUP))


def code_sha256(written: str) -> str | None:
    """Return the hash that the ledger knows a code by; None if it cannot be a code.

    Case, spaces and dashes do not matter; I and L are read as 1, O as 0. The check character finds every single wrong
    character and every swap of two neighbours.
    """
    if len(written) > _MAX_WRITTEN or not written.isascii():
        return None
    code = written.upper().translate(_LOOK_ALIKES)
    if not _CODE.fullmatch(code):
        return None
    number = 0
    for symbol in code[:-1]:
        number = number << 5 | _ALPHABET.index(symbol)
    if number % _CHECK_MODULUS != _ALPHABET.index(code[-1]):
        return None
    return hashlib.sha256(code.encode("ascii")).hexdigest()


def invite_id(code_hash: str) -> str:
    """Return the id of the invite whose code has this hash."""
    return code_hash[:_ID_DIGITS]


def names(pattern: str, thing: str) -> bool:
    """Whether a Thing's name is the one, or begins with what stands before the ``*``."""
    return thing.startswith(pattern[:-1]) if pattern.endswith("*") else thing == pattern
