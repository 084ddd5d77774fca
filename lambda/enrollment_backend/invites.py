"""Invites and their codes: created, read, hashed and validated. Pure, except for the randomness of a new code."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from hmac import compare_digest

# Crockford's base32: no I, L, O, U. The check symbol is the number modulo 37, for which Crockford has five additional
# symbols. A code whose check symbol would be one of these is never created, so that every code is safe in a shell and
# easy to read aloud.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHECK_MODULUS = 37
_SYMBOLS = 24  # 120 random bits
_GROUP = 5
_CODE = re.compile(rf"[{_ALPHABET}]{{{_SYMBOLS + 1}}}")
_LOOK_ALIKES = str.maketrans({"I": "1", "L": "1", "O": "0", "-": None, " ": None})
_MAX_WRITTEN = 200  # characters; anything longer is not a code
_ID_DIGITS = 16


@dataclass(frozen=True)
class Invite:
    """An invite as the ledger stores it, which is without its code.

    Attributes:
        code_sha256: SHA-256 of the normalized code, in hexadecimal.
        thing: the name of the Thing it is for, or a prefix of names followed by ``*``.
        uses: the number of enrollments it was created for.
        uses_left: how many of them are left.
        created: when it was created, in seconds since the epoch.
        expires: when it stops being valid, in seconds since the epoch.
        created_by: ARN of the IAM identity that created it.
        existing_thing: whether it may enroll a Thing that exists in AWS IoT but not in the ledger.
        deactivate_existing: whether the other certificates of such a Thing are then made INACTIVE.
        replaces_key: whether a Thing that is enrolled gets the key that is enrolled with it, in place of its own.
        ek_sha256: the one TPM that it is for, by either of `claims.Attestation.fingerprints`; None for any.
        require_tpm: whether it is only for keys that are proven to be in a TPM, as with `ek_sha256`.
        reuse_tpm: whether that TPM may be another Thing's already.
        revoked: whether the operator revoked it.
    """

    code_sha256: str
    thing: str
    uses: int
    uses_left: int
    created: int
    expires: int
    created_by: str
    existing_thing: bool = False
    deactivate_existing: bool = False
    replaces_key: bool = False
    ek_sha256: str | None = None
    require_tpm: bool = False
    reuse_tpm: bool = False
    revoked: bool = False

    @property
    def requires_tpm(self) -> bool:
        """Whether it is only for keys that are proven to be in a TPM."""
        return self.require_tpm or self.ek_sha256 is not None

    @property
    def id(self) -> str:
        """The id that operators see; it reveals nothing about the code."""
        return invite_id(self.code_sha256)

    def invalid_reason(self, code_sha256: str, thing: str, now: float) -> str | None:
        """Return why a code is not valid for a Thing; None if it is valid.

        Args:
            code_sha256: the code's hash, of which the invite's id is only a part.
            thing: the Thing's name.
            now: the time, in seconds since the epoch.

        Returns:
            ``unknown``, ``revoked``, ``other-thing``, ``expired``, ``used`` or None.

        Does not check what it says about TPMs.
        """
        if not compare_digest(self.code_sha256, code_sha256):
            return "unknown"
        if self.revoked:
            return "revoked"
        if not matches(self.thing, thing):
            return "other-thing"
        if self.expires <= now:
            return "expired"
        return "used" if self.uses_left < 1 else None


def create_code() -> str:
    """Return a new random code in the form that people see: five groups of five characters, joined by dashes."""
    while True:
        number = secrets.randbits(5 * _SYMBOLS)
        check = number % _CHECK_MODULUS
        if check < len(_ALPHABET):
            break
    symbols = [_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_SYMBOLS))]
    code = "".join((*symbols, _ALPHABET[check]))
    return "-".join(code[start : start + _GROUP] for start in range(0, len(code), _GROUP))


def code_sha256(written: str) -> str | None:
    """Return the hash of a code, by which the ledger knows it; None if it is not a well-formed code.

    Args:
        written: the code as somebody typed it. Case, spaces and dashes do not matter; I and L are read as 1, O as 0.
            The check character detects every single wrong character and every swap of two adjacent ones.

    Does not check that such an invite exists.
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


def matches(pattern: str, thing: str) -> bool:
    """Whether a Thing's name equals the pattern or, if the pattern ends with ``*``, starts with what precedes it."""
    return thing.startswith(pattern[:-1]) if pattern.endswith("*") else thing == pattern
