"""SHA-256 fingerprints, as people and tools write them."""

from __future__ import annotations

import re

from hsm_enroll.errors import UsageError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256(written: str, name: str) -> str:
    """Return a SHA-256 as 64 lower-case hexadecimal digits.

    Args:
        written: the digits in either case, perhaps with colons between them, as ``openssl x509 -fingerprint`` has them.
        name: what it is called, for the message.

    Raises:
        UsageError: it is not a SHA-256; the message does not repeat it.
    """
    digits = written.replace(":", "").lower()
    if not _SHA256.fullmatch(digits):
        raise UsageError(f"{name} is not a SHA-256", hint="Give 64 hexadecimal digits.")
    return digits
