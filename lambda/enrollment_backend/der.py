"""A small strict DER reader (X.690), which shows a structure exactly as it was encoded."""

from __future__ import annotations

import re
from typing import NamedTuple

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
NUMERIC_STRING = 0x12
PRINTABLE_STRING = 0x13
TELETEX_STRING = 0x14
IA5_STRING = 0x16
UNIVERSAL_STRING = 0x1C
BMP_STRING = 0x1E
SEQUENCE = 0x30
SET = 0x31
CONTEXT_0 = 0xA0

# X.680 §41. Tools write Latin-1 into a TeletexString, whatever T.61 says.
_CODECS = {
    UTF8_STRING: "utf-8",
    NUMERIC_STRING: "ascii",
    PRINTABLE_STRING: "ascii",
    TELETEX_STRING: "latin-1",
    IA5_STRING: "ascii",
    UNIVERSAL_STRING: "utf-32-be",
    BMP_STRING: "utf-16-be",
}
_ALPHABETS = {
    NUMERIC_STRING: re.compile(r"[0-9 ]*"),  # X.680, table 9
    PRINTABLE_STRING: re.compile(r"[A-Za-z0-9 '()+,\-./:=?]*"),  # X.680, table 10
    BMP_STRING: re.compile(r"[\u0000-\uffff]*"),
}

_LONGEST_ARC = 19  # octets of 7 bits each: the longest arcs are UUIDs, of 128 bits (X.667)


class Element(NamedTuple):
    """One encoded value.

    Attributes:
        tag: its identifier octet.
        content: its contents octets.
        encoding: the whole encoding, with identifier and length.
    """

    tag: int
    content: bytes
    encoding: bytes


def elements(encoded: bytes) -> list[Element]:
    """Split concatenated values, such as the contents of a SEQUENCE.

    Raises:
        ValueError: a length is indefinite, not in its shortest form (§10.1) or beyond the end, or a tag has more than
            one octet.

    Does not check the contents, not even of constructed values.
    """
    found = []
    start = 0
    while start < len(encoded):
        element = _element(encoded, start)
        found.append(element)
        start += len(element.encoding)
    return found


def children(encoded: bytes, tag: int = SEQUENCE) -> list[Element]:
    """Split the contents of a constructed value.

    Args:
        encoded: exactly one value.
        tag: its expected tag.

    Raises:
        ValueError: it is not one value with this tag, or as `elements` raises it.
    """
    parents = elements(encoded)
    if [parent.tag for parent in parents] != [tag]:
        raise ValueError("not one value with the expected tag")
    return elements(parents[0].content)


def sequence(content: bytes) -> bytes:
    """Encode a SEQUENCE.

    Args:
        content: its elements, encoded and concatenated.
    """
    size = len(content)
    if size < 0x80:
        return bytes((SEQUENCE, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((SEQUENCE, 0x80 | len(octets))) + octets + content


def object_identifier(content: bytes) -> str:
    """Decode the contents octets of an OBJECT IDENTIFIER (§8.19) to dotted notation, such as ``2.5.4.3``.

    Raises:
        ValueError: they are empty or truncated, or an arc is padded or longer than 128 bits.
    """
    arcs = []
    arc = size = 0
    for octet in content:
        arc, size = arc << 7 | octet & 0x7F, size + 1
        if (arc == 0 and octet & 0x80) or size > _LONGEST_ARC:
            raise ValueError("an arc is padded, or too long")
        if octet < 0x80:
            arcs.append(arc)
            arc = size = 0
    if size or not arcs:
        raise ValueError("the object identifier is empty or truncated")
    root = min(arcs[0] // 40, 2)
    return ".".join(str(number) for number in (root, arcs[0] - 40 * root, *arcs[1:]))


def text(element: Element) -> str:
    """Decode a string of one of the types that X.520 uses.

    Raises:
        ValueError: it is not such a string, or has a character that its type does not allow.
    """
    if element.tag not in _CODECS:
        raise ValueError("not a string")
    decoded = element.content.decode(_CODECS[element.tag])
    if element.tag in _ALPHABETS and not _ALPHABETS[element.tag].fullmatch(decoded):
        raise ValueError("a character that this type of string does not allow")
    return decoded


def _element(encoded: bytes, start: int) -> Element:
    if len(encoded) < start + 2 or encoded[start] & 0x1F == 0x1F:
        raise ValueError("not a tag of one octet followed by a length")
    header, size = start + 2, encoded[start + 1]
    if size >= 0x80:
        octets = encoded[header : header + (size & 0x7F)]
        header += size & 0x7F
        size = int.from_bytes(octets)
        if size < 0x80 or octets[0] == 0:
            raise ValueError("the length is not in its shortest form")
    end = header + size
    if end > len(encoded):
        raise ValueError("the value is truncated")
    return Element(encoded[start], encoded[header:end], encoded[start:end])
