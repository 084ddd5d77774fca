"""S4: the encodings that DER does not have."""

from __future__ import annotations

import pytest

from enrollment_backend.der import Element, elements


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (b"", []),
        (b"\x05\x00", [Element(0x05, b"", b"\x05\x00")]),
        (b"\x02\x01\x07\x05\x00", [Element(0x02, b"\x07", b"\x02\x01\x07"), Element(0x05, b"", b"\x05\x00")]),
        (b"\x04\x7f" + b"x" * 127, [Element(0x04, b"x" * 127, b"\x04\x7f" + b"x" * 127)]),
        (b"\x04\x81\x80" + b"x" * 128, [Element(0x04, b"x" * 128, b"\x04\x81\x80" + b"x" * 128)]),
        (b"\x04\x82\x01\x00" + b"x" * 256, [Element(0x04, b"x" * 256, b"\x04\x82\x01\x00" + b"x" * 256)]),
    ],
)
def test_values_are_split_as_they_lie(encoded: bytes, expected: list[Element]) -> None:
    """Each value comes with its tag, its contents and its whole encoding, at each size of the length field."""
    assert elements(encoded) == expected


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x30",
        b"\x30\x80\x00\x00",
        b"\x30\x81",
        b"\x30\x81\x00",
        b"\x30\x81\x01\x00",
        b"\x30\x81\x7f" + bytes(127),
        b"\x30\x82\x00\x80" + bytes(128),
        b"\x30\x82\x01",
        b"\x30\x05abcd",
        b"\x30\xff" + b"\x01" * 200,
        b"\x1f\x01\x00",
        b"\x3f\x81\x01\x00",
        b"\x05\x00\x05",
    ],
)
def test_s4_a_length_has_one_encoding_only(encoded: bytes) -> None:
    """S4: indefinite, overlong and dangling lengths, and tags of several octets, are refused (X.690 §10.1)."""
    with pytest.raises(ValueError, match=r"length|tag"):
        elements(encoded)
