"""The PEM block of a CSR (RFC 7468): read in the variants that tools write, written in the strict form."""

from __future__ import annotations

import binascii
import re

from enrollment_backend.csr_errors import CsrLineEndsEscapedError, CsrLineEndsMissingError, CsrPemError

_LABEL = "CERTIFICATE REQUEST"
_LABELS = (_LABEL, "NEW CERTIFICATE REQUEST")  # RFC 7468 §7
_LINE = 64  # characters, RFC 7468 §2
_LINE_END = re.compile(r"\r\n|\r|\n")  # RFC 7468 §3, eol
_BLANKS = " \t"
_BYTE_ORDER_MARK = "\ufeff"
_IN_ONE_LINE = re.compile(rf"-----BEGIN ({'|'.join(_LABELS)})-----[^\r\n]*-----END \1-----")
_ESCAPED_LINE_END = r"\n"


def decode(text: str) -> bytes:
    r"""Decode the one PEM block in a text.

    Args:
        text: the block, labelled CERTIFICATE REQUEST or NEW CERTIFICATE REQUEST (RFC 7468 §7). Its lines may have any
            length, and blanks around them (§3, lax form). Other text may come before and after it (§5.2).

    Raises:
        CsrLineEndsMissingError: the block is all on one line.
        CsrLineEndsEscapedError: the same, and its line breaks are the two characters ``\n``.
        CsrPemError: there is no such block, or there are several blocks of any labels, or it is not strict base64.

    Does not check the content of the block.
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
    """Return a PEM block in the strict form of RFC 7468 §3, with LF line ends, and none after the last line."""
    body = binascii.b2a_base64(octets, newline=False).decode("ascii")
    begin, end = _boundaries(_LABEL)
    return "\n".join((begin, *(body[start : start + _LINE] for start in range(0, len(body), _LINE)), end))


def _boundaries(label: str) -> tuple[str, str]:
    return f"-----BEGIN {label}-----", f"-----END {label}-----"


def _octets(block: list[str]) -> bytes:
    """Decode the lines between the first and the last; `block` is empty if the END line came before the BEGIN line."""
    if not block:
        raise CsrPemError
    body = "".join(block[1:-1])
    try:
        octets = binascii.a2b_base64(body, strict_mode=True)
    except ValueError as error:
        raise CsrPemError from error
    # The unused bits of the last character must be zero (RFC 4648 §3.5).
    if binascii.b2a_base64(octets, newline=False).decode("ascii") != body:
        raise CsrPemError
    return octets
