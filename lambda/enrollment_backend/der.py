"""The little of DER (X.690) it takes to see a structure exactly as it was encoded."""

from __future__ import annotations

from typing import NamedTuple

INTEGER = 0x02
BIT_STRING = 0x03
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
IA5_STRING = 0x16
SEQUENCE = 0x30
CONTEXT_0 = 0xA0


class Element(NamedTuple):
    """One value.

    Attributes:
        tag: its identifier octet.
        content: its contents octets.
        encoding: all of it, identifier and length included.
    """

    tag: int
    content: bytes
    encoding: bytes


def elements(encoded: bytes) -> list[Element]:
    """Split a run of values, such as the contents of a SEQUENCE.

    Raises:
        ValueError: a length is indefinite, longer than needed (§10.1) or beyond the end, or a tag takes more than one
            octet.

    Does not look into the contents, not even of constructed values.
    """
    found = []
    rest = encoded
    while rest:
        element = _first(rest)
        found.append(element)
        rest = rest[len(element.encoding) :]
    return found


def _first(encoded: bytes) -> Element:
    if len(encoded) < 2 or encoded[0] & 0x1F == 0x1F:
        raise ValueError("no tag of one octet with a length behind it")
    header, size = 2, encoded[1]
    if size >= 0x80:
        header += size & 0x7F
        octets = encoded[2:header]
        size = int.from_bytes(octets)
        if size < 0x80 or octets[0] == 0:
            raise ValueError("a length that is not in its shortest form")
    if header + size > len(encoded):
        raise ValueError("a length beyond the end")
    return Element(encoded[0], encoded[header : header + size], encoded[: header + size])
