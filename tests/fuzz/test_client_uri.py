"""Properties of PKCS#11 URIs, over any label and any text."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.errors import UsageError
from hsm_enroll.uri import Pkcs11Uri

_RUN = settings(database=None, deadline=None, max_examples=150)

# RFC 7512 §2.3, the grammar of a URI in our order, without vendor attributes.
_PCHAR = r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-F]{2})*"
_QCHAR = r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|%[0-9A-F]{2})*"
_ATTRIBUTE = rf"(?:(?:token|manufacturer|model|serial|object|id)={_PCHAR}|type=(?:public|private|cert|secret-key|data))"
_URI = re.compile(rf"pkcs11:(?:{_ATTRIBUTE}(?:;{_ATTRIBUTE})*)?(?:\?module-path={_QCHAR})?")

_LABELS = st.none() | st.text()
_PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map(Path)
_URIS = st.builds(
    Pkcs11Uri,
    token=_LABELS,
    manufacturer=_LABELS,
    model=_LABELS,
    serial=_LABELS,
    object=_LABELS,
    type=st.none() | st.sampled_from(["private", "public", "cert", "secret-key", "data"]),
    id=st.none() | st.binary(),
    module_path=st.none() | _PATHS,
)


@_RUN
@given(_URIS)
def test_what_is_written_is_read_back(uri: Pkcs11Uri) -> None:
    """Whatever the labels and the id hold, the written URI reads as the same value."""
    assert Pkcs11Uri.parse(str(uri)) == uri


@_RUN
@given(_URIS)
def test_what_is_written_is_of_the_standards_grammar(uri: Pkcs11Uri) -> None:
    """Every URI that is written is one by the grammar of RFC 7512 §2.3."""
    assert _URI.fullmatch(str(uri))


@_RUN
@given(st.text(), st.text())
def test_another_reader_understands_what_is_written(label: str, name: str) -> None:
    """Splitting at semicolons and percent-decoding, as any reader does, gives the labels."""
    parts = str(Pkcs11Uri(token=label, object=name)).removeprefix("pkcs11:").split(";")
    assert [unquote(part.partition("=")[2], errors="strict") for part in parts] == [label, name]


_NAMES = ["token", "serial", "object", "type", "id", "module-path", "pin-value", "slot-id", "x", ""]
_NEAR_MISSES = st.lists(
    st.sampled_from([*_NAMES, "pkcs11:", "=", ";", "?", "&", "%", "%4", "%41", "%FF", "private", "/", "\n"])
    | st.text(max_size=3)
    | st.characters(categories=["Cs"])
).map("".join)


@_RUN
@given(st.text() | _NEAR_MISSES | _NEAR_MISSES.map("pkcs11:".__add__))
def test_any_text_is_a_uri_or_wrong_usage(text: str) -> None:
    """No text makes the parser raise anything but UsageError; what it takes, it writes and reads back."""
    try:
        uri = Pkcs11Uri.parse(text)
    except UsageError:
        return
    assert Pkcs11Uri.parse(str(uri)) == uri


def _refusal(text: str) -> UsageError | None:
    try:
        Pkcs11Uri.parse(text)
    except UsageError as error:
        return error
    return None


@_RUN
@given(before=_NEAR_MISSES, after=_NEAR_MISSES)
def test_no_refusal_repeats_a_pin(before: str, after: str) -> None:
    """D4: wherever in a mistyped URI a PIN stands, the refusal does not hold it."""
    refusal = _refusal(f"pkcs11:{before}493817{after}")
    assert refusal is None or "493817" not in f"{refusal.message} {refusal.hint} {refusal.__cause__}"
