"""The PEM block of a CSR (RFC 7468): read with whatever tools write around it, written in one form alone."""

from __future__ import annotations

import binascii
import re

from enrollment_backend.errors import CsrLineEndsEscapedError, CsrLineEndsMissingError, CsrPemError

_LABEL = "CERTIFICATE REQUEST"
_LABELS = (_LABEL, "NEW CERTIFICATE REQUEST")  # RFC 7468 §7
_LINE = 64  # characters, RFC 7468 §2
_LINE_END = re.compile(r"\r\n|\r|\n")  # RFC 7468 §3, eol
_BLANKS = " \t"
_BYTE_ORDER_MARK = "\ufeff"
_IN_ONE_LINE = re.compile(rf"-----BEGIN ({'|'.join(_LABELS)})-----[^\r\n]*-----END \1-----")
_ESCAPED_LINE_END = r"\n"


def decode(text: str) -> bytes:
    r"""Return what the one PEM block in a text holds.

    Args:
        text: the block, its label CERTIFICATE REQUEST or NEW CERTIFICATE REQUEST (RFC 7468 §7), its lines of any length
            and with blanks around them (§3, lax form); beside it any lines that begin or end no block (§5.2).

    Raises:
        CsrLineEndsMissingError: the block is there, in one line.
        CsrLineEndsEscapedError: likewise, its line ends having become the characters ``\n``.
        CsrPemError: there is no such block, or there are several, of whatever labels, or it is not strict base64.

    Does not check what the octets are.
    """
    if text.count("-----BEGIN ") != 1 or text.count("-----END ") != 1:
        raise CsrPemError
    lines = [line.strip(_BLANKS) for line in _LINE_END.split(text.removeprefix(_BYTE_ORDER_MARK))]
    for label in _LABELS:
        begin, end = _boundaries(label)
        if begin in lines and end in lines:
            return _octets(lines[lines.index(begin) : lines.index(end) + 1])
    if found := _IN_ONE_LINE.search(text):
        raise CsrLineEndsEscapedError if _ESCAPED_LINE_END in found[0] else CsrLineEndsMissingError
    raise CsrPemError


def encode(octets: bytes) -> str:
    """Return the block in the strict form of RFC 7468 §3, with LF for line ends and none after the last line."""
    body = binascii.b2a_base64(octets, newline=False).decode("ascii")
    begin, end = _boundaries(_LABEL)
    return "\n".join((begin, *(body[start : start + _LINE] for start in range(0, len(body), _LINE)), end))


def _boundaries(label: str) -> tuple[str, str]:
    return f"-----BEGIN {label}-----", f"-----END {label}-----"


def _octets(block: list[str]) -> bytes:
    """Decode what lies between the first line and the last; there is neither if they are the other way round."""
    if not block:
        raise CsrPemError
    body = "".join(block[1:-1])
    try:
        octets = binascii.a2b_base64(body, strict_mode=True)
    except ValueError as error:
        raise CsrPemError from error
    # Bits of the last character that encode nothing could be anything (RFC 4648 §3.5).
    if binascii.b2a_base64(octets, newline=False).decode("ascii") != body:
        raise CsrPemError
    return octets
