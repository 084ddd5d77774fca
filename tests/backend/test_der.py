"""S4: the encodings that DER does not have."""

from __future__ import annotations

import string
import time

import pytest
from asn1crypto import core
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enrollment_backend import der
from enrollment_backend.der import Element, elements
from tests.support.csr_factory import tlv

RUN = settings(database=None, deadline=None)
ARCS = st.integers(0, 2**128 - 1)
OIDS = st.one_of(
    st.tuples(st.sampled_from([0, 1]), st.integers(0, 39)), st.tuples(st.just(2), st.integers(0, 2**128 - 1))
).flatmap(lambda root: st.lists(ARCS, max_size=12).map(lambda rest: ".".join(map(str, (*root, *rest)))))


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
    with pytest.raises(ValueError, match=r"length|tag|truncated"):
        elements(encoded)


def test_a_long_run_of_values_is_split_in_linear_time() -> None:
    """A hundred times what a body can hold, in the smallest values there are, takes seconds and not hours."""
    begun = time.process_time()
    assert elements(b"\x05\x00" * 800_000) == [Element(0x05, b"", b"\x05\x00")] * 800_000
    assert time.process_time() - begun < 20


@RUN
@given(
    encoded=st.binary(max_size=40)
    | st.lists(st.binary(max_size=300)).map(lambda all_: b"".join(tlv(4, one) for one in all_))
)
def test_s4_what_is_split_is_put_together_again(encoded: bytes) -> None:
    """S4: of arbitrary octets, each value that is taken is encoded as DER encodes it, and none is left over."""
    try:
        found = elements(encoded)
    except ValueError:
        return
    assert b"".join(tlv(element.tag, element.content) for element in found) == encoded
    assert [element.encoding for element in found] == [tlv(element.tag, element.content) for element in found]


@RUN
@given(content=st.binary(max_size=70_000))
@example(content=bytes(127))
@example(content=bytes(128))
@example(content=bytes(256))
def test_a_sequence_is_what_it_was_made_of(content: bytes) -> None:
    """A SEQUENCE has its contents behind the shortest length (X.690 §10.1)."""
    assert der.sequence(content) == tlv(0x30, content)
    assert elements(der.sequence(content))[0].content == content


@pytest.mark.parametrize("encoded", [b"", b"\x31\x00", b"\x30\x00\x30\x00", b"\x30\x01", b"\x30\x02\x05\x01"])
def test_children_are_those_of_one_value_of_that_kind(encoded: bytes) -> None:
    """S4: nothing, another kind, several values, and contents that cannot be split, are refused."""
    with pytest.raises(ValueError, match=r"one value|length|truncated"):
        der.children(encoded)


@RUN
@given(oid=OIDS)
@example(oid="1.2.840.113549.1.1.11")
@example(oid="0.0")
@example(oid="0.39")
@example(oid="1.0")
@example(oid="2.40")
@example(oid="2.999.3")
@example(oid=f"2.25.{2**128 - 1}")
def test_an_object_identifier_is_read_as_it_was_written(oid: str) -> None:
    """Every dotted form is found again in its encoding by another library (X.690 §8.19)."""
    assert der.object_identifier(core.ObjectIdentifier(oid).contents) == oid


@RUN
@given(content=st.binary(max_size=30))
@example(content=b"")
@example(content=b"\x80\x01")
@example(content=b"\x2a\x80\x01")
@example(content=b"\x2a\x86")
@example(content=b"\x2a" + b"\xff" * 20_000 + b"\x7f")
def test_s4_an_object_identifier_has_one_encoding_only(content: bytes) -> None:
    """S4: of arbitrary octets, what is read is written the same way again; padded and cut-off arcs are refused."""
    try:
        oid = der.object_identifier(content)
    except ValueError:
        return
    assert core.ObjectIdentifier(oid).contents == content


@pytest.mark.parametrize("content", [b"", b"\x80\x01", b"\x2a\x80\x01", b"\x2a\x86", b"\x2a" + b"\xff" * 19 + b"\x7f"])
def test_s4_a_padded_cut_off_or_endless_arc_is_refused(content: bytes) -> None:
    """S4: no arc, a leading zero (§8.19.2), no last octet, and more than the 128 bits that a UUID takes."""
    with pytest.raises(ValueError, match=r"arc|truncated"):
        der.object_identifier(content)


PRINTABLE = string.ascii_letters + string.digits + " '()+,-./:=?"


@RUN
@given(text=st.text(max_size=20))
def test_a_string_holds_what_its_kind_can(text: str) -> None:
    """S10: a string of each kind gives the text back that another library put in; none holds what its kind cannot."""
    for kind in (core.UTF8String, core.UniversalString):
        assert der.text(elements(kind(text).dump())[0]) == text
    fits = {
        core.BMPString: all(ord(letter) < 0x10000 for letter in text),
        core.IA5String: text.isascii(),
        core.PrintableString: set(text) <= set(PRINTABLE),
        core.NumericString: set(text) <= set(string.digits + " "),
    }
    for kind, fit in fits.items():
        contents = text.encode("utf-16-be" if kind is core.BMPString else "utf-8")
        (element,) = elements(kind(contents=contents).dump())
        if fit:
            assert der.text(element) == text
        else:
            with pytest.raises(ValueError, match=r"codec|character"):
                der.text(element)


@RUN
@given(tag=st.integers(0, 255).filter(lambda tag: tag & 0x1F != 0x1F), content=st.binary(max_size=12))
def test_s10_arbitrary_octets_are_text_or_are_refused(tag: int, content: bytes) -> None:
    """S10: whatever the kind and the octets, there is text without surrogates or a ValueError."""
    try:
        text = der.text(Element(tag, content, tlv(tag, content)))
    except ValueError:
        return
    text.encode("utf-8")
